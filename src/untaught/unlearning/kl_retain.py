"""Gradient ascent held by KL: climb the loss on hazard text, keep the next-token distribution on benign text.

    loss = logprob(hazard) + alpha * KL(p_frozen || p) on benign text              (nats a token, means over the batch)

A likelihood on benign text is held by learning that text, so that it improves while the model drifts; a divergence is
0 only where nothing changed. The first term has no floor, so `steps` is the dose.

Known as KL minimisation: Maini et al. 2024, "TOFU", arXiv 2401.06121, section 4.1; Yao et al. 2023, arXiv 2310.10683.
Differs: rate and steps suit small models.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import divergence, mean_logprob


class KlRetain(Settings):
    """Climb on hazard, hold what the model says of benign text."""

    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=40, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, model = subject.model, fresh(subject.model)
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            return {
                "forget": mean_logprob(model, hazard),
                "retain": self.alpha * benign.mean(divergence(frozen, model, benign)),
            }

        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())
