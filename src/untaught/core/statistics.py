"""Statistics, in one place: what a row of results says about a column of values.

A value that is missing is counted, never averaged. A summary of nothing is an error, not a 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .tables import Marks

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Summary:
    """Mean, 95% interval, how many values it is of, how many were missing. All None when every value is missing."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    missing: int


def summarise(values: Sequence[float | None]) -> Summary:
    """Mean and 95% interval: Wilson's for values that are all 0 or 1, Student's t otherwise. What is not finite is
    missing.

    >>> found = summarise([1, 0, 1, None])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3), found.n, found.missing
    (0.667, 0.208, 0.939, 3, 1)
    """
    if len(values) == 0:
        raise ValueError("a summary of no values was asked for")
    scored = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=float)
    missing = len(values) - len(scored)
    if len(scored) == 0:
        return Summary(None, None, None, 0, missing)
    mean = float(scored.mean())
    if np.isin(scored, (0.0, 1.0)).all():
        low, high = wilson(mean, len(scored))
    elif len(scored) == 1:
        low = high = None
    else:
        half = student_t95(len(scored) - 1) * float(scored.std(ddof=1)) / math.sqrt(len(scored))
        low, high = mean - half, mean + half
    return Summary(mean, low, high, len(scored), missing)


def by_metric(marks: Marks) -> list[dict[str, Any]]:
    """What the marks of each metric come to, as columns of a results row: one table a metric, in order."""
    rows = marks.to_pylist()
    found: list[dict[str, Any]] = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        chances = [row["chance"] for row in own if row["chance"] is not None]
        chance = sum(chances) / len(chances) if chances else None
        found.append({"metric": metric, **asdict(summarise([row["value"] for row in own])), "chance": chance})
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share seen in `n` trials (Wilson 1927)."""
    centre = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return min(low, share), max(high, share)  # rounding would leave the share itself just outside


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share that was seen `hits` times in `n` trials (Clopper and Pearson 1934).

    With X binomial of `n` trials at the share p, and a = 1 - level:

        low   is the p at which P(X >= hits) = a/2, and 0 without a hit
        high  is the p at which P(X <= hits) = a/2, and 1 when every trial is a hit

    It holds the true share at least as often as `level` says, whatever that share is, and most often more often. The
    tails are summed as they are, so nothing is approximated; what rounding leaves open is given to the interval. Of no
    trials, all shares are possible.

    >>> [round(end, 4) for end in exact_interval(0, 100)], [round(end, 4) for end in exact_interval(3, 10)]
    ([0.0, 0.0362], [0.0667, 0.6525])
    """
    if not 0 <= hits <= n or not 0 < level < 1:
        raise ValueError(f"no interval at {level} of {hits} hits in {n} trials")
    return _lowest(hits, n, (1 - level) / 2), 1 - _lowest(n - hits, n, (1 - level) / 2)


@functools.lru_cache(maxsize=2**14)
def _lowest(hits: int, n: int, tail: float) -> float:
    """The share at which `hits` or more in `n` trials have the probability `tail`, by bisection."""
    if hits == 0:
        return 0.0
    counts = np.arange(hits, n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts.tolist()])
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        logs = ways + counts * math.log(middle) + (n - counts) * math.log1p(-middle)
        if np.logaddexp.reduce(logs) < math.log(tail):
            low = middle
        else:
            high = middle
    return low


def student_t95(freedom: int) -> float:
    """The 97.5% point of Student's t. Exact for 1 and 2 degrees of freedom; beyond, Cornish-Fisher's expansion
    (Abramowitz and Stegun 26.7.5), within 1% at 3 and 0.02% from 10 on.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, f = Z95, float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * f),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * f**4),
    )
    return sum(terms)
