"""Classifier: a small linear model trained on the labelled pool, or any sequence classifier of Hugging Face.

Both give a document the probability p that it is hazard, and it is kept when p < threshold.

The linear model needs a CPU and no torch. A document is the set of buckets that its runs of 1 to `ngrams` words hash
to (`_linear.py`), every bucket equally heavy, scaled to length 1:

    x_j = 1 / sqrt(number of buckets) for each bucket j of the document          p = 1 / (1 + exp(-(w.x + b)))

w and b minimise the logistic loss, both sides weighing the same however unequal they are, so that imbalance does not
move the threshold:

    1/2 mean over hazard of log(1 + exp(-(w.x + b)))  +  1/2 mean over benign of log(1 + exp(w.x + b))
        +  l2/2 sum_j (w_j / r_j)^2          r_j = (1 + ln((1 + N) / (1 + N_j)))^rarity

With `rarity` above 0, buckets that few of the N documents have (N_j) may weigh more for the same penalty, the idea of
inverse document frequency (Sparck Jones 1972): ordinary words then tell less. It costs nothing when documents are read.

A sequence classifier is a folder (`model`), read as `engine/sequences.py` says: a document is tokenised once, its
tokens are cut into windows that overlap, and p is that of the highest window. A document that its tokenizer or model
fails on gets no score and the cause as its reason; it is neither kept nor dropped for that.

With a wanted `recall`, the threshold is the largest that catches at least that share of the hazard that the model was
not trained on: a part held out of the pool, or with `model` the whole pool. Which texts are held out is told by their
digests and copies stay together, so neither order nor chance has a say.

Paper: O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601, second stage of the filter.
Differs from it: theirs fine-tunes ModernBERT-large on 198,184 labelled or rewritten documents; its windows of 8,192 do
not overlap, are turned back to text and tokenised again; a document is dropped when a window is strictly *above* the
threshold, and dropped with score 0 when anything fails. Ours drops *from* the threshold on and takes failure for no
score. The linear model sees words and no meaning, and gives one score to the whole document, so a long one dilutes a
short hazardous passage.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import FINDINGS, Corpus, Documents, Finding, Findings, Mask, Rig, Settings, UserError, findings, require
from ..corpus.writing import write_atomically
from ._cause import cause
from ._words import texts

if TYPE_CHECKING:
    from ..engine.sequences import Judge

WAYS = ((0.0, 1e-3), (0.0, 1e-5), (1.0, 1e-4), (2.0, 1e-3))
"""Pairs of `rarity` and `l2` that are tried when a policy chooses among several."""


class Classifier(Settings):
    """Logistic regression on hashed word n-grams, or a Hugging Face sequence classifier."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    """Compiled code, tokenizer and model all let go of Python's lock while they work."""

    model: str | None = None
    """None: train the linear model on the labelled pool. Or a linear model's `.npz`, or the folder of an ordinary
    sequence classifier with safetensors weights; neither needs a pool."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Score from which a document is dropped, unless `recall` is given. Paper: 0.0105 and 0.5."""
    recall: float | None = Field(default=None, gt=0, le=1)
    """Share of the labelled hazard, not trained on, that must be caught. Sets the threshold."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Training with `recall`: share of each side's distinct texts held out."""
    ngrams: int = Field(default=2, ge=1, le=5)
    """Training: words in the longest n-gram."""
    buckets: int = Field(default=2**18, ge=2, le=2**26)
    """Training: weights; n-grams that share a bucket share a weight."""
    l2: float = Field(default=1e-3, gt=0)
    """Training: weight of the penalty on large weights."""
    rarity: float = Field(default=0.0, ge=0, le=4)
    """Training: how much more rare n-grams may weigh; 0 is not at all, 1 in proportion to their rarity."""
    epochs: int = Field(default=200, ge=1)
    """Training: most steps of the solver, each at least one pass over the pool."""
    label: str | int | None = None
    """Folder: name or number of the label that means hazard. None: the only one, or the last of two."""
    window: int | None = Field(default=None, ge=2)
    """Folder: tokens in a window, special ones included. None: as many as model and tokenizer take. Paper: 8,192."""
    overlap: int = Field(default=64, ge=0)
    """Folder: tokens that a window shares with the one before it. Paper: 0."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Folder: tokens in a run of the model, padding counted. None: 16,384 on a GPU, and 256 on a CPU, where more is no
    faster."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Folder: numbers that the model counts in. None: bfloat16 on a GPU, as the paper, and float32 on a CPU."""

    def resolved(self, folder: Path) -> Classifier:
        """With the place of the model made absolute, and looked at."""
        if self.model is None:
            return self
        place = Path(os.path.abspath(folder / self.model))
        if not place.exists():
            raise UserError(missing(place))
        return self.model_copy(update={"model": str(place)})

    def fit(self, pool: Corpus, rig: Rig) -> ClassifierScorer | SequenceScorer:
        if self.model is not None:
            scorer = self._given(Path(self.model))
            return scorer if self.recall is None else self._calibrated(scorer, pool, rig)
        pool.need("hazard", "benign")
        hazard, benign = sorted(texts(pool.hazard)), sorted(texts(pool.benign))
        if self.recall is None:
            return self._trained(hazard, benign)
        unseen_hazard, hazard = parted(hazard, self.held_out, "hazard")
        unseen_benign, benign = parted(benign, self.held_out, "benign")
        scorer = self._trained(hazard, benign)
        threshold = threshold_for(self.recall, scorer.scores(unseen_hazard))
        rig.log(
            threshold=threshold,
            held_out_recall=float(np.mean(scorer.scores(unseen_hazard) >= threshold)),
            held_out_benign_dropped=float(np.mean(scorer.scores(unseen_benign) >= threshold)),
        )
        return replace(scorer, threshold=threshold)

    def frozen(self, scorer: ClassifierScorer | SequenceScorer, folder: Path) -> Classifier:
        """These settings with what `fit` found: the threshold, and the linear model's weights as a file."""
        found = {"threshold": scorer.threshold, "recall": None}
        if isinstance(scorer, ClassifierScorer):
            plain = replace(scorer, threshold=type(self).model_fields["threshold"].default)
            plain.save(folder / "classifier.npz")  # the same bytes wherever the threshold is: a moved one reads no text
            found["model"] = "classifier.npz"
        return self.model_copy(update=found)

    def choices(self, pool: Corpus) -> Iterator[Classifier]:
        """The same with other ways to train it, for a policy to choose among; only these settings where they are set.

        Small pools of short texts are learned best from rare words and with little penalty; which way is best, held-out
        documents tell.
        """
        if self.model is not None or {"rarity", "l2"} & self.model_fields_set:
            yield self
        else:
            yield from (self.model_copy(update={"rarity": rarity, "l2": l2}) for rarity, l2 in WAYS)

    def _given(self, place: Path) -> ClassifierScorer | SequenceScorer:
        """The scorer that `model` names."""
        if not place.exists():
            raise UserError(missing(place))
        if not place.is_dir():
            return replace(ClassifierScorer.load(place), threshold=self.threshold)
        from ..engine import sequences

        cut = sequences.Cut(self.window, self.overlap, self.batch_tokens)
        return SequenceScorer(sequences.load(place, self.label, cut, self.dtype), self.threshold)

    def _calibrated(
        self, scorer: ClassifierScorer | SequenceScorer, pool: Corpus, rig: Rig
    ) -> ClassifierScorer | SequenceScorer:
        """The scorer with the threshold that catches enough of the pool's hazard."""
        sides = [scorer.measure(side)["score"].drop_null() for side in (pool.need("hazard").hazard, pool.benign)]
        hazard, benign = (side.to_numpy() for side in sides)
        if not len(hazard):
            raise UserError(
                f"classifier: {self.model} could measure none of the {pool.hazard.num_rows} hazard documents of the"
                " labelled pool, so there is no threshold for 'recall'. Give 'threshold' and no 'recall'."
            )
        threshold = threshold_for(float(self.recall or 0), hazard)
        rig.log(threshold=threshold, pool_recall=float(np.mean(hazard >= threshold)))
        if len(benign):
            rig.log(pool_benign_dropped=float(np.mean(benign >= threshold)))
        return replace(scorer, threshold=threshold)

    def _trained(self, hazard: Sequence[str], benign: Sequence[str]) -> ClassifierScorer:
        """The minimum of the module's formula."""
        from ._logistic import Way, trained

        found = trained(hazard, benign, Way(self.ngrams, self.buckets, self.l2, self.rarity, self.epochs))
        return ClassifierScorer(found.weights, found.bias, self.threshold, self.ngrams)


