"""Latent adversarial training of RMU: steer hazard states to noise also where an adversary has shifted them.

    delta = the shift of the hazard states at block `layer` - 1 that raises the forget loss most,  |delta| <= epsilon n
    loss  = |h(hazard; delta) - c u|^2 / n^2  +  alpha * |h(benign) - h_frozen(benign)|^2 / |h_frozen(benign)|^2

with h, u, c and n as in `rmu`. The adversary takes `inner_steps` steps along the normalised gradient, a token at a
time, each as long as his whole reach divided by half their number, and is held within it.

Sheshadri et al. 2024, "Latent Adversarial Training Improves Robustness to Persistent Harmful Behaviors in LLMs", arXiv
2407.15549 (RMU + LAT, 16 steps, epsilon 2); Casper et al. 2024, arXiv 2403.05030. Differs: one adversary a step where
theirs serves four; epsilon is relative to the states' length n; the shift stands one block below the one that is
steered, or at the embedding where that is the first. After `circuit_breaker` in the same arm it gives the pair of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import blocks, first
from ..engine.batches import Batch
from ._steering import Steered, drift


class Lat(Settings):
    """RMU under a latent adversary."""

    layer: int | float = 0.25
    """The block whose output is steered: an index, or a fraction of the depth."""
    steer: float = Field(default=5.0, gt=0)
    """Length of the target in units of the mean norm of the frozen activations."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    epsilon: float = Field(default=0.5, ge=0)
    """The adversary's reach, in units of the mean norm of the frozen activations."""
    inner_steps: int = Field(default=6, ge=0)
    """The adversary's steps. Paper: 16."""
    steps: int = Field(default=160, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=3e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        steered = Steered(subject, corpus, rig, self.layer, self.batch_size, self.length)
        direction, stack = steered.direction(rig), blocks(steered.model)
        place = stack[steered.layer - 1] if steered.layer else steered.model.get_input_embeddings()

        def forget(hazard: Batch) -> Tensor:
            norm = steered.norm(hazard)
            return (steered.hazard(hazard) - self.steer * norm * direction).square().sum(-1) / norm**2

        def shift(hazard: Batch) -> Tensor:
            """The adversary's: (batch, time, width)."""
            reach = self.epsilon * steered.norm(hazard)
            found = torch.zeros(*hazard.ids.shape, len(direction), device=direction.device, requires_grad=True)
            for _ in range(self.inner_steps):
                with _shifted(place, found):
                    (slope,) = torch.autograd.grad(forget(hazard).sum(), found)
                with torch.no_grad():
                    found += 2 * reach / self.inner_steps * nn.functional.normalize(slope, dim=-1)
                    found *= (reach / found.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
            return found.detach()

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            with _shifted(place, shift(hazard)):
                pulled = hazard.mean(forget(hazard))
            return {"forget": pulled, "retain": self.alpha * benign.mean(drift(*steered.benign(benign)))}

        rig.tune(steered.model, loss, steered.batches, steps=self.steps, lr=self.lr, train=steered.train)
        return replace(subject, model=steered.model.requires_grad_(True).eval())


@contextmanager
def _shifted(place: nn.Module, shift: Tensor) -> Iterator[None]:
    """Meanwhile, what a module puts out is shifted."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        moved = first(output) + shift.to(first(output).dtype)
        return moved if isinstance(output, Tensor) else (moved, *output[1:])

    hook = place.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
