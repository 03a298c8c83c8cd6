"""SAFT: an example is suspect that lies far out along the directions in which a pool's states vary most.

    z_i     state of example i at block `layer`, by default at the token before its answer (`pooling: header`)
    v_1..k  right singular vectors of the largest singular values of the matrix of all z_i - mean(z)
    score   s_i = 1/k sum over j <= k of <z_i - mean(z), v_j>^2                      dropped: s_i >= threshold

The thought: what parts harmful from ordinary examples is what varies most. With a labelled slice of both kinds, k (of
1 to 4) and the threshold (of 100 evenly spaced from the least score to the largest) are those of the best F1 on it, as
published; among thresholds that drop no more than `most` times the slice's share of harmful examples, which is ours:
where the score says little, the best F1 is that of dropping all. Without a slice k is 1 and there is no threshold.

On a pool of several genres the score is near chance: genre varies more than harm, and a square rewards both ends. What
is logged says so: `variance_by_label` and `variance_by_source` (column `source`) are shares of the states' variance
that lies between the means of kinds and of sources, `slice_auroc` is the score's own. Below `floor` and with
`fallback`, which is ours, the ranking is by linear discriminant analysis of the slice in its place (`fell_back`).

Source: Choi, Du and Li 2024, "Safety-Aware Fine-Tuning of Large Language Models", arXiv 2410.10014. A reconstruction:
the abstract and a third party's notes on its section 4 were read, its tables were not; the position is that party's.
Pools of more states than are held in memory get their directions by randomised subspace iteration (`_directions.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Documents, Rig, Settings
from ..core.ranking import auroc
from ._directions import explained, lda, projected, top, top_of_many
from ._examples import different, load, ordered, placed, save, threshold
from ._states import Look, States, StateScorer

TRIED, SPACED = 4, 100
LEAST = 3
"""Labelled examples of each kind below which nothing is chosen by them."""


class Saft(Settings):
    """Rank a pool by its projections on its own top singular directions."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-light"
    asks_model: ClassVar[bool] = True

    layer: int | float = 0.5
    """Block whose output is looked at: an index, or a fraction of the depth. Paper: the middle."""
    pooling: Literal["mean", "last", "header"] = "header"
    """Where: the token before the answer, its last token, or the mean over it. `header` has not seen the answer."""
    k: int | None = Field(default=None, ge=1)
    """Directions. None: of 1 to 4 those with the best F1 on the labelled slice, or 1 without one."""
    threshold: float | None = None
    """Score from which an example is dropped. None: as `removed` says, or by F1 on the slice."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    most: float = Field(default=3.0, gt=0)
    """By F1: most that is dropped of the slice, as a multiple of its share of harmful examples."""
    fallback: bool = True
    """Rank by the slice's own direction where the score does not separate it."""
    floor: float = Field(default=0.7, ge=0, le=1)
    """AUROC on the slice below which `fallback` takes over."""
    shrinkage: float = Field(default=0.3, ge=0, le=1)
    """Of the fallback's covariance."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> Saft:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> StateScorer:
        look = Look.of(rig.subject(), self)
        if self.fitted is not None:
            known = load(self.fitted, ("mean", "directions", "squared"))
            return self._scorer(look, Projections(known["mean"], known["directions"], bool(known["squared"])), None)
        docs = different(pool.unlabelled, 2, "the pool")
        with look.pool(docs) as states:
            mean, directions = _directions(states, self.k or TRIED, rig)
            slice_ = _slice(look, pool)
            rule = self._chosen(mean, directions, slice_)
            self._log(rig, docs, states, rule, slice_)
            edge = None
            if slice_ is not None:
                rule, edge = self._by_slice(rule, slice_, rig)
            if self.removed is not None:
                edge = threshold(None, self.removed, states.scores(rule))
        return self._scorer(look, rule, edge)

    def frozen(self, scorer: StateScorer, folder: Path) -> Saft:
        """These settings with what `fit` found, in a file."""
        rule = scorer.rule
        assert isinstance(rule, Projections)  # noqa: S101  what `_scorer` was given
        save(folder / "saft.npz", vars(rule))
        return self.model_copy(update={"fitted": "saft.npz", "threshold": scorer.threshold, "removed": None})

    def _scorer(self, look: Look, rule: Projections, edge: float | None) -> StateScorer:
        says = "mean squared projection {:.4g}" if rule.squared else "projection on the slice's direction {:.4g}"
        return StateScorer(look, rule, self.threshold if edge is None else edge, says)

    def _chosen(self, mean: np.ndarray, directions: np.ndarray, slice_: Slice | None) -> Projections:
        """The rule with the k that is asked for, or the one that does best on the slice."""
        if self.k is not None or slice_ is None:
            return Projections(mean, directions[: self.k or 1])
        tried = [Projections(mean, directions[:k]) for k in range(1, len(directions) + 1)]
        return max(tried, key=lambda rule: self._best_f1(rule(slice_.states), slice_.harmful)[0])

    def _best_f1(self, scores: np.ndarray, harmful: np.ndarray) -> tuple[float, float]:
        """The best F1 of 100 thresholds, and the threshold; of equal ones the one that drops the least."""
        found = []
        for edge in np.linspace(scores.min(), scores.max(), SPACED):
            dropped = scores >= edge
            if dropped.mean() <= self.most * harmful.mean():
                found.append((float(2 * (dropped & harmful).sum() / (dropped.sum() + harmful.sum())), float(edge)))
        return max(found, default=(0.0, float(np.nextafter(scores.max(), np.inf))))

    def _by_slice(self, rule: Projections, slice_: Slice, rig: Rig) -> tuple[Projections, float]:
        """The threshold by F1; and another rule where this one does not separate the slice."""
        scores = rule(slice_.states)
        separated = auroc(scores[slice_.harmful], scores[~slice_.harmful])
        rig.log(slice_auroc=separated)
        if self.fallback and separated < self.floor:
            rows = slice_.states[:, 0]
            direction = lda(rows[slice_.harmful], rows[~slice_.harmful], self.shrinkage)
            rule = Projections(rows.mean(0), direction[None] / np.linalg.norm(direction), squared=False)
            rig.log(fell_back=1.0)
            scores = rule(slice_.states)
        f1, edge = self._best_f1(scores, slice_.harmful)
        rig.log(slice_f1=f1, k=float(len(rule.directions)))
        return rule, edge

    def _log(
        self, rig: Rig, docs: Documents, states: States, rule: Projections, slice_: Slice | None
    ) -> None:  # fmt: skip
        """How much of what varies is the label, and how much is where an example is from."""
        if slice_ is not None:
            rig.log(variance_by_label=explained(slice_.states[:, 0], slice_.harmful))
        if "source" in docs.column_names and states.small and len(states) == docs.num_rows:
            sources = np.unique(np.array(docs["source"].to_pylist(), str), return_inverse=True)[1]
            rig.log(variance_by_source=explained(states.values[:, 0].astype(np.float64), sources))


@dataclass(frozen=True, eq=False)
class Projections:
    """The mean over directions of squared projections of what is left of a state when the mean is taken off."""

    mean: np.ndarray
    """float64, (width,)."""
    directions: np.ndarray
    """float64, (k, width), of length 1."""
    squared: bool = True
    """False: of the projections themselves."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        found = projected(states[:, 0] - self.mean, self.directions)
        return (found**2 if self.squared else found).mean(-1)


@dataclass(frozen=True, eq=False)
class Slice:
    """Labelled examples."""

    states: np.ndarray
    harmful: np.ndarray


def _slice(look: Look, pool: Corpus) -> Slice | None:
    """The labelled examples, where there are some of both kinds."""
    if min(pool.hazard.num_rows, pool.benign.num_rows) < LEAST:
        return None
    sides = [look.at(ordered(side)) for side in (pool.hazard, pool.benign)]
    rows = [side.values[side.sound].astype(np.float64) for side in sides]
    return Slice(np.concatenate(rows), np.repeat([True, False], [len(side) for side in rows]))


def _directions(states: States, k: int, rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    """The pool's mean, and its top directions."""
    if states.small:
        return top(states.values[:, 0].astype(np.float64), k)
    return top_of_many(lambda: (block[:, 0] for block in states.blocks()), k, rig.random("directions"))
