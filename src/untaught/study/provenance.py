"""What else than settings a number depends on: the code that made it, and the versions of what that code stands on."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..attest import digest
from ..core.shelves import ROOT, source

FOUNDATION = ("core", "corpus", "engine", "lab", "study/steps.py")
"""What every component stands on: a change there makes every step new."""
TRACKED = ("torch", "transformers", "tokenizers", "peft", "numpy", "pyarrow")


def uses(kind: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The components that a step's settings name."""
    if kind == "filters":
        return tuple(stage["use"] for stage in settings["filters"])
    return (settings["use"],) if settings.get("use") else ()


@functools.cache
def code(kind: str, uses: tuple[str, ...]) -> str:
    """Digest of the components' code and of the rooms they stand on."""
    shared = [ROOT / room for room in FOUNDATION]
    shared += [ROOT / "study" / "searching.py", ROOT / "study" / "ranges.py"] if kind == "search" else []
    shelf = {"preparation": "evaluations", "search": "attacks"}.get(kind, kind)
    helpers = sorted((ROOT / shelf).glob("_*.py"))
    return digest.of_code(*shared, *helpers, *(source(shelf, use) for use in uses))


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"untaught": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in TRACKED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found.items())


def versions() -> dict[str, str]:
    """Versions of everything that could change a number."""
    return dict(_versions())
