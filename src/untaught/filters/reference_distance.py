"""Reference distance: an example is suspect whose states are far from those of examples that are known to be clean.

On each layer, with p a state brought to mean 0 and standard deviation 1 over the pool in every coordinate, in the
pool's first `components` principal components, and c_1..n the clean examples there:

    mahalanobis  d^2 = (p - mean c)' ((1 - s) C + s tr(C)/d I)^-1 (p - mean c)       C = covariance of the c
    neighbours   d = mean |p - c_i| over the k nearest c_i
    score        share of the pool with a smaller d, averaged over layers            dropped: score >= threshold

No harmful example is needed, and none is looked for: the score says what is unlike the clean examples. What they lack
is called harmful with what is, so they should be of every genre that the pool is of. A clean example that is in the
pool as well is nearest to itself.

Sources: Lee et al. 2018, arXiv 1807.03888 (Mahalanobis distance of states); Sun et al. 2022, arXiv 2204.06507 (the
nearest neighbours). Differs from them: one class, a covariance with shrinkage as Friedman 1989, mean ranks over layers,
and the mean distance of the k nearest where theirs is that of the k-th.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Rig, Settings
from ._directions import Space, projected, space
from ._examples import different, load, placed, save, threshold
from ._states import Look, StateScorer, among, mean_rank

LEAST = 2
"""Clean examples without which nothing is learned."""


class ReferenceDistance(Settings):
    """Rank a pool by distance from examples that are known to be clean."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    asks_model: ClassVar[bool] = True

    kind: Literal["mahalanobis", "neighbours"] = "mahalanobis"
    """Distance from all of them, or from those that are nearest."""
    layers: tuple[int | float, ...] = Field(default=(0.5, 0.6, 0.7, 0.8), min_length=1)
    """Blocks whose outputs are looked at: indices, or fractions of the depth."""
    pooling: Literal["mean", "last", "header"] = "mean"
    """Where: the mean over the answer, its last token, or the token before it."""
    components: int = Field(default=40, ge=1)
    """Principal components of the pool in which distances are taken."""
    shrinkage: float = Field(default=0.3, ge=0, le=1)
    """Mahalanobis: how far the covariance is drawn to a multiple of the identity."""
    k: int = Field(default=5, ge=1)
    """Neighbours: how many."""
    threshold: float | None = None
    """Mean rank, 0 to 1, from which an example is dropped. None: as `removed` says."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> ReferenceDistance:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> StateScorer:
        look = Look.of(rig.subject(), self)
        if self.fitted is not None:
            known = load(self.fitted, ("mean", "maps", "points", "reference"))
            return self._scorer(look, Distances(**{name: known[name] for name in PARTS}, k=self.k), self.threshold)
        clean = look.rows(pool.benign, "benign", LEAST)
        with look.pool(different(pool.unlabelled, 2, "the pool")) as states:
            places = range(len(look.layers))
            spaces = [
                space(lambda place=place: states.layer(place), self.components, rig.random(f"space/{place}"))
                for place in places
            ]
            measure = from_mean if self.kind == "mahalanobis" else from_each
            found = [measure(spaces[place], clean[:, place], self.shrinkage) for place in places]
            mean, maps, points = (np.stack(part) for part in zip(*found, strict=True))
            bare = Distances(mean, maps, points, np.zeros((0, 0)), self.k)
            rule = replace(bare, reference=among(states, bare.distances))
            edge = threshold(self.threshold, self.removed, states.scores(rule))
            rig.log(examples=float(len(states)), clean=float(len(clean)), components=float(rule.maps.shape[1]))
        rig.log(mean_rank_of_clean=float(rule(clean).mean()))
        return self._scorer(look, rule, edge)

    def frozen(self, scorer: StateScorer, folder: Path) -> ReferenceDistance:
        """These settings with what `fit` found, in a file."""
        save(folder / "reference_distance.npz", {name: getattr(scorer.rule, name) for name in PARTS})
        return self.model_copy(
            update={"fitted": "reference_distance.npz", "threshold": scorer.threshold, "removed": None}
        )

    def _scorer(self, look: Look, rule: Distances, edge: float | None) -> StateScorer:
        return StateScorer(look, rule, edge, "mean rank {:.4f} of distance from clean examples")


PARTS = ("mean", "maps", "points", "reference")


@dataclass(frozen=True, eq=False)
class Distances:
    """Mean over layers of the share of a pool that is nearer to some points."""

    mean: np.ndarray
    """float64, (layers, width): where points are counted from."""
    maps: np.ndarray
    """float64, (layers, components, width): from what is left of a state to a place among points."""
    points: np.ndarray
    """float64, (layers, points, components)."""
    reference: np.ndarray
    """float64, (layers, n): distances of the pool, sorted."""
    k: int
    """Points, the nearest, to which the distance is averaged."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        return mean_rank(self.distances(states), self.reference)

    def distances(self, states: np.ndarray) -> np.ndarray:
        """On each layer: (examples, layers)."""
        found = []
        for place, points in enumerate(self.points):
            inside = projected(states[:, place] - self.mean[place], self.maps[place])
            far = np.stack([np.sqrt(np.square(inside - point).sum(-1)) for point in points], -1)
            found.append(np.sort(far, -1)[:, : self.k].mean(-1))
        return np.stack(found, -1)


def from_mean(inside: Space, clean: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mahalanobis distance: from the origin of a space in which the clean states have unit covariance."""
    rows = inside.inside(clean)
    apart = rows - rows.mean(0)
    spread = apart.T @ apart / len(rows)
    level = max(float(np.trace(spread)) / len(spread), 1e-12)
    shrunk = (1 - shrinkage) * spread + shrinkage * level * np.eye(len(spread))
    values, vectors = np.linalg.eigh(shrunk)
    roots = np.sqrt(np.maximum(values, 1e-9 * level))
    return clean.mean(0), (vectors / roots).T @ inside.basis / inside.scale, np.zeros((1, len(spread)))


def from_each(inside: Space, clean: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from each clean example. Nothing is shrunk."""
    return inside.mean, inside.basis / inside.scale, inside.inside(clean)
