"""The page's tables: what safety cost in ordinary ability, what the filters caught, and where it all came from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import Record
from ..core.statistics import wilson
from . import words
from .pairs import difference
from .pooling import Estimate, Measure
from .verdicts import Account

UNKNOWN = "not known"


@dataclass(frozen=True)
class Spot:
    """One place in a table: a value, and what is said under it."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One row of a table, headed by an arm."""

    arm: str
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Table:
    """Headings over rows."""

    headings: tuple[str, ...]
    lines: tuple[Line, ...]


def spot(estimate: Estimate | None, measure: Measure) -> Spot:
    """An estimate as a table shows it: value, interval, and how much was scored when not all was."""
    if estimate is None:
        return Spot("not measured")
    notes = [words.interval(estimate, measure), "" if estimate.complete else words.scored(estimate)]
    return Spot(words.number(estimate.value, measure), "; ".join(note for note in notes if note))


# --- what it cost in ordinary ability ---------------------------------------------------------------------------


def benign(story: Account) -> Table | None:
    """Unattacked benign values of every arm, each with its difference to the reference."""
    measures = [m for m in story.grid.measures if m.role == "benign" and "option_only" not in m.metric]
    if not measures:
        return None
    lines = []
    for arm in story.run.arms:
        spots = []
        for measure in measures:
            own = story.grid.unattacked(arm, measure)
            base = None if arm == story.reference else story.grid.unattacked(story.reference, measure)
            spots.append(_benign_spot(own, base, measure))
        lines.append(Line(arm, tuple(spots)))
    return Table(tuple(heading(m) for m in measures), tuple(lines))


def heading(measure: Measure) -> str:
    """A benign measure in words: its items, and what is measured on them."""
    what = "perplexity" if measure.metric == "nats_per_token" else measure.metric.replace("_", " ")
    plain = what == "accuracy" and measure.evaluation == "multiple_choice"
    source = "" if plain or measure.evaluation == what else f", {measure.evaluation}"
    return f"{measure.items}: {what}{source}"


def _benign_spot(own: Estimate | None, base: Estimate | None, measure: Measure) -> Spot:
    shown = spot(own, measure)
    if own is None or own.value is None:
        return shown
    notes = [shown.note] if shown.note else []
    value = shown.value
    if measure.metric == "nats_per_token":
        value = f"{math.exp(own.value):.2f}"
        bounds = [f"{math.exp(b):.2f}" for b in (own.low, own.high) if b is not None]
        notes = ["\u2013".join(bounds)] if bounds else []
        notes += [] if own.complete else [words.scored(own)]
    if base is not None and (apart := difference(own, base)) is not None:
        notes.append(in_words(apart, measure))
    return Spot(value, "; ".join(notes))


def in_words(apart: tuple[float, float, float], measure: Measure) -> str:
    """`-2 points (-5 to +1)`; of perplexity the ratio, `+3% (+1 to +6)`."""
    if measure.metric == "nats_per_token":
        apart = (math.expm1(apart[0]), math.expm1(apart[1]), math.expm1(apart[2]))
    unit = "%" if measure.metric == "nats_per_token" else " points" if measure.share else ""
    scale, digits = (100, 0) if measure.share else (100, 1) if unit == "%" else (1, 3)
    value, low, high = (_signed(scale * part, digits) for part in apart)
    return f"{value}{unit}" + ("" if math.isnan(apart[1]) else f" ({low} to {high})")


def apart(found: tuple[float, float, float] | None, measure: Measure) -> Spot:
    """A difference, with its interval under it."""
    if found is None:
        return Spot(UNKNOWN)
    value, _, span = in_words(found, measure).partition(" (")
    return Spot(value, span.removesuffix(")"))


def _signed(value: float, digits: int) -> str:
    plain = f"{abs(value):.{digits}f}"
    sign = "" if float(plain) == 0 else "+" if value > 0 else "\u2212"
    return sign + plain


# --- what the filters caught -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filtering:
    """What the filters did to one arm's corpus, summed over its runs."""

    arm: str
    runs: int
    read: str
    kept: str
    removed: str
    masked: str
    """How much of the removed documents' text was left out where they stayed in the corpus; empty if they did not."""
    recall: Spot
    precision: Spot
    ranking: str
    """AUROC of the score that decided, of each run; empty where it is not told."""
    disguised: Spot
    stages: tuple[tuple[str, str, Spot], ...]
    """Component, documents removed, share of all hazard documents it took."""


def filtering(records: Iterable[Record]) -> tuple[Filtering, ...]:
    """One line for each filtered arm, drawn from the filters' records."""
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record.kind == "filters":
            by_arm[str(record.measured.get("arm", "an unnamed arm"))].append(record.measured)
    return tuple(_filtering(arm, runs) for arm, runs in by_arm.items())


