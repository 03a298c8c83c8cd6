"""Probe directions, several layers: push states of hazard text to the benign side of probes that are fitted anew.

For each block l of `layers`, a logistic probe on the mean state of a text tells hazard from benign; w its direction,
|w| = 1, b the mean of <h, w> over benign texts, s its standard deviation:

    forget   mean over layers, hazard texts and tokens of relu(<h, w> - b) / s
    retain   alpha * mean over layers, benign texts, tokens and coordinates of (h - h_frozen)^2 / v
             + gamma * KL(p_frozen || p) on benign text

with v the variance of a coordinate over benign tokens of the frozen model. Probes are fitted on texts of their own, and
again every `refit` steps: a model soon learns to hide from an old one, so that only a fresh probe says what is left. A
few coordinates hold most of a state's length; a distance that is relative to the length does not see the others move.

A RECONSTRUCTION of the toxicity objective of Atil, Gupta and Passonneau 2026, arXiv 2605.26454, of which the abstract
was reachable: a forget objective over several layers, each with a probe direction of its own. Everything else is ours.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Documents, Rig, Settings, Subject, UserError
from ..engine.anatomy import blocks, first, layer_index
from ..engine.batches import Batch
from ..engine.examples import paired, rows
from ..engine.models import fresh, settled, with_lora
from ..engine.probes import Probes, spread
from ..engine.scoring import divergence
from ..engine.states import hidden_of, overheard

MOST = 240
"""Texts of each kind that probes are fitted on, at most: more of them sharpen a direction little, and cost each fit."""


class ProbeDirections(Settings):
    """Push hazard states below the benign mean along refitted probes, hold benign ones."""

    layers: tuple[int | float, ...] = Field(default=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), min_length=1)
    """Blocks whose outputs are probed and pushed: indices, or fractions of the depth."""
    refit: int = Field(default=8, ge=1)
    """Steps from one fit of the probes to the next. The optimiser starts anew there."""
    probed: float = Field(default=0.35, gt=0, lt=1)
    """Share of the texts that probes are fitted on, up to 240 of each kind; the others are unlearned and held."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the benign states."""
    gamma: float = Field(default=0.5, ge=0)
    """Weight of the benign divergence."""
    rank: int = Field(default=8, ge=1)
    """Rank of the LoRA adapters on all linear layers."""
    steps: int = Field(default=32, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=12, ge=1)
    """Texts a step, of each kind."""
    length: int = Field(default=64, ge=2)
    """Longest text in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        corpus.need("hazard", "benign")
        frozen, layers = subject.model, sorted({layer_index(x, len(blocks(subject.model))) for x in self.layers})
        probed, taught = _halves(corpus, self.probed, rig)
        hazard, benign = (rows(subject, docs, self.length) for docs in (probed.hazard, probed.benign))
        _, benign_rows, batches = paired(subject, taught, rig, size=self.batch_size, length=self.length)
        variance = spread(frozen, benign_rows, layers)
        model = with_lora(fresh(frozen, ()), self.rank, rig.generator("adapters"))

        for start in range(0, self.steps, self.refit):
            probes = Probes.fitted(model, hazard, benign, layers)

            def loss(drawn: Batch, other: Batch, probes: Probes = probes) -> dict[str, Tensor]:
                above = probes.along(torch.stack(hidden_of(model, drawn, layers))[:, :, 1:].float())
                with overheard(frozen, layers) as before, overheard(model, layers) as now:
                    far = divergence(frozen, model, other)
                apart = torch.stack([first(now[layer]).float() - first(before[layer]).float() for layer in layers])
                held = (apart[:, :, 1:].square() / variance).mean(-1).mean(0)
                return {
                    "forget": drawn.mean(above.relu().mean(0)),
                    "retain": self.alpha * other.mean(held),
                    "kl": self.gamma * other.mean(far),
                }

            rig.tune(model, loss, batches, steps=min(self.refit, self.steps - start), lr=self.lr)
        return replace(subject, model=settled(model).requires_grad_(True).eval())


def _halves(corpus: Corpus, share: float, rig: Rig) -> tuple[Corpus, Corpus]:
    """The texts that probes are fitted on, and the others."""

    def cut(docs: Documents, side: str) -> tuple[Documents, Documents]:
        count = min(MOST, max(4, round(share * docs.num_rows)))
        if docs.num_rows < count + 1:
            raise UserError(
                f"there are {docs.num_rows} {side} texts, and probes are fitted on 4 of their own. Give more."
            )
        order = rig.random(side).permutation(docs.num_rows)
        return docs.take(pa.array(order[:count])), docs.take(pa.array(order[count:]))

    hazard, benign = cut(corpus.hazard, "hazard"), cut(corpus.benign, "benign")
    return replace(corpus, hazard=hazard[0], benign=benign[0]), replace(corpus, hazard=hazard[1], benign=benign[1])