@dataclass(frozen=True, eq=False)
class ClassifierScorer:
    """A weight for each bucket, a bias, and the score from which a document is dropped."""

    weights: np.ndarray
    """float32, one for each bucket; cannot be written to."""
    bias: float
    threshold: float
    ngrams: int

    def __post_init__(self) -> None:
        self.weights.setflags(write=False)

    def measure(self, batch: Documents) -> Findings:
        """Terms are the five n-grams that speak most for hazard.

        Spans are theirs, every time they stand in the text; none where only Python could normalise it (`_linear.py`).
        """
        from ._linear import Model, weighed

        column = texts_of(batch)
        found = weighed(column, Model(self.weights, self.bias, self.ngrams))
        reasons = [f"p = {score:.2f}" for score in found.scores.to_numpy(zero_copy_only=False).tolist()]
        for row, error in found.errors.items():
            reasons[row] = cause(error, column[row].as_buffer().to_pybytes().decode(errors="ignore"))
        return pa.table([found.scores, pa.array(reasons, pa.string()), found.terms, found.spans], schema=FINDINGS)

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of hazard for each text."""
        from ._linear import Model, weighed

        return weighed(texts, Model(self.weights, self.bias, self.ngrams)).scores.to_numpy(zero_copy_only=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as `.npz`: plain arrays, no pickle."""
        whole = io.BytesIO()
        np.savez_compressed(
            whole,
            weights=self.weights,
            bias=np.array(self.bias),
            threshold=np.array(self.threshold),
            ngrams=np.array(self.ngrams),
        )
        write_atomically(path, whole.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassifierScorer:
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as saved:
                weights, bias, threshold = saved["weights"], float(saved["bias"]), float(saved["threshold"])
                ngrams = int(saved["ngrams"])
        except OSError as error:
            raise UserError(
                f"the classifier {path} cannot be read: {error.strerror}. Give the path of a file."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
            raise UserError(f"{path} is not a saved classifier. Save the scorer again.") from None
        numeric = weights.ndim == 1 and weights.size > 1 and weights.dtype == np.float32
        if not (numeric and np.isfinite(weights).all() and np.isfinite([bias, threshold]).all() and 1 <= ngrams <= 5):
            raise UserError(f"{path} holds weights that are not one row of finite numbers. Save the scorer again.")
        return cls(weights, bias, threshold, ngrams)


@dataclass(frozen=True, eq=False)
class SequenceScorer:
    """A sequence classifier, and the score from which a document is dropped."""

    judge: Judge
    threshold: float

    def measure(self, batch: Documents) -> Findings:
        """The one span is the highest window, where the tokenizer can tell; there are no terms."""
        rows: list[Finding] = []
        column = texts_of(batch)
        for text, verdict in zip(column, self.judge.verdicts(readable(column)), strict=True):
            if verdict.error is not None:
                raw = text.as_buffer().to_pybytes().decode(errors="ignore")
                rows.append(Finding(None, cause(verdict.error, raw)))
                continue
            reason = f"p = {verdict.score:.2f} in window {verdict.window + 1} of {verdict.windows}"
            spans = () if verdict.place is None else ((-1, *verdict.place),)
            rows.append(Finding(verdict.score, reason, spans=spans))
        return findings(rows)

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)


def below(findings: Findings, threshold: float) -> Mask:
    """Which scores are below the threshold. Where there is no score, nothing is decided, and nothing is kept."""
    return findings["score"].to_numpy() < threshold


def texts_of(batch: Documents) -> pa.ChunkedArray:
    """The column of texts as it is, or a `UserError` that names a document without one."""
    column = require(batch, ["text"], "the batch of documents")["text"]
    if column.null_count:
        texts(batch)  # says which
    return column.cast(pa.large_string())


def readable(column: pa.ChunkedArray) -> list[str | Exception]:
    """The texts, and in place of one that is not UTF-8 the error."""
    found: list[str | Exception] = []
    for text in column:
        try:
            found.append(text.as_py())
        except UnicodeDecodeError as error:
            found.append(error)
    return found


def missing(place: Path) -> str:
    return (
        f"there is no model {place}. Give the path of a saved linear classifier (.npz) or of a model folder, or leave"
        " 'model' out to train one on the labelled pool."
    )


def parted(texts: Sequence[str], share: float, side: str) -> tuple[list[str], list[str]]:
    """Texts held out and texts to learn from: copies together, at least one distinct text in each."""
    ranked = sorted({hashlib.sha256(text.encode()).digest() for text in texts})
    if len(ranked) < 2:
        raise UserError(
            f"classifier.recall needs two different {side} texts, one to learn from and one held out; the labelled pool"
            " has one. Label more, or give 'threshold' and no 'recall'."
        )
    unseen = set(ranked[: min(math.ceil(share * len(ranked)), len(ranked) - 1)])
    held = [hashlib.sha256(text.encode()).digest() in unseen for text in texts]
    return [t for t, h in zip(texts, held, strict=True) if h], [t for t, h in zip(texts, held, strict=True) if not h]


def threshold_for(recall: float, scores: np.ndarray) -> float:
    """The largest threshold that at least this share of the scores reaches."""
    return float(np.sort(scores)[::-1][math.ceil(recall * len(scores) - 1e-9) - 1])
