"""What methods share that steer one block's output: its states, and what the frozen model makes of the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import Corpus, Rig, Subject
from ..engine.anatomy import blocks, layer_index, names_of, output_matrices
from ..engine.batches import Batch
from ..engine.compute import device
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.states import Activations, hidden

BELOW = 2
"""Blocks below the steered one that are trained with it. Li et al. 2024: 5 and 6 with the 7th."""


class Steered:
    """A copy of a model of which block `layer` is to be steered, and the model as it was.

    Trained are the matrices with which the MLPs of this block and the two below it write to the residual stream. The
    blocks above it are not run, nor those below the trained ones once their states are known.
    """

    def __init__(  # noqa: PLR0913  what each method was set to
        self, subject: Subject, corpus: Corpus, rig: Rig, layer: int | float, size: int, length: int,
        attacked: Literal["all", "written"] = "written",
    ) -> None:  # fmt: skip
        """`attacked`: what an attacker in the loop moves, all matrices of the trained blocks or the trained ones."""
        self.frozen, self.layer = subject.model, layer_index(layer, len(blocks(subject.model)))
        self.lowest = max(0, self.layer - BELOW)
        self.train = written(self.frozen, self.lowest, self.layer)
        self.moved = self.train if attacked == "written" else within(self.frozen, self.lowest, self.layer)
        self.model = fresh(self.frozen, {*self.train, *self.moved})
        self.hazard_rows, benign_rows, self.batches = paired(subject, corpus, rig, size=size, length=length)
        self.into_hazard, self._into_benign = (
            Activations(self.frozen, self.lowest - 1, rows) if self.lowest else None
            for rows in (self.hazard_rows, benign_rows)
        )
        self._held = Activations(self.frozen, self.layer, benign_rows, below=self._into_benign)
        self._norm: float | None = None

    def hazard(self, batch: Batch) -> Tensor:
        """The block's output on hazard text, (batch, time - 1, width): without the first token, an attention sink."""
        return hidden(self.model, batch, self.layer, self.into_hazard)[:, 1:]

    def benign(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same of benign text, and what the frozen model makes of it."""
        return hidden(self.model, batch, self.layer, self._into_benign)[:, 1:], self._held.of(batch)[:, 1:]

    def norm(self, batch: Batch) -> float:
        """Mean length of the frozen output on the first hazard batch."""
        if self._norm is None:
            with torch.no_grad():
                whole = batch.whole or batch
                length = hidden(self.frozen, whole, self.layer, self.into_hazard)[:, 1:].norm(dim=-1)
                self._norm = whole.mean(length).item()
        return self._norm

    def direction(self, rig: Rig) -> Tensor:
        """A random direction of length 1 from a zero-mean Gaussian, (width,)."""
        drawn = torch.randn(self.frozen.config.hidden_size, generator=rig.generator("direction"))
        return (drawn / drawn.norm()).to(device())


def steer(  # noqa: PLR0913  RMU's own settings
    subject: Subject, corpus: Corpus, rig: Rig, *, layer: int | float, steer: float, alpha: float, steps: int,
    lr: float, batch_size: int, length: int,
) -> Subject:  # fmt: skip
    """What RMU makes of a subject: the formula and the settings are those of `rmu.py`."""
    steered = Steered(subject, corpus, rig, layer, batch_size, length)
    direction = steered.direction(rig)

    def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
        norm = steered.norm(hazard)
        pull = steered.hazard(hazard) - steer * norm * direction
        return {
            "forget": hazard.mean(pull.square().sum(-1)) / norm**2,
            "retain": alpha * benign.mean(drift(*steered.benign(benign))),
        }

    rig.tune(steered.model, loss, steered.batches, steps=steps, lr=lr, train=steered.train)
    return replace(subject, model=steered.model.requires_grad_(True).eval())


def drift(now: Tensor, before: Tensor) -> Tensor:
    """Squared distance of states in units of each state's own squared length: (batch, time)."""
    return (now - before).square().sum(-1) / before.square().sum(-1).clamp(min=1e-12)


def written(model: nn.Module, lowest: int, layer: int) -> list[str]:
    """Full names of the MLP output matrices of blocks `lowest` to `layer`."""
    inside = blocks(model)[lowest : layer + 1]
    return names_of(model, (block.get_parameter(name) for block in inside for name in output_matrices(block)))


def within(model: nn.Module, lowest: int, layer: int) -> list[str]:
    """Full names of all matrices of blocks `lowest` to `layer`."""
    inside = blocks(model)[lowest : layer + 1]
    return names_of(model, (weight for block in inside for weight in block.parameters() if weight.ndim > 1))
