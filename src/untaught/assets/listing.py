"""What can be fetched, and what is there."""

from __future__ import annotations

from typing import Any

from ..core import UserError
from ..core.files import home
from . import keeping
from .catalogue import catalogue
from .keeping import Provenance


def listed() -> list[dict[str, Any]]:
    """The catalogue, then whatever else is there: sizes in megabytes, and whether it is there and intact."""
    shelf = home() / "assets"
    others = sorted(p.name for p in shelf.glob("*") if keeping.NAME.fullmatch(p.name) and p.name not in catalogue())
    return [_row(name) for name in [*catalogue(), *others]]


def _row(name: str) -> dict[str, Any]:
    kept, there = _kept(name)
    entry = catalogue().get(name)
    about = entry or kept
    return {
        "asset": name,
        "megabytes": about.megabytes if about else None,
        "download": round(sum(wheel.megabytes for wheel in entry.wheels), 1) if entry else None,
        "there": there,
        "licence": about.licence if about else None,
        "what": about.what if about else None,
    }


def _kept(name: str) -> tuple[Provenance | None, str]:
    try:
        found = keeping.intact(name)
    except UserError:
        return None, "damaged"
    return found, "yes" if found else "no"
