"""A record: what one step did, from what, at what price. Written last; a step is done when its record says so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One step of a study. Everything but `cost` and `versions` is the same whenever the step is run again."""

    identity: str
    """Digest of the settings, the inputs' identities, the seed and the code: the step's name."""
    kind: str
    """world, filters, training, unlearning, attacks or evaluations."""
    title: str
    """For people: `relearn on rmu, 20 steps, seed 0`."""
    component: str | None
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    """Role to identity of each step this one was made from."""
    outputs: dict[str, str]
    """File name (or `weights`) to SHA-256."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Numbers that the step reported: a filter's recall, a loss's first and last value."""
    spent: dict[str, float] = field(default_factory=dict)
    """steps, tokens, examples, flops of this step alone."""
    cost: dict[str, float] = field(default_factory=dict)
    """seconds, peak_bytes and what else training took, as it happened to be."""
    compute: dict[str, Any] = field(default_factory=dict)
    """Device, precision, threads and processes that it was computed with."""
    code: str = ""
    """Digest of the component's code and of the rooms it stands on."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        return cls(**json.loads(text))
