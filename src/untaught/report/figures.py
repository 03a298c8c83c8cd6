"""Which charts the page has, and what stands under each. Every figure is drawn twice: for a desk and for a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import curves, intervals, words
from .naming import Attack
from .pooling import Cell, Measure
from .verdicts import Account

DESK, PHONE, BROAD = 512.0, 334.0, 1056.0
"""Widths in pixels: half of the page, a phone, the whole page."""
BOOK = ("accuracy_closed_book", "accuracy_irrelevant_text", "accuracy_with_text")


@dataclass(frozen=True)
class Figure:
    """A chart at two sizes, and its notes."""

    title: str
    desk: Markup
    phone: Markup
    notes: tuple[str, ...] = ()
    broad: bool = False


def styles(story: Account) -> dict[str, int]:
    """Colour, marker and dash of each arm: the reference has the first, the others follow in order."""
    others = [arm for arm in story.run.arms if arm != story.reference]
    return {arm: i for i, arm in enumerate([story.reference, *others])}


def curve_attacks(story: Account) -> list[Attack]:
    """Attacks tried at several budgets: each gets a recovery curve."""
    return [a for a in story.grid.attacks if _most_points(story, a) > 1]


def point_attacks(story: Account) -> list[Attack]:
    """Attacks tried at one budget: weight surgery, mostly."""
    return [a for a in story.grid.attacks if _most_points(story, a) == 1]


def _most_points(story: Account, attack: Attack) -> int:
    assert story.measure is not None
    return max(len(story.grid.points(arm, attack, story.measure)) for arm in story.run.arms)


def recovery(story: Account) -> list[Figure]:
    """One figure for each attack with several budgets. The first is broad when their number is odd."""
    attacks = curve_attacks(story)
    return [_recovery(story, a, broad=i == 0 and len(attacks) % 2 == 1) for i, a in enumerate(attacks)]


def _recovery(story: Account, attack: Attack, *, broad: bool) -> Figure:
    assert story.measure is not None
    style = styles(story)
    cells = {arm: story.grid.points(arm, attack, story.measure) for arm in story.run.arms}
    levels = []
    top = story.grid.unattacked(story.reference, story.measure)
    if top is not None and top.value is not None:
        levels.append(curves.Level(f"{story.reference} as it is", "reference", top.value, "7 5"))
    if story.chance is not None:
        name = f"chance {words.percent(story.chance)}"
        levels.append(curves.Level(name, name, story.chance, "1.5 4"))
    chart = curves.Chart(
        title=f"{attack.label}: {story.measure.metric} on {story.measure.items}",
        measure=story.measure,
        curves=tuple(curves.Curve(arm, style[arm], tuple(own)) for arm, own in cells.items() if own),
        levels=tuple(levels),
        currency=curves.currency([cell for own in cells.values() for cell in own]),
    )
    notes = lacking([cell for own in cells.values() for cell in own])
    notes += [f"{arm} was not attacked this way." for arm, own in cells.items() if not own]
    desk = curves.draw(chart, BROAD if broad else DESK, 420 if broad else 360)
    return Figure(attack.label, desk, curves.draw(chart, PHONE, 340), tuple(notes + _apart(story, attack)), broad)


def lacking(cells: Sequence[Cell], most: int = 8) -> list[str]:
    """A sentence for each point that is missing altogether or in part; those missing altogether come first."""
    gaps = sorted((cell for cell in cells if not cell.estimate.complete), key=lambda c: c.estimate.value is not None)
    notes = []
    for cell in gaps[:most]:
        how = f"under {words.attack_at(cell.attack, cell.cost)}" if cell.attack else _condition(cell.measure)
        gone = "Missing" if cell.estimate.value is None else "Partly missing"
        notes.append(f"{gone}: {cell.arm} {how} ({words.scored(cell.estimate)}).")
    return (
        notes if len(gaps) <= most else [*notes, f"{len(gaps) - most} more points are partly missing: see every row."]
    )


def _apart(story: Account, attack: Attack) -> list[str]:
    control, along = story.controls.find(attack), "what it brings back, it may have brought along."
    notes, why = [], attack.apart(story.reference)
    if attack.stale:
        notes = [f"What it looks for was {why}: a weak control, which decides no verdict."]
    elif why:
        notes = [f"This attack {why}: {along}"]
    if control is not None and control.taught is not None:
        since = f"From {words.cost(control.taught.cost)} on, this" if control.place else "This"
        notes.append(f"{since} attack brings {story.run.never} up as well: {along}")
    return notes


def surgery(story: Account) -> list[Figure]:
    """One figure for each component that was tried at one budget; its settings are the rows."""
    attacks = point_attacks(story)
    components = list(dict.fromkeys(a.component for a in attacks))
    return [_surgery(story, [a for a in attacks if a.component == component]) for component in components]


def _surgery(story: Account, attacks: list[Attack]) -> Figure:
    assert story.measure is not None
    style, rows, cells = styles(story), [], []
    for attack in (None, *attacks):
        dots = []
        for arm in story.run.arms:
            for cell in story.grid.points(arm, attack, story.measure):
                dots.append(intervals.Dot(arm, style[arm], cell.estimate, hollow=attack is None))
                cells += [cell] if attack else []
        rows.append(intervals.Line(attack.label if attack else "before any attack", tuple(dots)))
    chart = intervals.Rows(f"{attacks[0].component}: before and after", story.measure, tuple(rows), story.chance)
    notes = [*lacking(cells), *_untried(story, attacks, cells)]
    notes += dict.fromkeys(note for attack in attacks for note in _apart(story, attack))
    return Figure(attacks[0].component, intervals.draw(chart, DESK), intervals.draw(chart, PHONE), tuple(notes))


def _untried(story: Account, attacks: Sequence[Attack], cells: Sequence[Cell]) -> list[str]:
    """A sentence for each arm that some of these attacks were not tried on."""
    done = {(cell.arm, cell.attack) for cell in cells}
    notes = []
    for arm in story.run.arms:
        left = [attack.label for attack in attacks if (arm, attack) not in done]
        if len(left) == len(attacks):
            left = [f"{attacks[0].component} at all"]
        notes += [f"{arm} was not attacked with {words.listed(left)}."] if left else []
    return notes


def before_and_after(story: Account) -> Figure | None:
    """Each arm before any attack (hollow) and at its highest under attack (filled)."""
    assert story.measure is not None
    style, rows = styles(story), []
    for s in story.standings:
        dots = [] if s.before is None else [intervals.Dot("before", style[s.arm], s.before, hollow=True)]
        if s.highest:
            dots.append(intervals.Dot("highest", style[s.arm], s.highest.estimate))
        rows.append(intervals.Line(s.arm, tuple(dots)))
    if not any(row.dots for row in rows):
        return None
    title = "Before any attack, and at its highest under attack"
    chart = intervals.Rows(title, story.measure, tuple(rows), story.chance)
    return Figure(chart.title, intervals.draw(chart, BROAD), intervals.draw(chart, PHONE), broad=True)


def open_book(story: Account) -> Figure | None:
    """Bars of each arm without the text, with text on something else, and with the text that answers."""
    found = [m for m in story.grid.measures if m.evaluation == "open_book"]
    if not found:
        return None
    found.sort(key=lambda m: (BOOK.index(m.metric) if m.metric in BOOK else len(BOOK), m.metric))
    rows, cells = [], []
    for arm in story.run.arms:
        bars = []
        for i, measure in enumerate(found):
            own = story.grid.points(arm, None, measure)
            cells += own
            bars += [intervals.Dot(_condition(measure), i, cell.estimate) for cell in own]
        rows.append(intervals.Line(arm, tuple(bars)))
    chances = [c.estimate.chance for c in cells if c.estimate.chance is not None]
    chart = intervals.Rows(
        f"Open book on {found[0].items}", found[0], tuple(rows), chances[0] if chances else None, bars=True
    )
    notes = [f"No open-book value for {row.name}." for row in rows if not row.dots]
    return Figure(
        chart.title, intervals.draw(chart, BROAD), intervals.draw(chart, PHONE), tuple(notes + lacking(cells)), True
    )


def _condition(measure: Measure) -> str:
    return measure.metric.removeprefix("accuracy_").replace("_", " ")
