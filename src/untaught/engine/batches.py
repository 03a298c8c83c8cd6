"""Batches of token ids, and endless streams of them drawn with a generator one can point to.

Documents may have a column `masked`: spans of their text that training is to see and not to learn. A token that
overlaps such a span stays in the batch as context and is left out of the loss:

    counted(token) = no span [start, stop) of its document with  first < stop  and  start < last + 1

where first and last are the token's first and last character. Tokens that stand for no text are always counted. Rows in
which nothing is left to learn are dropped. Without the column, or with nothing in it, all is as if it did not exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..core import Documents, UserError


@dataclass(frozen=True)
class Batch:
    """Token ids and a mask that is 1 on real tokens, both (batch, time); padding is on the right."""

    ids: Tensor
    mask: Tensor
    counted: Tensor | None = None
    """True on tokens that a loss is to count, (batch, time); None counts every real token."""
    rows: tuple[int, ...] = ()
    """Which rows of their `Rows` these are; empty where nothing is kept by row."""
    whole: Batch | None = None
    """The batch that this one is a part of."""
    blank: bool = False
    """It stands for no row of the whole and adds nothing to it: there were more parts than rows."""

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    @property
    def examples(self) -> int:
        return len(self.ids)

    @property
    def weight(self) -> Tensor:
        """1 on the tokens that a loss counts: all that are real and counted, but for the first, (batch, time - 1)."""
        return (self.mask if self.counted is None else self.mask * self.counted)[:, 1:]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values (batch, time - 1), one for each token but the first, over the tokens that count; 0 if none do.

        Of a part of a batch, what it adds to the whole's mean: the parts' means add up to the mean of the whole. A loss
        made of these is the same whether a batch goes through at once, in parts, or over several processes.
        """
        counted = values.masked_fill(self.weight == 0, 0.0)
        return self._real(counted).sum() / (self.whole or self).weight.sum().clamp(min=1)

    def mean_of_rows(self, values: Tensor) -> Tensor:
        """Mean of values (batch,), one for each row. Of a part, what it adds to the whole's mean."""
        return self._real(values).sum() / (self.whole or self).examples

    def parts(self, count: int) -> list[Batch]:
        """`count` parts of like size, in order. Padding that a part does not need is cut off.

        Where there are fewer rows than parts, the last parts are `blank`: a row to compute with, that adds nothing.
        """
        if count == 1:
            return [self]
        edges = np.linspace(0, self.examples, min(count, self.examples) + 1).round().astype(int).tolist()
        made = [self._part(slice(first, last)) for first, last in itertools.pairwise(edges)]
        return made + [replace(made[0]._part(slice(0, 1)), blank=True)] * (count - len(made))

    def _real(self, values: Tensor) -> Tensor:
        """The values, or zeros that still hang on them where no row is meant."""
        return values.masked_fill(torch.ones_like(values, dtype=torch.bool), 0.0) if self.blank else values

    def _part(self, rows: slice) -> Batch:
        mask = self.mask[rows]
        width = int(mask.sum(1).max())
        counted = None if self.counted is None else self.counted[rows, :width]
        return Batch(self.ids[rows, :width], mask[:, :width], counted, self.rows[rows], self.whole or self, self.blank)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if self.ids.device == device:
            return self
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved, whole=None if self.whole is None else self.whole.to(device))


class Rows:
    """The documents of a set as rows of token ids, and batches of them."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, docs: Documents, length: int, *, masks: bool = False
    ) -> None:
        """Encode documents, cut at `length` tokens.

        The column `masked` is heeded where `masks` says so: what trains for good may leave text out of its loss; what
        unlearns or attacks takes all of it.
        """
        rows = encode(tokenizer, docs["text"].to_pylist(), length)
        self._keep(tokenizer, rows, counted(tokenizer, docs, rows) if masks else None)

    @classmethod
    def of_ids(
        cls, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], marks: Sequence[np.ndarray]
    ) -> Rows:  # fmt: skip
        """Rows that are token ids already, and which tokens of each a loss counts."""
        made = cls.__new__(cls)
        made._keep(tokenizer, rows, marks)
        return made

    def _keep(
        self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], kept: Sequence[np.ndarray] | None
    ) -> None:  # fmt: skip
        """What there is to learn from: rows in which a loss counts no token are left out."""
        if kept is not None and all(marks.all() for marks in kept):
            kept = None
        if kept is not None:
            taught = [index for index, marks in enumerate(kept) if marks[1:].any()]
            rows, kept = [rows[i] for i in taught], [kept[i] for i in taught]
        self.ids, self.counted, self.filler = rows, kept, pad_id(tokenizer)
        self.together: dict[int, tuple[int, ...]] = {}
        """Row to the rows that were drawn for the first time with it."""

    def batch(self, chosen: Sequence[int]) -> Batch:
        """These rows."""
        plain = pad([self.ids[i] for i in chosen], self.filler)
        marks = None if self.counted is None else _padded([self.counted[i] for i in chosen])
        return replace(plain, counted=marks, rows=tuple(chosen))

    def stream(self, *, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of `size` rows for ever: every row once, in a new order, then again."""
        lengths = [len(row) for row in self.ids]
        for chosen in _orders(len(self.ids), size, generator, lengths):
            new = tuple(row for row in dict.fromkeys(chosen) if row not in self.together)
            self.together.update(dict.fromkeys(new, new))
            yield self.batch(chosen)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> list[list[int]]:
    """Token ids of each text with the tokenizer's own special tokens, an end token, cut at `length`."""
    end = tokenizer.eos_token_id
    rows = tokenizer(list(texts), add_special_tokens=True)["input_ids"] if len(texts) else []
    return [(row + [end] if end is not None else row)[:length] for row in rows]


