"""Logistic regression on hashed n-grams, both sides weighing the same: the formula of `classifier.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._linear import Model, features
from ._minimum import minimum


class Way(NamedTuple):
    """How it is trained."""

    ngrams: int
    """Words in the longest n-gram."""
    buckets: int
    """Weights; n-grams that share a bucket share a weight."""
    l2: float
    """Weight of the penalty on large weights."""
    rarity: float
    """How much more rare n-grams may weigh."""
    epochs: int
    """Most steps of the solver."""


def trained(hazard: Sequence[str], benign: Sequence[str], way: Way) -> Model:
    """The minimum of the formula, on texts of both sides."""
    found = features([*hazard, *benign], way.ngrams, way.buckets)
    sizes = np.array([len(f) for f in found])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    used, columns = np.unique(np.concatenate(found), return_inverse=True)
    rare = (1 + np.log((1 + len(sizes)) / (1 + np.bincount(columns)))) ** way.rarity
    values = rare[columns] / np.sqrt(sizes[rows])
    sign = np.repeat([1.0, -1.0], [len(hazard), len(benign)])
    share = np.repeat([0.5 / len(hazard), 0.5 / len(benign)], [len(hazard), len(benign)])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = point[:-1], point[-1]
        margin = sign * (np.bincount(rows, values * weights[columns], minlength=len(sizes)) + bias)
        pull = -sign * share * np.exp(-np.logaddexp(0, margin))
        slope = np.bincount(columns, values * pull[rows], minlength=len(used)) + way.l2 * weights
        value = float((share * np.logaddexp(0, -margin)).sum() + way.l2 / 2 * (weights * weights).sum())
        return value, np.append(slope, pull.sum())

    point = minimum(loss, np.zeros(len(used) + 1), way.epochs)
    weights = np.zeros(way.buckets, np.float32)
    weights[used] = rare * point[:-1]
    return Model(weights, float(point[-1]), way.ngrams)
