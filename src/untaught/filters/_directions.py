"""Directions in a space of states: where it varies most, and what parts two kinds of example.

All of it is in float64 and gives the same bits for the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Blocks: TypeAlias = Callable[[], Iterator[np.ndarray]]
"""Rows of states, (rows, width) at a time; called anew for each pass over them."""
OVERSAMPLED, PASSES = 12, 6
EXACT, WIDE = 2**25, 1024
"""Most numbers, and most rows or columns, that are decomposed exactly where few directions are wanted."""


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


# -- a space to learn in -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Space:
    """Some principal components of rows whose every coordinate was brought to mean 0 and standard deviation 1."""

    mean: np.ndarray
    scale: np.ndarray
    """(width,), both."""
    basis: np.ndarray
    """(components, width), of length 1."""

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """Where rows (n, width) are in it: (n, components)."""
        return projected((rows - self.mean) / self.scale, self.basis)

    def outside(self, direction: np.ndarray) -> np.ndarray:
        """The direction of rows (width,) whose inner product is that with this one inside, but for a constant."""
        return direction @ self.basis / self.scale


def space(blocks: Blocks, components: int, draws: np.random.Generator) -> Space:
    """The space of the components that vary most, or of as many as there are."""
    mean, scale, count = standard(blocks)
    width = len(mean)

    def scaled() -> Iterator[np.ndarray]:
        return ((block - mean) / scale for block in blocks())

    if count * width <= EXACT and min(count, width) <= WIDE:
        _, basis = top(np.concatenate(list(scaled())), min(components, count - 1, width))
    else:
        _, basis = top_of_many(scaled, min(components, count - 1, width), draws)
    return Space(mean, scale, basis)


def standard(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and standard deviation of each coordinate, (width,), and how many rows there are; a block at a time.

    A coordinate that hardly varies counts as one that varies a millionth as much as the others.
    """
    count, total = 0, np.zeros(1)
    for block in blocks():
        count, total = count + len(block), total + block.sum(0)
    mean = total / count
    squares = sum((np.square(block - mean).sum(0) for block in blocks()), np.zeros(len(mean)))
    spread = np.sqrt(squares / count)
    least = 1e-6 * float(np.sqrt(np.square(spread).mean()))
    return mean, np.maximum(spread, least) if least else np.ones(len(mean)), count