def counted(
    tokenizer: PreTrainedTokenizerBase, docs: Documents, rows: Sequence[Sequence[int]]
) -> list[np.ndarray] | None:
    """For each token of the encoded documents whether a loss is to count it; None when nothing is masked."""
    if "masked" not in docs.column_names:
        return None
    spans = [[(span["start"], span["stop"]) for span in given or ()] for given in docs["masked"].to_pylist()]
    if not any(spans):
        return None
    if not tokenizer.is_fast:
        raise UserError(
            "spans of text are masked, and this tokenizer cannot say which token stands where. Give a fast one."
        )
    marked = [index for index, given in enumerate(spans) if given]
    texts = docs["text"].take(marked).to_pylist()
    offsets = tokenizer(texts, add_special_tokens=True, return_offsets_mapping=True)["offset_mapping"]
    found = [np.ones(len(row), dtype=bool) for row in rows]
    for index, places in zip(marked, offsets, strict=True):
        hit = overlapping(np.array(places, dtype=np.int64).reshape(-1, 2), spans[index])[: len(rows[index])]
        found[index][: len(hit)] = ~hit
    return found


def overlapping(places: np.ndarray, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Which of these places, (n, 2) with start and stop, overlap a span. An empty span overlaps nothing.

    >>> overlapping(np.array([[0, 3], [3, 7], [7, 8]]), [(2, 4), (7, 7)]).tolist()
    [True, True, False]
    """
    hit = np.zeros(len(places), dtype=bool)
    for start, stop in spans:
        if start < stop:
            hit |= (places[:, 0] < stop) & (start < places[:, 1])
    return hit


def pack(
    tokenizer: PreTrainedTokenizerBase, docs: Documents, length: int, *, idle: bool = False
) -> tuple[Tensor, Tensor | None]:
    """All documents end to end, cut into rows: (rows, length), and which tokens count (None: all).

    What does not fill a last row is left out, and so are rows in which no token counts, unless `idle` asks for them.
    """
    encoded = encode(tokenizer, docs["text"].to_pylist(), length=10**9)
    ids = [token for row in encoded for token in row]
    rows = len(ids) // length
    if rows == 0:
        raise UserError(f"the corpus has {len(ids)} tokens, fewer than one row of {length}. Give more text.")
    packed = torch.tensor(ids[: rows * length]).view(rows, length)
    kept = counted(tokenizer, docs, encoded)
    if kept is None:
        return packed, None
    marks = torch.from_numpy(np.concatenate(kept)[: rows * length]).view(rows, length)
    taught = marks[:, 1:].any(1) | idle  # the first token of a row has nothing before it, and no loss
    return packed[taught], marks[taught]


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Rows of different lengths as one batch."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return Batch(ids, mask)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What to pad with; it is masked out everywhere, so any token serves."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)


def _padded(marks: Sequence[np.ndarray]) -> Tensor:
    """Marks of different lengths as one tensor; padding is not counted."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in marks], batch_first=True)


def packed_stream(
    rows: Tensor, counted: Tensor | None = None, *, size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches of `size` packed rows for ever, in a new order each time round."""
    for chosen in _orders(len(rows), size, generator):
        ids = rows[chosen]
        yield Batch(ids, torch.ones_like(ids), None if counted is None else counted[chosen])


WINDOW = 16
"""Batches of an order that are sorted by length together: rows of like length share a batch, and little is padding."""


def _orders(
    count: int, size: int, generator: torch.Generator, lengths: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Index lists of `size`, running through one random order after another.

    With `lengths`, rows within each `WINDOW` of batches are sorted by length, and these batches come in random order.
    """
    if count == 0:
        raise UserError("there are no documents to train on, or all of their text is masked. Give some text.")
    left: list[int] = []
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        if left:
            left, order = left + order[: size - len(left)], order[size - len(left) :]
            if len(left) < size:
                continue
            yield left
        whole = len(order) // size * size
        for first in range(0, whole, size * WINDOW):
            window = order[first : min(first + size * WINDOW, whole)]
            turns = list(range(len(window) // size))
            if lengths is not None:
                window.sort(key=lengths.__getitem__)
                turns = torch.randperm(len(turns), generator=generator).tolist()
            yield from (window[turn * size : (turn + 1) * size] for turn in turns)
        left = order[whole:]
