"""A filter that the tests bring: how many invented words an example has. It learns nothing."""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from untaught.core import Finding, Settings, findings

WORDS = ("florp", "quentar", "zib")
asked: list[int] = []
"""How many examples each call measured."""


class Marked(Settings):
    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"

    threshold: float | None = None
    removed: float | None = None
    sign: float = 1.0
    flat: bool = False
    """Say the same of everything."""
    fitted: str | None = None

    def fit(self, pool, rig):
        edge = self.threshold
        if self.removed is not None:
            scores = np.sort([self.score(text) for text in pool.unlabelled["text"].to_pylist()])[::-1]
            edge = float(scores[max(int(np.ceil(self.removed * len(scores))) - 1, 0)])
        return MarkedScorer(self, edge)

    def frozen(self, scorer, folder):
        return self.model_copy(update={"threshold": scorer.threshold, "removed": None})

    def score(self, text):
        return 0.0 if self.flat else self.sign * sum(len(re.findall(word, text)) for word in WORDS)


@dataclass(frozen=True)
class MarkedScorer:
    settings: Marked
    threshold: float | None

    def measure(self, batch):
        asked.append(batch.num_rows)
        return findings(
            Finding(None, "too long") if "unmeasurable" in text else Finding(self.settings.score(text), "words")
            for text in batch["text"].to_pylist()
        )

    def keep(self, found):
        kept = np.ones(found.num_rows, bool)
        return kept if self.threshold is None else found["score"].to_numpy() < self.threshold
