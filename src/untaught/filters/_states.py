"""Scorers that look at the states a model has while it reads an example; the states of a pool, however many."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..core import Documents, Findings, Mask, Subject, UserError
from ._examples import below, told

if TYPE_CHECKING:
    from ..engine.features import Features, Pooling

HELD = 2**28
"""Bytes of a pool's states that are held in memory as they are; of more, a file and a block at a time."""
ROWS = 4096
"""Examples whose states are looked at together."""

Rule = Callable[[np.ndarray], np.ndarray]
"""States (examples, layers, width) in float64 to scores (examples,); an example's score depends on its own states."""


@dataclass(frozen=True)
class Look:
    """Which states of which model are looked at."""

    subject: Subject
    layers: tuple[int, ...]
    """Indices of blocks."""
    pooling: Pooling
    length: int | None

    @classmethod
    def of(cls, subject: Subject, settings: Any) -> Look:
        """As a filter's settings `layers` (or `layer`), `pooling` and `length` say."""
        from ..engine.features import depths

        given = settings.layers if hasattr(settings, "layers") else (settings.layer,)
        return cls(subject, tuple(depths(subject, given)), settings.pooling, settings.length)

    def at(self, docs: Documents) -> Features:
        """The states of documents."""
        from ..engine.features import features

        return features(self.subject, docs, self.layers, self.pooling, self.length)

    def known(self, docs: Documents, what: str) -> np.ndarray:
        """States (examples, layers, width), float64, of examples that are known for what they are.

        All of them have some, or a `UserError` names the first that has not.
        """
        found = self.at(docs)
        for id, cause in zip(docs["id"].to_pylist(), found.causes, strict=True):
            if cause is not None:
                raise UserError(
                    f"{what}: the example '{id}' cannot be learned from: {cause}. Mend it, or leave it out."
                )
        return found.values.astype(np.float64)

    @contextmanager
    def pool(self, docs: Documents) -> Iterator[States]:
        """The states of a pool, without the examples that have none."""
        with tempfile.TemporaryDirectory() as folder:
            yield gathered(self._blocks(docs), Path(folder))

    def _blocks(self, docs: Documents) -> Iterator[np.ndarray]:
        for first in range(0, docs.num_rows, ROWS):
            found = self.at(docs.slice(first, ROWS))
            yield found.values[found.sound]


@dataclass(frozen=True)
class States:
    """States of a pool, in memory or in a file."""

    values: np.ndarray
    """float32, (examples, layers, width); may be a map of a file."""

    @property
    def small(self) -> bool:
        """Whether all of them are held at once, as float64 too."""
        return not isinstance(self.values, np.memmap)

    def __len__(self) -> int:
        return len(self.values)

    def blocks(self) -> Iterator[np.ndarray]:
        """Some examples at a time, in float64, always the same ones together."""
        for first in range(0, len(self.values), ROWS):
            yield self.values[first : first + ROWS].astype(np.float64)

    def scores(self, rule: Rule) -> np.ndarray:
        """What a rule gives each."""
        return np.concatenate([rule(block) for block in self.blocks()] or [np.zeros(0)])


def gathered(blocks: Iterator[np.ndarray], folder: Path) -> States:
    """Blocks (examples, layers, width) together: in memory up to `HELD` bytes, from there on in a file in `folder`."""
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.nbytes
        if size > HELD:
            return _filed(held, blocks, folder / "states")
    return States(np.concatenate(held) if held else np.zeros((0, 1, 1), np.float32))


def _filed(held: list[np.ndarray], more: Iterator[np.ndarray], path: Path) -> States:
    shape, count = held[0].shape[1:], 0
    with path.open("wb") as file:
        while held:
            block = held.pop(0)
            count += len(block)
            block.astype(np.float32).tofile(file)
        for block in more:
            count += len(block)
            block.astype(np.float32).tofile(file)
    return States(np.memmap(path, np.float32, "r", shape=(count, *shape)))


@dataclass(frozen=True, eq=False)
class StateScorer:
    """A rule for states, and the score from which an example is dropped."""

    look: Look
    rule: Rule
    threshold: float | None
    says: str
    """What a score is, as `str.format` takes it."""

    def measure(self, batch: Documents) -> Findings:
        found = self.look.at(batch)
        return told(self.rule(found.values.astype(np.float64)), found.causes, self.says)

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)


# -- rules -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranks:
    """Mean over layers of the share of a pool that scores lower: of 1 all does, on every layer.

    A layer's score is the state's inner product with its direction. Layers differ in scale, ranks do not.
    """

    directions: np.ndarray
    """float64, (layers, width)."""
    reference: np.ndarray
    """float64, (layers, n): scores of the pool, sorted."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        return self.of(scores_by_layer(states, self.directions))

    def of(self, scores: np.ndarray) -> np.ndarray:
        """From scores (examples, layers)."""
        found = []
        for own, known in zip(scores.T, self.reference, strict=True):
            places = np.searchsorted(known, own, "left") + np.searchsorted(known, own, "right")
            found.append(places / (2 * len(known)))
        return np.mean(found, 0)


def scores_by_layer(states: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Inner product of each state with its layer's direction: (examples, layers)."""
    return (states * directions).sum(-1)


KNOTS = 10_001
"""Most scores of a pool that ranks are told by."""


def ranks(directions: np.ndarray, states: States) -> Ranks:
    """The rule that ranks by these directions among the states of a pool."""
    found = np.concatenate([scores_by_layer(block, directions) for block in states.blocks()])
    ordered = np.sort(found, 0).T
    if ordered.shape[1] > KNOTS:
        ordered = np.quantile(found, np.linspace(0, 1, KNOTS), axis=0, method="nearest").T
    return Ranks(directions, np.ascontiguousarray(ordered))


def taken(docs: Documents, rows: Sequence[int] | np.ndarray) -> Documents:
    """Some documents."""
    return docs.take(pa.array(rows, pa.int64()))
