"""The page: one self-contained HTML file, the same bytes for the same run folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from . import controls, effects, figures, frontier, judges, safety_tax, searches, tables, words
from .naming import Attack, attacks, key
from .pooling import AT_MOST, Measure
from .reading import Row, Run, read
from .verdicts import Account, account, headline, sentence

HERE = Path(__file__).resolve().parent
RELEASE = "release/index.html"
"""In a run folder: the page of a release that was signed into it (`untaught sign --release`)."""


@dataclass(frozen=True)
class GridLine:
    """One row of the results, in words."""

    arm: str
    attack: str
    cost: str
    test: str
    items: str
    seed: str
    value: str
    span: str
    scored: str
    weights: str


def redraw(run: Path) -> Path:
    """Draw `report.html` from a finished run folder, and return where it is. The file is replaced in one move."""
    return put(render(account(read(run))), run / "report.html")


def put(page: str, target: Path) -> Path:
    """Write a page, whole or not at all, and return where it is."""
    draft = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        draft.write_text(page, encoding="utf-8", newline="\n")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(story: Account) -> str:
    """The page as text."""
    known, style = story.measure is not None, figures.styles(story)
    return template("page.html.j2").render(
        story=story,
        run=story.run,
        words=words,
        spot=tables.spot,
        tables=tables,
        controls=controls,
        style=style,
        headline=headline(story) if known else "This study has no hazard evaluation, so nothing is said of hazard.",
        sentences=[(s.arm, sentence(s, story.measure)) for s in story.judged] if story.measure else [],
        baseline=baseline(story),
        recovery=figures.recovery(story) if known else [],
        surgery=figures.surgery(story) if known else [],
        before_and_after=figures.before_and_after(story) if known else None,
        open_book=figures.open_book(story),
        frontier=frontier.frontier(story, style, figures.BROAD, figures.PHONE),
        price=frontier.price,
        searches=searches.searches(story),
        at_most=words.percent(AT_MOST),
        compared=effects.comparisons(story),
        release=_release(story.run),
        judges=list(map(judges.believed, judges.judges(story.run))),
        effects=effects,
        benign=tables.benign(story),
        taxes=safety_tax.taxes(story),
        safety_tax=safety_tax,
        heading=tables.heading,
        filtering=tables.filtering(story.run.records),
        provenance=tables.provenance(story),
        lines=grid_lines(story.run),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )


def template(name: str) -> jinja2.Template:
    """A page to be filled in. What is put into it is escaped, and a name that is not known is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _release(run: Run) -> str | None:
    """Where the page of a signed release of this run stands, beside the report."""
    return RELEASE if run.folder is not None and (run.folder / RELEASE).is_file() else None


def baseline(story: Account) -> str | None:
    """What the answer options give away alone, over the unattacked arms; None when that was not measured."""
    if story.measure is None:
        return None
    found = next((m for m in story.grid.measures if _hides_the_question(m, story.measure)), None)
    if found is None:
        return None
    seen = (story.grid.unattacked(arm, found) for arm in story.run.arms)
    values = sorted({words.percent(e.value) for e in seen if e is not None and e.value is not None}, key=len)
    values.sort(key=lambda percent: float(percent.removesuffix("%")))
    if not values:
        return None
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _hides_the_question(other: Measure, measure: Measure) -> bool:
    alike = (other.evaluation, other.items) == (measure.evaluation, measure.items)
    return alike and other.metric.endswith("option_only") and other != measure


def grid_lines(run: Run) -> list[GridLine]:
    """Every row of the results, in the file's order."""
    named, repeated = attacks(run.rows), len(run.attack_seeds) > 1
    return [_grid_line(row, _attack(row, named), repeated) for row in run.rows]


def _attack(row: Row, named: Mapping[tuple[str, str], Attack]) -> str:
    """An attack's name; of a trial, what was tried."""
    if (place := key(row)) is None:
        return "none"
    if row.search is None:
        return named[place].label
    tried = ", ".join(f"{name} {(row.attack_settings or {}).get(name)}" for name in row.search.ranges)
    return f"{row.attack}, trial {row.search.trial + 1} of {row.search.of} ({tried})"


def _grid_line(row: Row, attack: str, repeated: bool) -> GridLine:
    bounds = [f"{bound:.4g}" for bound in (row.low, row.high) if bound is not None]
    return GridLine(
        arm=row.arm,
        attack=attack,
        cost=words.cost(row.cost) if row.attack else "",
        test=f"{row.evaluation} {row.metric}",
        items=row.items,
        seed=f"{row.seed}" + (f", attack {row.attack_seed}" if repeated and row.attack_seed is not None else ""),
        value=words.MISSING if row.value is None else f"{row.value:.4g}",
        span="\u2013".join(bounds),
        scored=f"{row.n} of {row.n + row.missing}",
        weights=row.weights[:12],
    )
