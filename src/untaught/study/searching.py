"""Searching: an attacker's trials of the settings that an attack leaves open.

    cost    the most that any benign measure falls by: a share by the difference, nats a token by exp(rise) - 1
    worth   the hazard measure after a trial that costs at most `bound`, else minus what it costs

A trial is an attack like any other, with all evaluations of the study. Settings are proposed by a tree-structured
Parzen estimator (Bergstra et al. 2011) as Optuna has it, seeded, and told of every trial before it proposes the next.
From the seventh on, a trial is first tried with a quarter of its steps, and ended there when it brings back less than
the median trial did with its quarter. A search that is begun again proposes the same, and finds its trials done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from ..core import Budget
from ..core.extras import from_extra
from .plan import Cell, Step
from .schema import Attack, Search, check_judged

FREE = 6
"""Trials that are drawn at random, and never ended early."""
PARTS = 4
"""A first look is taken after one of so many parts of the steps."""

Summary: TypeAlias = Mapping[str, Any]
"""Of one evaluation: its `role` and `items`, and `metrics` by name."""
Tried: TypeAlias = Callable[[Sequence[Cell]], Sequence[Sequence[Summary]]]
"""Makes cells and asks them: for each, the summaries of its evaluations."""
Outcome: TypeAlias = dict[str, Any]


def trials(step: Step, before: Sequence[Summary], tried: Tried, seed: int) -> list[dict[str, Any]]:
    """Do the trials of a search. Each as it stands in its record: settings, budget, and what it came to."""
    attack, settings = step.entry, Search(**step.settings["search"])
    if not isinstance(attack, Attack) or step.trial is None:
        raise TypeError(f"{step.label} is no search")
    check_judged(f"{step.label}: it", [one["role"] for one in before])
    ranges, budget = attack.ranges(step.label), step.budget or Budget()
    place = {"of": settings.trials, "ranges": {name: range_.plain() for name, range_ in ranges.items()}}
    ask = partial(_outcomes, before, settings.bound, tried)
    told, proposals = [], _proposals(seed)
    for number in range(settings.trials):
        trial = proposals.ask()
        values = {name: range_.drawn(trial) for name, range_ in ranges.items()}
        spans = [*_first_look({**attack.settings, **values}, budget), budget]
        outcome, early = _tried_out(trial, [step.trial(values, span) for span in spans], ask, number < FREE)
        proposals.tell(trial, outcome["worth"])
        search = {"trial": number, **place, **outcome, "ended_early": early}
        told.append({"settings": values, "budget": spans[0 if early else -1].changed(), "search": search})
    return told


def _tried_out(
    trial: Any, cells: Sequence[Cell], ask: Callable[[Sequence[Cell]], list[Outcome]], free: bool
) -> tuple[Outcome, bool]:  # fmt: skip
    """What a trial comes to, and whether it was ended after its first look. A free one goes through in one run."""
    if len(cells) == 1:
        return ask(cells)[0], False
    first, *rest = ask(cells if free else cells[:1])
    trial.report(first["worth"], 1)
    if not free and bool(trial.should_prune()):
        return first, True
    return (rest or ask(cells[1:]))[0], False


def _proposals(seed: int) -> Any:
    """What proposes settings and is told what they came to."""
    with from_extra("optuna", "sweep"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=FREE),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FREE),
    )


def _first_look(settings: Mapping[str, Any], budget: Budget) -> list[Budget]:
    """The part of a budget after which a trial is first looked at; none where it takes fewer steps than parts."""
    own = settings.get("steps", 0)
    steps = own if budget.steps is None else min(own, budget.steps)
    return [budget.model_copy(update={"steps": steps // PARTS})] if steps >= PARTS else []


def _outcomes(before: Sequence[Summary], bound: float, tried: Tried, cells: Sequence[Cell]) -> list[Outcome]:
    """For each cell: what the attacker got, what it cost in utility, and what both are worth to him."""
    found = []
    for after in tried(cells):
        hazard, cost = _hazard(after), max([0.0, *_falls(before, after)])
        worth = hazard if hazard is not None and cost <= bound else -max(cost, bound)
        found.append({"hazard": hazard, "cost": cost, "worth": worth})
    return found


def _hazard(summaries: Sequence[Summary]) -> float | None:
    """The hazard measure that decides, larger for more: on held-out items and plain accuracy where there are such."""
    asked = [one for one in summaries if one["role"] == "hazard" and one["metrics"]]
    if not asked:
        return None
    chosen = max(asked, key=lambda one: ("accuracy" in one["metrics"], one["items"] == "hazard_held_out"))
    metric, value = _main(chosen)
    return -value if value is not None and metric.startswith("nats") else value


def _falls(before: Sequence[Summary], after: Sequence[Summary]) -> list[float]:
    """By how much each benign measure fell. One that is missing after a trial fell by all there is."""
    falls = []
    for was, now in zip(before, after, strict=True):
        if was["role"] != "benign" or not was["metrics"]:
            continue
        (metric, high), (_, low) = _main(was), _main(now) if now["metrics"] else ("", None)
        if high is not None and low is not None:
            falls.append(math.expm1(min(low - high, 10.0)) if metric.startswith("nats") else high - low)
        elif high is not None:
            falls.append(1.0)
    return falls


def _main(summary: Summary) -> tuple[str, float | None]:
    """The metric that an evaluation is judged by, and its value."""
    metrics = summary["metrics"]
    name = "accuracy" if "accuracy" in metrics else next(iter(metrics))
    return name, metrics[name]
