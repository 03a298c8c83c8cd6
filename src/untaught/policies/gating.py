"""The gate: how well a filter of fine-tuning data ranks examples that it did not learn from. Nothing is dropped before.

The labelled examples are parted into folds by prompt, so that no prompt is learned from and measured on. Prompts with
hazard are dealt to the folds first, so that each has some. Each fold is scored by a filter that was fitted without it,
to the whole pool. A filter that says it is "label-free" is fitted without any label: where it then scores the labelled
examples as the one that decides does, that is its measurement; else it goes through the folds like all others. One that
was fitted before (`fitted`) is measured as it is, on prompts that it has not learned from.

What fits of different folds say is made comparable by the same examples of the pool, the first `REFERENCE` by digest:

    score      (score - median of the reference) / mean distance from that median

AUROC, AUPRC and TPR are of these scores. The budget curve is of places in the pool: the share of it that scores more,
and the share that scores as much. The pool is there its examples without a label, as the same fold scores those of the
reference, and its labelled ones, as folds score them that did not learn from them. Where a share s is removed, an
example goes when all that score as much lie within s, and of equal scores as many as there is room for. So recall is
not flattered by what was learned, of itself or of its rivals.

The gate holds everything back unless every stage that would drop something has an AUROC of at least `gate.auroc` (the
value, not the low end of its interval), with an interval above 0.5.
"""

from __future__ import annotations

from collections import Counter
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
from .slicing import Pool, Slice, contents, prompts

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


@dataclass(frozen=True)
class Measured:
    """A stage's scores of the labelled examples, none of which the scores were learned from."""

    scores: np.ndarray
    """Not a number where one could not be measured."""
    above: np.ndarray
    """Share of the pool that scores more; infinite where one could not be measured: it is never removed."""
    upto: np.ndarray
    """Share of the pool that scores as much or more."""
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


@dataclass(frozen=True)
class _Part:
    """Some labelled examples as one fit scores them, and the examples of the pool that have no label."""

    here: np.ndarray
    scores: np.ndarray
    rivals: np.ndarray
    """Sorted."""


def measure(stage: Stage, given: Any, pool: Pool, slice_: Slice, gate: Gate, fit: Fit) -> Measured:
    """Score the labelled examples. `given` is the component before it was fitted."""
    documents, against = slice_.documents, _Reference.of(pool, slice_)
    whole = np.ones(len(slice_), bool)
    if fitted_before(given):
        return _assembled([against.part(stage.scorer, documents, whole)], against, "beforehand")
    if stage.supervision == LABEL_FREE:
        blind = _blind(given, pool, slice_, fit)
        if blind is not None and np.array_equal(
            scores_of(blind, documents), scores_of(stage.scorer, documents), equal_nan=True
        ):
            return _assembled([against.part(stage.scorer, documents, whole)], against, "once")
    found, parts = folds(prompts(documents), slice_.hits, gate.folds), []
    for number in np.unique(found):
        here = found == number
        scorer = fit(given, slice_.corpus(pool, learn=~here))
        parts.append(against.part(scorer, documents.filter(pa.array(here)), here))
    return _assembled(parts, against, "folds")


def _blind(given: Any, pool: Pool, slice_: Slice, fit: Fit) -> Scorer | None:
    """The filter fitted without a label; None where it needs some."""
    try:
        return fit(given, slice_.corpus(pool, learn=np.zeros(len(slice_), bool)))
    except UserError:
        return None


@dataclass(frozen=True)
class _Reference:
    """What scores are held against."""

    documents: Documents
    """Some examples of the pool, each different one once."""
    bare: np.ndarray
    """Which of them have no label."""
    weight: float
    """Examples of the pool without a label, for each of them."""
    own: np.ndarray
    """How often each labelled example stands in the pool."""

    @classmethod
    def of(cls, pool: Pool, slice_: Slice) -> _Reference:
        first = {name: at for at, name in reversed(list(enumerate(pool.names)))}
        labelled, counts = contents(slice_.documents), Counter(pool.names)
        names = sorted(first)[:REFERENCE]
        documents = pool.documents.select(["id", "text", "messages"])
        known = set(labelled)
        bare = np.array([name not in known for name in names])
        left = len(pool) - sum(counts[name] for name in known)
        weight = left / max(int(bare.sum()), 1)
        own = np.array([counts[name] for name in labelled], float)
        return cls(documents.take(pa.array([first[name] for name in names], pa.int64())), bare, weight, own)

    def part(self, scorer: Scorer, documents: Documents, here: np.ndarray) -> _Part:
        own, others = scores_of(scorer, documents), scores_of(scorer, self.documents)
        sound = np.isfinite(others)
        if not sound.any():
            raise UserError("no example of the pool could be measured, so none can be ranked. Look at the causes.")
        middle = float(np.median(others[sound]))
        spread = float(np.abs(others[sound] - middle).mean()) or 1.0
        return _Part(here, (own - middle) / spread, np.sort((others[sound & self.bare] - middle) / spread))


def _assembled(parts: Sequence[_Part], against: _Reference, how: str) -> Measured:
    """Scores of all parts, and where each stands in the pool."""
    scores, places = np.full(len(against.own), np.nan), np.zeros((2, len(against.own)))
    for part in parts:
        scores[part.here] = part.scores
        places[:, part.here] = against.weight * _places(part.rivals, np.ones(len(part.rivals)), part.scores)
    sound = np.isfinite(scores)
    order = np.argsort(scores[sound], kind="stable")
    places += _places(scores[sound][order], against.own[sound][order], scores)
    total = against.weight * int(against.bare.sum()) + float(against.own.sum())
    above, upto = np.where(sound, places / max(total, 1.0), np.inf)
    return Measured(scores, above, upto, how, len(parts) if how == "folds" else 0)


def _places(ordered: np.ndarray, weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The weight of what scores more, and of what scores as much or more, (2, scores)."""
    sums = np.append(0.0, np.cumsum(weights))
    return sums[-1] - np.stack([sums[np.searchsorted(ordered, scores, side)] for side in ("right", "left")])


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
    """Why nothing may be dropped, by the stages that would drop something; None where it may."""
    for stage, row in stages if gate.auroc else ():
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


def removed(stages: Sequence[Stage], scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Which examples each stage would remove."""
    found, here = [], np.ones(len(scores[0]), bool)
    for stage, own in zip(stages, scores, strict=True):
        hit = here & flagged(stage, own)
        here = here & np.isfinite(own) & (~hit if stage.removes else hit)
        found.append(hit if stage.removes else np.zeros(len(own), bool))
    return found


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
    sides = {"recall": slice_.hits, "clean_lost": ~slice_.hits}
    points = []
    for percent in range(1, 101):
        point: dict[str, Any] = {"removed": percent / 100, "random": percent / 100}
        for name, side in sides.items():
            share = float(_gone(found, percent / 100)[side].mean())
            low, high = wilson(share, int(side.sum()))
            point[name] = {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4)}
        points.append(point)
    return {**about, "hazard": int(slice_.hits.sum()), "benign": int((~slice_.hits).sum()), "points": points}


def _gone(found: Measured, share: float) -> np.ndarray:
    """How likely each labelled example goes when a share is removed: chance decides among equal scores."""
    sound = np.isfinite(found.above)
    gone = np.zeros(len(found.above))
    room = np.maximum(found.upto[sound] - found.above[sound], 1e-12)
    gone[sound] = np.clip((share - found.above[sound]) / room, 0, 1)
    return gone
