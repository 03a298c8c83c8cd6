"""Interpolation: move all weights in a straight line towards another arm, such as the model before unlearning.

    w(share) = (1 - share) * w + share * w_donor

It needs weights an attacker may not have, so it is first of all a diagnostic: knowledge that returns half-way lies on
the line between the two. Wortsman et al. 2021, arXiv 2109.01903, use the same line as a defence.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ._donor import mixed


class Interpolate(Settings):
    """Move towards the donor."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    donor: str = "untouched"
    """The arm to move towards."""
    share: float = Field(default=0.5, ge=0, le=1)
    """How far: 0 stays, 1 arrives."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        return mixed(subject, rig, lambda own, other: own.lerp(other, self.share), donor=self.donor)
