"""The budget curve of a filter of fine-tuning data: what goes of harmful and of clean examples, share by share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from . import words
from .drawing import Element, canvas, element, group, line, text, wide
from .figures import BROAD, PHONE, Figure

LEFT, RIGHT, BOTTOM = 46.0, 14.0, 48.0
ROW = 22.0
"""Height of a line of the key."""
SHOWN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares that the table has."""


@dataclass(frozen=True)
class Line:
    """A line of the chart."""

    key: str
    style: int
    dash: str
    told: str


LINES = (
    Line("recall", 2, "", "harmful examples that go"),
    Line("clean_lost", 1, "9 4", "clean examples that go"),
)
RANDOM = "at random"


def rows(curve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points that the table shows."""
    return [point for point in curve["points"] if any(abs(point["removed"] - share) < 1e-9 for share in SHOWN)]


def figure(curve: Mapping[str, Any], removed: float | None) -> Figure | None:
    """The curve, for a desk and for a phone. `removed` is the share that goes now."""
    if not curve["points"]:
        return None
    title = f"What goes when a share is removed by {curve['stage']}"
    made = [_drawn(title, curve["points"], removed, *size) for size in ((BROAD, 380.0), (PHONE, 330.0))]
    return Figure(title, made[0], made[1], broad=True)


def _drawn(
    title: str, points: Sequence[Mapping[str, Any]], removed: float | None, width: float, height: float
) -> Markup:
    key, top = _key(width)
    floor, room = height - BOTTOM, height - BOTTOM - top

    def x(share: float) -> float:
        return LEFT + share * (width - LEFT - RIGHT)

    def y(share: float) -> float:
        return floor - share * room

    shapes = [*key]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes += [line(LEFT, y(tick), width - RIGHT, y(tick), "grid" if tick else "base")]
        shapes += [text(LEFT - 8, y(tick) + 4, words.percent(tick), anchor="end")]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        shapes += [text(x(tick), floor + 18, words.percent(tick), anchor="middle" if tick < 1 else "end")]
    shapes.append(text(width - RIGHT, floor + 38, "share removed, most suspect first", anchor="end", class_="small"))
    shapes.append(line(x(0), y(0), x(1), y(1), "level", "1.5 4"))
    for one in LINES:
        shapes.append(group(one.style, *_curve(one, points, x, y)))
    if removed:
        label = f"removed: {words.share(removed)}"
        right = x(removed) + 6 + wide(label) < width - RIGHT
        shapes.append(line(x(removed), top, x(removed), floor, "level", "5 4"))
        shapes.append(
            text(x(removed) + (6 if right else -6), floor - 8, label, anchor="start" if right else "end", class_="name")
        )
    return canvas(width, height, title, _told(points), *shapes)


def _curve(one: Line, points: Sequence[Mapping[str, Any]], x: Any, y: Any) -> list[Element]:
    """A line, and its interval as a band."""
    places = [(point["removed"], point[one.key]) for point in points]
    high = [f"{x(share):.1f},{y(value['high']):.1f}" for share, value in places]
    low = [f"{x(share):.1f},{y(value['low']):.1f}" for share, value in reversed(places)]
    through = " ".join([f"{x(0):.1f},{y(0):.1f}", *(f"{x(share):.1f},{y(v['value']):.1f}" for share, v in places)])
    made = element("polyline", points=through, class_="curve")
    if one.dash:
        made.set("stroke-dasharray", one.dash)
    return [element("polygon", points=" ".join([*high, *low]), class_="band"), made]


def _key(width: float) -> tuple[list[Element], float]:
    """What the lines are, above the chart, in as many lines as it takes; and where the chart begins."""
    shapes, at, row = [], 0.0, 0
    for told, style, dash in [*((one.told, one.style, one.dash) for one in LINES), (RANDOM, None, "1.5 4")]:
        long = 34 + wide(told) + 22
        if at and at + long > width:
            at, row = 0.0, row + 1
        y = 10 + row * ROW
        if style is None:
            shapes.append(line(at, y, at + 26, y, "level", dash))
        else:
            made = element("polyline", points=f"{at:.1f},{y:.1f} {at + 26:.1f},{y:.1f}", class_="curve")
            if dash:
                made.set("stroke-dasharray", dash)
            shapes.append(group(style, made))
        shapes.append(text(at + 34, y + 4, told))
        at += long
    return shapes, 10 + (row + 1) * ROW + 6


def _told(points: Sequence[Mapping[str, Any]]) -> str:
    """The chart in words."""
    some = [point for point in points if round(point["removed"] * 100) % 10 == 0]
    steps = (
        f"{words.percent(point['removed'])} removed: {words.percent(point['recall']['value'])} of harmful and"
        f" {words.percent(point['clean_lost']['value'])} of clean examples go"
        for point in some
    )
    return "; ".join(steps) + "."
