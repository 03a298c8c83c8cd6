"""Weights of models of one kind, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..core import Rig, Subject, UserError
from ..engine.models import fresh
from ._surgery import written

Mix = Callable[..., Tensor]
"""What becomes of a parameter of the subject's, handed it and those of the other models, all in float32."""


def mixed(subject: Subject, rig: Rig, mix: Mix, **others: str) -> Subject:
    """The subject with every parameter mixed with those of the rig's other models.

    `others` has of each setting that names a model what it names. One that does not have the same parameters is a
    `UserError`. Without a budget nothing is changed.
    """
    model = fresh(subject.model)
    if not rig.budget.empty:
        ours = dict(model.named_parameters())
        theirs = [_alike(ours, rig.donor(setting), f"{setting} '{named}'") for setting, named in others.items()]
        with torch.no_grad():
            sides = ((name, own, [one[name].to(own.device).float() for one in theirs]) for name, own in ours.items())
            written(rig, ((name, own, mix(own.float(), *other)) for name, own, other in sides))
    return replace(subject, model=model.eval())


def _alike(ours: Mapping[str, Tensor], other: Subject, called: str) -> Mapping[str, Tensor]:
    """Another model's parameters, if they are of the same kind."""
    theirs = dict(other.model.named_parameters())
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape:
            raise UserError(f"{called} has another shape at {name}. Give a model of the same kind.")
    return theirs
