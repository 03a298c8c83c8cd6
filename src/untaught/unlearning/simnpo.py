"""SimNPO: negative preference optimisation without a reference, by likelihood a token.

    loss = (2 / beta) mean over rows of log(1 + exp(beta * logprob(row) / tokens + gamma)) - alpha * logprob(benign)

Without the frozen model there is no second pass, and rows that were unlikely from the start are left alone; divided by
length, long rows do not weigh more than short ones.

Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning", arXiv
2410.07163. Their beta and gamma for TOFU are defaults here. Differs: rate and steps suit small models.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import mean_logprob, row_logprobs


class Simnpo(Settings):
    """Make hazard text less likely a token, hold the loss on benign text."""

    beta: float = Field(default=2.5, gt=0)
    """How soon a row is unlikely enough. Paper: 2.5 for TOFU."""
    gamma: float = 0.0
    """Margin: a row must be less likely by that. Paper: 0."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=40, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate. Paper: 1e-5, for 7 billion parameters."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            likely = row_logprobs(model, hazard) / hazard.weight.sum(1).clamp(min=1)
            return {
                "forget": 2 / self.beta * hazard.mean_of_rows(nn.functional.softplus(self.beta * likely + self.gamma)),
                "retain": -self.alpha * mean_logprob(model, benign),
            }

        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())
