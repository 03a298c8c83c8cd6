"""Linear probes of a model's states: a direction on each block that tells two kinds of text apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.logistic import regressed
from .batches import Rows
from .compute import device
from .states import hidden_of

AT_ONCE = 16
"""Rows that are read together."""
LOOKED_AT = 64
"""Rows that a spread is taken over, at most."""


@dataclass(frozen=True)
class Probes:
    """A direction of length 1 for each layer, and where benign texts lie along it."""

    directions: Tensor
    """(layers, width)."""
    means: Tensor
    """(layers,): of benign texts."""
    scales: Tensor
    """(layers,): their standard deviations."""

    @classmethod
    def fitted(cls, model: torch.nn.Module, hazard: Rows, benign: Rows, layers: list[int]) -> Probes:
        """Probes of a model as it is."""
        left, right = (means(model, rows, layers) for rows in (hazard, benign))
        hits = np.repeat([True, False], [left.shape[1], right.shape[1]])
        groups = np.arange(len(hits))
        found = []
        for ours, theirs in zip(left, right, strict=True):
            both = np.concatenate([ours, theirs])
            scale = np.maximum(both.std(0), 1e-6) * np.sqrt(both.shape[1])
            found.append(regressed((both - both.mean(0)) / scale, hits, groups).weights / scale)
        lines = np.stack(found)
        lines /= np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), 1e-12)
        at = np.einsum("lnw,lw->ln", right, lines)
        parts = (lines, at.mean(1), np.maximum(at.std(1), 1e-6))
        return cls(*(torch.tensor(part, dtype=torch.float32, device=device()) for part in parts))

    def along(self, states: Tensor) -> Tensor:
        """How far states (layers, batch, time, width) lie beyond the benign mean, in standard deviations."""
        places = torch.einsum("lbtw,lw->lbt", states, self.directions)
        return (places - self.means[:, None, None]) / self.scales[:, None, None]


def means(model: torch.nn.Module, rows: Rows, layers: list[int]) -> np.ndarray:
    """Mean state of each row without its first token: float64, (layers, rows, width)."""
    found = []
    model.eval()
    with torch.no_grad():
        for first in range(0, len(rows.ids), AT_ONCE):
            batch = rows.batch(range(first, min(first + AT_ONCE, len(rows.ids)))).to(device())
            states = torch.stack(hidden_of(model, batch, layers))[:, :, 1:].float()
            weight = batch.weight[..., None].float()
            found.append((states * weight).sum(2) / weight.sum(1).clamp(min=1))
    return torch.cat(found, 1).double().cpu().numpy()


def spread(model: torch.nn.Module, rows: Rows, layers: list[int]) -> Tensor:
    """Variance of each coordinate over the benign tokens: (layers, 1, 1, width)."""
    batch = rows.batch(range(min(LOOKED_AT, len(rows.ids)))).to(device())
    with torch.no_grad():
        states = torch.stack(hidden_of(model, batch, layers))[:, :, 1:].float()
    return states[:, batch.weight > 0].var(1).clamp(min=1e-8)[:, None, None, :]
