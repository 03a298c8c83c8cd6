"""LARF-like: an example is suspect whose state points where those of known-harmful examples do, and not of clean ones.

    z        state of an example at block `layer`, by default at the last token of its answer
    u_j, s_j states of known-harmful and of known-clean examples
    score    mean over j of cos(z, u_j) - mean over j of cos(z, s_j)                    dropped: score >= threshold

A mean of cosines is an inner product with a mean of unit vectors, so one direction is all that is kept of the examples.

Source: Li et al. 2025, "Layer-Aware Representation Filtering: Purifying Finetuning Data to Preserve LLM Safety
Alignment", arXiv 2507.18631. Their code pairs 100 harmful and 100 clean examples as they stand in their files, and
averages the 100 largest of the 100 differences: all of them, as here, where any numbers of each will do.
Differs from it: their state is that of the last token of the whole conversation, which ends the answer; and the layer
is not searched for. They scale the weights of one layer after another and take the layer at which refusals change most;
`layer` is a setting here, by default as deep as the block whose output theirs reads of Llama 3.1 8B, the 14th of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Rig, Settings
from ._examples import different, load, placed, save, threshold
from ._states import Look, StateScorer


class Larf(Settings):
    """Rank examples by cosine to known-harmful ones less cosine to clean ones."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-light"
    asks_model: ClassVar[bool] = True

    layer: int | float = 0.41
    """Block whose output is looked at: an index, or a fraction of the depth. Paper: by search; its code: 13 of 32."""
    pooling: Literal["mean", "last", "header"] = "last"
    """Where: the last token of the answer, the mean over it, or the token before it."""
    threshold: float | None = None
    """Score, -2 to 2, from which an example is dropped. None: as `removed` says."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> Larf:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> StateScorer:
        look = Look.of(rig.subject(), self)
        if self.fitted is not None:
            return self._scorer(look, Cosines(load(self.fitted, ("direction",))["direction"]), self.threshold)
        hazard, benign = (unit(side[:, 0]) for side in look.sides(pool))
        rule, edge = Cosines(hazard.mean(0) - benign.mean(0)), self.threshold
        if self.removed is not None:
            with look.pool(different(pool.unlabelled, 2, "the pool")) as states:
                edge = threshold(None, self.removed, states.scores(rule))
        alike = float(hazard.mean(0) @ benign.mean(0))
        rig.log(harmful=float(len(hazard)), clean=float(len(benign)), mean_cosine_between_sides=alike)
        return self._scorer(look, rule, edge)

    def frozen(self, scorer: StateScorer, folder: Path) -> Larf:
        """These settings with what `fit` found, in a file."""
        save(folder / "larf.npz", vars(scorer.rule))
        return self.model_copy(update={"fitted": "larf.npz", "threshold": scorer.threshold, "removed": None})

    def _scorer(self, look: Look, rule: Cosines, edge: float | None) -> StateScorer:
        return StateScorer(look, rule, edge, "mean cosine to harmful less mean cosine to clean: {:.4f}")


@dataclass(frozen=True, eq=False)
class Cosines:
    """Inner product of a state's unit vector with a direction."""

    direction: np.ndarray
    """float64, (width,): mean unit vector of harmful states less that of clean ones."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        return (unit(states[:, 0]) * self.direction).sum(-1)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, width) at length 1; a row of zeros stays one."""
    lengths = np.sqrt(np.square(rows).sum(-1, keepdims=True))
    return rows / np.where(lengths > 0, lengths, 1)
