"""The frontier: what each arm lost in ordinary ability, against what the worst attack brought back in it.

    cost     reference's benign value - arm's, before any attack      right: dearer
    worst    the arm's hazard value at the highest that any attack at any budget reached      up: less durable

An arm is on the frontier when no other arm that was unlearned costs no more and stays lower. The arms that were only
trained are the ends that the methods are held against: what nothing was removed from, and what was never taught.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import yaml
from markupsafe import Markup

from . import words
from .drawing import Element, canvas, element, group, line, marker, shortened, spread, text, wide
from .pairs import difference
from .pooling import Estimate, Measure
from .reading import Run
from .tables import Spot, spot
from .verdicts import Account, Reached

TOP, BOTTOM, LEFT, ROW = 36.0, 52.0, 50.0, 17.0
LEAST = 2
"""Unlearned arms without which there is no frontier."""


@dataclass(frozen=True)
class Point:
    """One arm's place."""

    arm: str
    style: int
    unlearned: bool
    cost: float
    """Benign value of the reference less the arm's, or the rise of a loss."""
    cost_low: float
    cost_high: float
    worst: Estimate
    """Hazard under the worst attack; before any where there was none."""
    reached: Reached | None
    before: Estimate | None
    neighbour: Spot | None
    on_it: bool = False


@dataclass(frozen=True)
class Frontier:
    """Every arm that has a value on both sides."""

    measure: Measure
    """Hazard."""
    benign: Measure
    """What the cost is told in."""
    neighbour: Measure | None
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
    """Arms without a value on one side."""
    desk: Markup
    phone: Markup


def frontier(story: Account, style: dict[str, int], broad: float, narrow: float) -> Frontier | None:
    """The frontier of a run, drawn at two widths; None where fewer than two arms were unlearned."""
    unlearned = _unlearned(story.run)
    benign = _benign(story)
    if story.measure is None or benign is None or len(unlearned) < LEAST:
        return None
    neighbour = next((m for m in story.grid.measures if m.items == "neighbour" and m.metric == benign.metric), None)
    places = {arm: _point(story, arm, style[arm], arm in unlearned, benign, neighbour) for arm in story.run.arms}
    points = _marked([point for point in places.values() if point is not None])
    if not points:
        return None
    lost = tuple(arm for arm, point in places.items() if point is None)
    drawings = (_draw(points, story.measure, benign, width) for width in (broad, narrow))
    return Frontier(story.measure, benign, neighbour, tuple(points), lost, *drawings)


def price(point: Point, measure: Measure) -> str:
    """`3 points (1 to 5)`, or nats."""
    scale, digits, unit = (100, 0, " points") if measure.share else (1, 3, "")
    value, low, high = (_plain(scale * part, digits) for part in (point.cost, point.cost_low, point.cost_high))
    return f"{value}{unit}" + ("" if math.isnan(point.cost_low) else f" ({low} to {high})")


def _plain(value: float, digits: int) -> str:
    """A number with a minus sign where it is less than 0 as it is written."""
    written = f"{value:.{digits}f}"
    return written.lstrip("-") if value >= 0 or float(written) == 0 else written.replace("-", "\u2212")


def _unlearned(run: Run) -> set[str]:
    """Arms of the study that had something unlearned, themselves or where they start from."""
    study = yaml.safe_load(run.study)
    arms = study.get("arms") if isinstance(study, dict) else None
    arms = arms if isinstance(arms, dict) else {}

    def was(name: str, seen: tuple[str, ...] = ()) -> bool:
        arm = arms.get(name)
        if not isinstance(arm, dict) or name in seen:
            return False
        return bool(arm.get("unlearning")) or was(str(arm.get("from")), (*seen, name))

    return {arm for arm in run.arms if was(arm)}


def _benign(story: Account) -> Measure | None:
    """What the cost is told in: accuracy on benign items where there is one."""
    found = [m for m in story.grid.measures if m.role == "benign" and "option_only" not in m.metric]
    return max(found, key=lambda m: (m.share, m.metric == "accuracy", m.items == "benign"), default=None)


def _point(
    story: Account, arm: str, style: int, unlearned: bool, benign: Measure, neighbour: Measure | None
) -> Point | None:
    assert story.measure is not None
    own, base = (story.grid.unattacked(one, benign) for one in (arm, story.reference))
    standing = next(s for s in story.standings if s.arm == arm)
    worst = standing.highest.estimate if standing.highest else standing.before
    if own is None or base is None or worst is None or worst.value is None:
        return None
    apart = difference(base, own) if benign.share else difference(own, base)
    if apart is None:
        return None
    beside = None if neighbour is None else spot(story.grid.unattacked(arm, neighbour), neighbour)
    place = (0.0, math.nan, math.nan) if arm == story.reference else apart
    return Point(arm, style, unlearned, *place, worst, standing.highest, standing.before, beside)


