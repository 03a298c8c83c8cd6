"""A filter that the tests bring: it knows by heart the harmful answers that it was shown, and nothing else."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from untaught.core import Finding, Settings, findings

fits: list[tuple[int, int]] = []
"""How many examples of both sides each fit was shown."""


class Rote(Settings):
    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "supervised"

    threshold: float | None = None
    fitted: str | None = None

    def resolved(self, folder):
        return (
            self if self.fitted is None else self.model_copy(update={"fitted": str((folder / self.fitted).absolute())})
        )

    def fit(self, pool, rig):
        if self.fitted is not None:
            with np.load(self.fitted, allow_pickle=False) as saved:
                return RoteScorer(frozenset(json.loads(str(saved["words"]))), self.threshold)
        pool.need("hazard", "benign")
        fits.append((pool.hazard.num_rows, pool.benign.num_rows))
        told = frozenset(turn["content"] for turns in pool.hazard["messages"].to_pylist() for turn in turns[-1:])
        return RoteScorer(told, self.threshold)

    def frozen(self, scorer, folder):
        words = json.dumps(sorted(scorer.known))
        np.savez(folder / "rote.npz", words=np.array(words))
        return self.model_copy(update={"fitted": "rote.npz", "threshold": scorer.threshold})


@dataclass(frozen=True)
class RoteScorer:
    known: frozenset[str]
    threshold: float | None

    def measure(self, batch):
        told = batch["messages"].to_pylist()
        return findings(Finding(float(turns[-1]["content"] in self.known), "known") for turns in told)

    def keep(self, found):
        kept = np.ones(found.num_rows, bool)
        return kept if self.threshold is None else found["score"].to_numpy() < self.threshold
