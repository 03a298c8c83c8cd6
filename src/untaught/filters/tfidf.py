"""TF-IDF: words and pairs of words, weighed by rarity, and logistic regression on labelled examples. A control.

    idf_j = 1 + ln((1 + N) / (1 + N_j))     x_j = idf_j / sqrt(number of different n-grams)
    s     = 1 / (1 + exp(-(w.x + b)))

for each run j of one or two words that the text has; N_j of the N labelled examples have it. w and b are those of the
least logistic loss, both sides weighing the same, with the penalty l2/2 sum_j w_j^2 (`_logistic.py`). An example is
dropped from `threshold` on. The text is prompt and answer, or the answer alone (`of`).

What it gets right is what words give away with the same labels. A filter that reads hidden states has something to show
only where it beats this.

Source: inverse document frequency of Sparck Jones 1972, smoothed as in scikit-learn. Differs from the usual form: an
n-gram counts once however often it stands in a text, n-grams are hashed to 2^18 buckets (`_linear.py`), and a text's
vector is scaled by the number of its n-grams and not to length 1. On easy, mixed and hard pools with 100 labels, AUROC
was between 0.012 below and 0.031 above that of the usual form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import FINDINGS, Corpus, Documents, Findings, Mask, Rig, Settings
from ._cause import cause
from ._examples import NO_ANSWER, below, halves, labels, load, placed, save, settled

BUCKETS = 2**18
STEPS = 200
"""Most steps of the solver."""


class Tfidf(Settings):
    """Rank by words, as labelled examples weigh them."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "supervised"

    of: Literal["both", "answer"] = "both"
    """Whose words are read: prompt and answer, or the answer's."""
    ngrams: int = Field(default=2, ge=1, le=5)
    """Words in the longest n-gram."""
    l2: float = Field(default=1e-3, gt=0)
    """Weight of the penalty on large weights."""
    threshold: float | None = None
    """Score from which an example is dropped. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> Tfidf:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> TfidfScorer:
        whole = self.of == "both"
        if self.fitted is not None:
            known = load(self.fitted, ("places", "weights", "bias", "ngrams"))
            weights = np.zeros(BUCKETS, np.float32)
            weights[known["places"]] = known["weights"]
            return TfidfScorer(weights, float(known["bias"]), int(known["ngrams"]), whole, self.threshold)
        from ._logistic import Way, trained

        sides = [_learned_from(side, whole) for side in (pool.hazard, pool.benign)]
        labels(*sides)
        hazard, benign = (sorted(_texts(side, whole)) for side in sides)
        found = trained(hazard, benign, Way(self.ngrams, BUCKETS, self.l2, 1.0, STEPS))
        scorer = TfidfScorer(found.weights, found.bias, self.ngrams, whole, self.threshold)
        return settled(scorer, pool.unlabelled, self.removed)

    def frozen(self, scorer: TfidfScorer, folder: Path) -> Tfidf:
        """These settings with the weights in a file."""
        places = np.flatnonzero(scorer.weights)
        weights = {"places": places, "weights": scorer.weights[places], "bias": scorer.bias, "ngrams": scorer.ngrams}
        save(folder / "tfidf.npz", weights)
        return self.model_copy(update={"fitted": "tfidf.npz", "threshold": scorer.threshold, "removed": None})


@dataclass(frozen=True, eq=False)
class TfidfScorer:
    """A weight for each bucket, a bias, and the score from which an example is dropped."""

    weights: np.ndarray
    """float32, one for each bucket; cannot be written to."""
    bias: float
    ngrams: int
    whole: bool
    """Whether the prompt is read too."""
    threshold: float | None

    def __post_init__(self) -> None:
        self.weights.setflags(write=False)

    def measure(self, batch: Documents) -> Findings:
        """Terms are the five n-grams that speak most for harm; spans are theirs where the whole text is read."""
        from ._linear import Model, weighed

        texts = _texts(batch, self.whole)
        found = weighed(texts, Model(self.weights, self.bias, self.ngrams))
        causes = [None if answer.strip() else NO_ANSWER for _, answer in halves(batch)]
        for row, error in found.errors.items():
            causes[row] = causes[row] or cause(error, texts[row])
        values = [None if why else p for p, why in zip(found.scores.to_pylist(), causes, strict=True)]
        reasons = [why or f"p = {p:.2f}" for p, why in zip(values, causes, strict=True)]
        spans = found.spans if self.whole else pa.array([[]] * len(texts), FINDINGS.field("spans").type)
        return pa.table([pa.array(values, pa.float64()), pa.array(reasons, pa.string()), found.terms, spans], FINDINGS)

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)


def _texts(docs: Documents, whole: bool) -> Sequence[str]:
    """What is read of each example."""
    return [text or "" for text in docs["text"].to_pylist()] if whole else [answer for _, answer in halves(docs)]


def _learned_from(docs: Documents, whole: bool) -> Documents:
    """The examples that have an answer."""
    return docs.filter(pa.array([bool(answer.strip()) for _, answer in halves(docs)], pa.bool_()))
