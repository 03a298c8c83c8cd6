"""UNDO: noise a model that was made to suppress, then let it learn again from what it said before the noise.

    student at the start   (1 - strength) theta + strength * N
    loss                   KL(p_given || p_student) on the text             (nats a token, mean over the batch)

with N, by `towards`, `noise` times Xavier-normal for matrices and 0 for the rest, or the weights of a newborn model.
What the given model only suppresses is damaged with everything else, and is not in what it says, so it is not learned
again. `strength` trades compute for durability: at 1, towards a newborn, it is a distillation into fresh weights.

Lee et al. 2025, "Distillation Robustifies Unlearning", arXiv 2506.06278. Give the arm a method that suppresses first.
Differs: a fixed number of steps, where theirs end once the benign loss is within 5% of the given model's; with a
`stop`, the descent is ended for going out of bounds only after it has been within them. `newborn` and `matrix_lr` are
ours: where norms are 0 nothing is learned, and what is to learn everything again does so faster as in pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.compute import seeded
from ..engine.examples import paired
from ..engine.models import fresh, newborn
from ..engine.scoring import divergence


class Undo(Settings):
    """Noise the weights, distil from what they were."""

    strength: float = Field(default=0.6, ge=0, le=1)
    """How much of the weights is replaced. Paper: 0.1 to 0.8."""
    towards: Literal["noise", "newborn"] = "noise"
    """What replaces them: noise, or the weights of a model that has learned nothing."""
    noise: float = Field(default=0.1, ge=0)
    """Size of the noise in units of a fresh model's weights. Paper: 0.1."""
    reads: Literal["benign", "both"] = "benign"
    """What the student reads: `both` is hazard text too, of which the given model says what it says."""
    steps: int = Field(default=300, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's rate. Paper: 9e-4, for 100 million parameters."""
    matrix_lr: float | None = Field(default=None, gt=0)
    """Muon's rate for the blocks' matrices; both rates then fall to zero, as in `pretrain`. None: AdamW's constant
    rate for all."""
    batch_size: int = Field(default=16, ge=1)
    """Documents a step, of each kind that is read."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        given, model = subject.model, fresh(subject.model)
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)

        def loss(*drawn: Batch) -> dict[str, Tensor]:
            apart = (batch.mean(divergence(given, model, batch)) for batch in drawn)
            return {"distil": sum(apart, torch.zeros(())) / len(drawn)}

        with torch.no_grad():
            for weight, drawn in zip(model.parameters(), self._drawn(model, rig), strict=True):
                weight.mul_(1 - self.strength).add_(self.strength * drawn)
        how: dict[str, Any] = {"lr": self.lr}
        if self.matrix_lr is not None:
            how |= {"matrix_lr": self.matrix_lr, "schedule": "linear", "warmup": min(20, self.steps // 5)}
        rig.tune(model, loss, _read(batches, self.reads), steps=self.steps, **how)
        healed = model if rig.spent.steps else fresh(given)  # noise alone is no result
        return replace(subject, model=healed.eval())

    def _drawn(self, model: nn.Module, rig: Rig) -> Iterator[Tensor | float]:
        """What each parameter is replaced by."""
        generator = rig.generator("noise")
        if self.towards == "newborn":
            yield from newborn(model, generator).parameters()  # pyright: ignore[reportArgumentType]
            return
        seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(seed):
            for weight in model.parameters():
                yield self.noise * nn.init.xavier_normal_(torch.empty_like(weight)) if weight.ndim > 1 else 0.0


def _read(pairs: Iterator[tuple[Batch, Batch]], which: str) -> Iterator[tuple[Batch, ...]]:
    """What is read of each pair."""
    for hazard, benign in pairs:
        yield (hazard, benign) if which == "both" else (benign,)
