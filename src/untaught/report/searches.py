"""Searches: of all the settings an attacker tried, the one that brought back most within what it may cost in utility.

    worst case at a bound    of the trials on one arm and seed that cost at most so much utility, the highest hazard

The same trials answer for every bound. What utility is, and how it is priced, `study/searching.py` says.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from . import words
from .naming import Attack, attacks, key
from .pooling import BOUNDS, Measure, pool, worst
from .reading import Row
from .tables import Line, Spot, Table, spot
from .verdicts import Account


@dataclass(frozen=True)
class Searched:
    """One attack's searches: a line for each arm, with the worst case at each bound."""

    attack: Attack
    trials: int
    table: Table


def searches(story: Account) -> list[Searched]:
    """Every attack that was searched."""
    if story.measure is None:
        return []
    rows = [row for row in story.run.rows if row.search is not None and _of(row, story.measure)]
    named = attacks(rows)
    return [_searched(attack, [row for row in rows if key(row) == name], story) for name, attack in named.items()]


def _of(row: Row, measure: Measure) -> bool:
    return (row.evaluation, row.metric, row.items) == (measure.evaluation, measure.metric, measure.items)


def _searched(attack: Attack, rows: Sequence[Row], story: Account) -> Searched:
    measure = story.measure
    assert measure is not None
    lines = []
    for arm in story.run.arms:
        own = [row for row in rows if row.arm == arm]
        if own:
            spots = [_worst(own, bound, measure, len(story.run.seeds)) for bound in BOUNDS]
            lines.append(Line(arm, (*spots, _mean(own, measure, len(story.run.seeds)), _found(own))))
    headings = [f"At most {words.percent(bound)}" for bound in BOUNDS]
    trials = max(row.search.of for row in rows if row.search)
    return Searched(attack, trials, Table((*headings, "Mean trial", "Best at trial"), tuple(lines)))


def _worst(rows: Sequence[Row], bound: float, measure: Measure, of_seeds: int) -> Spot:
    """Mean over seeds of the worst case, and the worst of the seeds."""
    chosen = worst(rows, bound)
    if not chosen:
        return Spot("none", "no trial cost so little")
    found = spot(pool(chosen, measure.share, of_seeds), measure)
    values = [row.value for row in chosen if row.value is not None]
    if len(values) < 2:
        return found
    highest = f"highest seed {words.number(max(values), measure)}"
    return Spot(found.value, "; ".join(note for note in (found.note, highest) if note))


def _mean(rows: Sequence[Row], measure: Measure, of_seeds: int) -> Spot:
    """Over all trials: what an attacker who takes any settings can expect."""
    by_seed = defaultdict(list)
    for row in rows:
        if row.value is not None:
            by_seed[row.seed].append(row.value)
    means = [math.fsum(values) / len(values) for values in by_seed.values()]
    return Spot(words.number(math.fsum(means) / len(means), measure) if means else words.MISSING)


def _found(rows: Sequence[Row]) -> Spot:
    """At which trial the worst case at the largest bound was found, seed by seed: late ones ask for more trials."""
    found = [f"{row.search.trial + 1}" for row in worst(rows, BOUNDS[-1]) if row.search]
    return Spot(", ".join(found) or words.MISSING)
