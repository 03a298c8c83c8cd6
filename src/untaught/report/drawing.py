"""Ink: the few SVG shapes that the charts are made of. Colours and fonts are the page's; shapes and dashes are ours."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element

DASHES = ("", "9 4", "12 4 2 4", "4 3", "16 5", "2 3", "8 3 2 3 2 3", "5 7")
"""One for each style, so that lines can be told apart without colour."""
STYLES = len(DASHES)
FONT = 13.0
"""Size of a chart's text in pixels; charts are drawn at their real size."""


def element(name: str, *children: Element, words: str | None = None, **attributes: object) -> Element:
    """An SVG element. `class_` is class, underscores are hyphens, numbers are cut to two decimals."""
    made = ElementTree.Element(name)
    for attribute, value in attributes.items():
        plain = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        made.set(attribute.rstrip("_").replace("_", "-"), "0" if plain == "-0" else plain)
    made.text = words
    made.extend(children)
    return made


def text(x: float, y: float, words: str, *, anchor: str = "start", class_: str = "") -> Element:
    made = element("text", words=words, x=x, y=y, text_anchor=anchor)
    if class_:
        made.set("class", class_)
    return made


def line(x1: float, y1: float, x2: float, y2: float, class_: str, dash: str = "") -> Element:
    made = element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)
    if dash:
        made.set("stroke-dasharray", dash)
    return made


def group(style: int, *children: Element) -> Element:
    """Shapes that belong to one arm: the page gives the style its colour."""
    return element("g", *children, class_=f"arm a{style % STYLES}")


def marker(style: int, x: float, y: float, size: float = 4.5) -> Element:
    """A different shape for each style: disc, square, triangle, diamond, down triangle, cross, plus, ring."""
    s = size
    shapes = {
        1: [(-s, -s), (s, -s), (s, s), (-s, s)],
        2: [(0, -1.3 * s), (1.2 * s, s), (-1.2 * s, s)],
        3: [(0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)],
        4: [(0, 1.3 * s), (1.2 * s, -s), (-1.2 * s, -s)],
    }
    kind = style % STYLES
    if kind in shapes:
        points = " ".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in shapes[kind])
        return element("polygon", points=points, class_="mark")
    if kind in {5, 6}:
        arms = f"M{x - s:.2f} {y - s:.2f}L{x + s:.2f} {y + s:.2f}M{x - s:.2f} {y + s:.2f}L{x + s:.2f} {y - s:.2f}"
        if kind == 6:
            arms = f"M{x - s:.2f} {y:.2f}H{x + s:.2f}M{x:.2f} {y - s:.2f}V{y + s:.2f}"
        return element("path", d=arms, class_="stroke")
    return element("circle", cx=x, cy=y, r=s, class_="mark" if kind == 0 else "hollow")


def canvas(width: float, height: float, title: str, told: str, *children: Element) -> Markup:
    """A finished drawing. `title` and `told` are what a screen reader says of it."""
    made = element(
        "svg",
        element("title", words=title),
        element("desc", words=told),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )
    return Markup(ElementTree.tostring(made, encoding="unicode"))  # noqa: S704 -- ElementTree has escaped it


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels near where they want to be, `gap` apart and between `low` and `high`.

    >>> spread([10, 12, 50], 8, 0, 60)
    [7.0, 15.0, 50.0]
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    runs: list[tuple[float, int]] = []  # centre and size of each run of touching labels
    for i in order:
        centre, size = float(wanted[i]), 1
        while True:
            half = gap * (size - 1) / 2
            centre = min(max(centre, low + half), high - half)
            if not runs or runs[-1][0] + gap * (runs[-1][1] - 1) / 2 + gap <= centre - half + 1e-9:
                break
            before, many = runs.pop()
            centre, size = (before * many + centre * size) / (many + size), many + size
        runs.append((centre, size))
    places = [centre + gap * (k - (size - 1) / 2) for centre, size in runs for k in range(size)]
    found = [0.0] * len(wanted)
    for place, i in zip(places, order, strict=True):
        found[i] = place
    return found


def wide(words: str, size: float = FONT) -> float:
    """About how many pixels a text takes: fonts differ, so a little more than most."""
    return 0.61 * size * len(words)


def shortened(words: str, room: float, size: float = FONT) -> str:
    """The text, or as much of it as the room holds."""
    fits = max(3, int(room / (0.61 * size)))
    return words if len(words) <= fits else words[: fits - 1] + "\u2026"
