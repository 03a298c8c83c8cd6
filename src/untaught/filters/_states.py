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

from ..core import Corpus, Documents, Findings, Mask, Subject, UserError
from ._examples import WORD, below, different, enough, names, ordered, told

if TYPE_CHECKING:
    from ..engine.features import Features, Pooling

HELD = 2**26
"""Bytes of a pool's states that are held in memory as they are; of more, a file and a block at a time."""
ROWS = 4096
"""Examples whose states are looked at together."""
FEW = 100
"""Examples of a pool below which the labelled ones are looked at with it."""
READ = ("id", "text", "messages")
"""Columns that an example is read from."""

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

    def rows(self, docs: Documents, side: str, least: int = 1) -> np.ndarray:
        """States (examples, layers, width), float64, of the labelled examples of a side, without those that have none.

        When fewer than `least` are left, a `UserError` says how many there are, or why the first of them has none.
        """
        enough(docs, side, least)
        docs = ordered(docs)
        found = self.at(docs)
        if found.sound.sum() < least:
            self.known(docs, f"the examples known to be {WORD[side]}")
        return found.values[found.sound].astype(np.float64)

    def sides(self, pool: Corpus, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The states of the labelled examples: harmful, clean. A `UserError` when they are all alike."""
        both = self.rows(pool.hazard, "hazard", least), self.rows(pool.benign, "benign", least)
        if len({*names(pool.hazard), *names(pool.benign)}) == 1:
            raise UserError(
                f"the {pool.hazard.num_rows} examples known to be harmful and the {pool.benign.num_rows} known to be"
                " clean are one and the same. Give harmful examples that differ from the clean ones."
            )
        return both

    @contextmanager
    def pool(self, docs: Documents) -> Iterator[States]:
        """The states of a pool, without the examples that have none; there are at least two that have some."""
        with tempfile.TemporaryDirectory() as folder:
            states = gathered(self._blocks(docs), Path(folder))
            if len(states) < 2:
                causes = [cause for cause in self.at(docs.slice(0, ROWS)).causes if cause is not None]
                raise UserError(
                    f"of {docs.num_rows} examples of the pool {len(states)} can be looked at, and at least 2 are"
                    f" needed. The first cause: {causes[0] if causes else 'there is no example'}. Mend the data, set"
                    " 'length', or take another model."
                )
            yield states

    @contextmanager
    def background(self, pool: Corpus, wanted: int = FEW) -> Iterator[tuple[States, States]]:
        """The states of a pool; where it has fewer examples than are wanted, of the labelled ones too.

        And the pool's own once more; where there is no pool, all.
        """
        docs = different(pool.unlabelled, 2, "the pool") if pool.unlabelled.num_rows else pool.unlabelled
        if docs.num_rows >= wanted:
            with self.pool(docs) as states:
                yield states, states
            return
        parts = [part.select([n for n in READ if n in part.column_names]) for part in (docs, pool.hazard, pool.benign)]
        with self.pool(ordered(pa.concat_tables(parts, promote_options="default"))) as states:
            if docs.num_rows == 0:
                yield states, states
                return
            with self.pool(docs) as own:
                yield states, own

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
            yield self._part(first).astype(np.float64)

    def layer(self, place: int) -> Iterator[np.ndarray]:
        """The same of one layer: (examples, width)."""
        for first in range(0, len(self.values), ROWS):
            yield self._part(first)[:, place].astype(np.float64)

    def _part(self, first: int) -> np.ndarray:
        """Some examples; of a file a map of these alone, so that what was read does not stay in memory."""
        if not isinstance(self.values, np.memmap):
            return self.values[first : first + ROWS]
        shape = (min(ROWS, len(self.values) - first), *self.values.shape[1:])
        return np.memmap(str(self.values.filename), np.float32, "r", first * self.values.strides[0], shape)

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
        return mean_rank(scores, self.reference)


def mean_rank(scores: np.ndarray, references: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mean over columns of scores (examples, columns) of the share of a column's reference, sorted, that is lower.

    What is equal counts half.

    >>> mean_rank(np.array([[2.0, 5.0], [0.0, 1.0]]), [np.array([1.0, 2.0]), np.array([1.0, 3.0, 4.0, 4.5])])
    array([0.875 , 0.0625])
    """
    found = []
    for own, known in zip(scores.T, references, strict=True):
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
    return Ranks(directions, among(states, lambda block: scores_by_layer(block, directions)))


def among(states: States, score: Rule) -> np.ndarray:
    """What a rule gives the states of a pool, sorted, as `knots`. The rule gives (examples, columns)."""
    return knots(np.concatenate([score(block) for block in states.blocks()]))


def knots(scores: np.ndarray) -> np.ndarray:
    """Each column of scores (examples, columns) sorted, and of many as many as tell ranks: (columns, at most KNOTS)."""
    if len(scores) > KNOTS:
        return np.ascontiguousarray(np.quantile(scores, np.linspace(0, 1, KNOTS), axis=0, method="nearest").T)
    return np.ascontiguousarray(np.sort(scores, 0).T)


def taken(docs: Documents, rows: Sequence[int] | np.ndarray) -> Documents:
    """Some documents."""
    return docs.take(pa.array(rows, pa.int64()))
