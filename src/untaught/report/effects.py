"""What filters achieve of what could be achieved: the share of the oracle's effect.

With U, O and F the mean of a hazard measure over prompts and seeds, of the arm tuned on the whole pool, of the one
tuned without its hazard, and of the one tuned on what a filter left:

    share of the oracle's effect    (U - F) / (U - O)         1: as good as knowing; 0: no better than no filter
    relative fall                   1 - F / U                 what papers report; it flatters where anything lowers U

Each with a 95% percentile interval from a bootstrap that draws prompts and seeds at once, the same ones for all three
arms (Efron and Tibshirani 1993). A prompt counts where all three have a value. With few seeds the interval is short of
what more seeds would show. Where the interval of U - O holds 0, there is no effect to have a share of: the share is
*not estimable*, and the numbers stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..core.statistics import resampled
from .naming import Attack, attacks
from .pooling import Measure
from .reading import Run, marks_of
from .verdicts import Account

RESAMPLES = 2000
REFERENCE, ORACLE = "unfiltered", "oracle"


@dataclass(frozen=True)
class Interval:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Effect:
    """One arm against the reference and the oracle."""

    arm: str
    value: float
    """Mean of the measure."""
    fall: Interval
    """U - F."""
    relative: Interval | None
    """1 - F / U; None where U is 0."""
    share: Interval | None
    """(U - F) / (U - O); None where it is not estimable."""
    prompts: int
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """The arms of one pool, before any attack or under one."""

    reference: str
    oracle: str
    attack: str
    """In words; empty before any attack."""
    measure: Measure
    unfiltered: float
    """U."""
    possible: Interval
    """U - O."""
    effects: tuple[Effect, ...]
    """Every arm that is compared, the oracle among them."""

    @property
    def estimable(self) -> bool:
        """Whether the oracle clearly lowers the measure."""
        return self.possible.low > 0


def comparisons(story: Account) -> tuple[Comparison, ...]:
    """Every group of arms that has a reference and an oracle, unattacked first."""
    measure, folder = story.measure, story.run.folder
    if measure is None or folder is None:
        return ()
    found = []
    for group in _groups(story.run):
        values = {arm: marked for arm in group.arms if (marked := _values(folder, arm, story, measure))}
        if group.reference in values and group.oracle in values:
            for attack in values[group.reference]:
                own = {arm: of[attack] for arm, of in values.items() if attack in of}
                if group.oracle in own:
                    found.append(_compared(group, own, attack, measure))
    return tuple(sorted(found, key=lambda one: bool(one.attack)))


# -- which arms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Arms that are held against each other."""

    reference: str
    oracle: str
    arms: tuple[str, ...]


def _groups(run: Run) -> list[Group]:
    """As the study says, or by names: `unfiltered`, `oracle` and all others, or those with the same ending."""
    study = yaml.safe_load(run.study)
    said = study.get("effects") if isinstance(study, dict) else None
    if said:
        return [_said(one, run.arms) for one in said if isinstance(one, dict)]
    endings = [arm.removeprefix(REFERENCE) for arm in run.arms if arm.startswith(REFERENCE)]
    found = []
    for ending in endings:
        if ORACLE + ending in run.arms:
            alike = [arm for arm in run.arms if ending and arm.endswith(ending)]
            found.append(Group(REFERENCE + ending, ORACLE + ending, tuple(alike) if ending else run.arms))
    return found


def _said(one: Mapping[str, Any], arms: Sequence[str]) -> Group:
    reference, oracle = str(one.get("reference", REFERENCE)), str(one.get("oracle", ORACLE))
    chosen = [str(arm) for arm in one.get("arms") or arms]
    return Group(reference, oracle, tuple(dict.fromkeys([reference, oracle, *chosen])))


# -- their marks -------------------------------------------------------------------------------------------------------

Values = dict[tuple[int, str], float]
"""Seed and item to value, the mean over attack seeds; without what is missing."""


def _values(folder: Path, arm: str, story: Account, measure: Measure) -> dict[str, Values]:
    """An arm's marks on a measure, by attack and budget in words; empty for none."""
    wanted = [(name, "=", getattr(measure, name)) for name in ("evaluation", "items", "metric")]
    columns = ["item", "value", "attack", "attack_settings", "budget", "seed"]
    if (marks := marks_of(folder, arm, columns, wanted)) is None:
        return {}
    gathered: dict[str, dict[tuple[int, str], list[float]]] = {}
    named = attacks(story.run.rows)
    for row in marks.to_pylist():
        place = _place(row, named)
        if place is not None:
            own = gathered.setdefault(place, {})
            if row["value"] is not None:
                own.setdefault((row["seed"], row["item"]), []).append(row["value"])
    return {attack: {at: float(np.mean(found)) for at, found in own.items()} for attack, own in gathered.items()}


