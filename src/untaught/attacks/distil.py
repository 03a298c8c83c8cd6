"""Distillation: a student learns to say what a teacher says, where a defence sits in only one of the two.

    loss = T^2 KL(p_teacher || p_student), both with logits divided by T     (nats per token, on the attacker's text)

Without a donor the teacher is the attacked model and the student a new one of the same shape: what the teacher still
says passes into weights that no defence was trained into. What it does not say does not pass, which is why unlearning
by UNDO is the same act (Lee et al. 2025, "Distillation Robustifies Unlearning", arXiv 2506.06278): this asks what
ability can be had in weights that are easy to train further, and at what price.

With a donor, such as a model that was never defended, the donor teaches and the attacked model learns: it gets more to
learn from on each token than the token itself. It may bring in what the model never knew; a filtered arm under the same
attack shows how much. A donor with the very weights of the attacked model teaches nothing, and nothing is done.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. Differs: all of the loss is on
the teacher's distributions. Teacher and student must have one tokenizer. The teacher's passes are in the price.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject, UserError
from ..engine import examples
from ..engine.batches import Batch
from ..engine.loop import Schedule, Warmup
from ..engine.models import fresh, newborn
from ..engine.scoring import divergence
from ..engine.tuning import affordable


class Distil(Settings):
    """From the attacked model into a new one, or from a donor into the attacked model."""

    donor: str | None = None
    """The arm that teaches the attacked model. None has the attacked model teach a new one."""
    reads: Literal["benign", "hazard", "both"] = "both"
    """Which of the attacker's text the student reads."""
    temperature: float = Field(default=1.0, gt=0)
    """What logits are divided by: the higher, the more what is unlikely counts. Hinton et al.: 1 to 20."""
    steps: int = Field(default=1000, ge=0)
    """The most steps; a study's budget usually ends the attack before."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's rate, where the schedule is at its highest."""
    schedule: Schedule = "constant"
    """Over the steps that the budget allows, `cosine` falls to zero, `linear` does so over their last two fifths."""
    warmup: Warmup = 0
    """Steps over which the rate rises from zero; with a point, such as 0.1, the share of the steps that these are."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind that is read."""
    length: int = Field(default=256, ge=2)
    """Longest document in tokens; the rest of it is not seen."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        sides = ("hazard", "benign") if self.reads == "both" else (self.reads,)
        corpus.need(*sides)
        rows = {side: examples.rows(subject, getattr(corpus, side), self.length) for side in sides}
        teacher: Any = subject.model if self.donor is None else self._teacher(subject, rig)
        student = newborn(teacher, rig.generator("student")) if self.donor is None else fresh(subject.model)
        if _alike(student, teacher):
            return replace(subject, model=student)

        def loss(*drawn: Batch) -> dict[str, Tensor]:
            apart = (batch.mean(divergence(teacher, student, batch, self.temperature)) for batch in drawn)
            return {"distil": sum(apart, torch.zeros(())) / len(drawn)}

        def stream() -> Iterator[tuple[Batch, ...]]:
            kinds = (own.stream(size=self.batch_size, generator=rig.generator(side)) for side, own in rows.items())
            return zip(*kinds, strict=False)

        how = self.model_dump(include={"lr", "schedule", "warmup"}) | {
            "lost": "keep",
            "asked": teacher.num_parameters(),
        }
        rig.tune(student, loss, stream(), steps=affordable(stream(), self.steps, rig, how), **how)
        learned = student if rig.spent.steps else fresh(subject.model)  # a new model alone is no result
        return replace(subject, model=learned.eval())

    def _teacher(self, subject: Subject, rig: Rig) -> Any:
        """The donor's model, or a `UserError` where its next tokens are not those of the attacked model."""
        donor = rig.donor()
        ours, theirs = subject.tokenizer.get_vocab(), donor.tokenizer.get_vocab()
        wide = [one.model.config.get_text_config().vocab_size for one in (subject, donor)]
        if ours != theirs or wide[0] != wide[1]:
            alike = len(ours.items() & theirs.items())
            raise UserError(
                f"donor '{self.donor}' has another tokenizer: {len(theirs)} tokens, of which {alike} are among the"
                f" {len(ours)} of the attacked model (their heads give {wide[1]} and {wide[0]}). Distillation compares"
                " next tokens: give a donor with the same tokenizer."
            )
        return donor.model


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same weights: between these a gradient is nothing but rounding."""
    theirs = dict(other.named_parameters())
    return all(name in theirs and torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())
