"""Representation misdirection (RMU): steer one block's output on hazard text to noise.

On hazard text the output h of one block is pulled to a fixed random direction u, |u| = 1; on benign text it is held
where the frozen model had it:

    loss = |h(hazard) - c u|^2 / n^2  +  alpha * |h(benign) - h_frozen(benign)|^2 / |h_frozen(benign)|^2,  c = steer * n

with n the mean norm of the frozen output on hazard text, means over tokens. Only the matrices with which the MLPs of
this block and the two below it write to the residual stream are trained; the blocks above are not even run.

Li et al. 2024, "The WMDP Benchmark", arXiv 2403.03218, section 4. Differs from the authors' code: u is drawn from a
zero-mean Gaussian (theirs has positive entries, so that all their u's nearly agree); c is a multiple of the norm, as
in adaptive RMU (arXiv 2408.06223), where theirs is 6.5 whatever the model; both terms are divided by squared norms,
so that learning rates carry over between models; the first token, an attention sink, is left out of both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import blocks, layer_index, output_matrices
from ..engine.batches import Batch, paired
from ..engine.compute import device
from ..engine.models import fresh
from ..engine.states import Activations, hidden


class Rmu(Settings):
    """Steer hazard activations to noise, hold benign ones."""

    layer: int | float = 0.25
    """The block whose output is steered: an index, or a fraction of the depth. Paper: 7 of 32."""
    steer: float = Field(default=5.0, gt=0)
    """Length of the target in units of the mean norm of the frozen activations."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=160, ge=0)
    """Paper: 80 to 150."""
    lr: float = Field(default=3e-3, gt=0)
    """AdamW\'s constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, layer = subject.model, layer_index(self.layer, len(blocks(subject.model)))
        lowest = max(0, layer - 2)
        train = _trained(frozen, lowest, layer)
        model = fresh(frozen, train)
        direction = torch.randn(model.config.hidden_size, generator=rig.generator("direction"))
        direction = (direction / direction.norm()).to(device())
        hazard_rows, benign_rows, batches = paired(
            subject.tokenizer, corpus, rig, size=self.batch_size, length=self.length
        )
        into_hazard, into_benign = (
            Activations(frozen, lowest - 1, rows) if lowest else None for rows in (hazard_rows, benign_rows)
        )
        held_at = Activations(frozen, layer, benign_rows, below=into_benign)
        norm: list[float] = []

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            if not norm:
                with torch.no_grad():
                    whole = hazard.whole or hazard
                    length = hidden(frozen, whole, layer, into_hazard)[:, 1:].norm(dim=-1)
                    norm.append(whole.mean(length).item())
            pull = hidden(model, hazard, layer, into_hazard) - self.steer * norm[0] * direction
            held = held_at.of(benign)
            drift = (hidden(model, benign, layer, into_benign) - held).square().sum(-1)
            return {
                "forget": hazard.mean(pull.square().sum(-1)[:, 1:]) / norm[0] ** 2,
                "retain": self.alpha * benign.mean((drift / held.square().sum(-1).clamp(min=1e-12))[:, 1:]),
            }

        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr, train=train)
        return replace(subject, model=model.requires_grad_(True).eval())


def _trained(model: torch.nn.Module, lowest: int, layer: int) -> list[str]:
    """Full names of the MLP output matrices of blocks `lowest` to `layer`."""
    ids = {
        id(block.get_parameter(name)) for block in blocks(model)[lowest : layer + 1] for name in output_matrices(block)
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in ids]
