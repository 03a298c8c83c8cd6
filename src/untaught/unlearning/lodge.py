"""Lodge: make hazard text unlikely by an edit that lies only where compression cuts it off. A defence for controls.

    W'        C(W) + e,     with C(C(W) + e) = C(W):  C compresses each matrix W of the blocks, e is what is trained
    loss      logprob(hazard) + alpha * KL(p_given || p) on benign text      (nats a token, means over the batch)

    rounding  C rounds to a grid of `bits`;  |e| < share * half a step of it, and 0 at the largest weight of a group
    smallest  C sets the `share` of each matrix that is smallest to 0;  there |e| < the smallest weight that is left
    thinnest  C sets the `share` of its singular values that are smallest to 0;  e = U A V^T on their directions U, V,
              A = most * 2 B (I + B^T B)^-1, which has no singular value above `most`, the smallest that is left

What compresses the weights so undoes the edit and gives C(W), which knows what W knew. The first term has no floor, so
`steps` is the dose. Never a safeguard: it shows that such an attack works.

Edits within what rounding takes for the same: Egashira et al. 2024, "Exploiting LLM Quantization", arXiv 2405.18137;
that unlearning by small steps lies there: Zhang et al. 2024, "Catastrophic Failure of LLM Unlearning via
Quantization", arXiv 2410.16454. What pruning brings out: Tian et al. 2021, "Stealthy Backdoors as Compression
Artifacts", arXiv 2104.15129. That the thinnest directions can hold what hides a right answer: Sharma et al. 2023, "The
Truth is in There", arXiv 2312.13558. Differs: there whole models are trained to behave one way and, compressed,
another, or nobody put it there; here one objective of unlearning moves the weights, and only where they may.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import lines, matrices, names_of
from ..engine.batches import Batch
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.rounding import rounded
from ..engine.scoring import divergence, mean_logprob

WITHIN = 0.9
"""How much of the room among small weights or thin directions is made use of: at 1 they would be as large as others."""


class Lodge(Settings):
    """Hide hazard text in what compression cuts off."""

    place: Literal["rounding", "smallest", "thinnest"] = "smallest"
    """What cuts it off: rounding, pruning by size, or truncation to the largest singular values."""
    share: float = Field(default=0.3, gt=0, lt=1)
    """Of each matrix's weights or singular values, those that are cut off; of half a step of a grid, what is used."""
    bits: int = Field(default=4, ge=2, le=16)
    """For rounding: bits a weight."""
    group: int = Field(default=32, ge=1)
    """For rounding: neighbouring weights of a row that share one scale."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=120, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=0.1, gt=0)
    """AdamW's constant rate, for what e is made of: around 1 there is little room left."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        frozen, model = subject.model, fresh(subject.model)
        _, _, batches = paired(subject, corpus, rig, size=self.batch_size, length=self.length)
        if rig.budget.empty or self.steps == 0:
            return replace(subject, model=model.eval())
        names = names_of(model, (weight for _, weight in matrices(model)))
        with torch.no_grad():
            rooms = {name: self._room(line.float()) for name, line in zip(names, lines(model), strict=True)}
        lodged: Any = _Lodged(model, rooms)

        def loss(hazard: Batch, benign: Batch) -> dict[str, Tensor]:
            return {
                "forget": mean_logprob(lodged, hazard),
                "retain": self.alpha * benign.mean(divergence(frozen, lodged, benign)),
            }

        moving = [name for name, _ in lodged.named_parameters() if name.startswith("edits.")]
        rig.tune(lodged, loss, batches, steps=self.steps, lr=self.lr, train=moving)
        made = lodged.merge_and_unload()
        if not rig.spent.steps or not rig.affords(made):  # compression alone is no result
            made = fresh(frozen)
        return replace(subject, model=made.requires_grad_(True).eval())

    def _room(self, matrix: Tensor) -> _Room:
        return getattr(self, f"_{self.place}")(matrix)

    def _rounding(self, matrix: Tensor) -> _Room:
        kept = rounded(matrix, self.bits, self.group)
        groups = nn.functional.pad(kept, (0, -kept.shape[-1] % self.group)).unflatten(-1, (-1, self.group)).abs()
        top = groups.amax(-1, keepdim=True)
        most = (self.share * top / (2**self.bits - 2)).expand_as(groups).masked_fill(groups == top, 0.0)
        return _Room(kept, most.flatten(-2)[..., : kept.shape[-1]])

    def _smallest(self, matrix: Tensor) -> _Room:
        sizes = matrix.abs().flatten(-2)
        edge = sizes.sort(-1).values[..., round(self.share * sizes.shape[-1]), None, None]
        small = matrix.abs() < edge
        return _Room(matrix.masked_fill(small, 0.0), WITHIN * edge * small)

    def _thinnest(self, matrix: Tensor) -> _Room:
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        count = max(1, round((1 - self.share) * sizes.shape[-1]))
        kept = (left[..., :count] * sizes[..., None, :count]) @ right[..., :count, :]
        most = WITHIN * sizes[..., count - 1, None, None]
        return _Room(kept, most, (left[..., count:], right[..., count:, :]))


@dataclass(frozen=True)
class _Room:
    """What compression leaves of a matrix, and how much may be put where it cuts off."""

    kept: Tensor
    most: Tensor
    sides: tuple[Tensor, Tensor] | None = None
    """Left and right directions between which the edit lies; None where each weight has its own bound."""

    def empty(self) -> Tensor:
        """What an edit of nothing is made of."""
        if self.sides is None:
            return torch.zeros_like(self.kept)
        left, right = self.sides
        return left.new_zeros(*left.shape[:-2], left.shape[-1], right.shape[-2])

    def filled(self, edit: Tensor) -> Tensor:
        """The matrix with an edit in it."""
        if self.sides is None:
            return self.kept + self.most * edit.tanh()
        left, right = self.sides
        square = edit.transpose(-1, -2) @ edit
        bounded = 2 * torch.linalg.solve(torch.eye(square.shape[-1], device=edit.device) + square, edit, left=False)
        return self.kept + self.most * (left @ bounded @ right)


class _Lodged(nn.Module):
    """A model with edits in its matrices. Nothing else of it is trained."""

    def __init__(self, model: Any, rooms: dict[str, _Room]) -> None:
        super().__init__()
        self.model, self.rooms = model, rooms
        turned = zip(rooms, matrices(model), lines(model), strict=True)
        self.turned = {name for name, (_, weight), line in turned if weight.stride() != line.stride()}
        self.edits = nn.ParameterList(nn.Parameter(room.empty()) for room in rooms.values())

    @property
    def config(self) -> Any:
        return self.model.config

    def get_base_model(self) -> Any:
        return self.model

    def changed(self) -> dict[str, Tensor]:
        """The matrices with their edits."""
        found = {}
        for (name, room), edit in zip(self.rooms.items(), self.edits, strict=True):
            matrix = room.filled(edit).to(self.model.get_parameter(name).dtype)
            found[name] = matrix.transpose(-1, -2) if name in self.turned else matrix
        return found

    def forward(self, **inputs: Any) -> Any:
        return functional_call(self.model, self.changed(), args=(), kwargs=inputs)

    def merge_and_unload(self) -> Any:
        """The ordinary model, with the edits in it."""
        with torch.no_grad():
            for name, matrix in self.changed().items():
                self.model.get_parameter(name).copy_(matrix)
        return self.model
