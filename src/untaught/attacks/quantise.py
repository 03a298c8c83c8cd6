"""Quantisation: round every weight matrix of the blocks to a few bits, as a downloader does to save memory.

    symmetric   s = max |w| / (2^(bits-1) - 1)           w becomes s * round(w / s)
    range       s = (max w - min w) / (2^bits - 1)       w becomes min w + s * round((w - min w) / s)

for each group of neighbouring weights in a row. A row is what one output takes its inputs with, in whatever order a
family keeps a matrix, and for each expert. `range` with groups of 32 is what Q4_1 files of llama.cpp hold.

Round-to-nearest, simulated in the model's own precision, on any device. Small edits that hid knowledge can fall inside
one rounding bin and vanish: Zhang et al. 2024, "Catastrophic Failure of LLM Unlearning via Quantization", arXiv
2410.16454. It trains nothing and costs no steps.

A checkpoint that was made from a quantised file lies on that file's grid: rounding it again changes nothing, and an
edit of it vanishes far more often than rounding would make it elsewhere. The record's `on_grid` is the share of the
matrices that lie on the grid; where that is not 0, round with another `shift` as well, and believe that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import lines
from ..engine.models import fresh

SAME = 1e-5
"""Relative change below which a matrix lies on the grid: what is left is the rounding of float32."""


class Quantise(Settings):
    """Round weights to `bits`."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    bits: int = Field(default=4, ge=2, le=16)
    """Bits a weight. 4 is common, 8 is mild."""
    group: int = Field(default=32, ge=1)
    """Neighbouring weights of a row that share one scale."""
    scheme: Literal["symmetric", "range"] = "symmetric"
    """Whether the grid has 0 in its middle, or goes from the smallest weight of a group to the largest."""
    shift: int = Field(default=0, ge=0)
    """How many weights of a row stand before its second group: 0 is a whole group."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        if rig.budget.steps != 0:
            changes = []
            with torch.no_grad():
                for matrix in lines(model):
                    coarse = rounded(matrix, self.bits, self.group, self.scheme, self.shift)
                    changes.append(float((coarse - matrix).norm() / matrix.norm().clamp(min=1e-30)))
                    matrix.copy_(coarse)
            rig.log(on_grid=sum(change < SAME for change in changes) / len(changes))
        return replace(subject, model=model)


def rounded(matrix: Tensor, bits: int, group: int, scheme: str = "symmetric", shift: int = 0) -> Tensor:
    """The matrix (..., columns) as `bits`-bit integers times one scale a group, in its own dtype."""
    columns, before = matrix.shape[-1], -shift % group
    edges = matrix[..., :1], matrix[..., -1:]  # what fills up a group adds nothing to its ends
    widths = before, -(columns + before) % group
    left, right = (e.expand(*matrix.shape[:-1], n) for e, n in zip(edges, widths, strict=True))
    groups = torch.cat([left, matrix, right], -1).unflatten(-1, (-1, group))
    if scheme == "range":
        least, steps = groups.amin(-1, keepdim=True), 2**bits - 1
        scale = (groups.amax(-1, keepdim=True) - least) / steps
    else:
        least, steps = torch.zeros_like(groups[..., :1]), 2 ** (bits - 1) - 1
        scale = groups.abs().amax(-1, keepdim=True) / steps
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (least + torch.round((groups - least) / scale) * scale).flatten(-2)[..., before : before + columns]
