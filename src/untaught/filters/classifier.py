"""Classifier: a linear model on hashed word n-grams. Small, fast on a CPU, and the same bits on every run.

A document is the set of buckets that its runs of 1 to `ngrams` words hash to, every bucket equally heavy, scaled to
length 1. Its score is the modelled probability that it is hazard, and it is kept when score < threshold:

    x_j = 1 / sqrt(number of buckets) for each bucket j of the document          score = 1 / (1 + exp(-(w.x + b)))

w and b minimise the logistic loss, both sides weighing the same however unequal they are, so that imbalance does not
move the threshold:

    1/2 mean over hazard of log(1 + exp(-(w.x + b)))  +  1/2 mean over benign of log(1 + exp(w.x + b))  +  l2/2 |w|^2

With a wanted `recall`, part of the pool is held out, and the threshold is the largest that catches at least that share
of the hazard held out. Which texts are held out is told by their digests and copies stay together, so neither order
nor chance has a say. Words are those of `_words.py`; a word's hash is its CRC-32, the same on every machine.

Paper: O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601, second stage of the filter.
Differs from it: theirs fine-tunes ModernBERT-large on 198,184 labelled or rewritten documents, scores windows of 8,192
tokens, and drops a document when any window is strictly above the threshold; ours sees words and no meaning, gives one
score to the whole document, and drops from the threshold on. A long document dilutes a short hazardous passage.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import FINDINGS, Corpus, Documents, Findings, Mask, Rig, Settings, UserError
from ..corpus.writing import write_atomically
from ._minimum import minimum
from ._words import WORD, normalise, texts

ROLL, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
"""Odd constants: one chains the words of an n-gram, the other spreads the result over the buckets."""
TOP = 5
"""N-grams that a finding names."""


class Classifier(Settings):
    """Logistic regression on hashed word n-grams."""

    ngrams: int = Field(default=2, ge=1, le=5)
    """Words in the longest n-gram."""
    buckets: int = Field(default=2**18, ge=2, le=2**26)
    """Weights; n-grams that share a bucket share a weight."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Score from which a document is dropped, unless `recall` is given. Paper: 0.0105 and 0.5."""
    recall: float | None = Field(default=None, gt=0, le=1)
    """Share of the held-out hazard that must be caught. Sets the threshold."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of each side's distinct texts held out when `recall` is given."""
    l2: float = Field(default=1e-3, gt=0)
    """Weight of the penalty on large weights."""
    epochs: int = Field(default=200, ge=1)
    """Most steps of the solver, each at least one pass over the pool."""

    def fit(self, pool: Corpus, rig: Rig) -> ClassifierScorer:
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
        return ClassifierScorer(scorer.weights, scorer.bias, threshold, self.ngrams)

    def _trained(self, hazard: Sequence[str], benign: Sequence[str]) -> ClassifierScorer:
        """The minimum of the module's formula."""
        features = [np.unique(hashed(words_of(text), self.ngrams, self.buckets)) for text in (*hazard, *benign)]
        sizes = np.array([len(f) for f in features])
        rows = np.repeat(np.arange(len(sizes)), sizes)
        used, columns = np.unique(np.concatenate(features), return_inverse=True)
        values = 1 / np.sqrt(sizes[rows])
        sign = np.repeat([1.0, -1.0], [len(hazard), len(benign)])
        share = np.repeat([0.5 / len(hazard), 0.5 / len(benign)], [len(hazard), len(benign)])

        def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
            weights, bias = point[:-1], point[-1]
            margin = sign * (np.bincount(rows, values * weights[columns], minlength=len(sizes)) + bias)
            pull = -sign * share * np.exp(-np.logaddexp(0, margin))
            slope = np.bincount(columns, values * pull[rows], minlength=len(used)) + self.l2 * weights
            value = float((share * np.logaddexp(0, -margin)).sum() + self.l2 / 2 * (weights * weights).sum())
            return value, np.append(slope, pull.sum())

        point = minimum(loss, np.zeros(len(used) + 1), self.epochs)
        weights = np.zeros(self.buckets, np.float32)
        weights[used] = point[:-1]
        return ClassifierScorer(weights, float(point[-1]), self.threshold, self.ngrams)


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
        found = [self._score(words_of(text)) for text in texts(batch)]
        scores = [score for score, _ in found]
        reasons, spans = [f"p = {score:.2f}" for score in scores], [[] for _ in found]
        return pa.table([scores, reasons, [top for _, top in found], spans], schema=FINDINGS)

    def keep(self, findings: Findings) -> Mask:
        return findings["score"].to_numpy() < self.threshold

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of hazard for each text."""
        return np.array([self._score(words_of(text))[0] for text in texts])

    def _score(self, words: list[str]) -> tuple[float, list[str]]:
        """Probability of hazard, and the n-grams that speak most for it. The sum is exact, so no order shows in it."""
        places, first = np.unique(hashed(words, self.ngrams, len(self.weights)), return_index=True)
        parts = self.weights[places].astype(np.float64) / math.sqrt(max(len(places), 1))
        logit = math.fsum(parts) + self.bias
        score = 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
        top = [int(first[i]) for i in np.argsort(-parts, kind="stable")[:TOP] if parts[i] > 0]
        return score, [ngram_at(words, place) for place in top]

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
        if weights.ndim != 1 or not np.isfinite([bias, threshold, *weights]).all():
            raise UserError(f"{path} holds weights that are not one row of finite numbers. Save the scorer again.")
        return cls(weights, bias, threshold, ngrams)


def words_of(text: str) -> list[str]:
    return WORD.findall(normalise(text))


def hashed(words: list[str], ngrams: int, buckets: int) -> np.ndarray:
    """The bucket of every n-gram: all single words in order, then all pairs, and so on."""
    single = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    rolled, every = single, [single]
    for length in range(2, ngrams + 1):
        rolled = rolled[:-1] * ROLL + single[length - 1 :]
        every.append(rolled)
    return (np.concatenate(every) * SPREAD >> np.uint64(32)) % np.uint64(buckets)


def ngram_at(words: list[str], place: int) -> str:
    """The n-gram at a place in the order of `hashed`."""
    length = 1
    while place > len(words) - length:
        place -= len(words) - length + 1
        length += 1
    return " ".join(words[place : place + length])


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
