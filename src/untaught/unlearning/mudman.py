"""MUDMAN: unlearn at an attacker's weights, and only where benign text agrees.

    g_u   mean over the looks of the gradient of logprob(hazard) at weights that `inner_steps` of fine-tuning have moved
    g_r   gradient of - logprob(benign) at the model's own
    step  W <- W - lr ( m / |m| + alpha g_r ),    m = g_u where sign(g_u) = sign(g_r), and 0 elsewhere

Masking lets through what lowers the benign loss as well, or leaves it; the length of the unlearning step is fixed, as
gradients grow and fade on the way. |m| is over all matrices of the MLPs together, and these alone are moved.

Sondej et al. 2025, "Robust LLM Unlearning with MUDMAN: Meta-Unlearning with Disruption Masking And Normalization",
arXiv 2506.12484: the abstract and summaries were read, so this is a reconstruction. The attacker starts anew at every
step; g_r is of one batch, where a running mean would be steadier.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import mlp_matrices
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.inner import attacked, term
from ..engine.models import fresh
from ..engine.scoring import mean_logprob


class Mudman(Settings):
    """Masked, normalised unlearning steps at attacked weights."""

    inner_steps: int = Field(default=4, ge=1)
    """Steps of the attacker in the loop, each on a batch of its own."""
    inner_lr: float = Field(default=1e-3, gt=0)
    """His rate, of Adam."""
    masked: bool = True
    """Leave out where the unlearning gradient and the benign one differ in sign."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the benign step."""
    steps: int = Field(default=60, ge=0)
    """Steps of descent."""
    lr: float = Field(default=0.2, gt=0)
    """Length of an unlearning step, over all trained matrices."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind and of each step of the attacker."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        train = mlp_matrices(subject.model)
        model = fresh(subject.model, train)
        rows, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)
        attack = rows.stream(size=self.batch_size, generator=rig.generator("attack"))

        def loss(hazard: Batch, benign: Batch, *path: Batch) -> dict[str, Tensor]:
            whole, held = hazard.whole or hazard, benign.whole or benign
            value, slopes = attacked(
                model, lambda batch: -mean_logprob(model, batch), path, lambda: mean_logprob(model, whole),
                moved=train, train=train, lr=self.inner_lr, every=1,
            )  # fmt: skip
            weights = [model.get_parameter(name) for name in train]
            if self.masked:
                kept = torch.autograd.grad(-mean_logprob(model, held), weights)
                slopes = [slope * (slope.sign() == own.sign()) for slope, own in zip(slopes, kept, strict=True)]
            length = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt().clamp(min=1e-12)
            share = hazard.mean_of_rows(torch.ones(hazard.examples, device=length.device))  # of the whole batch
            return {
                "forget": share * term(value, [slope / length for slope in slopes], weights),
                "retain": -self.alpha * mean_logprob(model, benign),
            }

        drawn = ((*pair, *itertools.islice(attack, self.inner_steps)) for pair in batches)
        rig.tune(model, loss, drawn, steps=self.steps, lr=self.lr, train=train, optimiser="sgd", clip=None)
        return replace(subject, model=model.requires_grad_(True).eval())
