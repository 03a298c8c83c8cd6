"""Tampering attack resistance (TAR): train all weights so that what an attacker arrives at knows nothing either.

    attack   weight * mean over the looks of  sum over the vocabulary of p log p,  mean over the tokens of a hazard
             batch that the attacker has not seen, at weights that `inner_steps` of fine-tuning on others have moved
    retain   alpha * [ - logprob(benign) + mean over blocks and tokens of |h(benign) - h_frozen(benign)| / |h_frozen| ]

The attacker's loss is - logprob of his batches; the gradient at his weights is first order (`engine/inner.py`). What is
held there is entropy and not a low likelihood, which a model can serve by one wrong answer for all.

Tamirisa et al. 2024, "Tamper-Resistant Safeguards for Open-Weight LLMs", arXiv 2408.00761, from their code. It stands
on a safeguard: give the arm another method first, such as `rmu` (theirs is a random mapping, 1,000 steps). Differs: one
kind of attacker with one rate where theirs are drawn; looks weigh alike; the second part of the retain term is
divided by the frozen state's length; 16 inner and 60 outer steps where theirs are 64 and 750.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import blocks, matrices, names_of
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.inner import after_attack
from ..engine.models import fresh
from ..engine.scoring import distributions, mean_logprob
from ..engine.states import hidden_of


class Tar(Settings):
    """Hold entropy on hazard text high under attack, hold benign text."""

    inner_steps: int = Field(default=16, ge=1)
    """Steps of the attacker in the loop, each on a batch of its own. Paper: 64."""
    inner_lr: float = Field(default=1e-3, gt=0)
    """His rate, of Adam. Paper: 2e-6 to 4e-5, for 8 billion parameters."""
    every: int = Field(default=4, ge=1)
    """His steps from one look to the next. Paper: 4."""
    weight: float = Field(default=4.0, ge=0)
    """Weight of the term under attack. Paper: 4."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the retain term. Paper: 1."""
    steps: int = Field(default=60, ge=0)
    """Optimiser steps. Paper: 750."""
    lr: float = Field(default=5e-4, gt=0)
    """AdamW's constant rate. Paper: 2e-5, without a schedule."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind and of each step of the attacker. Paper: 8, and 4 for the attacker."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, model = subject.model, fresh(subject.model)
        depth = range(len(blocks(frozen)))
        rows, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)
        attack = rows.stream(size=self.batch_size, generator=rig.generator("attack"))
        moved = names_of(model, (weight for _, weight in matrices(model)))

        def certain(hazard: Batch) -> Tensor:
            told = distributions(model, hazard)
            return hazard.mean((told.exp() * told).sum(-1))

        def loss(hazard: Batch, benign: Batch, *path: Batch) -> dict[str, Tensor]:
            attacked = after_attack(
                model, lambda batch: -mean_logprob(model, batch), path, lambda: certain(hazard),
                moved=moved, train=[name for name, _ in model.named_parameters()], lr=self.inner_lr, every=self.every,
            )  # fmt: skip
            with torch.no_grad():
                before = torch.stack(hidden_of(frozen, benign, depth))[:, :, 1:].float()
            now = torch.stack(hidden_of(model, benign, depth))[:, :, 1:].float()
            far = ((now - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-6)).mean(0)
            return {
                "attack": self.weight * attacked,
                "retain": self.alpha * (benign.mean(far) - mean_logprob(model, benign)),
            }

        drawn = ((*pair, *itertools.islice(attack, self.inner_steps)) for pair in batches)
        rig.tune(model, loss, drawn, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())
