"""Truncation: keep of every weight matrix of the blocks only its largest singular values.

    W = U S V^T      becomes  U_k S_k V_k^T,     k = share * min(rows, columns), rounded, at least 1

for each matrix, and each expert's. What a defence spread thinly over many directions is cut off, and what the model
knew best is left. Sharma et al. 2023, "The Truth is in There: Improving Reasoning in Language Models with
Layer-Selective Rank Reduction", arXiv 2312.13558, find answers that way which the whole matrix does not give.

Differs: they search for the one matrix, the one block and the share that answer best, and find MLPs of late blocks
(`part: mlp` and a high `lowest`); here one share is for all matrices that are named. It trains nothing and costs no
steps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ._surgery import Part, edited


class Truncate(Settings):
    """Keep the largest singular values."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    share: float = Field(default=0.5, gt=0, le=1)
    """How many of a matrix's singular values are kept; 1 changes nothing. Paper: as few as 0.01 of one matrix."""
    part: Part = "all"
    """Which matrices of a block."""
    lowest: int | float = 0
    """The lowest block that is edited, an index or a fraction of the depth."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        return edited(
            subject, rig, lambda name, matrix: truncated(matrix, self.share), lowest=self.lowest, part=self.part
        )


def truncated(matrix: Tensor, share: float) -> Tensor:
    """The matrix (..., rows, columns) of a lower rank."""
    kept = max(1, round(share * min(matrix.shape[-2:])))
    if kept == min(matrix.shape[-2:]):
        return matrix
    if matrix.ndim > 2:
        return torch.stack([truncated(one, share) for one in matrix])
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :kept] * sizes[:kept]) @ right[:kept]
