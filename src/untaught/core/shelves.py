"""Finding components by file name. The folder is the list: nothing is registered anywhere.

Names come from the shelf's folder and from installed packages' entry points (group `untaught.attacks` and so on).
Only the component that is asked for is imported; `summary` reads a first line from the source, so listing a shelf
needs no torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from .contracts import METHOD
from .errors import UserError, suggest
from .settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SHELVES = tuple(METHOD)


def names(shelf: str) -> list[str]:
    """Every component on a shelf, sorted. Files that start with an underscore are helpers, not components."""
    if shelf not in METHOD:
        raise UserError(f"there is no shelf '{shelf}'.{suggest(shelf, METHOD)}")
    own = [p.stem for p in (ROOT / shelf).glob("*.py") if not p.stem.startswith("_")]
    return sorted({*own, *_foreign(shelf)})


def find(shelf: str, name: str) -> type[Settings]:
    """The settings class of a component, by its file's name."""
    if name not in names(shelf):
        elsewhere = [other for other in SHELVES if name in names(other)]
        hint = f" '{name}' is on the shelf {elsewhere[0]}." if elsewhere else suggest(name, names(shelf))
        raise UserError(f"there is no component '{name}' on the shelf {shelf}.{hint}")
    foreign = _foreign(shelf).get(name)
    module_name = foreign.value if foreign else f"untaught.{shelf}.{name}"
    return component_of(importlib.import_module(module_name), shelf, name, METHOD[shelf])


def component_of(module: object, room: str, name: str, method: str) -> type[Settings]:
    """The class in a module that is the component: named after the file, with the room's method."""
    wanted = "".join(word.capitalize() for word in name.split("_"))
    found = getattr(module, wanted, None)
    if not (isinstance(found, type) and issubclass(found, Settings) and hasattr(found, method)):
        raise UserError(
            f"{room}/{name}.py has no settings class '{wanted}' with a method '{method}'. Name the class after"
            " the file, inherit from untaught.core.Settings, and add the method."
        )
    return found


def source(shelf: str, name: str) -> Path:
    """The file that a component is."""
    foreign = _foreign(shelf).get(name)
    if foreign is None:
        return ROOT / shelf / f"{name}.py"
    spec = importlib.util.find_spec(foreign.value)
    if spec is None or spec.origin is None:
        raise UserError(f"the entry point '{name}' of {shelf} names a module that is not there: {foreign.value}.")
    return Path(spec.origin)


def summary(shelf: str, name: str) -> str:
    """First sentence of a component's module docstring, read without importing it."""
    first = " ".join(text(shelf, name).split("\n\n", 1)[0].split())
    return re.split(r"(?<=\.)\s", first, maxsplit=1)[0].rstrip(":.")


def text(shelf: str, name: str) -> str:
    """A component's module docstring, read without importing it."""
    return ast.get_docstring(ast.parse(source(shelf, name).read_text(encoding="utf-8"))) or ""


@functools.cache
def _foreign(shelf: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Components that other installed packages bring to a shelf."""
    return {point.name: point for point in importlib.metadata.entry_points(group=f"untaught.{shelf}")}


class Use(Settings):
    """A component named in a file: `{use: NAME, SETTING: VALUE, ...}`, or its name alone."""

    use: str
    """Name of a component: its file's name on the shelf."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The component's own settings; in a file they stand beside `use`."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, table: Any) -> Any:
        if isinstance(table, str):
            return {"use": table}
        if not isinstance(table, Mapping) or "settings" in table:
            return table
        return {k: v for k, v in table.items() if k in cls.model_fields} | {
            "settings": {k: v for k, v in table.items() if k not in cls.model_fields}
        }

    def kind(self, shelf: str, where: str) -> type[Settings]:
        """The component's class."""
        try:
            return find(shelf, self.use)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def component(self, shelf: str, where: str) -> Any:
        """The component, built from its settings."""
        return self.kind(shelf, where).settle(self.settings, f"{where} ({shelf}.{self.use})")
