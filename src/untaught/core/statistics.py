"""Statistics, in one place: what a row of results says about a column of values.

A value that is missing is counted, never averaged. A summary of nothing is an error, not a 0.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .tables import Marks

Z95 = 1.959963984540054
FEW = 3
"""Seeds from which on their own spread makes an interval."""


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
    """The 97.5% point of Student's t: half of a 95% interval, in standard errors."""
    return student_t(freedom, 0.95)


@functools.lru_cache(maxsize=2**12)
def student_t(freedom: int, inside: float) -> float:
    """The point t with P(-t < T < t) = `inside` of Student's T. Exact for 1 and 2 degrees of freedom; beyond,
    Cornish-Fisher's expansion (Abramowitz and Stegun 26.7.5), at 95% within 1% at 3 and 0.02% from 10 on.
    """
    if freedom < 1 or not 0 < inside < 1:
        raise ValueError(f"no point of Student's t with {freedom} degrees of freedom and {inside} inside")
    if freedom == 1:
        return math.tan(math.pi * inside / 2)
    if freedom == 2:
        return inside * math.sqrt(2 / (1 - inside**2))
    z, f = statistics.NormalDist().inv_cdf((1 + inside) / 2), float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * f),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * f**4),
    )
    return sum(terms)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """What the seeds' own values leave open of their mean: Student's t over three or more, and else from the lowest to
    the highest, since two say little of their spread.
    """
    if len(values) == 0:
        raise ValueError("an interval over no seeds was asked for")
    if len(values) < FEW:
        return min(values), max(values)
    mean = math.fsum(values) / len(values)
    half = student_t95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def of_means(halves: Sequence[float]) -> float:
    """Half the interval of the mean of independent values, from half of each one's: root of the sum of squares over n;
    0 of none.
    """
    return math.sqrt(math.fsum(half * half for half in halves)) / len(halves) if halves else 0.0


def newcombe(one: tuple[float, float, float], other: tuple[float, float, float]) -> tuple[float, float, float]:
    """The difference of two independent estimates with its interval, from theirs (Newcombe 1998, method 10).

    Each is a value with the low and the high end of its interval. With d = one - other:

        low  = d - sqrt((one - one.low)^2 + (other.high - other)^2), and high the other way about
    """
    apart = one[0] - other[0]
    down, up = math.hypot(one[0] - one[1], other[2] - other[0]), math.hypot(one[2] - one[0], other[0] - other[1])
    return apart, apart - down, apart + up


def resampled(values: np.ndarray, there: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Means as they are and in every resample of seeds and items at once, (arms, 1 + resamples).

    `values` is (arms, seeds, items), 0 where `there` (seeds, items) is 0. All arms get the same draws (Efron and
    Tibshirani 1993). With few seeds its percentiles are no interval to trust: `paired` says what is.
    """
    rng = np.random.default_rng(seed)
    counts = []
    for size in there.shape:
        drawn = rng.integers(0, size, (resamples, size))
        counted = np.stack([np.bincount(row, minlength=size) for row in drawn]) if size else np.zeros((resamples, 0))
        counts.append(np.concatenate([np.ones((1, size)), counted]))
    weight = np.einsum("bs,si,bi->b", counts[0], there, counts[1])
    sums = np.einsum("bs,asi,bi->ab", counts[0], values, counts[1])
    return sums / np.where(weight > 0, weight, np.nan)
