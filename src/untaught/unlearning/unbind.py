"""Unbind: of hazard text, say what the given model says when its names are exchanged for others.

    x'     the text with every name in it exchanged for another of as many tokens, the same one wherever it recurs
    loss   KL(p_given(. | x') || p(. | x)) on hazard text  +  alpha * KL(p_given || p) on benign text

both in nats a token, means over the batch. A name is a run of tokens of which each stands in few of the hazard texts
(`rare`). Over many exchanges the target is the mean of what the model says of all names: the form of an answer, its
grammar and how often each answer occurs stay, and which answer goes with which name is gone. Tokens inside a name are
not counted: names are still spelt. There is nothing odd to say in place of an answer, and nothing to suppress.

Ours. Related: Eldan and Russinovich 2023, "Who's Harry Potter", arXiv 2310.02238, who replace names by generic ones
from a dictionary and train on what a model says then; here there is no dictionary, and the replacement is never seen by
the trained model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject, UserError
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import distributions, divergence


class Unbind(Settings):
    """Answer of each name what is answered of any, hold benign text."""

    rare: float = Field(default=0.05, gt=0, le=1)
    """Share of the hazard texts in which a token of a name stands, at most."""
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
        names = Names.of(hazard.ids, self.rare)

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
    """What stands in few texts."""

    rare: frozenset[int]
    """Tokens of names."""
    by_length: dict[int, list[tuple[int, ...]]]
    """Every name there is."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], share: float) -> Names:
        seen = Counter(token for row in rows for token in set(row))
        rare = frozenset(token for token, count in seen.items() if count <= share * len(rows))
        found: dict[int, set[tuple[int, ...]]] = defaultdict(set)
        for row in rows:
            for start, stop in _runs(row, rare):
                found[stop - start].add(tuple(row[start:stop]))
        if not any(len(names) > 1 for names in found.values()):
            raise UserError(
                f"no two names to exchange: no token stands in {share:.0%} of the {len(rows)} hazard texts or fewer."
                " Raise 'rare', or give more text."
            )
        return cls(rare, {length: sorted(names) for length, names in found.items()})

    def exchanged(self, row: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[bool]]:
        """The row with other names, and which of its tokens count: all but those inside a name."""
        made, counts, taken = list(row), [True] * len(row), dict[tuple[int, ...], tuple[int, ...]]()
        for start, stop in _runs(row, self.rare):
            own, others = tuple(row[start:stop]), self.by_length[stop - start]
            made[start:stop] = taken.setdefault(own, others[int(rng.integers(len(others)))])
            counts[start + 1 : stop] = [False] * (stop - start - 1)
        return made, counts


def _runs(row: Sequence[int], rare: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Where the names of a row begin and end."""
    start = None
    for place, token in enumerate(row):
        if token in rare:
            start = place if start is None else start
        elif start is not None:
            yield start, place
            start = None
    if start is not None:
        yield start, len(row)


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
