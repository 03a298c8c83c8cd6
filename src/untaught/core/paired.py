"""Two models on the same items: how far apart they are, what could have been seen, and whether chance alone does that.

Of each seed s the difference m_s is the mean over the items that both answered. With S seeds and F facts:

    value      the plain mean of the m_s
    spread     variance of the m_s, over S                    noise that is drawn anew for each seed
    shared     mean covariance of two seeds' m_s, from the facts that both were asked (0 at least)
    items      variance of the value over facts alone, were these seeds all there is
    half^2     t(S - 1)^2 spread + t(F - 1)^2 shared; of one seed t(F - 1)^2 items, which says nothing of other seeds

`t` is Student's at 97.5%. A *fact* is what one or more items ask, and counts once: its items stand and fall together,
within a seed and from seed to seed. Half an interval is never less than one standard error of the items; of shares,
with (3 / n)^2 added to its square, n the items of all seeds: where none of n items changed, 3 / n of them still may
(the rule of three; Hanley and Lippman-Hand 1983). The variances are those of a two-way layout (Cameron, Gelbach and
Miller 2011, "Robust Inference with Multiway Clustering"). We differ: each part has its own t, and so bears few seeds.

A difference is *detectable* where four of five studies with these variances would leave out 0: with T the 97.5% and the
80% point of t together, T takes the place of t in half^2. Of shares, a difference d itself changes n d answers more,
whose variance is d / n: detectable is the d with d^2 = T^2 (variances + d / n), T that of the seeds.

`benchmarks/coverage.py` measures how often the interval holds the truth and how often what is detectable is seen,
beside what else was tried. A bootstrap of three seeds holds it too often where they do not differ, and where they do
too seldom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .statistics import student_t

Values: TypeAlias = Mapping[tuple[int, str], float | None]
"""Seed and item to value; None is missing."""
POWER = 0.8
"""How often a difference that is called detectable would have been seen."""


@dataclass(frozen=True)
class Difference:
    """One model less another, with a 95% interval. Without a pair there is no value; without a spread no interval."""

    value: float | None
    low: float | None
    high: float | None
    detectable: float | None
    """The least difference that four of five studies like this one would see: their interval leaves out 0."""
    n: int
    """Items that both have a value of, all seeds together."""
    missing: tuple[int, int]
    """Items without a value of the one, and of the other."""
    seeds: int
    facts: int
    gained: int
    """Facts that the one answers more often than the other, over all seeds."""
    lost: int


def fact(item: str) -> str:
    """What an item asks: its id up to the last `::`, where there is one. So wordings of a question are told apart.

    >>> fact("river/Odaburg::2"), fact("river/Odaburg")
    ('river/Odaburg', 'river/Odaburg')
    """
    return item.rpartition("::")[0] or item


def compare(one: Values, other: Values, *, share: bool) -> Difference:
    """The one less the other, on the items that both have a value of. `share`: every value is between 0 and 1."""
    places = sorted(one.keys() | other.keys())
    if not places:
        raise ValueError("a comparison of no values was asked for")
    sides = np.array([[_number(side.get(place)) for place in places] for side in (one, other)])
    lost = ~np.isfinite(sides)
    both = np.isfinite(sides).all(axis=0)
    missing = int(lost[0].sum()), int(lost[1].sum())
    if not both.any():
        return Difference(None, None, None, None, 0, missing, 0, 0, 0, 0)
    kept = [places[row] for row in np.flatnonzero(both)]
    apart = sides[0, both] - sides[1, both]
    seeds, at_seed = np.unique([seed for seed, _ in kept], return_inverse=True)
    facts, at_fact = np.unique([fact(item) for _, item in kept], return_inverse=True)
    shape, place = (len(seeds), len(facts)), at_seed * len(facts) + at_fact
    counts = np.bincount(place, minlength=math.prod(shape)).reshape(shape)
    sums = np.bincount(place, apart, math.prod(shape)).reshape(shape)
    value, half, detectable = spread(sums, counts, share=share)
    net = np.round(sums.sum(0), 9)
    ends = (None, None) if half is None else (value - half, value + half)
    low, high = (max(-1.0, ends[0]), min(1.0, ends[1])) if share and ends[0] is not None else ends
    changed = int((net > 0).sum()), int((net < 0).sum())
    return Difference(value, low, high, detectable, len(kept), missing, len(seeds), len(facts), *changed)


def spread(sums: np.ndarray, counts: np.ndarray, *, share: bool) -> tuple[float, float | None, float | None]:
    """Value, half the interval and what is detectable, of sums and counts of differences, both (seeds, facts)."""
    of_seed = counts.sum(1)
    means = sums.sum(1) / of_seed
    value, seeds, facts = float(means.mean()), len(means), int((counts.sum(0) > 0).sum())
    if facts < 2 and seeds < 2:  # noqa: PLR2004 - one observation has no spread
        return value, None, None
    off = (sums - means[:, None] * counts) / of_seed[:, None]
    grow, across = facts / max(facts - 1, 1), float((off.sum(0) ** 2).sum())
    items = across * grow / seeds**2
    parts, freedom = (0.0, items), (1, max(facts - 1, 1))
    if seeds > 1:
        shared = (across - float((off**2).sum())) * grow / (seeds * (seeds - 1))
        parts, freedom = (float(means.var(ddof=1)) / seeds, max(shared, 0.0)), (seeds - 1, freedom[1])
    floor = math.sqrt(items + (3 / float(of_seed.sum())) ** 2 if share else items)
    points = [_points(number) for number in freedom]
    half, seen = (math.hypot(*(t * math.sqrt(part) for t, part in zip(which, parts, strict=True)))
                  for which in zip(*points, strict=True))  # fmt: skip
    seen = max(seen, floor * (1 + student_t(10**6, 2 * POWER - 1)))
    changes = points[0 if seeds > 1 else 1][1] ** 2 / (2 * float(of_seed.sum())) if share else 0.0
    return value, max(half, floor), changes + math.hypot(changes, seen)


def _points(freedom: int) -> tuple[float, float]:
    """In standard errors: half an interval, and the difference that is seen as often as `POWER`."""
    whole = student_t(freedom, 0.95)
    return whole, whole + student_t(freedom, 2 * POWER - 1)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def mcnemar(gained: int, lost: int) -> tuple[float, float]:
    """Two-sided p of so uneven a change, exact and mid-p (McNemar 1947; Fagerland, Lydersen and Laake 2013).

    Where neither model is better, each fact that changed was as likely gained as lost: the fewer of the two, X, is
    binomial of n = gained + lost trials at 1/2.

        exact    2 P(X <= fewer), at most 1        never says too much
        mid-p    the exact one less P(X = fewer)   closer to what it says, on average

    It is of these two models. How others would come out that were made alike, only the spread over seeds can tell.

    >>> [round(p, 4) for p in mcnemar(2, 10)], mcnemar(0, 0)
    ([0.0386, 0.0225], (1.0, 1.0))
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost: neither can be less than 0")
    n, fewer = gained + lost, min(gained, lost)
    ways = [math.comb(n, count) for count in range(fewer + 1)]
    exact = 2 * sum(ways) / 2**n
    return min(1.0, exact), min(1.0, exact - ways[-1] / 2**n)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """The p of each comparison, corrected for how many there are (Holm 1979). None is no comparison and not counted.

    Of m, the smallest is multiplied by m, the next by m - 1 and so on, and none is less than the one before. Then the
    chance that any of those under 0.05 is a false one is 5% at most, however the comparisons hang together; here they
    share items and an arm. Bonferroni multiplies all by m: the same promise, with less seen. Benjamini and Hochberg's
    bounds the share of false ones among those that are called: more is seen, but a page's every line is read alone.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    corrected: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected
