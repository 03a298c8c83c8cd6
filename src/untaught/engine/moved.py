"""What tuning moved: the parameters that are no longer those of the model it began with; the model from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..core import Subject
from .models import fresh

SHOWN = 64
"""Numbers of each parameter that a model is known by."""


def moved(before: Subject, after: Subject) -> dict[str, Tensor]:
    """The parameters of `after` of which any bit is another than in `before`, by name."""
    given = dict(before.model.named_parameters())
    return {
        name: weight.detach() for name, weight in after.model.named_parameters() if not torch.equal(weight, given[name])
    }


def with_moved(before: Subject, weights: Mapping[str, Tensor]) -> Subject:
    """A subject with these parameters, and for all others the same numbers in memory."""
    model = fresh(before.model, weights.keys())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in weights:
                weight.copy_(weights[name])
    return replace(before, model=model.eval())


def known_by(subject: Subject) -> str:
    """A digest of every parameter's name, shape and first numbers: cheap, and another for another model."""
    whole = hashlib.sha256()
    for name, weight in sorted(subject.model.named_parameters()):
        first = weight.detach().reshape(-1)[:SHOWN].float().cpu().numpy()
        whole.update(f"{name} {tuple(weight.shape)} ".encode() + first.tobytes())
    return whole.hexdigest()
