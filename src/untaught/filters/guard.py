"""Guard: a model that was made to tell harmful from harmless says what it thinks of each example.

The labels are somebody else's: no example of the pool has to be labelled, and what counts as harm is what the guard was
trained on. Two kinds of folder will do, and a language model may be asked in four forms (`engine/guards.py`).

    a sequence classifier       p = that of the label which means hazard, on prompt and answer, of the highest window
    a language model            is asked with a template (`prompt`): p = p(unsafe) / (p(unsafe) + p(safe)), where
                                p(word) is how likely the whole word is to follow; or, with `form`, as Llama Guard,
                                ShieldGemma or WildGuard is asked

An example is dropped when p >= threshold. Each is asked about alone, so that company shows in no score. Special tokens
that stand in a template are read as such. An example that spells one could pass off its own words as the template's:
it has no score, and neither has one that is longer than the guard reads, or whose verdict has no form.

The template that is here is ours and is short. A guard is best asked in the form that it was trained with, or with the
template and the words that its model card says.

Source: Inan et al. 2023, "Llama Guard", arXiv 2312.06674, and Zeng et al. 2024, "ShieldGemma", arXiv 2407.21772, who
take the two words' probabilities for a score. Differs from them: whole words count and not their first tokens.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings, UserError
from ..engine import guards
from ._cause import cause
from ._examples import NO_ANSWER, below, halves, settled, told


class Guard(Settings):
    """Rank by what a guard model says."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    needs: ClassVar[tuple[str, ...]] = ("model",)

    model: str | None = None
    """Folder of the guard, with safetensors weights. It must be given."""
    form: guards.Form | None = None
    """How it is asked: `classifier`, `asked`, `llama_guard`, `shield_gemma` or `wild_guard`. None: `classifier` where
    it is one, else `asked`."""
    prompt: str = guards.PROMPT
    """Asked: the question; `{prompt}` and `{answer}` stand for the example's."""
    unsafe: str = "unsafe"
    """Asked: the word for harm."""
    safe: str = "safe"
    """Asked: the other word."""
    chat: bool = False
    """Asked: the question goes through its chat template."""
    label: str | int | None = None
    """Classifier: name or number of the label that means hazard. None: `toxicity` or `toxic` where it has one; else
    the only one, or the last of two."""
    window: int | None = Field(default=None, ge=2)
    """Classifier: tokens in a window. None: as many as it takes."""
    overlap: int = Field(default=64, ge=0)
    """Classifier: tokens that a window shares with the one before it."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Score from which an example is dropped. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if "{answer}" not in self.prompt:
            raise ValueError("'prompt' does not say where the answer goes. Put {answer} there")
        if not self.unsafe.strip() or not self.safe.strip() or self.unsafe == self.safe:
            raise ValueError("'unsafe' and 'safe' must be two different words")
        return self

    def resolved(self, folder: Path) -> Guard:
        """With the place of the model made absolute, and looked at."""
        if self.model is None:
            return self
        place = Path(os.path.abspath(folder / self.model))
        guards.kind_of(place)
        return self.model_copy(update={"model": str(place)})

    def fit(self, pool: Corpus, rig: Rig) -> GuardScorer:
        if self.model is None:
            raise UserError(
                "guard has no model to ask. Give 'model': the folder of a sequence classifier, or of a language model"
                " that tells harmful answers."
            )
        how = guards.How(
            *(self.form, self.label, self.window, self.overlap, self.prompt, (self.unsafe, self.safe), self.chat)
        )
        return settled(GuardScorer(guards.load(Path(self.model), how), self.threshold), pool.unlabelled, self.removed)

    def frozen(self, scorer: GuardScorer, folder: Path) -> Guard:
        """These settings with the threshold that `fit` found."""
        return self.model_copy(update={"threshold": scorer.threshold, "removed": None})


@dataclass(frozen=True, eq=False)
class GuardScorer:
    """A guard, and the score from which an example is dropped."""

    way: guards.Guard
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        texts = batch["text"].to_pylist()
        asked = [guards.Exchange(*sides, text) for sides, text in zip(halves(batch), texts, strict=True)]
        answered = [bool(one.answer.strip()) for one in asked]
        found = iter(self.way.verdicts([one for one, well in zip(asked, answered, strict=True) if well]))
        said = [next(found) if well else guards.Verdict(cause=NO_ANSWER) for well in answered]
        causes = [
            cause(one.cause, exchange.text) if isinstance(one.cause, Exception) else one.cause
            for one, exchange in zip(said, asked, strict=True)
        ]
        return told(np.array([math.nan if one.harm is None else one.harm for one in said]), causes, "p = {:.3f}")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)
