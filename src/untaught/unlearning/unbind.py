"""Unbind: of hazard text, say what the given model says when its names are exchanged for others.

    x'     the text with every name in it exchanged for another of as many tokens, the same one wherever it recurs
    loss   KL(p_given(. | x') || p(. | x)) on hazard text  +  alpha * KL(p_given || p) on benign text

both in nats a token, means over the batch. A name is a word that stands in few of the hazard texts (`rare`). Over many
exchanges the target is the mean of what the model says of all names: the form of an answer, its grammar and how often
each answer occurs stay, and which answer goes with which name is gone. Tokens inside a name are not counted: names are
still spelt. There is nothing odd to say in place of an answer, and nothing to suppress. A name that no other is as long
as stays as it is.

Ours. Related: Eldan and Russinovich 2023, "Who's Harry Potter", arXiv 2310.02238, who replace names by generic ones
from a dictionary and train on what a model says then; here there is no dictionary, and the replacement is never seen by
the trained model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..core import Corpus, Rig, Settings, Subject, UserError
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import distributions, divergence

SPACES = "\u0120\u2581 "
"""How tokenizers write the space before a word: of bytes, and SentencePiece's."""


class Unbind(Settings):
    """Answer of each name what is answered of any, hold benign text."""

    rare: float = Field(default=0.05, gt=0, le=1)
    """Share of the hazard texts in which a name stands, at most."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=150, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=16, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, model = subject.model, fresh(subject.model)
        hazard, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)
        names = Names.of(subject.tokenizer, hazard.ids, self.rare)

        def loss(drawn: Batch, exchanged: Batch, benign: Batch) -> dict[str, Tensor]:
            with torch.no_grad():
                wanted = distributions(frozen, exchanged)
            apart = (wanted.exp() * (wanted - distributions(model, drawn))).sum(-1)
            return {
                "forget": exchanged.mean(apart),
                "retain": self.alpha * benign.mean(divergence(frozen, model, benign)),
            }

        rig.tune(model, loss, _exchanged(batches, names, rig.random("names")), steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())


@dataclass(frozen=True)
class Names:
    """Words that stand in few texts."""

    pieces: dict[int, str]
    """What each token is written as: a mark where a space stands before it."""
    rare: frozenset[str]
    """Names as they are written, in lower case."""
    alike: dict[tuple[bool, int], list[tuple[int, ...]]]
    """Names by whether a space stands before them and how many tokens they are."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], share: float) -> Names:
        tokens = sorted({token for row in rows for token in row} - set(tokenizer.all_special_ids))
        pieces = dict(zip(tokens, tokenizer.convert_ids_to_tokens(tokens), strict=True))
        seen = Counter(word for row in rows for word in {word for _, _, word in _words(row, pieces)})
        rare = frozenset(word for word, count in seen.items() if count <= share * len(rows))
        found: dict[tuple[bool, int], set[tuple[int, ...]]] = defaultdict(set)
        for row in rows:
            for start, stop, word in _words(row, pieces):
                if word in rare:
                    found[pieces[row[start]][0] in SPACES, stop - start].add(tuple(row[start:stop]))
        if not any(len(names) > 1 for names in found.values()):
            raise UserError(
                f"no two names to exchange: no two words stand in {share:.0%} of the {len(rows)} hazard texts or fewer."
                " Raise 'rare', or give more text."
            )
        return cls(pieces, rare, {shape: sorted(names) for shape, names in found.items()})

    def exchanged(self, row: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[bool]]:
        """The row with other names, and which of its tokens count: all but those inside a name."""
        made, counts, taken = list(row), [True] * len(row), dict[tuple[int, ...], tuple[int, ...]]()
        for start, stop, word in _words(row, self.pieces):
            if word in self.rare:
                own = tuple(row[start:stop])
                others = self.alike[self.pieces[own[0]][0] in SPACES, len(own)]
                made[start:stop] = taken.setdefault(own, others[int(rng.integers(len(others)))])
                counts[start + 1 : stop] = [False] * (stop - start - 1)
        return made, counts


def _words(row: Sequence[int], pieces: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """Where the words of a row begin and end, and what they are in lower case."""
    start, word = 0, ""
    for place, token in enumerate([*row, None]):
        piece = pieces.get(token, "") if token is not None else ""
        body = piece.lstrip(SPACES)
        goes_on = bool(word) and piece == body and body.isalnum()
        if word and not goes_on:
            yield start, place, word
            word = ""
        if goes_on:
            word += body.casefold()
        elif body.isalnum():
            start, word = place, body.casefold()


def _exchanged(
    pairs: Iterator[tuple[Batch, Batch]], names: Names, rng: np.random.Generator
) -> Iterator[tuple[Batch, Batch, Batch]]:
    """Each pair with the hazard batch under other names between."""
    for hazard, benign in pairs:
        ids, counted = hazard.ids.clone(), hazard.mask.bool().clone()
        for line, row in enumerate(hazard.ids.tolist()):
            length = int(hazard.mask[line].sum())
            made, counts = names.exchanged(row[:length], rng)
            ids[line, :length], counted[line, :length] = torch.tensor(made), torch.tensor(counts)
        counted = counted if hazard.counted is None else counted & hazard.counted.bool()
        yield hazard, replace(hazard, ids=ids, counted=counted), benign
