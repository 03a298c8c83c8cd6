"""Pairs: how far one subject is above another, with an interval that owns up to both."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.statistics import newcombe, over_seeds
from .pooling import Estimate, by_seed, item_interval, pool
from .reading import Row

Apart = tuple[float, float, float]
"""A difference, and the ends of its 95% interval; an end that is not known is NaN."""


def difference(one: Estimate, other: Estimate) -> Apart | None:
    """How far apart two estimates are, with a 95% interval made from theirs as `newcombe` does."""
    if one.value is None or other.value is None:
        return None
    bounds = (one.low, one.high, other.low, other.high)
    apart = one.value - other.value
    if any(bound is None for bound in bounds):
        return apart, math.nan, math.nan
    low_1, high_1, low_2, high_2 = (float(bound or 0.0) for bound in bounds)
    return newcombe((one.value, low_1, high_1), (other.value, low_2, high_2))


def paired(own: Sequence[Row], other: Sequence[Row], share: bool) -> Apart | None:
    """One subject less another, seed by seed; None where no seed has a value of both.

    value       the plain mean of the seeds' differences
    1 seed      the interval that `difference` makes of both
    2 seeds     the one that it makes of both pooled item intervals, widened to hold both seeds' differences
    3 or more   Student's t over the seeds' differences, and never narrower than that of the pooled item intervals

    What the seeds share, such as a world that is easier, drops out. That both answer the same items does not: they are
    taken as independent, which makes the interval wider.
    """
    mine, theirs = by_seed(own), by_seed(other)
    pairs = [(row, theirs[seed]) for seed, row in mine.items() if seed in theirs]
    if len(pairs) < 2:  # noqa: PLR2004
        return difference(*(pool(side, share) for side in zip(*pairs, strict=True))) if pairs else None
    gaps = [(one.value or 0.0) - (two.value or 0.0) for one, two in pairs]
    mean, (low, high) = math.fsum(gaps) / len(gaps), over_seeds(gaps)
    items = difference(*(_by_items(side, share) for side in zip(*pairs, strict=True))) or (mean, mean, mean)
    return mean, min(low, items[1]), max(high, items[2])


def _by_items(rows: Sequence[Row], share: bool) -> Estimate:
    """The mean of some seeds with its pooled item interval alone."""
    found = pool(rows, share)
    low, high = item_interval(rows, found.value or 0.0, share)
    return Estimate(found.value, low, high, found.n, found.missing, found.seeds, found.of_seeds, found.chance)
