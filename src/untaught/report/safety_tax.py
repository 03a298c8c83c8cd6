"""The safety tax: what a defended arm does worse on benign items than the arm that it was made from.

Both arms answered the same items with the same seeds, so each item is compared with itself (`core.paired`), before any
attack. A positive number is a cost: fewer points, or more nats a token. Each line has a 95% interval, McNemar's p
corrected for all lines of the page, and the least difference that would have been seen.

An arm is held against the one that the study makes it `from`, and against the reference where it says none. Arms whose
defence is shallow on purpose are controls, and pay no tax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from ..core.paired import Difference, Values, compare, holm, mcnemar
from .pooling import Measure
from .reading import marks_of, read
from .verdicts import Account, account

FALSE = 0.05
"""How often a p under it comes of chance alone, over the whole page."""
WORSE = ("nats", "perplexity", "refus", "harmful", "profan", "toxic")
"""What the names of metrics have in them of which less is better on benign items."""


@dataclass(frozen=True)
class Tax:
    """One arm against another on one measure."""

    arm: str
    against: str
    measure: Measure
    cost: Difference
    """How much worse. A fact gained is one on which it is better than the other."""
    p: float | None
    """McNemar's exact p, corrected over all comparisons of the page; None of a measure that is no share."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out no difference."""
        return self.cost.low is not None and self.cost.high is not None and not self.cost.low <= 0 <= self.cost.high


def benign(story: Account) -> tuple[Measure, ...]:
    """What ordinary ability is measured by."""
    return tuple(m for m in story.grid.measures if m.role == "benign" and "option_only" not in m.metric)


def taxes(story: Account) -> tuple[Tax, ...]:
    """Every defended arm on every benign measure, measure by measure; empty where the run has no marks."""
    sources, measures, folder = _sources(story), benign(story), story.run.folder
    if folder is None or not sources or not measures:
        return ()
    marked = {arm: _marked(folder, arm) for arm in {*sources, *sources.values()}}
    found: list[Tax] = []
    for measure in measures:
        what = measure.evaluation, measure.metric, measure.items
        for arm, against in sources.items():
            own, other = marked[arm].get(what), marked[against].get(what)
            if own and other:
                found.append(Tax(arm, against, measure, _cost(own, other, measure), None))
    chances = holm([_mcnemar(tax) for tax in found])
    return tuple(Tax(t.arm, t.against, t.measure, t.cost, p) for t, p in zip(found, chances, strict=True))


def _sources(story: Account) -> dict[str, str]:
    """Each defended arm and the one that it is held against."""
    study = yaml.safe_load(story.run.study)
    arms = study.get("arms") if isinstance(study, dict) else None
    told = arms if isinstance(arms, dict) else {}
    found = {}
    for arm in story.run.arms:
        own = told.get(arm)
        start = own.get("from") if isinstance(own, dict) else None
        against = start if start in story.run.arms and start != arm else story.reference
        if arm not in (story.reference, *story.run.shallow):
            found[arm] = str(against)
    return found


