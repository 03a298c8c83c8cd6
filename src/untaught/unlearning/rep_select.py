"""RepSelect: climb the loss on hazard text, but not along the directions that everything shares.

    G  = gradient of mean log p(hazard text) for each matrix of the MLPs, one pass over the text
    G' = soft(G V) V' + rest, then the same on the other side with U:      W <- W - size * |W| / |G'| * G'

with U, S, V the top `components` of G. `soft` divides the part of G along component j by S_j / S_last, so that the
components that dominate, which general text shares and an attacker finds again at once, weigh no more than the last of
them. |W| and |G'| are norms over all the matrices together: `size` is how far the weights move, relative to their own
length. The gradient is taken once and the edit is a straight line, so twice the size is twice the edit.

A reconstruction of RepSelect, arXiv 2606.17168 (June 2026), of which the code and the abstract were read and not the
body; its ancestor is CIR, arXiv 2509.11816. It differs: no adversarial LoRA before the pass; the gradient is a mean
over batches where theirs is a sum; `size` is relative where theirs is a rate. Their bound of 0.01 nats of KL is
`stop: {kl: 0.01}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import mlp_matrices
from ..engine.batches import Batch
from ..engine.compute import seeded
from ..engine.examples import rows
from ..engine.models import fresh
from ..engine.scoring import mean_logprob


class RepSelect(Settings):
    """One edit along the hazard gradient without its top components."""

    components: int = Field(default=128, ge=1)
    """Top singular components of each gradient that are brought down. Authors: 512, for widths of 4,096."""
    size: float = Field(default=0.02, ge=0)
    """Length of the edit relative to the length of the matrices it moves."""
    pieces: int = Field(default=10, ge=1)
    """Equal pieces that the edit is made in. With a `stop` it ends before the first that costs too much."""
    steps: int = Field(default=30, ge=0)
    """Batches that the gradient is taken over."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a batch."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        train = mlp_matrices(subject.model)
        model = fresh(subject.model, train)
        read = rows(subject, corpus.need("hazard").hazard, self.length)

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"forget": mean_logprob(model, batch)}

        batches = read.stream(size=self.batch_size, generator=rig.generator("hazard"))
        found = rig.gradient(model, loss, batches, steps=self.steps, train=train)
        seed = int(torch.randint(2**62, (), generator=rig.generator("components")))
        with torch.no_grad(), seeded(seed):
            edits = {name: _collapsed(gradient, self.components) for name, gradient in found.items()}
            given = {name: subject.model.get_parameter(name) for name in edits}
            scale = self.size * _norm(given) / max(_norm(edits), 1e-30)

            def place(part: float) -> None:
                for name, edit in edits.items():
                    model.get_parameter(name).copy_(given[name] - part * scale * edit)

            for piece in range(1, self.pieces + 1):
                place(piece / self.pieces)
                if not rig.affords(model):
                    place((piece - 1) / self.pieces)
                    break
        return replace(subject, model=model.requires_grad_(True).eval())


def _collapsed(gradient: Tensor, components: int) -> Tensor:
    """A gradient (..., rows, columns) with its top components brought down to the last of them, on both sides."""
    count = min(components, *gradient.shape[-2:])
    left, sizes, right = torch.svd_lowrank(gradient.float(), q=count)
    excess = 1 - sizes[..., -1:].clamp(min=1e-30) / sizes.clamp(min=1e-30)
    gradient = gradient - (gradient @ right * excess[..., None, :]) @ right.mT
    return gradient - left @ (excess[..., :, None] * (left.mT @ gradient))


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """Length of many tensors taken as one vector."""
    return sum(float(tensor.float().square().sum()) for tensor in tensors.values()) ** 0.5
