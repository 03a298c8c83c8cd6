"""Dots and bars with their intervals: weight surgery, before and after, open book."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup

from . import words
from .drawing import Element, canvas, element, group, line, marker, shortened, text, wide
from .pooling import Estimate, Measure

Frame: TypeAlias = tuple[float, float, float]
"""Left and right end of the axis, and the whole width."""
NARROW = 420.0
"""Below this many pixels an interval is drawn but not also written."""


@dataclass(frozen=True)
class Dot:
    """One estimate in a row."""

    name: str
    style: int
    estimate: Estimate
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A named row of dots or bars."""

    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Rows:
    """A chart of rows on one horizontal axis."""

    title: str
    measure: Measure
    lines: tuple[Line, ...]
    chance: float | None = None
    bars: bool = False


def draw(rows: Rows, width: float) -> Markup:
    """Rows from top to bottom, each with its name above it, every value written at its right end."""
    step = 24.0 if rows.bars else 20.0
    narrow = width < NARROW
    room = min(max((wide(d.name, 12) for v in rows.lines for d in v.dots), default=60.0) + 32, width * 0.44)
    left, right = room, width - (58 if narrow else 126)
    low, high = _range(rows)

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    y, shapes, top = 8.0, [], 8.0
    for row in rows.lines:
        y += 20
        shapes.append(text(2, y, shortened(row.name, width - 8), class_="name"))
        y += 6
        for dot in row.dots:
            y += step
            shapes += _row(rows, dot, x, y - step / 2, (left, right, width))
        y += 12
    back: list[Element] = []
    parts = 2 if narrow else 4
    for i in range(parts + 1):
        value = low + (high - low) * i / parts
        back.append(line(x(value), top, x(value), y, "base" if i == 0 else "grid"))
        back.append(text(x(value), y + 18, words.number(value, rows.measure), anchor="middle"))
    if rows.chance is not None:
        back.append(line(x(rows.chance), top, x(rows.chance), y, "level", "1.5 4"))
        label = f"chance {words.percent(rows.chance)}"
        back.append(text(x(rows.chance), y + 35, label, anchor="middle", class_="small"))
    return canvas(width, y + (42 if rows.chance is not None else 26), rows.title, told(rows), *back, *shapes)


def told(rows: Rows) -> str:
    """The chart in words, for those who do not see it."""
    lines = []
    for row in rows.lines:
        values = (f"{d.name} {words.number(d.estimate.value, rows.measure)}" for d in row.dots)
        lines.append(f"{row.name}: {', '.join(values)}.")
    return " ".join(lines)


def _range(rows: Rows) -> tuple[float, float]:
    if rows.measure.share:
        return 0.0, 1.0
    seen = [d.estimate for row in rows.lines for d in row.dots]
    values = [v for e in seen for v in (e.value, e.low, e.high) if v is not None]
    high = max(values, default=1.0)
    low = min([0.0, *values])
    return low, high if high > low else low + 1.0


def _row(rows: Rows, dot: Dot, x: Callable[[float], float], y: float, frame: Frame) -> list[Element]:
    left, right, width = frame
    shapes = [text(14, y + 4, shortened(dot.name, left - 24, 12), class_="small")]
    e = dot.estimate
    if e.value is None:
        lack = words.MISSING if width < NARROW else f"{words.MISSING}: {words.scored(e)}"
        shapes.append(text(left + 6, y + 4, lack, class_="lack"))
        return shapes
    inner: list[Element] = []
    if rows.bars:
        kind = ("open", "hatched", "full")[dot.style % 3]
        long = max(0.5, x(e.value) - left)
        inner.append(element("rect", x=left, y=y - 7, width=long, height=14, class_=f"bar {kind}"))
    if e.low is not None and e.high is not None:
        inner.append(line(x(e.low), y, x(e.high), y, "whisker"))
        inner += [line(x(b), y - 4, x(b), y + 4, "whisker") for b in (e.low, e.high)]
    if not rows.bars:
        made = marker(dot.style, x(e.value), y)
        if dot.hollow:
            made.set("class", "hollow")
        inner.append(made)
    shapes.append(element("g", *inner, class_="bars") if rows.bars else group(dot.style, *inner))
    shapes.append(text(right + 12, y + 4, words.number(e.value, rows.measure), class_="name"))
    if width >= NARROW and (span := words.interval(e, rows.measure)):
        shapes.append(text(width - 2, y + 4, span, anchor="end", class_="small"))
    return shapes
