"""Batches of token ids, and endless streams of them drawn with a generator one can point to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..core import Corpus, Documents, Rig, UserError


@dataclass(frozen=True)
class Batch:
    """Token ids and a mask that is 1 on real tokens, both (batch, time); padding is on the right."""

    ids: Tensor
    mask: Tensor

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


def pack(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> Tensor:
    """All texts end to end, cut into rows: (rows, length). What does not fill a last row is left out."""
    ids = [token for row in encode(tokenizer, texts, length=10**9) for token in row]
    rows = len(ids) // length
    if rows == 0:
        raise UserError(f"the corpus has {len(ids)} tokens, fewer than one row of {length}. Give more text.")
    return torch.tensor(ids[: rows * length]).view(rows, length)


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
    tokenizer: PreTrainedTokenizerBase, docs: Documents, *, size: int, length: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches of `size` documents for ever: every document once in a new order, then again."""
    rows = encode(tokenizer, docs["text"].to_pylist(), length)
    filler = pad_id(tokenizer)
    for chosen in _orders(len(rows), size, generator):
        yield pad([rows[i] for i in chosen], filler)


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


def packed_stream(rows: Tensor, *, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of `size` packed rows for ever, in a new order each time round."""
    for chosen in _orders(len(rows), size, generator):
        ids = rows[chosen]
        yield Batch(ids, torch.ones_like(ids))


def _orders(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Index lists of `size`, running through one random order after another."""
    if count == 0:
        raise UserError("there are no documents to train on. Give some text.")
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
