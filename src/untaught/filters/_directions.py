"""Directions in a space of states: where it varies most, and what parts two kinds of example.

All of it is in float64 and gives the same bits for the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

Blocks: TypeAlias = Callable[[], Iterator[np.ndarray]]
"""Rows of states, (rows, width) at a time; called anew for each pass over them."""
OVERSAMPLED, PASSES = 12, 6


def projected(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Inner products of rows (n, width) with directions (k, width): (n, k). A row's are its own, in any company."""
    return np.stack([(rows * direction).sum(-1) for direction in directions], -1)


def top(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of rows (n, width), and the k directions in which they vary most, as rows of (k, width): exactly."""
    mean = rows.mean(0)
    _, _, directions = np.linalg.svd(rows - mean, full_matrices=False)
    return mean, signed(directions[:k])


def top_of_many(blocks: Blocks, k: int, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same of any number of rows, a block at a time: memory for a block and for (width, k + 12) numbers.

    Randomised subspace iteration: Q <- orth(Z^T Z Q), from a random Q, with Z the centred rows, six passes over them;
    the directions are those of the small matrix Z Q. Halko, Martinsson and Tropp 2011, algorithm 4.4.
    """
    total, count = None, 0
    for block in blocks():
        total = block.sum(0, dtype=np.float64) if total is None else total + block.sum(0, dtype=np.float64)
        count += len(block)
    if total is None:
        raise ValueError("no rows")
    mean = total / count
    basis = np.linalg.qr(draws.standard_normal((len(mean), min(k + OVERSAMPLED, len(mean)))))[0]
    for _ in range(PASSES):
        image = np.zeros_like(basis)
        for block in blocks():
            centred = block - mean
            image += centred.T @ (centred @ basis)
        basis = np.linalg.qr(image)[0]
    inner = np.zeros((basis.shape[1],) * 2)
    for block in blocks():
        small = (block - mean) @ basis
        inner += small.T @ small
    _, vectors = np.linalg.eigh(inner)
    return mean, signed((basis @ vectors[:, ::-1][:, :k]).T)


def signed(directions: np.ndarray) -> np.ndarray:
    """The directions with their largest coordinate positive: a singular vector's sign is chance."""
    largest = np.abs(directions).argmax(1)
    return directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]


def explained(rows: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of rows (n, width) that lies between the means of groups (n,)."""
    centred = rows - rows.mean(0)
    between = sum((groups == one).sum() * np.square(centred[groups == one].mean(0)).sum() for one in np.unique(groups))
    whole = np.square(centred).sum()
    return float(between / whole) if whole else 0.0


def lda(hazard: np.ndarray, benign: np.ndarray, shrinkage: float) -> np.ndarray:
    """The direction that parts two kinds, (width,), from their rows: linear discriminant analysis with shrinkage.

        w = ((1 - s) S + s tr(S)/d I)^-1 (mean hazard - mean benign)        S = mean of the two kinds' covariances

    Fisher 1936; shrinkage towards a multiple of the identity as Friedman 1989.
    """
    means = hazard.mean(0), benign.mean(0)
    apart = hazard - means[0], benign - means[1]
    spread = (apart[0].T @ apart[0] / len(hazard) + apart[1].T @ apart[1] / len(benign)) / 2
    width = spread.shape[0]
    level = max(float(np.trace(spread)) / width, 1e-12)
    return np.linalg.solve((1 - shrinkage) * spread + shrinkage * level * np.eye(width), means[0] - means[1])
