"""Recovery curves: what came back, against what the attacker spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import words
from .drawing import DASHES, STYLES, Element, canvas, element, group, line, marker, shortened, spread, text, wide
from .pooling import Cell, Measure

TOP, BOTTOM, LEFT = 36.0, 62.0, 46.0
NARROW = 420.0
"""Below this many pixels reference lines go by their short names."""


@dataclass(frozen=True)
class Curve:
    """One arm's line."""

    name: str
    style: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Level:
    """A reference line across the chart."""

    name: str
    short: str
    """Its name where there is little room."""
    value: float
    dash: str


@dataclass(frozen=True)
class Chart:
    """One attack: a curve for each arm on shared axes."""

    title: str
    measure: Measure
    curves: tuple[Curve, ...]
    levels: tuple[Level, ...]
    currency: str
    """Which cost the axis shows: steps, tokens, ..."""
    axis: str = ""
    """What the axis shows in place of an attacker's cost."""
    places: tuple[str, ...] = ()
    """Names of the costs 0, 1, 2, ... where the axis shows something else."""


@dataclass(frozen=True)
class Axes:
    """Where values land on the drawing."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    left: float
    right: float
    top: float
    bottom: float


def currency(cells: Sequence[Cell]) -> str:
    """The cost that the points differ in: steps where they do, else tokens, and so on."""
    names = ("steps", "tokens", "examples", "flops", "seconds")
    return next((name for name in names if len({getattr(c.cost, name) for c in cells}) > 1), "steps")


def draw(chart: Chart, width: float, height: float) -> Markup:
    """The chart at one size. Points without a value leave a gap in the line; the page lists them."""
    levels = [(level.short if width < NARROW else level.name, level.value) for level in chart.levels]
    room = max(wide(name) for name in [*(c.name for c in chart.curves), *(name for name, _ in levels)])
    room = min(room + 34, width * 0.34)
    axes = _axes(chart, width - room, height)
    shapes = [*_grid(chart, axes), *_cost_ticks(chart, axes)]
    shapes += [line(axes.left, axes.y(v.value), axes.right, axes.y(v.value), "level", v.dash) for v in chart.levels]
    shapes += [group(c.style, *_band(chart, c, axes)) for c in chart.curves]
    shapes += [group(c.style, *_line(chart, c, axes)) for c in chart.curves]
    shapes += _labels(chart, levels, axes, room)
    what = f"{chart.measure.metric.replace('_', ' ')} on {chart.measure.items}"
    shapes.append(text(2, 14, shortened(what, width - 4, 12), class_="small"))
    return canvas(width, height, chart.title, told(chart), *shapes)


def told(chart: Chart) -> str:
    """The chart in words, for those who do not see it."""
    lines = []
    for curve in chart.curves:
        steps = (f"{words.number(c.estimate.value, chart.measure)} at {_place(chart, c)}" for c in curve.cells)
        lines.append(f"{curve.name}: {', '.join(steps)}.")
    lines += [f"{level.name}: {words.number(level.value, chart.measure)}." for level in chart.levels]
    return " ".join(lines)


def _place(chart: Chart, cell: Cell) -> str:
    """Where on the axis a point is, in words."""
    spent = _spent(chart, cell)
    return chart.places[int(spent)] if chart.places else f"{words.count(spent)} {chart.currency}"


def _spent(chart: Chart, cell: Cell) -> float:
    return float(getattr(cell.cost, chart.currency))


def _axes(chart: Chart, right: float, height: float) -> Axes:
    costs = sorted({_spent(chart, c) for curve in chart.curves for c in curve.cells})
    paid = [cost for cost in costs if cost > 0]
    most = max(costs, default=0.0) or 1.0
    # Over more than a factor of 16 a straight axis would crowd the small budgets: use log(1 + cost / least).
    bent = bool(paid) and most / paid[0] > 16
    scale = (lambda cost: math.log1p(cost / paid[0])) if bent else float
    left, bottom = LEFT, height - BOTTOM
    low, high = _range(chart)

    def x(cost: float) -> float:
        return left + 8 + (right - left - 16) * scale(cost) / scale(most)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (value - low) / (high - low)

    return Axes(x, y, left, right, TOP, bottom)


def _range(chart: Chart) -> tuple[float, float]:
    if chart.measure.share:
        return 0.0, 1.0
    seen = [level.value for level in chart.levels]
    for curve in chart.curves:
        for cell in curve.cells:
            seen += [v for v in (cell.estimate.value, cell.estimate.low, cell.estimate.high) if v is not None]
    low, high = min(seen, default=0.0), max(seen, default=1.0)
    pad = 0.08 * (high - low) or 0.5
    return low - pad, high + pad


def _grid(chart: Chart, axes: Axes) -> list[Element]:
    low, high = _range(chart)
    shapes = []
    for i in range(5):
        value = low + (high - low) * i / 4
        shapes.append(line(axes.left, axes.y(value), axes.right, axes.y(value), "base" if i == 0 else "grid"))
        shapes.append(text(axes.left - 8, axes.y(value) + 4, words.number(value, chart.measure), anchor="end"))
    return shapes


def _cost_ticks(chart: Chart, axes: Axes) -> list[Element]:
    """Ticks where points are, with tokens under them; a label that would touch its neighbour is left out."""
    cells = [cell for curve in chart.curves for cell in curve.cells]
    costs = sorted({_spent(chart, cell) for cell in cells})
    shapes = [line(axes.x(c), axes.bottom, axes.x(c), axes.bottom + 5, "base") for c in costs]
    first = [(cost, chart.places[int(cost)] if chart.places else words.count(cost)) for cost in costs]
    shapes += _tick_row(first, axes, axes.bottom + 20, "")
    if chart.axis:
        return [*shapes, text((axes.left + axes.right) / 2, axes.bottom + 44, chart.axis, anchor="middle")]
    with_tokens = chart.currency != "tokens" and any(cell.cost.tokens for cell in cells)
    if with_tokens:
        second = []
        for cost in costs:
            tokens = [cell.cost.tokens for cell in cells if _spent(chart, cell) == cost]
            second.append((cost, words.count(sum(tokens) / len(tokens))))
        shapes += _tick_row(second, axes, axes.bottom + 36, "small")
    names = f"attacker\u2019s {chart.currency}" + (", tokens below" if with_tokens else "")
    shapes.append(text((axes.left + axes.right) / 2, axes.bottom + 56, names, anchor="middle"))
    return shapes


def _tick_row(ticks: Sequence[tuple[float, str]], axes: Axes, y: float, class_: str) -> list[Element]:
    """The last label always, then from the left whatever still fits."""
    kept: list[tuple[float, float]] = []
    shapes = []
    for cost, label in [ticks[-1], *ticks[:-1]]:
        x, half = axes.x(cost), wide(label, 12) / 2 + 3
        if all(abs(x - other) >= half + far for other, far in kept):
            kept.append((x, half))
            shapes.append(text(x, y, label, anchor="middle", class_=class_))
    return shapes


def _pieces(chart: Chart, curve: Curve) -> list[list[tuple[float, float, float, float]]]:
    """The line in pieces, broken where a value is missing: cost, value, low, high."""
    pieces: list[list[tuple[float, float, float, float]]] = [[]]
    for cell in curve.cells:
        e = cell.estimate
        if e.value is None:
            pieces.append([])
            continue
        low, high = (e.value if bound is None else bound for bound in (e.low, e.high))
        pieces[-1].append((_spent(chart, cell), e.value, low, high))
    return [piece for piece in pieces if piece]


def _band(chart: Chart, curve: Curve, axes: Axes) -> list[Element]:
    shapes = []
    for piece in _pieces(chart, curve):
        if len(piece) == 1:
            x, (_, _, low, high) = axes.x(piece[0][0]), piece[0]
            shapes.append(element("line", x1=x, y1=axes.y(low), x2=x, y2=axes.y(high), class_="whisker"))
            continue
        edge = [(c, high) for c, _, _, high in piece] + [(c, low) for c, _, low, _ in reversed(piece)]
        points = " ".join(f"{axes.x(cost):.1f},{axes.y(value):.1f}" for cost, value in edge)
        shapes.append(element("polygon", points=points, class_="band"))
    return shapes


def _line(chart: Chart, curve: Curve, axes: Axes) -> list[Element]:
    shapes = []
    for piece in _pieces(chart, curve):
        points = " ".join(f"{axes.x(cost):.1f},{axes.y(value):.1f}" for cost, value, _, _ in piece)
        made = element("polyline", points=points, class_="curve")
        if dash := DASHES[curve.style % STYLES]:
            made.set("stroke-dasharray", dash)
        shapes.append(made)
        shapes += [marker(curve.style, axes.x(cost), axes.y(value)) for cost, value, _, _ in piece]
    return shapes


def _labels(chart: Chart, levels: Sequence[tuple[str, float]], axes: Axes, room: float) -> list[Element]:
    """Names at the line ends, pushed apart, each led to its line."""
    ends: list[tuple[float, str, int | None]] = []
    for curve in chart.curves:
        if pieces := _pieces(chart, curve):
            ends.append((axes.y(pieces[-1][-1][1]), curve.name, curve.style))
    ends += [(axes.y(value), name, None) for name, value in levels]
    places = spread([y for y, _, _ in ends], 17, axes.top, axes.bottom)
    shapes = []
    for (y, name, style), place in zip(ends, places, strict=True):
        x = axes.right
        words_ = shortened(name, room - 32)
        shapes.append(line(x + 2, y, x + 13, place, "leader"))
        if style is None:
            shapes.append(text(x + 17, place + 4, words_, class_="small"))
        else:
            shapes.append(group(style, marker(style, x + 21, place, 4)))
            shapes.append(text(x + 31, place + 4, words_, class_="name"))
    return shapes