def _marked(folder: Path, arm: str) -> dict[tuple[str, str, str], dict[tuple[int, str], float | None]]:
    """An arm's marks before any attack, by evaluation, metric and items."""
    columns = ["evaluation", "metric", "items", "seed", "item", "value"]
    if (table := marks_of(folder, arm, columns, pc.field("attack").is_null())) is None:
        return {}
    gathered: dict[tuple[str, str, str], dict[tuple[int, str], list[float | None]]] = {}
    for evaluation, metric, items, seed, item, value in zip(*(table[c].to_pylist() for c in columns), strict=True):
        gathered.setdefault((evaluation, metric, items), {}).setdefault((seed, item), []).append(value)
    return {what: {at: _mean(values) for at, values in own.items()} for what, own in gathered.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _cost(own: Values, other: Values, measure: Measure) -> Difference:
    """How much worse the arm is: by more where less is better, and else by less."""
    found = compare(own, other, share=measure.share)
    if any(word in measure.metric for word in WORSE):
        return replace(found, gained=found.lost, lost=found.gained)
    value, low, high = (None if end is None else -end for end in (found.value, found.high, found.low))
    return replace(found, value=value, low=low, high=high)


def _mcnemar(tax: Tax) -> float | None:
    if not tax.measure.share or tax.cost.value is None:
        return None
    return mcnemar(tax.cost.gained, tax.cost.lost)[0]


# -- in words ----------------------------------------------------------------------------------------------------------


def sentence(tax: Tax) -> str:
    """What it costs, in words.

        costs 1.2 points (0.3 to 2.1)
        costs these weights 1.7 points; others made alike it may not (-0.7 to 4.0)
        no difference could be seen (-0.4 to 1.1 points); one of at least 3.0 points would have been

    The second is said where chance alone does not do that (McNemar) but the seeds differ too much among themselves.
    """
    cost, unit = tax.cost, _unit(tax.measure)
    if cost.value is None:
        return "cannot be told: no item has a value of both"
    if cost.low is None or cost.high is None or cost.detectable is None:
        return f"{_written(cost.value, tax.measure)}{unit}, without an interval: there is one seed and one fact"
    if tax.clear:
        ends = sorted((cost.low, cost.high), key=abs)
        amount, low, high = (_written(abs(value), tax.measure) for value in (cost.value, *ends))
        return f"{_kind(tax)} {amount}{unit} ({low} to {high})"
    low, high = (_written(value, tax.measure) for value in (cost.low, cost.high))
    if tax.p is not None and tax.p < FALSE and cost.value:
        amount, kind = _written(abs(cost.value), tax.measure), _kind(tax)
        return f"{kind} these weights {amount}{unit}; others made alike it may not ({low} to {high})"
    return f"no difference could be seen ({low} to {high}{unit}); {_least(tax)}"


def _kind(tax: Tax) -> str:
    return "costs" if (tax.cost.value or 0) > 0 else "gains"


def _least(tax: Tax) -> str:
    if tax.measure.share and (tax.cost.detectable or 0) >= 1:
        return "none could have been"
    return f"one of at least {seen_from(tax)} would have been"


def seen_from(tax: Tax) -> str:
    """The least difference that would have been seen in four of five studies like this one."""
    if tax.cost.detectable is None:
        return "not known"
    if tax.measure.share and tax.cost.detectable >= 1:
        return "none"
    return _written(tax.cost.detectable, tax.measure) + _unit(tax.measure)


def chance(tax: Tax) -> str:
    """McNemar's p, as far down as anyone cares; nothing for what is no share."""
    if tax.p is None:
        return "" if tax.cost.value is not None else "missing"
    return "under 0.001" if tax.p < 1e-3 else f"{tax.p:.3f}"  # noqa: PLR2004


def counted(tax: Tax) -> tuple[str, str]:
    """How much was compared, and what was not."""
    cost = tax.cost
    facts = "" if cost.facts == cost.n else f", {cost.facts:,} facts"
    told = f"{cost.n:,} pairs{facts}, {cost.seeds} seed" + ("" if cost.seeds == 1 else "s")
    own, other = cost.missing
    lost = [f"{count:,} missing in {arm}" for count, arm in ((own, tax.arm), (other, tax.against)) if count]
    return told, "; ".join(lost)


def changed(tax: Tax) -> str:
    """`12 facts lost, 3 gained`: what McNemar's p is of."""
    return f"{tax.cost.lost:,} lost, {tax.cost.gained:,} gained" if tax.measure.share else ""


def by_measure(found: Sequence[Tax]) -> tuple[tuple[Measure, tuple[Tax, ...]], ...]:
    """The lines of each measure, in order."""
    measures = dict.fromkeys(tax.measure for tax in found)
    return tuple((measure, tuple(tax for tax in found if tax.measure == measure)) for measure in measures)


def summed_up(found: Sequence[Tax]) -> str:
    """How many comparisons show a cost or a gain, and how many tests the p is corrected for."""
    costs, gains = (sum(t.clear and _kind(t) == kind for t in found) for kind in ("costs", "gains"))
    told = f"Of {_things(len(found), 'comparison')}, a cost shows in {costs} and a gain in {gains}"
    tests = sum(tax.p is not None for tax in found)
    return f"{told}; p is corrected for {_things(tests, 'test')}." if tests else f"{told}."


def _things(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def plain(run: Path) -> list[dict[str, Any]]:
    """The lines of a run folder, for programs."""
    return [
        {"arm": t.arm, "against": t.against, "evaluation": t.measure.evaluation, "metric": t.measure.metric}
        | {"items": t.measure.items, **asdict(t.cost), "p": t.p}
        for t in taxes(account(read(run)))
    ]


def _unit(measure: Measure) -> str:
    if measure.share:
        return " points"
    return " nats per token" if measure.metric == "nats_per_token" else ""


def _written(value: float, measure: Measure) -> str:
    """With a minus sign where it is less than 0 as it is written."""
    text = f"{100 * value:.1f}" if measure.share else f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")
