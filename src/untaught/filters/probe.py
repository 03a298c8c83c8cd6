"""Probe: ridge regression on a model's states, from the labelled slice of the pool.

On each layer, with x a state brought to mean 0 and standard deviation 1 over the pool in every coordinate, and y = 1 of
the n labelled examples that are harmful and -1 of clean ones:

    w, b     least sum of (w.x + b - y)^2 + l |w|^2                    l = a penalty times the mean squared length of x
    score    share of the pool with a lower w.x, averaged over layers  dropped: score >= threshold

There are far more coordinates than labels, so it is solved in the space that the labelled examples span (the dual;
Saunders, Gammerman and Vovk 1998). Of several penalties each layer takes that with the least squared error on the
labelled examples left out one at a time, which needs no second fit: the error of an example that is left out is its
error divided by 1 - h, with h its place on the diagonal of the matrix that takes y to the fitted values (Allen 1974).
With two kinds this is a linear discriminant analysis (Fisher 1936), whatever the numbers of each. A pool of less than
100 examples is looked at together with the labelled ones.

It says what the labelled examples of this pool say. Label them at random: a slice that was chosen by a score, or
that holds one genre, teaches the choice. The combination is ours; probes of states are as Alain and Bengio 2016, arXiv
1610.01644.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Rig, Settings
from ..core.ranking import auroc
from ._directions import standard
from ._examples import load, placed, save, threshold
from ._states import Look, Ranks, StateScorer, ranks

LEAST = 2
"""Labelled examples of each kind without which nothing is learned."""


class Probe(Settings):
    """Ridge regression on the states of the labelled slice."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "supervised"
    asks_model: ClassVar[bool] = True

    layers: tuple[int | float, ...] = Field(default=(0.5, 0.6, 0.7, 0.8), min_length=1)
    """Blocks whose outputs are looked at: indices, or fractions of the depth."""
    pooling: Literal["mean", "last", "header"] = "mean"
    """Where: the mean over the answer, its last token, or the token before it."""
    penalties: tuple[float, ...] = Field(default=(0.01, 0.1, 1.0, 10.0, 100.0), min_length=1)
    """Penalties on large weights that are tried, relative to the mean squared length of a state."""
    threshold: float | None = None
    """Mean rank, 0 to 1, from which an example is dropped. None: as `removed` says."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> Probe:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> StateScorer:
        look = Look.of(rig.subject(), self)
        if self.fitted is not None:
            known = load(self.fitted, ("directions", "reference"))
            return self._scorer(look, Ranks(known["directions"], known["reference"]), self.threshold)
        sides = look.sides(pool, LEAST)
        harmful = np.repeat([True, False], [len(side) for side in sides])
        labelled, found = np.concatenate(sides), []
        with look.background(pool) as (states, own):
            for place in range(len(look.layers)):
                mean, scale, _ = standard(lambda place=place: states.layer(place))
                ridge = best((labelled[:, place] - mean) / scale, np.where(harmful, 1.0, -1.0), self.penalties)
                found.append((ridge[0] / scale, *ridge[1:]))
            rule = ranks(np.stack([weights for weights, _, _ in found]), states)
            edge = threshold(self.threshold, self.removed, own.scores(rule))
        for layer, (_, penalty, left_out) in zip(look.layers, found, strict=True):
            separated = auroc(left_out[harmful], left_out[~harmful])
            rig.log(**{f"penalty_{layer}": penalty, f"left_out_auroc_{layer}": separated})
        rig.log(harmful=float(harmful.sum()), clean=float((~harmful).sum()))
        return self._scorer(look, rule, edge)

    def frozen(self, scorer: StateScorer, folder: Path) -> Probe:
        """These settings with what `fit` found, in a file."""
        save(folder / "probe.npz", vars(scorer.rule))
        return self.model_copy(update={"fitted": "probe.npz", "threshold": scorer.threshold, "removed": None})

    def _scorer(self, look: Look, rule: Ranks, edge: float | None) -> StateScorer:
        return StateScorer(look, rule, edge, "mean rank {:.4f} by the labelled slice")


def best(rows: np.ndarray, targets: np.ndarray, penalties: tuple[float, ...]) -> tuple[np.ndarray, float, np.ndarray]:
    """Weights (width,) by the penalty that does best on what is left out, that penalty, and what it then says of each.

    With centred rows U S V' the fitted values are the mean and U S^2 / (S^2 + l) U' y.
    """
    count, mean = len(rows), targets.mean()
    left, sizes, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    squares, inner = sizes**2, left.T @ (targets - mean)
    level = float(squares.sum()) / count or 1.0
    tried = []
    for penalty in penalties:
        kept = squares / (squares + penalty * level)
        share = 1 / count + (left**2) @ kept
        error = (targets - mean - left @ (kept * inner)) / np.maximum(1 - share, 1e-9)
        tried.append((float(np.square(error).mean()), penalty, targets - error))
    _, penalty, left_out = min(tried, key=lambda one: one[0])
    return right.T @ (sizes / (squares + penalty * level) * inner), penalty, left_out