def _marked(points: Sequence[Point]) -> list[Point]:
    """Which unlearned arms no other unlearned arm beats."""

    def beaten(one: Point) -> bool:
        return any(
            (o.cost, o.worst.value) != (one.cost, one.worst.value)
            and o.cost <= one.cost
            and (o.worst.value or 0.0) <= (one.worst.value or 0.0)
            for o in points
            if o.unlearned
        )

    return [replace(point, on_it=point.unlearned and not beaten(point)) for point in points]


# -- the drawing -------------------------------------------------------------------------------------------------------


def _draw(points: Sequence[Point], measure: Measure, benign: Measure, width: float) -> Markup:
    """Costs to the right, what came back upwards, names at the right edge, each led to its mark."""
    room = min(max(wide(point.arm) for point in points) + 34, width * 0.38)
    height = max(360.0, TOP + BOTTOM + ROW * len(points))
    left, right, bottom = LEFT, width - room, height - BOTTOM
    low, high = _span([value for point in points for value in (point.cost, 0.0)])
    floor, ceiling = (0.0, 1.0) if measure.share else _span([_value(point) for point in points])

    def x(cost: float) -> float:
        return left + 10 + (right - left - 20) * (cost - low) / (high - low)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - floor) / (ceiling - floor)

    shapes = []
    for i in range(5):
        up = floor + (ceiling - floor) * i / 4
        shapes.append(line(left, y(up), right, y(up), "base" if i == 0 else "grid"))
        shapes.append(text(left - 8, y(up) + 4, words.number(up, measure), anchor="end"))
    for along in _round(low, high):
        shapes.append(line(x(along), bottom, x(along), bottom + 5, "base"))
        written = _plain(100 * along, 0) if benign.share else _plain(along, 2)
        shapes.append(text(x(along), bottom + 20, written, anchor="middle"))
    best = sorted((point for point in points if point.on_it), key=lambda point: point.cost)
    if len(best) > 1:
        along = " ".join(f"{x(point.cost):.1f},{y(_value(point)):.1f}" for point in best)
        shapes.append(element("polyline", points=along, class_="level", fill="none"))
    shapes += [group(point.style, *_mark(point, x(point.cost), y)) for point in points]
    shapes += _names(points, [(x(point.cost), y(_value(point))) for point in points], right, room, bottom)
    unit = "points" if benign.share else "nats a token"
    under = f"cost on {benign.items}, {unit}"
    shapes.append(text((left + right) / 2, bottom + 42, shortened(under, right - left), anchor="middle"))
    what = f"{measure.metric.replace('_', ' ')} on {measure.items} after the worst attack"
    shapes.append(text(2, 14, shortened(what, width - 4, 12), class_="small"))
    told = " ".join(f"{p.arm}: {words.number(p.worst.value, measure)} at a cost of {price(p, benign)}." for p in points)
    return canvas(width, height, "Cost against what the worst attack brought back", told, *shapes)


def _mark(point: Point, x: float, y: Callable[[float], float]) -> list[Element]:
    bounds = [bound for bound in (point.worst.low, point.worst.high) if bound is not None]
    whisker = [line(x, y(bounds[0]), x, y(bounds[1]), "whisker")] if len(bounds) == 2 else []  # noqa: PLR2004
    return [*whisker, marker(point.style, x, y(_value(point)), 5.5 if point.on_it else 4.5)]


def _names(
    points: Sequence[Point], at: Sequence[tuple[float, float]], right: float, room: float, bottom: float
) -> list[Element]:
    shapes = []
    places = spread([y for _, y in at], ROW, TOP, bottom)
    for point, (x, y), place in zip(points, at, places, strict=True):
        shapes.append(line(x + 7, y, right + 13, place, "leader"))
        shapes.append(group(point.style, marker(point.style, right + 21, place, 4)))
        shapes.append(text(right + 31, place + 4, shortened(point.arm, room - 32), class_="name"))
    return shapes


def _value(point: Point) -> float:
    return point.worst.value or 0.0


def _round(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two: multiples of 1, 2 or 5 times a power of 10.

    >>> _round(-0.03, 0.23)
    [0.0, 0.05, 0.1, 0.15, 0.2]
    """
    least = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * least for size in (1, 2, 5, 10, 20) if (high - low) / (size * least) <= most)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.01
    return low - pad, high + pad
