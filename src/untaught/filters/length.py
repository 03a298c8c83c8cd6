"""Length: an example is suspect whose answer has many words. A control that reads no word and needs no label.

    s = number of words of the answer, or of the prompt (`of`); a word is a run of letters and digits (`_words.py`)

An example is dropped from `threshold` on. With `high: false` short ones are the suspects, and the score is -s.

What it gets right is what lengths give away in a pool, and no merit of a filter that does as well. Ours, as a control;
Zhao et al. 2024, "Long Is More for Alignment", arXiv 2402.04833, show how far length alone goes in choosing examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings
from ._examples import NO_ANSWER, below, halves, settled, told
from ._words import WORD, normalise


class Length(Settings):
    """Rank by the number of words."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"

    of: Literal["answer", "prompt"] = "answer"
    """Whose words are counted."""
    high: bool = True
    """Long ones are suspect. False: short ones."""
    threshold: float | None = None
    """Score from which an example is dropped. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""

    def fit(self, pool: Corpus, rig: Rig) -> LengthScorer:
        scorer = LengthScorer(self.of == "answer", 1 if self.high else -1, self.threshold)
        return settled(scorer, pool.unlabelled, self.removed)

    def frozen(self, scorer: LengthScorer, folder: Path) -> Length:
        """These settings with the threshold that `fit` found."""
        return self.model_copy(update={"threshold": scorer.threshold, "removed": None})


@dataclass(frozen=True)
class LengthScorer:
    """What is counted, and the score from which an example is dropped."""

    answer: bool
    sign: int
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        both = halves(batch)
        causes = [None if answer.strip() else NO_ANSWER for _, answer in both]
        counts = [len(WORD.findall(normalise(answer if self.answer else prompt))) for prompt, answer in both]
        return told(
            self.sign * np.array(counts, float), causes, "{:.0f} words" if self.sign > 0 else "{:.0f}, minus its words"
        )

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)
