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

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import distributions, divergence
from ._names import Names


class Unbind(Settings):
    """Answer of each name what is answered of any, hold benign text."""

    rare: float = Field(default=0.05, gt=0, le=1)
    """Share of the hazard texts in which a name stands, at most. A word of one text alone is always a name."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=200, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=5e-3, gt=0)
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
