"""Pool rows over seeds: one estimate for each arm, attack, budget point and measure. The rule lives in `pool`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..core import Role
from ..core.statistics import of_means, over_seeds, wilson
from .naming import Attack, attacks, key
from .reading import Cost, Row, Run

BOUNDS = (0.01, 0.05, 0.1, 0.2)
"""Shares of utility that an attacker who searches may give up."""
AT_MOST = 0.1
"""Share of utility that the worst trial of a search may cost to stand for the search, where one does."""
SHARES = ("accuracy", "recall", "harmful", "refused")
"""What the names of metrics have in them that lie between 0 and 1."""


@dataclass(frozen=True)
class Measure:
    """What is measured: an evaluation's metric on a set of items."""

    evaluation: str
    metric: str
    items: str
    role: Role
    share: bool
    """A share of items, between 0 and 1; otherwise a number with its own unit."""


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with a 95% interval. `value` is None when nothing was scored: missing, never 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Items scored, all seeds and attack seeds together."""
    missing: int
    """Items that were not scored."""
    seeds: int
    """Seeds with a value."""
    of_seeds: int
    """Seeds that should have one."""
    chance: float | None

    @property
    def complete(self) -> bool:
        return self.missing == 0 and self.seeds == self.of_seeds


@dataclass(frozen=True)
class Cell:
    """One place in the grid. `cost` is the mean over seeds."""

    arm: str
    attack: Attack | None
    cost: Cost
    measure: Measure
    estimate: Estimate
    rows: tuple[Row, ...] = field(default=(), repr=False, compare=False)
    """What was pooled."""


@dataclass(frozen=True)
class Grid:
    """Every arm, attack, budget point and measure, pooled over seeds."""

    arms: tuple[str, ...]
    attacks: tuple[Attack, ...]
    measures: tuple[Measure, ...]
    cells: tuple[Cell, ...]

    @cached_property
    def _index(self) -> dict[tuple[str, Attack | None, Measure], list[Cell]]:
        index: dict[tuple[str, Attack | None, Measure], list[Cell]] = defaultdict(list)
        for cell in self.cells:
            index[cell.arm, cell.attack, cell.measure].append(cell)
        return index

    def points(self, arm: str, attack: Attack | None, measure: Measure) -> list[Cell]:
        """The budget points of one attack on one arm, cheapest first."""
        return list(self._index.get((arm, attack, measure), ()))

    def unattacked(self, arm: str, measure: Measure) -> Estimate | None:
        """The arm as it is; None when the results have no such row."""
        points = self.points(arm, None, measure)
        return points[0].estimate if points else None


def pool(rows: Sequence[Row], share: bool, of_seeds: int = 0) -> Estimate:
    """Mean over seeds, and a 95% interval that owns up to both kinds of noise: items and seeds.

    value       the plain mean of the seeds' values; a seed's own is the mean over its attack seeds
    1 seed      that row's own interval
    2 seeds     the pooled item interval, widened where needed to hold both seeds' values
    3 or more   Student's t over the seeds' values, and never narrower than the pooled item interval

    The pooled item interval is Wilson's over all scored items for a share, and otherwise the mean of the rows'
    intervals narrowed by the root of the number of seeds. It takes items of different seeds as independent; the t
    interval does not. Seeds without a value are counted and left out; they pull the mean nowhere.

    Attacks repeated on one arm with other attack seeds ask the same model's knowledge by the same items: they are one
    observation, as `_of_one_seed` makes it, and however many there are, they narrow no interval.
    """
    scored = list(by_seed(rows).values())
    values = [row.value for row in scored if row.value is not None]
    chances = [row.chance for row in rows if row.chance is not None]
    n = sum(row.n for row in rows if row.value is not None)
    missing = sum(row.missing + (row.n if row.value is None else 0) for row in rows)
    value = math.fsum(values) / len(values) if values else None
    low, high = _interval(scored, values, share)
    return Estimate(
        value=value,
        low=low,
        high=high,
        n=n,
        missing=missing,
        seeds=len(values),
        of_seeds=max(of_seeds, len({row.seed for row in rows})),
        chance=math.fsum(chances) / len(chances) if chances else None,
    )


def by_seed(rows: Sequence[Row]) -> dict[int, Row]:
    """One row for each seed that has a value, made of those of its attack seeds."""
    own = {seed: [row for row in rows if row.seed == seed] for seed in dict.fromkeys(row.seed for row in rows)}
    return {seed: _of_one_seed(of) for seed, of in own.items() if any(row.value is not None for row in of)}


def _of_one_seed(rows: Sequence[Row]) -> Row:
    """The rows of one seed, one for each attack seed, as one: their mean, with the interval of one attack.

    Its ends are the means of theirs, moved out where needed to hold every attack's value. It has as many items as the
    attack with the fewest.
    """
    scored = [row for row in rows if row.value is not None]
    if len(scored) == 1:
        return scored[0]
    values = [row.value for row in scored if row.value is not None]
    lows = [row.low for row in scored if row.low is not None]
    highs = [row.high for row in scored if row.high is not None]
    known = len(lows) == len(highs) == len(scored)
    update = {
        "value": math.fsum(values) / len(values),
        "low": min(math.fsum(lows) / len(lows), *values) if known else None,
        "high": max(math.fsum(highs) / len(highs), *values) if known else None,
        "n": min(row.n for row in scored),
    }
    return scored[0].model_copy(update=update)


def _interval(scored: Sequence[Row], values: Sequence[float], share: bool) -> tuple[float | None, float | None]:
    if not scored:
        return None, None
    if len(scored) == 1:
        return scored[0].low, scored[0].high
    mean = math.fsum(values) / len(values)
    items = item_interval(scored, mean, share)
    spread = over_seeds(values)
    low, high = min(spread[0], items[0]), max(spread[1], items[1])
    return (max(0.0, low), min(1.0, high)) if share else (low, high)


def item_interval(scored: Sequence[Row], mean: float, share: bool) -> tuple[float, float]:
    """The pooled item interval of `pool`: no narrower than what the items alone leave open."""
    n = sum(row.n for row in scored)
    if share and n > 0:
        return wilson(mean, n)
    halves = [(row.high - row.low) / 2 for row in scored if row.low is not None and row.high is not None]
    half = of_means(halves)
    return mean - half, mean + half


def grid(run: Run, bound: float = AT_MOST) -> Grid:
    """All rows of a run, pooled over its seeds. A search is there with the worst of its trials at a bound."""
    rows = worst(run.rows, bound)
    named, measures = attacks(rows), _measures(rows)
    groups: dict[tuple[str, tuple[str, str] | None, Measure], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.arm, key(row), measures[_what(row)]].append(row)
    cells = []
    for (arm, attack, measure), rows in groups.items():
        for point in _points(rows):
            estimate = pool(point, measure.share, len(run.seeds))
            cost, tried = _mean_cost(point), named[attack] if attack else None
            cells.append(Cell(arm, tried, cost, measure, estimate, tuple(point)))
    return Grid(run.arms, tuple(named.values()), tuple(dict.fromkeys(measures.values())), tuple(cells))


def worst(rows: Sequence[Row], bound: float) -> list[Row]:
    """The rows without those of trials but the worst of each search: of those that cost at most `bound` in utility,
    the one that brought back most. None of a search whose trials all cost more.
    """
    best: dict[Any, tuple[float, int]] = {}
    for row in rows:
        if row.search is not None and row.search.hazard is not None and row.search.cost <= bound:
            place, merit = _search(row), (row.search.hazard, -row.search.trial)
            best[place] = max(best.get(place, merit), merit)
    return [row for row in rows if row.search is None or best.get(_search(row), (0, 1))[1] == -row.search.trial]


def _search(row: Row) -> Any:
    """What makes two rows trials of the same search."""
    return row.arm, key(row), row.seed, row.attack_seed


def _what(row: Row) -> tuple[str, str, str]:
    return row.evaluation, row.metric, row.items


def _measures(rows: Sequence[Row]) -> dict[tuple[str, str, str], Measure]:
    """A measure is a share when its name or a chance level says so and no value denies it."""
    alike: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        alike[_what(row)].append(row)
    measures = {}
    for what, group in alike.items():
        hint = any(word in what[1] for word in SHARES) or any(row.chance is not None for row in group)
        within = all(0 <= row.value <= 1 for row in group if row.value is not None)
        measures[what] = Measure(*what, role=group[0].role, share=hint and within)
    return measures


def _points(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one attack on one arm by budget point, cheapest first.

    Runs, of a seed and an attack seed each, meet at equal steps. Where the budget was in tokens, they may share no
    number of steps: they then meet by rank, the first point of one run with the first of the next.
    """
    by_run: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r.cost.steps, r.cost.tokens, r.cost.examples)):
        by_run[_run(row)].append(row)
    trained = [{row.cost.steps for row in own if row.cost.steps} for own in by_run.values()]
    by_rank = any(trained) and not set.intersection(*trained) and len({len(own) for own in by_run.values()}) == 1
    points: dict[tuple[float, int], list[Row]] = defaultdict(list)
    for own in by_run.values():
        for rank, row in enumerate(own):
            equals = sum(other.cost.steps == row.cost.steps for other in own[:rank])
            points[(0.0, rank) if by_rank else (row.cost.steps, equals)].append(row)
    return [sorted(points[place], key=_run) for place in sorted(points)]


def _run(row: Row) -> tuple[int, int]:
    return row.seed, row.attack_seed or 0


def _mean_cost(rows: Sequence[Row]) -> Cost:
    """Means; of memory the most, and of money a mean only where every row has it."""
    names = ("steps", "tokens", "examples", "flops", "seconds")
    means = {name: math.fsum(getattr(row.cost, name) for row in rows) / len(rows) for name in names}
    money = [row.cost.money for row in rows if row.cost.money is not None]
    memory = max((row.cost.memory for row in rows if row.cost.memory is not None), default=None)
    return Cost(**means, memory=memory, money=math.fsum(money) / len(money) if len(money) == len(rows) else None)
