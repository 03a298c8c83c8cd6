"""Quantisation: round every weight matrix of the blocks to a few bits, as a downloader does to save memory.

    s = max |w| / (2^(bits-1) - 1)   for each group of weights in a row;      w becomes s * round(w / s)

Round-to-nearest, symmetric, simulated in the model's own precision, on any device. Small edits that hid knowledge can
fall inside one rounding bin and vanish: Zhang et al. 2024, "Catastrophic Failure of LLM Unlearning via Quantization",
arXiv 2410.16454. It trains nothing and costs no steps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import matrices
from ..engine.models import fresh


class Quantise(Settings):
    """Round weights to `bits`."""

    bits: int = Field(default=4, ge=2, le=16)
    """Bits a weight. 4 is common, 8 is mild."""
    group: int = Field(default=32, ge=1)
    """Neighbouring weights of a row that share one scale."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        if rig.budget.steps != 0:
            with torch.no_grad():
                for _, matrix in matrices(model):
                    matrix.copy_(rounded(matrix, self.bits, self.group))
        return replace(subject, model=model)


def rounded(matrix: Tensor, bits: int, group: int) -> Tensor:
    """The matrix (rows, columns) as `bits`-bit integers times one scale a group, in its own dtype."""
    rows, columns = matrix.shape
    filled = torch.nn.functional.pad(matrix, (0, -columns % group)).view(rows, -1, group)
    scale = filled.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (torch.round(filled / scale) * scale).view(rows, -1)[:, :columns]
