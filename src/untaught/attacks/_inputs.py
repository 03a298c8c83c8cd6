"""What the matrices of a model are multiplied with, whatever its family calls them.

Products with a matrix are caught where they are made, so that matrices of fused experts and routers, which belong to no
linear layer, are seen as well: of an expert, the tokens that were sent to it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = {"linear", "addmm", "matmul", "__matmul__", "mm", "bmm", "grouped_mm", "_grouped_mm"}
"""Functions that multiply: in each, the inputs stand right before the matrix."""


class Inputs(TorchFunctionMode):
    """Meanwhile, sums up the squares of what some parameters are multiplied with.

    `sums` has, for each that was, (inputs,), or (experts, inputs) for the matrices of fused experts.
    """

    axes = 1
    """How many axes of as many entries as there are inputs a sum has."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self._named = sorted(
            ((weight.data_ptr(), name, weight) for name, weight in weights.items()), key=lambda w: w[0]
        )
        self._starts = [start for start, _, _ in self._named]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in PRODUCTS:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            ends = next((value for value in tensors if not value.is_floating_point()), None)  # of each expert's rows
            for given, matrix in itertools.pairwise(tensors):
                if (found := self._found(matrix)) is not None:
                    self._note(*found, given.detach(), matrix, ends)
        return func(*args, **kwargs)

    def _found(self, matrix: Tensor) -> tuple[str, Tensor] | None:
        """The parameter in whose memory a matrix lies."""
        index = bisect.bisect_right(self._starts, matrix.data_ptr()) - 1
        if index < 0:
            return None
        start, name, weight = self._named[index]
        return (name, weight) if matrix.data_ptr() < start + weight.nbytes else None

    def _note(self, name: str, weight: Tensor, given: Tensor, matrix: Tensor, ends: Tensor | None) -> None:
        lead, shape = weight.shape[:-2], (given.shape[-1],) * self.axes
        total = self.sums.setdefault(name, torch.zeros(*lead, *shape, device=given.device))
        if not lead:
            total.add_(self.summed(given))
        elif matrix.ndim == 2:
            total[(matrix.data_ptr() - weight.data_ptr()) // weight[0].nbytes].add_(self.summed(given))
        elif ends is not None:
            for expert, (start, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
                total[expert].add_(self.summed(given[start:end]))
        else:
            for expert, own in enumerate(given):
                total[expert].add_(self.summed(own))

    def summed(self, given: Tensor) -> Tensor:
        """What inputs (..., inputs) add up to: here their squares, (inputs,)."""
        return given.float().reshape(-1, given.shape[-1]).square().sum(0)
