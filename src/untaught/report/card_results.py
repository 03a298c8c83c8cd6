"""A model card for each arm and seed, with its results in front matter as the Hub reads them.

The front matter is what a release's card has (`attest.releasing`); this one stands on a run alone and nobody signed it.
It holds what the arm's own weights got. Below stand the same values with their intervals and, for hazard, the highest
value under each attack, so that a card does not tell of a defence what an attack takes back. Missing values are in no
front matter, which knows only numbers; below they are called missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..attest.releasing import front_matter, listed, plain, ruled
from .exporting import Result, Results, Tested, read, short


def write(run: Path, out: Path) -> list[Path]:
    """One card for each arm and seed; returns the files."""
    results = read(run, with_marks=False)
    written: list[Path] = []
    for tested in results.tested:
        if tested.any_row.attack is None:
            written.append(out / f"{tested.name}.md")
            written[-1].write_text(_card(tested, results), encoding="utf-8")
    return written


def _card(tested: Tested, results: Results) -> str:
    own, who = _rows([tested]), tested.any_row
    found = [
        listed(row.evaluation, short(row.items), row.metric, f"{row.metric}, seed {row.seed}", row.value)
        for row in own
        if row.value is not None
    ]
    attacked = [other for other in results.tested if other.any_row.attack and _same(other.any_row, who)]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "not known"
    parts = [
        f"{front_matter(who.arm, found)}\n# {plain(who.arm)}\n",
        f"Seed {who.seed}. Weights `{plain(who.weights) or 'not known'}`. Measured with {plain(versions)}.\n",
        "## What it was asked\n",
        ruled(("evaluation", "items", "metric", "value", "scored"), map(_line, own)),
        "## Under attack\n",
        _attacks(_rows(attacked)),
    ]
    return "\n".join(parts)


def _same(row: Result, other: Result) -> bool:
    return (row.arm, row.seed) == (other.arm, other.seed)


def _rows(tested: Iterable[Tested]) -> list[Result]:
    return [row for one in tested for test in one.tests for row in test.rows.values()]


def _line(row: Result) -> tuple[str, ...]:
    scored = f"{row.n} of {row.n + row.missing}"
    return row.evaluation, short(row.items), row.metric, _number(row), scored


def _attacks(rows: Iterable[Result]) -> str:
    """The highest value of each hazard measure under each attack; what is missing at all its points is called so."""
    highest: dict[tuple[str, str, str, str], Result] = {}
    for row in rows:
        if row.role == "hazard":
            key = row.attack or "", row.evaluation, row.items, row.metric
            known = highest.get(key)
            if known is None or (row.value is not None and (known.value is None or row.value > known.value)):
                highest[key] = row
    if not highest:
        return "No attack is in these results, so nothing is known of how long this lasts.\n"
    heads = ("attack", "evaluation", "items", "metric", "highest value", "scored", "steps")
    return ruled(heads, [(row.attack or "", *_line(row), f"{row.budget.steps:g}") for row in highest.values()])


def _number(row: Result) -> str:
    if row.value is None:
        return "missing"
    return f"{row.value:.4g}" + ("" if row.low is None or row.high is None else f" ({row.low:.4g}\u2013{row.high:.4g})")
