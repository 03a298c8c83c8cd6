"""Presets: the stages of a published policy, by name. `preset: weak` in a policy brings them.

A preset is a file in `presets/`: its stages, its source, and what was published about it. What the policy itself says
wins, setting by setting: its stage named `blocklist` changes the preset's `blocklist`, a second one the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import UserError, suggest
from ..core.files import read_yaml

FOLDER = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Every preset."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def expanded(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A policy's table with the stages that its `preset` brings, and in `made` where they are from."""
    table = dict(table)
    name = table.pop("preset", None)
    if name is None:
        return table
    if name not in names():
        raise UserError(f"{where}: there is no preset '{name}'.{suggest(str(name), names())}")
    brought = read_yaml(FOLDER / f"{name}.yaml")
    about = {"name": name, "source": brought["source"], "published": brought["published"]}
    made = table.get("made")
    stages = [dict(stage) for stage in brought["filters"]]
    _merge(stages, table.get("filters") or [], str(name), where)
    return {**table, "filters": stages, "made": {**(made if isinstance(made, dict) else {}), "preset": about}}


def _merge(stages: list[dict[str, Any]], own: Any, name: str, where: str) -> None:
    """The policy's own stages over those of the preset."""
    free = list(stages)
    for stage in own if isinstance(own, list) else []:
        given = stage if isinstance(stage, Mapping) else {"use": stage}
        partner = next((s for s in free if s["use"] == given.get("use")), None)
        if partner is None:
            has = ", ".join(s["use"] for s in stages)
            raise UserError(
                f"{where}: the preset '{name}' has no such stage as '{given.get('use')}'. It has: {has}. Change those,"
                " or leave out 'preset' and write all stages."
            )
        free = [s for s in free if s is not partner]
        partner.update(given)
