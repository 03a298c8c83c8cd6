"""Ranges: settings that an attack leaves open, for a search to fill in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core import UserError

if TYPE_CHECKING:
    from optuna import Trial

DECADE = 10
"""Ends that are so many times apart, or more, are searched on a logarithmic scale."""


@dataclass(frozen=True)
class Range:
    """What a setting may be: anything between two numbers, or one of several values."""

    name: str
    ends: tuple[Any, ...]
    """Two numbers, lowest first; or all values."""
    among: bool
    """Only these values."""

    @classmethod
    def of(cls, name: str, given: Sequence[Any], where: str) -> Range:
        """`[lowest, highest]`, or a list of three values or more, or of such as are no numbers.

        >>> Range.of("lr", [1e-5, 1e-2], "attacks.0").among, Range.of("rank", [None, 8], "attacks.0").among
        (False, True)
        """
        numbers = len(given) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
        if numbers and not given[0] < given[1]:
            raise UserError(
                f"{where}, {name} goes from {given[0]} to {given[1]}. Give the lower end first, or one value."
            )
        if len(given) < 2 or len(set(map(str, given))) < len(given):
            raise UserError(f"{where}, {name} is {list(given)}: give [lowest, highest], or values that differ.")
        return cls(name, tuple(given), not numbers)

    def plain(self) -> list[Any]:
        """As it stands in a study file."""
        return list(self.ends)

    def drawn(self, trial: Trial) -> Any:
        """A value for a trial: on a logarithmic scale where the ends are a decade apart, whole where both ends are."""
        if self.among:
            return self.ends[trial.suggest_categorical(self.name, list(range(len(self.ends))))]
        low, high = self.ends
        log = low > 0 and math.log(high / low) >= math.log(DECADE)
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(self.name, low, high, log=log)
        return float(f"{trial.suggest_float(self.name, low, high, log=log):.4g}")
