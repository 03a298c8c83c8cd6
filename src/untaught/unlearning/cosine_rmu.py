"""Cosine RMU, meta-learned: turn one block's output on hazard text, and keep it turned while an attacker fine-tunes.

    forget   1 - cos(h(hazard), u)                                                                   u random, |u| = 1
    attack   the same on another hazard batch at weights that `inner_steps` of fine-tuning on yet others have moved
    retain   alpha * [1 - cos(h(benign), h_frozen(benign)) + mu * (|h(benign)| / |h_frozen(benign)| - 1)^2]

means over tokens, h the output of block `layer`, u from a zero-mean Gaussian. The attacker's loss is - mean log p of
his batches; its gradient is first order, averaged over the looks on the way (`engine/inner.py`).

A RECONSTRUCTION. Atil, Gupta and Passonneau 2026, "Model Unlearning Objectives Vary for Distinct Language Functions",
arXiv 2605.26454: title, abstract and the opening of the introduction were reachable, the body, its numbers and code
were not. They say: an RMU variant with a cosine objective, meta-learned. Everything else here is a choice of ours and
a setting: `objective: distance` is RMU's own loss in place of the cosine, `inner_steps: 0` leaves the attacker out.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch
from ..engine.inner import after_attack
from ..engine.scoring import mean_logprob
from ._steering import Steered, drift


class CosineRmu(Settings):
    """Turn hazard activations to a random direction, also under attack; hold benign ones."""

    objective: Literal["cosine", "distance"] = "cosine"
    """`distance` is the loss of `rmu`: to a point `steer` norms out, drift of benign states as retain term."""
    layer: int | float = 0.25
    """The block whose output is turned: an index, or a fraction of the depth."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the retain term."""
    mu: float = Field(default=1.0, ge=0)
    """Cosine: weight of the norm's part in it. A cosine alone leaves the norm free."""
    steer: float = Field(default=5.0, gt=0)
    """Distance: length of the target in units of the mean norm of the frozen activations."""
    inner_steps: int = Field(default=4, ge=0)
    """Steps of the attacker in the loop, each on a batch of its own. 0 leaves him out."""
    inner_lr: float = Field(default=1e-3, gt=0)
    """His rate, of Adam."""
    every: int = Field(default=1, ge=1)
    """His steps from one look to the next."""
    attacked: Literal["all", "written"] = "all"
    """What he moves: all matrices of the trained blocks, or only the trained ones. Later blocks do not change h."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the term under attack."""
    steps: int = Field(default=160, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=3e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind and of each step of the attacker."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        steered = Steered(subject, corpus, rig, self.layer, self.batch_size, self.length, self.attacked)
        model, direction, train = steered.model, steered.direction(rig), steered.train

        def forget(batch: Batch, norm: float) -> Tensor:
            states = steered.hazard(batch)
            if self.objective == "cosine":
                return batch.mean(1 - nn.functional.cosine_similarity(states, direction, dim=-1))
            return batch.mean((states - self.steer * norm * direction).square().sum(-1)) / norm**2

        def loss(hazard: Batch, benign: Batch, *attack: Batch) -> dict[str, Tensor]:
            norm, terms = steered.norm(hazard), {}
            if self.inner_steps:
                *path, other = attack
                terms["attack"] = self.weight * after_attack(
                    model, lambda batch: -mean_logprob(model, batch, steered.into_hazard), path,
                    lambda: forget(other, norm), moved=steered.moved, train=train, lr=self.inner_lr, every=self.every,
                )  # fmt: skip
            now, before = steered.benign(benign)
            kept = drift(now, before)
            if self.objective == "cosine":
                length = now.norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-6) - 1
                kept = 1 - nn.functional.cosine_similarity(now, before, dim=-1) + self.mu * length.square()
            return {"forget": forget(hazard, norm), "retain": self.alpha * benign.mean(kept), **terms}

        more = self.inner_steps + 1 if self.inner_steps else 0
        attack = steered.hazard_rows.stream(size=self.batch_size, generator=rig.generator("attack"))
        drawn = ((*pair, *itertools.islice(attack, more)) for pair in steered.batches)
        rig.tune(model, loss, drawn, steps=self.steps, lr=self.lr, train=train)
        return replace(subject, model=model.requires_grad_(True).eval())
