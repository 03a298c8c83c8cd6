"""Extrapolation: go on along the line through this arm and another, past either end of it.

    past the donor      w_donor + share * (w_donor - w)      what the defence did to the donor, turned round
    past the subject    w + share * (w - w_donor)            away from a donor that is defended more, or trained to be

Past the donor is task arithmetic's negation, from the donor on: Ilharco et al. 2022, "Editing Models with Task
Arithmetic", arXiv 2212.04089, subtract what a fine-tuning added to make a model forget it; subtracted here is the
defence. Past the subject is model extrapolation: Zheng et al. 2024, arXiv 2404.16792, go beyond an aligned model, away
from the one before alignment. An attacker who lacks the weights of old trains a copy to be safer still, and goes the
other way. `interpolate` covers what lies between the two.

Where the donor is the model before unlearning, it is a diagnostic, as `interpolate` is: what comes back may be its own.
Differs: all parameters are moved, the embedding and norms included, and `share` is given and not chosen by a test set.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ._donor import mixed


class Extrapolate(Settings):
    """Move past the donor, or away from it."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    donor: str = "untouched"
    """The arm that the line goes through."""
    past: Literal["donor", "subject"] = "donor"
    """Which end of the line it goes on from."""
    share: float = Field(default=0.5, gt=0)
    """How far past it, in units of the way between the two."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        def mix(own: Tensor, other: Tensor) -> Tensor:
            end, start = (other, own) if self.past == "donor" else (own, other)
            return end + self.share * (end - start)

        return mixed(subject, rig, mix, donor=self.donor)
