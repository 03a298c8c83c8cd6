"""Histograms: how many documents a stage gave which score, and from where on it flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import words
from .drawing import Element, canvas, element, group, line, text, wide

MOST = 40
"""Bars of a chart."""
TOP, BOTTOM, LEFT, RIGHT = 34.0, 46.0, 46.0, 8.0
LINEAR = 20
"""Up to so many documents in the highest bar, the axis is linear."""
CLEAR, FLAGGED = 1, 2
"""Styles of the bars."""


@dataclass(frozen=True)
class Bar:
    """Documents with scores from `low` up to, and without, `high`."""

    label: str
    low: float
    high: float
    clear: int
    flagged: int


@dataclass(frozen=True)
class Chart:
    """A stage's scores."""

    title: str
    bars: tuple[Bar, ...]
    threshold: float | None
    whole: bool
    """Whether scores are whole numbers: each has a bar of its own."""


def chart(title: str, clear: Mapping[float, int], flagged: Mapping[float, int], threshold: float | None) -> Chart:
    """Bars of counted scores: one for each whole number, or of one width.

    >>> [(bar.label, bar.clear, bar.flagged) for bar in chart("", {0: 5, 1: 2}, {2: 1}, 2).bars]
    [('0', 5, 0), ('1', 2, 0), ('2', 0, 1)]
    """
    scores = sorted({*clear, *flagged})
    whole = all(score == int(score) for score in scores)
    if not scores:
        return Chart(title, (), threshold, whole)
    edges = _whole(scores, clear, flagged) if whole else _real(scores)
    bars = []
    for index, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        last = index == len(edges) - 2
        inside = [score for score in scores if low <= score < high or (last and score >= high)]
        label = f"{low:g}" if whole else f"{low:g} to {high:g}"
        label += " or more" if whole and last and scores[-1] >= high else ""
        counts = (sum(side.get(score, 0) for score in inside) for side in (clear, flagged))
        bars.append(Bar(label, low, high, *counts))
    return Chart(title, tuple(bars), threshold, whole)


def _whole(scores: Sequence[float], clear: Mapping[float, int], flagged: Mapping[float, int]) -> list[float]:
    """Edges for whole numbers; where there are many, the highest thousandth of the documents shares the last bar."""
    total, below, top = sum(clear.values()) + sum(flagged.values()), 0, scores[-1]
    for score in scores:
        below += clear.get(score, 0) + flagged.get(score, 0)
        if below >= 0.999 * total:
            top = score
            break
    first = scores[0]
    count = min(max(top - first + 1, 1), MOST) if scores[-1] - first >= MOST else scores[-1] - first + 1
    return [first + step for step in range(int(count) + 1)]


def _real(scores: Sequence[float]) -> list[float]:
    """Edges for numbers of any kind: from 0 to 1 where all are shares."""
    low, high = (0.0, 1.0) if scores[0] >= 0 and scores[-1] <= 1 else (scores[0], scores[-1])
    width = (high - low) / MOST or 1.0
    return [round(low + width * step, 12) for step in range(MOST + 1)]


def logarithmic(chart: Chart) -> bool:
    return max((max(bar.clear, bar.flagged) for bar in chart.bars), default=0) > LINEAR


def draw(chart: Chart, width: float, height: float) -> Markup:
    """The chart at its real size."""
    most = max((max(bar.clear, bar.flagged) for bar in chart.bars), default=1) or 1
    scale = _scale(most, logarithmic=logarithmic(chart))
    floor, room = height - BOTTOM, height - BOTTOM - TOP
    low, high = chart.bars[0].low, chart.bars[-1].high

    def x(score: float) -> float:
        return LEFT + (min(max(score, low), high) - low) / (high - low) * (width - LEFT - RIGHT)

    shapes: list[Element] = []
    for tick in _ticks(most, logarithmic=logarithmic(chart)):
        y = floor - scale(tick) * room
        shapes += [line(LEFT, y, width - RIGHT, y, "grid"), text(LEFT - 8, y + 4, words.count(tick), anchor="end")]
    for bar in chart.bars:
        shapes += _bar(bar, x(bar.low), x(bar.high), floor, lambda count: scale(count) * room)
    shapes.append(line(LEFT, floor, width - RIGHT, floor, "base"))
    shapes += _places(chart, x, floor)
    if chart.threshold is not None and low <= chart.threshold <= high:
        shapes += _threshold(chart.threshold, x(chart.threshold), width, floor)
    told = "; ".join(f"{bar.label}: {bar.clear + bar.flagged}" for bar in chart.bars if bar.clear + bar.flagged)
    return canvas(width, height, chart.title, f"Documents by score. {told}.", *shapes)


def _scale(most: int, *, logarithmic: bool) -> Callable[[float], float]:
    """From a count to a share of the height. On the logarithmic axis, 1 stands a little above nothing."""
    if not logarithmic:
        return lambda count: count / most
    return lambda count: (math.log10(count) + 0.3) / (math.log10(most) + 0.3) if count else 0.0


def _ticks(most: int, *, logarithmic: bool) -> list[int]:
    if logarithmic:
        return [10**power for power in range(int(math.log10(most)) + 1)]
    step = max(1, round(most / 4))
    return list(range(step, most + 1, step))


def _bar(bar: Bar, left: float, right: float, floor: float, tall: Callable[[float], float]) -> list[Element]:
    """One column, or two side by side where a bar holds documents of both kinds."""
    sides = [(style, count) for style, count in ((CLEAR, bar.clear), (FLAGGED, bar.flagged)) if count]
    shapes, gap = [], min(2.0, (right - left) / 6)
    for index, (style, count) in enumerate(sides):
        wide = (right - left - gap) / len(sides)
        high = tall(count)
        made = element(
            "rect", x=left + gap / 2 + index * wide, y=floor - high, width=wide, height=high, class_="column"
        )
        shapes.append(group(style, made))
    return shapes


def _places(chart: Chart, x: Callable[[float], float], floor: float) -> list[Element]:
    """Numbers below the axis, as many as there is room for."""
    places = [(bar.low, (bar.low + bar.high) / 2 if chart.whole else bar.low, bar.label) for bar in chart.bars]
    if not chart.whole:
        places.append((chart.bars[-1].high, chart.bars[-1].high, ""))
    shapes, taken = [], []
    for low, at, label in reversed(places):
        shown = f"{low:g}+" if label.endswith("or more") else f"{low:g}"
        half = wide(shown) / 2
        round_ = chart.whole or round(low * 100, 6) % 10 == 0 or not _shares(chart)
        if round_ and all(abs(x(at) - other) > half + width + 8 for other, width in taken):
            shapes.append(text(x(at), floor + 18, shown, anchor="middle"))
            taken.append((x(at), half))
    end = x(chart.bars[-1].high)
    return [*shapes, text(end, floor + 38, "score", anchor="end", class_="small")]


def _shares(chart: Chart) -> bool:
    """Whether scores lie between 0 and 1, where round numbers are known beforehand."""
    return chart.bars[0].low >= 0 and chart.bars[-1].high <= 1


def _threshold(threshold: float, at: float, width: float, floor: float) -> list[Element]:
    label = f"flagged from {threshold:.4g}"
    right = at + 6 + wide(label) < width - RIGHT
    place = text(at + 6 if right else at - 6, TOP - 14, label, anchor="start" if right else "end", class_="name")
    return [line(at, TOP - 24, at, floor, "level", "5 4"), place]
