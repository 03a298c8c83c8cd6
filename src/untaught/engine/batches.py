"""Batches of token ids, and endless streams of them drawn with a generator one can point to.

Documents may have a column `masked`: spans of their text that training is to see and not to learn. A token that
overlaps such a span stays in the batch as context and is left out of the loss:

    counted(token) = no span [start, stop) of its document with  first < stop  and  start < last + 1

where first and last are the token's first and last character. Tokens that stand for no text are always counted. Rows in
which nothing is left to learn are dropped. Without the column, or with nothing in it, all is as if it did not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..core import Corpus, Documents, Rig, UserError


@dataclass(frozen=True)
class Batch:
    """Token ids and a mask that is 1 on real tokens, both (batch, time); padding is on the right."""

    ids: Tensor
    mask: Tensor
    counted: Tensor | None = None
    """True on tokens that a loss is to count, (batch, time); None counts every real token."""

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    @property
    def examples(self) -> int:
        return len(self.ids)


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


def pack(tokenizer: PreTrainedTokenizerBase, docs: Documents, length: int) -> tuple[Tensor, Tensor | None]:
    """All documents end to end, cut into rows: (rows, length), and which tokens count (None: all).

    What does not fill a last row is left out.
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
    taught = marks[:, 1:].any(1)  # the first token of a row has nothing before it, and no loss
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


def stream(
    tokenizer: PreTrainedTokenizerBase,
    docs: Documents,
    *,
    size: int,
    length: int,
    generator: torch.Generator,
    masks: bool = False,
) -> Iterator[Batch]:
    """Batches of `size` documents for ever: every document once in a new order, then again.

    The column `masked` is heeded where `masks` says so: what trains for good may leave text out of its loss; what
    unlearns or attacks takes all of it.
    """
    rows = encode(tokenizer, docs["text"].to_pylist(), length)
    kept = counted(tokenizer, docs, rows) if masks else None
    if kept is not None:
        taught = [index for index, marks in enumerate(kept) if marks[1:].any()]
        rows, kept = [rows[i] for i in taught], [kept[i] for i in taught]
    filler = pad_id(tokenizer)
    for chosen in _orders(len(rows), size, generator):
        batch = pad([rows[i] for i in chosen], filler)
        yield batch if kept is None else replace(batch, counted=_padded([kept[i] for i in chosen]))


def _padded(marks: Sequence[np.ndarray]) -> Tensor:
    """Marks of different lengths as one tensor; padding is not counted."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in marks], batch_first=True)


def paired_stream(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, rig: Rig, *, size: int, length: int
) -> Iterator[tuple[Batch, Batch]]:
    """A hazard and a benign batch for each step, for ever: what an unlearning loss is called with."""
    corpus.need("hazard", "benign")
    hazard, benign = (
        stream(tokenizer, docs, size=size, length=length, generator=rig.generator(side))
        for side, docs in (("hazard", corpus.hazard), ("benign", corpus.benign))
    )
    return zip(hazard, benign, strict=False)


def packed_stream(
    rows: Tensor, counted: Tensor | None = None, *, size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches of `size` packed rows for ever, in a new order each time round."""
    for chosen in _orders(len(rows), size, generator):
        ids = rows[chosen]
        yield Batch(ids, torch.ones_like(ids), None if counted is None else counted[chosen])


def _orders(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Index lists of `size`, running through one random order after another."""
    if count == 0:
        raise UserError("there are no documents to train on, or all of their text is masked. Give some text.")
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
