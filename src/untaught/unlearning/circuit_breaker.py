"""Circuit breaking (representation rerouting): turn states on hazard text away from where they were, hold benign ones.

    loss = c_s mean over layers and tokens of relu(cos(h(hazard), h_frozen(hazard)))
         + c_r mean over layers and tokens of |h(benign) - h_frozen(benign)| / |h_frozen(benign)|
    c_r = alpha t / T,   c_s = alpha (1 - t / T),   T = horizon * steps,   t = steps done

with h the outputs of the blocks `layers`. LoRA adapters are trained, in the blocks up to the highest of them.

Zou et al. 2024, "Improving Alignment and Robustness with Circuit Breakers", arXiv 2406.04313, with the schedule of
their code (horizon 300 of 150 steps, so that training ends half-way). Differs: the second term is divided by the
frozen state's length, so that the schedule means the same in models of any size; no dropout; the first token is left
out; rate and steps suit small models.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import blocks, layer_index
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh, settled, with_lora
from ..engine.states import hidden_of


class CircuitBreaker(Settings):
    """Turn hazard states away from the frozen model's, hold benign ones."""

    layers: tuple[int | float, ...] = Field(default=(0.3125, 0.625), min_length=1)
    """Blocks whose outputs are looked at: indices, or fractions of the depth. Paper: 10 and 20 of 32."""
    alpha: float = Field(default=10.0, gt=0)
    """Weight of both terms together. Paper: 10."""
    horizon: float = Field(default=2.0, ge=1)
    """How much longer the schedule is than the training. Paper: 2."""
    rank: int = Field(default=16, ge=1)
    """Rank of the adapters. Paper: 16."""
    steps: int = Field(default=150, ge=0)
    """Optimiser steps. Paper: 150."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate. Paper: 1e-4."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind. Paper: 16."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, layers = subject.model, [layer_index(layer, len(blocks(subject.model))) for layer in self.layers]
        model = with_lora(fresh(frozen, ()), self.rank, rig.generator("adapters"))
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)

        def states(batch: Batch) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                before = torch.stack(hidden_of(frozen, batch, layers))
            return torch.stack(hidden_of(model, batch, layers))[:, :, 1:].float(), before[:, :, 1:].float()

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            done = (rig.spent.steps - 1) / (self.horizon * max(self.steps, 1))
            alike = nn.functional.cosine_similarity(*states(hazard), dim=-1).relu().mean(0)
            now, before = states(benign)
            far = ((now - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-6)).mean(0)
            return {
                "forget": self.alpha * (1 - done) * hazard.mean(alike),
                "retain": self.alpha * done * benign.mean(far),
            }

        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=settled(model).requires_grad_(True).eval())