def _filtering(arm: str, runs: Sequence[dict[str, Any]]) -> Filtering:
    hazard, caught, good = (_total(runs, name) for name in ("hazard", "hazard_removed", "benign_removed"))
    both = None if caught is None or good is None else caught + good
    stages = zip(*(run.get("stages") or [] for run in runs), strict=False)
    return Filtering(
        arm=arm,
        runs=len(runs),
        read=_count(_total(runs, "read")),
        kept=_count(_total(runs, "kept")),
        removed=_count(_total(runs, "removed")),
        masked=_masked(runs),
        recall=_share(caught, hazard, runs, "recall"),
        precision=_share(caught, both, runs, "precision"),
        ranking=", ".join(f"{run['auroc']:.2f}" for run in runs if run.get("auroc") is not None),
        disguised=_share(_total(runs, "disguised_removed"), _total(runs, "disguised"), (), ""),
        stages=tuple(
            (
                str(stage[0].get("use", "unnamed")),
                _count(_total(stage, "removed")),
                _share(_total(stage, "hazard_removed"), hazard, (), ""),
            )
            for stage in stages
        ),
    )


def _masked(runs: Sequence[dict[str, Any]]) -> str:
    part, covered, of = runs[0].get("masking"), _total(runs, "masked_characters"), _total(runs, "characters")
    if part is None or covered is None or not of:
        return ""
    return f"kept, masked by {part}: {words.percent(covered / of)} of all characters"


def _total(tables: Sequence[dict[str, Any]], name: str) -> float | None:
    """The sum over runs; None when one of them does not know."""
    values = [table.get(name) for table in tables]
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) and known else None


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _share(part: float | None, whole: float | None, runs: Sequence[dict[str, Any]], name: str) -> Spot:
    """A share with its interval, from counts where they are known and else from the one record that states it."""
    if part is not None and whole:
        low, high = wilson(part / whole, int(whole))
        span = f"{words.percent(low).removesuffix('%')}\u2013{words.percent(high)}"
        return Spot(words.percent(part / whole), f"{span}; {part:,.0f} of {whole:,.0f}")
    if part is not None and whole == 0:
        return Spot("none to find" if name != "precision" else "nothing removed")
    if len(runs) == 1 and runs[0].get(name) is not None:
        low, high = runs[0].get(f"{name}_low"), runs[0].get(f"{name}_high")
        if low is None or high is None:
            return Spot(words.percent(runs[0][name]), "no interval recorded")
        return Spot(words.percent(runs[0][name]), f"{words.percent(low).removesuffix('%')}\u2013{words.percent(high)}")
    return Spot(UNKNOWN)


# --- where it all came from ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """What all steps of one kind cost."""

    kind: str
    steps: int
    seconds: str
    training: str


@dataclass(frozen=True)
class Provenance:
    """Versions, digests, costs and gaps of a run."""

    versions: tuple[tuple[str, str], ...]
    code: tuple[tuple[str, str], ...]
    weights: tuple[tuple[str, int, str], ...]
    prices: tuple[Price, ...]
    subjects: tuple[tuple[str, str], ...]
    """Items, and what subjects they are of."""
    missing: tuple[tuple[str, int, int], ...]
    """Evaluation, items missing, items asked; over all rows."""
    short_of_seeds: int
    """Values that rest on fewer seeds than the study has."""


def provenance(story: Account) -> Provenance:
    records = story.run.records
    versions: dict[str, set[str]] = defaultdict(set)
    code: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name, version in record.versions.items():
            versions[name].add(str(version))
        if record.code:
            code[f"{record.kind}/{record.component}" if record.component else record.kind].add(record.code)
    weights = {(r.arm, r.seed): r.weights for r in story.run.rows if r.attack is None}
    return Provenance(
        versions=tuple((name, ", ".join(sorted(found))) for name, found in sorted(versions.items())),
        code=tuple((name, ", ".join(sorted(found))) for name, found in sorted(code.items())),
        weights=tuple((arm, seed, weights[arm, seed]) for arm in story.run.arms for seed in story.run.seeds
                      if (arm, seed) in weights),
        prices=_prices(records),
        subjects=_subjects(records),
        missing=_missing(story),
        short_of_seeds=sum(cell.estimate.seeds < cell.estimate.of_seeds for cell in story.grid.cells),
    )  # fmt: skip


def _subjects(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Item sets that are of subjects, with all of these and how many items each has: no subset goes by a whole name."""
    found = {}
    for record in records:
        if record.kind == "evaluations" and (subjects := record.measured.get("subjects")):
            counted = ", ".join(f"{name} ({count})" for name, count in subjects.items())
            found[str(record.settings.get("items"))] = f"{len(subjects)} subjects: {counted}"
    return tuple(found.items())


def _prices(records: Sequence[Record]) -> tuple[Price, ...]:
    prices = []
    for kind in dict.fromkeys(record.kind for record in sorted(records, key=lambda r: r.kind)):
        own = [record for record in records if record.kind == kind]
        seconds = math.fsum(record.cost.get("seconds", 0.0) for record in own)
        steps, tokens = (math.fsum(r.spent.get(name, 0) for r in own) for name in ("steps", "tokens"))
        spent = f"{words.count(steps)} steps / {words.count(tokens)} tokens" if steps or tokens else "none"
        prices.append(Price(kind, len(own), words.seconds(seconds), spent))
    return tuple(prices)


def _missing(story: Account) -> tuple[tuple[str, int, int], ...]:
    lost, asked = defaultdict(int), defaultdict(int)
    for cell in story.grid.cells:
        name = f"{cell.measure.evaluation} {cell.measure.metric} on {cell.measure.items}"
        lost[name] += cell.estimate.missing
        asked[name] += cell.estimate.missing + cell.estimate.n
    return tuple((name, lost[name], asked[name]) for name in asked)
