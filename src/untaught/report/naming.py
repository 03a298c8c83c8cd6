"""What an attack is called: its component, and the settings that tell it apart from the others of that name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .reading import Row

FAMILIAR = ("share", "bits", "rank", "layer", "donor", "steps")
"""Settings with one spelling on every shelf: of two that tell attacks apart equally well, the familiar one is named."""

TRIALS = "trials tried"
"""Stands among a searched attack's settings for how many were tried."""


@dataclass(frozen=True)
class Attack:
    """One component with one set of settings. The same component with other settings is another attack."""

    component: str
    settings: str
    """As JSON with sorted keys."""
    label: str
    """For people: `relearn (lora rank 8)`."""
    donor: str | None = None
    """The arm whose weights the attack mixes in."""
    stale: bool = False
    """What it looks for, it found in other weights than those under attack: a weak control, never a verdict."""
    base: str | None = None
    """The arm from which it counts what the attacked one and the donor have learned, and whose weights it starts at."""

    def apart(self, reference: str) -> str | None:
        """Why it decides no verdict; None where it may."""
        if self.stale:
            return f"found in the weights of {self.donor}"
        return f"mixes in the weights of {reference}" if reference in (self.donor, self.base) else None


def key(row: Row) -> tuple[str, str] | None:
    """What makes two rows the same attack; None for an unattacked arm."""
    return None if row.attack is None else (row.attack, json.dumps(_own(row), sort_keys=True))


def attacks(rows: Iterable[Row]) -> dict[tuple[str, str], Attack]:
    """Every attack in the results, in their order, each with a name that no other has."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if (name := key(row)) is not None:
            found.setdefault(name, _own(row))
    named = {}
    for component in dict.fromkeys(component for component, _ in found):
        kin = {name: settings for name, settings in found.items() if name[0] == component}
        for (name, settings), words in zip(kin.items(), tell_apart(list(kin.values())), strict=True):
            label = f"{component} ({words})" if words else component
            label += f", worst of {settings[TRIALS]} trials" if TRIALS in settings else ""
            donor, base = (arm if isinstance(arm := settings.get(role), str) else None for role in ("donor", "base"))
            stale = settings.get("stale") is True
            label += f", stale: found in {donor}" if stale else ""
            named[name] = Attack(component, name[1], label, donor, stale, base)
    return {name: named[name] for name in found}


def tell_apart(variants: Sequence[dict[str, Any]]) -> list[str]:
    """For each set of settings, the fewest of them that make it different from all the others, in words.

    >>> tell_apart([{"lr": 1, "lora": None}, {"lr": 1, "lora": {"alpha": 16, "rank": 8}}])
    ['', 'lora rank 8']
    """
    flat = [_flat(settings) for settings in variants]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    chosen: list[str] = []

    def groups(keys: list[str]) -> int:
        return len({tuple(settings.get(name, "") for name in keys) for settings in flat})

    def merit(name: str) -> tuple[int, bool, int, int]:
        held = sum(name in settings for settings in flat)
        return groups([*chosen, name]), name.split()[-1] in FAMILIAR, held, -names.index(name)

    while names and groups(chosen) < len(flat):
        best = max(names, key=merit)
        if groups([*chosen, best]) == groups(chosen):
            break
        chosen.append(best)
    words = [", ".join(f"{name} {settings[name]}" for name in chosen if name in settings) for settings in flat]
    return [w if words.count(w) == 1 else f"{w} variant {i}".strip() for i, w in enumerate(words, start=1)]


def _own(row: Row) -> dict[str, Any]:
    """The settings of the attack itself: its name and budget are told elsewhere. A search's trials are one attack."""
    own = {name: value for name, value in (row.attack_settings or {}).items() if name not in {"use", "budget"}}
    return own if row.search is None else own | row.search.ranges | {TRIALS: row.search.of}


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as one level of words. A setting that is null is left out."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        path = f"{above} {name}".strip()
        if isinstance(value, dict):
            flat |= _flat(value, path)
        elif value is not None:
            flat[path] = value if isinstance(value, str) else json.dumps(value)
    return flat
