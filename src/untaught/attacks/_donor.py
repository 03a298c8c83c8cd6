"""Weights of two models of one kind, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..core import Rig, Subject, UserError
from ..engine.models import fresh
from ._surgery import written

Mix = Callable[[Tensor, Tensor], Tensor]
"""What becomes of a parameter of the subject's and the donor's, both in float32."""


def mixed(subject: Subject, rig: Rig, donor: str, mix: Mix) -> Subject:
    """The subject with every parameter mixed with that of the rig's donor, which the settings call `donor`.

    Two models that do not have the same parameters are a `UserError`. Without a budget nothing is changed.
    """
    model = fresh(subject.model)
    if not rig.budget.empty:
        theirs, ours = (dict(one.named_parameters()) for one in (rig.donor().model, model))
        for name in [*ours, *theirs]:
            if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape:
                raise UserError(f"donor '{donor}' has another shape at {name}. Give a model of the same kind.")
        with torch.no_grad():
            both = ((name, weight, theirs[name].to(weight.device)) for name, weight in ours.items())
            written(rig, ((name, own, mix(own.float(), other.float())) for name, own, other in both))
    return replace(subject, model=model.eval())
