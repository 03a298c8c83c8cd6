"""Grids of evenly spaced values, on which rounding puts weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["symmetric", "range"]
"""Whether a grid has 0 in its middle, or goes from the smallest weight of a group to the largest."""


class Grid:
    """`bits`-bit integers times one scale for each group, the last axis of what it is made for."""

    def __init__(self, groups: Tensor, bits: int, scheme: str) -> None:
        if scheme == "range":
            self.least, self.ends = groups.amin(-1, keepdim=True), (0, 2**bits - 1)
            scale = (groups.amax(-1, keepdim=True) - self.least) / self.ends[1]
        else:
            most = 2 ** (bits - 1) - 1
            self.least, self.ends = torch.zeros_like(groups[..., :1]), (-most, most)
            scale = groups.abs().amax(-1, keepdim=True) / most
        self.scale = torch.where(scale == 0, torch.ones_like(scale), scale)

    def nearest(self, values: Tensor) -> Tensor:
        """The values (..., n) on the grid; those beyond its ends become its ends."""
        return self.least + torch.round((values - self.least) / self.scale).clamp(*self.ends) * self.scale


def rounded(matrix: Tensor, bits: int, group: int, scheme: str = "symmetric", shift: int = 0) -> Tensor:
    """The matrix (..., columns) as `bits`-bit integers times one scale a group, in its own dtype."""
    columns, before = matrix.shape[-1], -shift % group
    edges = matrix[..., :1], matrix[..., -1:]  # what fills up a group adds nothing to its ends
    widths = before, -(columns + before) % group
    left, right = (e.expand(*matrix.shape[:-1], n) for e, n in zip(edges, widths, strict=True))
    groups = torch.cat([left, matrix, right], -1).unflatten(-1, (-1, group))
    return Grid(groups, bits, scheme).nearest(groups).flatten(-2)[..., before : before + columns]
