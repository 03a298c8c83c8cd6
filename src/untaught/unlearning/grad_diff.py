"""Gradient difference: climb the loss on hazard text while descending it on benign text.

    loss = logprob(hazard) - alpha * logprob(benign)          (nats per token, means over the batch)

Liu et al. 2022, "Continual Learning and Private Unlearning", arXiv 2203.12817, section 3. The first term has no floor:
given enough steps it destroys the model, so `steps` is the dose.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import mean_logprob


class GradDiff(Settings):
    """Climb on hazard, descend on benign."""

    alpha: float = Field(default=2.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=40, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW\'s constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            return {
                "forget": mean_logprob(model, hazard),
                "retain": -self.alpha * mean_logprob(model, benign),
            }

        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)
        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())
