"""Gaps: how much of what was removed an attack brought back, and at which budget point.

share    (after - before) / (reference - before)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import words
from .naming import Attack
from .pooling import Cell, Estimate
from .reading import Cost


@dataclass(frozen=True)
class Reached:
    """How far one attack got at one budget point."""

    attack: Attack
    cost: Cost
    estimate: Estimate

    @property
    def where(self) -> str:
        return words.attack_at(self.attack, self.cost)


def clearly_above(one: Estimate, other: Estimate) -> bool:
    """Whether one interval lies above the other; an estimate without an interval is never clear."""
    return one.low is not None and other.high is not None and one.low > other.high


def share_recovered(before: Estimate, after: Estimate, reference: Estimate | None) -> float | None:
    """R = (after - before) / (reference - before), or None where it means nothing.

    It is undefined unless the reference is clearly above: its interval must lie above the arm's interval before.
    """
    if reference is None or reference.value is None or before.value is None or after.value is None:
        return None
    if not clearly_above(reference, before):
        return None
    return (after.value - before.value) / (reference.value - before.value)


def at_least(share: float | None, part: float) -> bool:
    """Whether a share of the gap is known and no less than a part of it; what rounding takes from it does not count."""
    return share is not None and share >= part - 1e-9


def spending(points: Sequence[Cell]) -> list[Cell]:
    """The points of an attack at which it did something: not the zero point of a curve."""
    return [p for p in points if len(points) == 1 or p.cost.steps or p.cost.tokens or p.cost.examples]


def reached(points: Iterable[Cell]) -> list[Reached]:
    """Those of these points that have a value."""
    return [Reached(p.attack, p.cost, p.estimate) for p in points if p.attack and p.estimate.value is not None]


def furthest(points: Iterable[Reached]) -> Reached | None:
    """The first of those with the highest value."""
    return max(points, key=lambda point: point.estimate.value or 0.0, default=None)


def beside(cell: Cell, points: Sequence[Cell], others: Sequence[Cell]) -> Cell | None:
    """The point of the same attack on another arm that has the same budget as one of `points`.

    By rank where both arms have equally many, else by equal steps; None where there is no such point, or two.
    """
    if len(points) == len(others):
        return next(other for own, other in zip(points, others, strict=True) if own is cell)
    alike = [other for other in others if other.cost.steps == cell.cost.steps]
    return alike[0] if len(alike) == 1 else None
