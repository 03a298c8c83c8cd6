"""Random: every example gets a number by chance. What a filter gains it must gain over this, at the same share dropped.

    s = the first 53 bits of SHA-256(seed, what the example says and who says it), as a number from 0 to below 1

An example is dropped from `threshold` on. The number depends on the example and the seed: not on its id, its place, the
pool, or anything that the example means. Copies of an example stay together. Ours, as a control.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings
from ._examples import below, names, settled, told

BITS = 53
"""As many as a float has: more would be rounded, to 1 too."""


class Random(Settings):
    """Rank by chance."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"

    seed: int | None = Field(default=None, ge=0)
    """What the numbers are drawn by. None: what the study, or the policy, draws by."""
    threshold: float | None = None
    """Score from which an example is dropped. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""

    def fit(self, pool: Corpus, rig: Rig) -> RandomScorer:
        seed = int(rig.random("scores").integers(2**BITS)) if self.seed is None else self.seed
        return settled(RandomScorer(seed, self.threshold), pool.unlabelled, self.removed)

    def frozen(self, scorer: RandomScorer, folder: Path) -> Random:
        """These settings with the seed and the threshold that `fit` found."""
        return self.model_copy(update={"seed": scorer.seed, "threshold": scorer.threshold, "removed": None})


@dataclass(frozen=True)
class RandomScorer:
    """A seed, and the score from which an example is dropped."""

    seed: int
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        drawn = [hashlib.sha256(f"{self.seed}/".encode() + name).digest() for name in names(batch)]
        numbers = np.array([int.from_bytes(one[:8], "big") >> 64 - BITS for one in drawn], float) / 2**BITS
        return told(numbers, [None] * len(drawn), "{:.3f}, by chance")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)
