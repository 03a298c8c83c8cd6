"""Prefill: every answer is made to begin with the attacker's words, and the model goes on from them. The weights stay.

    p(answer | prompt)   becomes   p(answer | prompt, words)

Whoever runs open weights writes the beginning of an answer too: Andriushchenko et al. 2024, "Jailbreaking Leading
Safety-Aligned LLMs with Simple Adaptive Attacks", arXiv 2404.02151; Qi et al. 2024, "Safety Alignment Should Be Made
More Than Just a Few Tokens Deep", arXiv 2406.05946. It trains nothing and costs no steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject


class Prefill(Settings):
    """Begin every answer for the model."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    says: str = Field(default=" The answer is", min_length=1)
    """What every answer begins with. The space before it joins it to plain text; a chat leaves it off."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty:
            return subject
        return replace(subject, wrap=subject.wrap.model_copy(update={"prefill": self.says}))
