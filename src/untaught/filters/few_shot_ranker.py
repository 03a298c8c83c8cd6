"""Few-shot ranker: a pool ranked by the direction that parts a few known-harmful examples from clean ones.

On each layer, with z the mean of a block's outputs over the answer:

    x        z with every coordinate brought to mean 0 and standard deviation 1 over the pool
    p        x in the pool's first `components` principal components
    w        ((1 - s) S + s tr(S)/d I)^-1 (mean p of harmful - mean p of clean)      S = mean of the sides' covariances
    score    share of the pool with a lower w.p, averaged over layers                dropped: score >= threshold

Twenty harmful and a hundred clean examples are enough for a ranking, not for dropping only what is harmful. They decide
what it finds: harmful ones of one category miss the others, and clean ones that are not of the pool's genres make genre
pass for harm. The answer is looked at because what stands before it cannot tell a bad answer from a good one.

A pool of less than 100 examples, or no more than `components`, is looked at together with the labelled ones.

The combination is ours. Sources: linear discriminant analysis, Fisher 1936; shrinkage as Friedman 1989, "Regularized
Discriminant Analysis"; the principal components before it as in Belhumeur, Hespanha and Kriegman 1997.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Rig, Settings
from ._directions import Space, explained, lda, space
from ._examples import load, placed, save, threshold
from ._states import FEW, Look, Ranks, StateScorer, ranks

LEAST = 2
"""Labelled examples of each kind without which nothing is learned."""


class FewShotRanker(Settings):
    """Rank a pool by what parts known-harmful examples from clean ones."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-light"
    asks_model: ClassVar[bool] = True

    layers: tuple[int | float, ...] = Field(default=(0.4, 0.5, 0.6, 0.7, 0.8), min_length=1)
    """Blocks whose outputs are looked at: indices, or fractions of the depth."""
    pooling: Literal["mean", "last", "header"] = "mean"
    """Where: the mean over the answer, its last token, or the token before it."""
    components: int = Field(default=80, ge=1)
    """Principal components of the pool in which the direction is looked for."""
    shrinkage: float = Field(default=0.3, ge=0, le=1)
    """How far the covariance is drawn to a multiple of the identity."""
    threshold: float | None = None
    """Mean rank, 0 to 1, from which an example is dropped. None: as `removed` says."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> FewShotRanker:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> StateScorer:
        look = Look.of(rig.subject(), self)
        if self.fitted is not None:
            known = load(self.fitted, ("directions", "reference"))
            return self._scorer(look, Ranks(known["directions"], known["reference"]), self.threshold)
        hazard, benign = look.sides(pool, LEAST)
        with look.background(pool, max(FEW, self.components + 1)) as (states, own):
            spaces = [
                space(lambda place=place: states.layer(place), self.components, rig.random(f"space/{place}"))
                for place in range(len(look.layers))
            ]
            directions = [
                direction(one, hazard[:, place], benign[:, place], self.shrinkage) for place, one in enumerate(spaces)
            ]
            rule = ranks(np.stack(directions), states)
            edge = threshold(self.threshold, self.removed, own.scores(rule))
            rig.log(examples=float(len(states)), components=float(len(spaces[0].basis)))
        kinds = np.repeat([True, False], [len(hazard), len(benign)])
        apart = [explained(np.concatenate([hazard[:, i], benign[:, i]]), kinds) for i in range(len(spaces))]
        rig.log(harmful=float(len(hazard)), clean=float(len(benign)), variance_by_label=float(np.mean(apart)))
        return self._scorer(look, rule, edge)

    def frozen(self, scorer: StateScorer, folder: Path) -> FewShotRanker:
        """These settings with what `fit` found, in a file."""
        save(folder / "few_shot_ranker.npz", vars(scorer.rule))
        return self.model_copy(update={"fitted": "few_shot_ranker.npz", "threshold": scorer.threshold, "removed": None})

    def _scorer(self, look: Look, rule: Ranks, edge: float | None) -> StateScorer:
        return StateScorer(look, rule, edge, "mean rank {:.4f}, harmful against clean")


def direction(inside: Space, hazard: np.ndarray, benign: np.ndarray, shrinkage: float) -> np.ndarray:
    """One layer's direction of states, (width,), from the labelled examples' states, (examples, width) a side."""
    return inside.outside(lda(inside.inside(hazard), inside.inside(benign), shrinkage))
