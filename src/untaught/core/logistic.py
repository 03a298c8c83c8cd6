"""Logistic regression for few examples of many numbers: both classes weigh the same, held-out groups set the strength.

    minimise  mean over classes of mean log(1 + exp(-y f))  +  strength |w|^2 / 2        f = <w, x> + b, y = +-1

by Newton's method in the span of the examples; of a grid of strengths the one is taken with the least loss on groups
that are held out in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
FOLDS, ROUNDS = 5, 30


@dataclass(frozen=True, eq=False)
class Linear:
    """p = 1 / (1 + exp(-(x . weights + bias)))."""

    weights: np.ndarray
    bias: float

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return _sigmoid(rows @ self.weights + self.bias)


def regressed(rows: np.ndarray, hits: np.ndarray, groups: np.ndarray) -> Linear:
    """A regression whose strength held-out groups choose; of equal ones the strongest."""
    kernel = rows @ rows.T
    folds = groups % FOLDS
    losses = []
    for strength in STRENGTHS:
        loss = 0.0
        for fold in range(FOLDS):
            inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if len({*hits[inside].tolist()}) == 2 and len(outside):
                dual, bias = _dual(kernel[np.ix_(inside, inside)], hits[inside], strength)
                found = kernel[np.ix_(outside, inside)] @ dual + bias
                loss += float(
                    (_weights(hits)[outside] * np.logaddexp(0, -np.where(hits[outside], found, -found))).sum()
                )
        losses.append(loss)
    best = min(range(len(STRENGTHS)), key=lambda index: (losses[index], -STRENGTHS[index]))
    dual, bias = _dual(kernel, hits, STRENGTHS[best])
    return Linear(rows.T @ dual, bias)


def _dual(kernel: np.ndarray, hits: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Newton's method for w = rows^T dual: each round solves a weighted ridge regression."""
    count, target, weight = len(hits), hits.astype(float), _weights(hits)
    dual, bias = np.zeros(count), 0.0
    for _ in range(ROUNDS):
        p = _sigmoid(kernel @ dual + bias)
        curve = np.maximum(weight * p * (1 - p), 1e-10)
        wanted = kernel @ dual + bias + weight * (target - p) / curve
        system: Any = np.zeros((count + 1, count + 1))
        system[:count, :count] = kernel + strength * np.diag(1 / curve)
        system[:count, count] = system[count, :count] = 1.0
        solved = np.linalg.solve(system, np.append(wanted, 0.0))
        step = float(np.abs(solved[:count] - dual).max(initial=0.0))
        dual, bias = solved[:count], float(solved[count])
        if step <= 1e-8 * max(1.0, float(np.abs(dual).max(initial=0.0))):
            break
    return dual, bias


def _weights(hits: np.ndarray) -> np.ndarray:
    """Both classes weigh a half."""
    return np.where(hits, 0.5 / max(hits.sum(), 1), 0.5 / max((~hits).sum(), 1))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))
