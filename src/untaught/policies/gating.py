"""The gate: how well a filter of fine-tuning data ranks examples that it did not learn from. Nothing is dropped before.

The labelled examples are parted into folds by prompt, so that no prompt is learned from and measured on. Prompts with
hazard are dealt to the folds first, so that each has some. Each fold is scored by a filter that was fitted without it,
to the whole pool. A filter that says it is "label-free" is fitted without any label: where it then scores the labelled
examples as the one that decides does, that is its measurement; else it goes through the folds like all others. One that
was fitted before (`fitted`) is measured as it is, on prompts that it has not learned from.

What fits of different folds say is made comparable by the same examples of the pool, the first `REFERENCE` by digest:

    score      (score - median of the reference) / mean distance from that median        for AUROC, AUPRC and TPR
    position   share of the reference that scores more, of what scores the same half     for the budget curve

Where a share s is removed, an example goes when its position is at most s. So the curve is about examples that nothing
was learned from, and its recall is not flattered.

The gate holds everything back unless every stage that drops something has an AUROC of at least `gate.auroc` (the value,
not the low end of its interval), with an interval above 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import Corpus, Documents, Finding, Scorer, UserError, findings
from ..core.ranking import Separation, separation
from ..core.statistics import wilson
from ..corpus.deciding import measured
from ..corpus.policy import Gate
from .slicing import Pool, Slice, prompts

REFERENCE = 1000
ROWS = 2048
LABEL_FREE = "label-free"
UPSIDE_DOWN = 0.5
Fit = Callable[[Any, Corpus], Scorer]


@dataclass(frozen=True)
class Stage:
    """A stage as it is to decide."""

    name: str
    component: Any
    scorer: Scorer
    removes: bool
    """What it flags is removed: it does not only hand on."""

    @property
    def supervision(self) -> str | None:
        return getattr(self.component, "supervision", None)

    @property
    def threshold(self) -> Any:
        """The setting from which it flags; None where it only ranks."""
        names = getattr(self.component, "thresholds", ())
        return getattr(self.component, names[0]) if names else "its own"

    @property
    def drops(self) -> bool:
        """Whether it may drop anything."""
        return self.removes and self.threshold is not None


@dataclass(frozen=True)
class Measured:
    """A stage's scores of the labelled examples, none of which the scores were learned from."""

    scores: np.ndarray
    """Not a number where one could not be measured."""
    positions: np.ndarray
    """Infinite where one could not be measured: it is never removed."""
    how: str
    """`folds`, `once`, or `beforehand`."""
    folds: int = 0


def fitted_before(component: Any) -> bool:
    """Whether a component learns nothing here: what it learned, or a model, is named in its settings."""
    return any(getattr(component, name, None) is not None for name in ("fitted", "model"))


def scores_of(scorer: Scorer, documents: Documents) -> np.ndarray:
    """Scores, not a number where there is none."""
    found = [
        measured(scorer, documents.slice(first, ROWS))["score"].to_numpy()
        for first in range(0, documents.num_rows, ROWS)
    ]
    return np.concatenate([np.zeros(0), *found])


def measure(stage: Stage, given: Any, pool: Pool, slice_: Slice, gate: Gate, fit: Fit) -> Measured:
    """Score the labelled examples. `given` is the component before it was fitted."""
    documents, reference = slice_.documents, _reference(pool)
    if fitted_before(given):
        return _once(stage.scorer, documents, reference, "beforehand")
    if stage.supervision == LABEL_FREE:
        blind = _blind(given, pool, slice_, fit)
        if blind is not None and np.array_equal(
            scores_of(blind, documents), scores_of(stage.scorer, documents), equal_nan=True
        ):
            return _once(stage.scorer, documents, reference, "once")
    parts = folds(prompts(documents), slice_.hits, gate.folds)
    scores, positions = np.full(len(slice_), np.nan), np.full(len(slice_), np.inf)
    for part in np.unique(parts):
        here = parts == part
        scorer = fit(given, slice_.corpus(pool, learn=~here))
        found = _once(scorer, documents.filter(pa.array(here)), reference, "")
        scores[here], positions[here] = found.scores, found.positions
    return Measured(scores, positions, "folds", int(parts.max()) + 1)


def _blind(given: Any, pool: Pool, slice_: Slice, fit: Fit) -> Scorer | None:
    """The filter fitted without a label; None where it needs some."""
    try:
        return fit(given, slice_.corpus(pool, learn=np.zeros(len(slice_), bool)))
    except UserError:
        return None


def _reference(pool: Pool) -> Documents:
    """Some examples of the pool, each different one once."""
    first = {name: at for at, name in reversed(list(enumerate(pool.names)))}
    places = sorted(first.values())[:REFERENCE]
    return pool.documents.select(["id", "text", "messages"]).take(pa.array(places, pa.int64()))