def _place(mark: Mapping[str, Any], named: Mapping[tuple[str, str], Attack]) -> str | None:
    """A mark's attack and budget in words: empty for none, null for an attack without any budget, which is none."""
    if mark["attack"] is None:
        return ""
    settings = {k: v for k, v in json.loads(mark["attack_settings"]).items() if k not in ("use", "budget")}
    attack = named.get((mark["attack"], json.dumps(settings, sort_keys=True)))
    budget = {what: count for what, count in json.loads(mark["budget"]).items() if count is not None}
    if attack is None or 0 in budget.values():
        return None
    return ", ".join([attack.label, *(f"{count} {what}" for what, count in budget.items())])


# -- what they come to -------------------------------------------------------------------------------------------------


def _compared(group: Group, values: Mapping[str, Values], attack: str, measure: Measure) -> Comparison:
    reference, oracle = values[group.reference], values[group.oracle]
    tables = {arm: _told(values[arm], reference, oracle) for arm in values}
    possible = _drawn(tables[group.oracle])
    effects = [_effect(arm, tables[arm], possible) for arm in group.arms if arm in tables and arm != group.reference]
    unfiltered = float(np.mean([*reference.values()])) if reference else float("nan")
    return Comparison(
        group.reference, group.oracle, attack, measure, unfiltered, possible[0], tuple(e for e in effects if e)
    )


@dataclass(frozen=True, eq=False)
class Told:
    """Three arms on the same prompts: U, F and O, each (seeds, items), 0 where not `there`."""

    values: np.ndarray
    there: np.ndarray

    @property
    def seeds(self) -> int:
        return int(self.there.any(1).sum())

    @property
    def prompts(self) -> int:
        return int(self.there.any(0).sum())


def _told(own: Values, reference: Values, oracle: Values) -> Told:
    at = sorted(own.keys() & reference.keys() & oracle.keys())
    seeds, items = (sorted({place[side] for place in at}) for side in (0, 1))
    values, there = np.zeros((3, len(seeds), len(items))), np.zeros((len(seeds), len(items)))
    for place in at:
        row, column = seeds.index(place[0]), items.index(place[1])
        values[:, row, column] = reference[place], own[place], oracle[place]
        there[row, column] = 1
    return Told(values, there)


def _means(told: Told) -> np.ndarray:
    """U, F and O as they are and in every resample, (3, 1 + resamples)."""
    return resampled(told.values, told.there, RESAMPLES)


def _interval(numbers: np.ndarray) -> Interval:
    """The first is the number; the others say how far off it may be."""
    known = numbers[1:][np.isfinite(numbers[1:])]
    value = float(numbers[0])
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
    return Interval(value, min(float(low), value), max(float(high), value))


def _drawn(told: Told) -> tuple[Interval, np.ndarray]:
    """The oracle's effect U - O, and what it was drawn from."""
    means = _means(told)
    return _interval(means[0] - means[2]), means


def _effect(arm: str, told: Told, possible: tuple[Interval, np.ndarray]) -> Effect | None:
    if not told.there.any():
        return None
    whole, own, least = _means(told)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = _interval(1 - own / whole) if whole[0] > 0 else None
        share = _interval((whole - own) / (whole - least)) if possible[0].low > 0 else None
    return Effect(arm, float(own[0]), _interval(whole - own), relative, share, told.prompts, told.seeds)


# -- in words ----------------------------------------------------------------------------------------------------------

HEADINGS = ("arm", "mean", "fall", "share of the oracle's effect", "relative fall")


def lines(compared: Comparison) -> list[tuple[str, ...]]:
    """One line an arm, the reference first, in the order of `HEADINGS`."""
    first = (compared.reference, f"{compared.unfiltered:.3f}", "", "", "")
    return [first, *map(_line, compared.effects)]


def possible(compared: Comparison) -> str:
    """What the oracle achieves, and over how much that was seen."""
    prompts, seeds = (max((getattr(e, name) for e in compared.effects), default=0) for name in ("prompts", "seeds"))
    told = f"Without its hazard the pool gives {_signed(compared.possible)} less; {prompts} prompts, {seeds} seed"
    told += "" if seeds == 1 else "s"
    return f"{told}." if compared.estimable else f"{told}. That may be nothing, so no share of it is estimable."


def _line(effect: Effect) -> tuple[str, ...]:
    relative = "undefined" if effect.relative is None else _percent(effect.relative)
    share = "not estimable" if effect.share is None else _percent(effect.share)
    return effect.arm, f"{effect.value:.3f}", _signed(effect.fall), share, relative


def _signed(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _percent(found: Interval) -> str:
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
