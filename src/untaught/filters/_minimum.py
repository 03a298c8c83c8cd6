"""The least value of a smooth convex function: limited-memory BFGS, in numpy, the same bits on every run.

Source: Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithms 7.4 and 7.5. Differs from it: steps are
halved until the loss falls enough (Armijo), without the second Wolfe condition, which a convex loss hardly needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np


def minimum(loss: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, most: int) -> np.ndarray:
    """Where a convex loss (value and slope) is least: L-BFGS over ten pairs, steps halved until the loss falls."""
    point, (value, slope) = start, loss(start)
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=10)
    for _ in range(most):
        if np.abs(slope).max() < 1e-7:
            break
        way, size = direction(slope, pairs), 1.0
        fall = (slope * way).sum()
        new_value, new_slope = loss(point + way)
        while new_value > value + 1e-4 * size * fall:
            size /= 2
            if size < 1e-9:
                return point
            new_value, new_slope = loss(point + size * way)
        if (way * (new_slope - slope)).sum() > 0:
            pairs.append((size * way, new_slope - slope))
        point, value, slope = point + size * way, new_value, new_slope
    return point


def direction(slope: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Minus the slope times the inverse curvature that past (step, change of slope) pairs tell."""
    way, shares = -slope, []
    for step, change in reversed(pairs):
        shares.append((step * way).sum() / (step * change).sum())
        way = way - shares[-1] * change
    if pairs:
        step, change = pairs[-1]
        way = way * ((step * change).sum() / (change * change).sum())
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        way = way + (share - (change * way).sum() / (step * change).sum()) * step
    return way
