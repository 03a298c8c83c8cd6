"""Negative preference optimisation (NPO): make hazard text less likely than it was, ever more gently.

    loss = (2 / beta) mean over rows of log(1 + (p(row) / p_frozen(row))^beta)  -  alpha * logprob(benign)

p(row) is the probability of a whole row. Where gradient ascent pushes for ever, the first term's gradient is that of
ascent times a weight that falls to 0 as a row becomes unlikely; beta to 0 gives ascent back.

Zhang et al. 2024, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning", arXiv
2404.05868, with its retain term by likelihood. Rows are texts as they stand, with no prompt. Differs: lr and steps suit
small models; theirs are 1e-5 and 10 epochs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import mean_logprob, row_logprobs


class Npo(Settings):
    """Make hazard text less likely relative to the frozen model, hold the loss on benign text."""

    beta: float = Field(default=0.1, gt=0)
    """How soon a row is unlikely enough. Paper: 0.1."""
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
        frozen, model = subject.model, fresh(subject.model)
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            with torch.no_grad():
                before = row_logprobs(frozen, hazard)
            ratio = row_logprobs(model, hazard) - before
            return {
                "forget": 2 / self.beta * hazard.mean_of_rows(nn.functional.softplus(self.beta * ratio)),
                "retain": -self.alpha * mean_logprob(model, benign),
            }

        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())
