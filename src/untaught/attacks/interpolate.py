"""Interpolation: move all weights in a straight line towards another arm, such as the model before unlearning.

    w(share) = (1 - share) * w + share * w_donor

It needs weights an attacker may not have, so it is first of all a diagnostic: knowledge that returns half-way lies on
the line between the two. Wortsman et al. 2021, arXiv 2109.01903, use the same line as a defence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject, UserError
from ..engine.models import fresh


class Interpolate(Settings):
    """Move towards the donor."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    donor: str = "untouched"
    """The arm to move towards."""
    share: float = Field(default=0.5, ge=0, le=1)
    """How far: 0 stays, 1 arrives."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        if rig.budget.steps == 0:
            return replace(subject, model=model)
        theirs = dict(rig.donor().model.named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                other = theirs.get(name)
                if other is None or other.shape != weight.shape:
                    raise UserError(f"donor '{self.donor}' has another shape at {name}. Give a model of the same kind.")
                weight.lerp_(other, self.share)
        return replace(subject, model=model)