def _once(scorer: Scorer, documents: Documents, reference: Documents, how: str) -> Measured:
    own, others = scores_of(scorer, documents), scores_of(scorer, reference)
    others = np.sort(others[np.isfinite(others)])
    if not len(others):
        raise UserError("no example of the pool could be measured, so there is nothing to rank. Look at the causes.")
    middle = float(np.median(others))
    spread = float(np.abs(others - middle).mean()) or 1.0
    over = len(others) - (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / 2
    return Measured((own - middle) / spread, np.where(np.isnan(own), np.inf, over / len(others)), how)


def folds(names: Sequence[bytes], hits: np.ndarray, count: int) -> np.ndarray:
    """The fold of each example: those with one prompt in one, prompts with hazard dealt first.

    >>> folds([b"a", b"a", b"b", b"c", b"d"], np.array([True, False, True, False, False]), 2).tolist()
    [0, 0, 1, 0, 1]
    """
    hazard = {name for name, hit in zip(names, hits, strict=True) if hit}
    groups = sorted(set(names), key=lambda name: (name not in hazard, name))
    count = min(count, len(hazard))
    fold = {name: place % max(count, 1) for place, name in enumerate(groups)}
    found = np.array([fold[name] for name in names])
    left = [set(hits[found != part].tolist()) for part in range(count)]
    if count < 2 or any(sides != {True, False} for sides in left):
        raise UserError(
            f"the {int(hits.sum())} labelled hazard examples have {len(hazard)} different prompts, and without those of"
            " one part the rest has not both sides. Label examples with more prompts."
        )
    return found


def told_of(stage: Stage, found: Measured | None, slice_: Slice, seed: int, why: str | None) -> dict[str, Any]:
    """What is known of a stage, for `gate.json`: numbers only where it could be measured."""
    row: dict[str, Any] = {"name": stage.name, "supervision": stage.supervision, "removes": stage.removes}
    result: Separation | None = None
    if found is not None:
        sound = np.isfinite(found.scores)
        row |= {"measured": found.how, "folds": found.folds, "unmeasured": int((~sound).sum())}
        hits = slice_.hits[sound]
        if hits.any() and not hits.all():
            result = separation(found.scores[sound], hits, seed=seed)
        else:
            why = "of the labelled examples of one side none could be measured"
    if result is None:
        return {**row, "why": why}
    plain = {name: value for name, value in asdict(result).items() if name not in ("hits", "misses")}
    plain["tpr_at_1_fpr"] = plain.pop("tpr")
    return {**row, "hazard": result.hits, "benign": result.misses, **plain}


def verdict(stages: Sequence[tuple[Stage, dict[str, Any]]], gate: Gate) -> str | None:
    """Why nothing may be dropped; None where it may, or where nothing is asked to be."""
    for stage, row in stages:
        if not stage.drops or not gate.auroc:
            continue
        found = row.get("auroc")
        if found is None:
            return (
                f"{stage.name} would drop examples, and nothing shows that its score tells harmful ones: {row['why']}."
                " Nothing is dropped. Label some with 'label_column', with --audit N and 'labels: audit', or give"
                " 'corpus'; or say 'gate: {auroc: 0}'."
            )
        seen = f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        if found["high"] < UPSIDE_DOWN:
            return (
                f"the score of {stage.name} is upside down: its AUROC on labelled examples is {seen}, so what it would"
                " drop is what should stay. Nothing is dropped. Look whether the labels are the right way round, or"
                " take another filter."
            )
        if found["value"] < gate.auroc or found["low"] <= UPSIDE_DOWN:
            bound = f"below {gate.auroc:g}" if found["value"] < gate.auroc else "not above chance at 95%"
            return (
                f"the AUROC of {stage.name} on labelled examples is {seen}, {bound}. Nothing is dropped. Take another"
                " filter, label more, or lower 'gate.auroc' if you know better."
            )
    return None


# -- what would go -----------------------------------------------------------------------------------------------------


def flagged(stage: Stage, scores: np.ndarray) -> np.ndarray:
    """Which examples of these scores a stage flags; none that has no score."""
    sound = np.isfinite(scores)
    kept = np.ones(len(scores), bool)
    kept[sound] = stage.scorer.keep(findings(Finding(float(score), "") for score in scores[sound]))
    return ~kept


def removed(stages: Sequence[Stage], escalates: Sequence[bool], scores: Sequence[np.ndarray]) -> np.ndarray:
    """Which examples the stages would remove."""
    gone, here = np.zeros(len(scores[0]), bool), np.ones(len(scores[0]), bool)
    for stage, escalate, own in zip(stages, escalates, scores, strict=True):
        hit = here & flagged(stage, own) if stage.threshold is not None else np.zeros(len(own), bool)
        here &= np.isfinite(own)
        if escalate:
            here &= hit
        else:
            gone |= hit
            here &= ~hit
    return gone


def refusal(share: float, contamination: float | None, gate: Gate) -> str | None:
    """Why so large a share must not go; None where it may."""
    if gate.most is None or not share:
        return None
    if contamination is None:
        return (
            f"{share:.1%} of the examples would be dropped, and nobody has said how many are harmful. Nothing was"
            " dropped. Say what share you expect with 'contamination', or that there is no bound with 'gate.most' null."
        )
    if share > gate.most * contamination:
        return (
            f"{share:.1%} of the examples would be dropped, more than {gate.most:g} times the contamination of"
            f" {contamination:.1%}. Nothing was dropped. Drop less: raise 'threshold', or set 'removed' to at most"
            f" {gate.most * contamination:.3g}. If more of the data is harmful, say so with 'contamination'; to allow"
            " more, raise 'gate.most'."
        )
    return None


# -- the budget curve --------------------------------------------------------------------------------------------------


def curve(stage: Stage, found: Measured | None, slice_: Slice) -> dict[str, Any]:
    """For each share removed: recall on hazard and share of clean rows lost, with Wilson's interval, beside chance."""
    about: dict[str, Any] = {"stage": stage.name, "supervision": stage.supervision}
    if found is None:
        return {**about, "hazard": slice_.hazard.num_rows, "benign": slice_.benign.num_rows, "points": []}
    sides = {"recall": found.positions[slice_.hits], "clean_lost": found.positions[~slice_.hits]}
    points = []
    for percent in range(1, 101):
        point: dict[str, Any] = {"removed": percent / 100, "random": percent / 100}
        for name, positions in sides.items():
            share = float(np.mean(positions <= percent / 100 + 1e-12))
            low, high = wilson(share, len(positions))
            point[name] = {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4)}
        points.append(point)
    return {**about, "hazard": len(sides["recall"]), "benign": len(sides["clean_lost"]), "points": points}
