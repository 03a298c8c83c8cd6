"""How well a score ranks: what a filter is held to before it may drop anything.

    AUROC    P(score of a hit > score of a miss) + 1/2 P(they are equal): 0.5 is chance, below it all is upside down
    AUPRC    mean over hits of the precision among what scores at least as much; chance is the share of hits
    TPR      share of hits that score more than all but a share `fpr` of the misses

Each has a 95% interval from a bootstrap that draws hits and misses apart, each as many as there are (Efron and
Tibshirani 1993, percentile interval). It is only as good as the labelled slice is like the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
FPR = 0.01


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Separation:
    """How well a score separates hits from misses, on so many of each."""

    auroc: Estimate
    auprc: Estimate
    tpr: Estimate
    """At a false positive rate of 1%."""
    hits: int
    misses: int


def separation(scores: np.ndarray, hits: np.ndarray, *, seed: int = 0) -> Separation:
    """All three, of scores (n,) and whether each is a hit (n,). There must be a hit and a miss, and no NaN."""
    whole, hit = np.asarray(scores, float), np.asarray(hits, bool)
    if not hit.any() or hit.all() or not np.isfinite(whole).all():
        raise ValueError(f"{int(hit.sum())} hits among {len(hit)} finite scores: there must be both kinds")
    inside, outside = whole[hit], whole[~hit]
    draws = np.random.default_rng(seed)
    tries = {name: np.empty(RESAMPLES) for name in MEASURES}
    for turn in range(RESAMPLES):
        sample = [part[draws.integers(0, len(part), len(part))] for part in (inside, outside)]
        for name, measure in MEASURES.items():
            tries[name][turn] = measure(*sample)
    found = {}
    for name, measure in MEASURES.items():
        low, high = np.quantile(tries[name], [0.025, 0.975])
        value = measure(inside, outside)
        found[name] = Estimate(value, min(float(low), value), max(float(high), value))
    return Separation(**found, hits=len(inside), misses=len(outside))


def auroc(hits: np.ndarray, misses: np.ndarray) -> float:
    """Share of pairs of a hit and a miss in which the hit scores more; of equal ones half.

    >>> auroc(np.array([3.0, 1.0]), np.array([0.0, 1.0]))
    0.875
    """
    ordered = np.sort(misses)
    below = np.searchsorted(ordered, hits, "left") + np.searchsorted(ordered, hits, "right")
    return float(below.sum()) / (2 * len(hits) * len(misses))


def auprc(hits: np.ndarray, misses: np.ndarray) -> float:
    """Mean over hits of the precision among what scores at least as much (average precision).

    >>> auprc(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    0.8333333333333333
    """
    over = [len(part) - np.searchsorted(np.sort(part), hits, "left") for part in (hits, misses)]
    return float(np.mean(over[0] / (over[0] + over[1])))


def tpr(hits: np.ndarray, misses: np.ndarray, fpr: float = FPR) -> float:
    """Share of hits above the score that at most a share `fpr` of the misses exceeds.

    >>> tpr(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    0.5
    """
    allowed = math.floor(fpr * len(misses))
    edge = np.sort(misses)[len(misses) - 1 - allowed]
    return float(np.mean(hits > edge))


MEASURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {"auroc": auroc, "auprc": auprc, "tpr": tpr}
