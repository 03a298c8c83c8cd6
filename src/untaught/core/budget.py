"""Budget and what was spent of it: every attack's price is measured by the same meter."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import Field

from .settings import Settings


class Budget(Settings):
    """The most an intervention may spend. None is no bound; 0 is nothing at all."""

    steps: int | None = Field(default=None, ge=0)
    """Optimiser steps."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens trained on, padding not counted."""
    examples: int | None = Field(default=None, ge=0)
    """Texts (or packed rows of texts) trained on."""

    @property
    def empty(self) -> bool:
        """Whether it lets nothing be done."""
        return 0 in (self.steps, self.tokens, self.examples)


@dataclass
class Spent:
    """What was spent: one row of the meter. `flops` is an estimate: 6 x trained parameters x tokens, and
    2 x parameters x tokens for a pass that trains nothing.
    """

    steps: int = 0
    tokens: int = 0
    examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def allows(self, budget: Budget, *, steps: int = 0, tokens: int = 0, examples: int = 0) -> bool:
        """Whether spending this much more stays within the budget."""
        asked = (self.steps + steps, self.tokens + tokens, self.examples + examples)
        bounds = (budget.steps, budget.tokens, budget.examples)
        return all(bound is None or want <= bound for want, bound in zip(asked, bounds, strict=True))

    def plain(self) -> dict[str, float]:
        """As the `budget` column of a results row."""
        return asdict(self)
