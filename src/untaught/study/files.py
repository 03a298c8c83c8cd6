"""Files that a study names: item sets or some rows of them, what evaluations learn from, and digests of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from .. import assets
from ..attest import digest
from ..core import Settings, UserError
from ..core.shelves import Use
from ..corpus.world import of_part, read_any_items


class Rows(Settings):
    """Some rows of a file of items: `{path: PATH, part: held_out, most: 100}`."""

    path: str
    """A file, or `asset:NAME/PATH`."""
    part: str | None = None
    """Only rows whose column `part` says so."""
    most: int | None = Field(default=None, ge=1)
    """Only so many, evenly spaced."""


def items(given: str | Rows, folder: Path, where: str = "the items") -> pa.Table:
    """An item set: a whole file, or some rows of one."""
    rows = given if isinstance(given, Rows) else Rows(path=given)
    table = read_any_items(assets.path(rows.path, folder), where=where)
    if rows.part is not None:
        table = of_part(table, rows.part, where)
    if rows.most is not None and rows.most < table.num_rows:
        table = table.take(pa.array(np.arange(rows.most) * table.num_rows // rows.most))
    return table


def digest_of_items(given: str | Rows, folder: Path) -> str:
    """Of an item set's file and of which rows are meant."""
    if isinstance(given, str):
        return digest_of(assets.path(given, folder))
    whole = digest_of(assets.path(given.path, folder))
    return digest.of_json([whole, given.part, given.most])


def digest_of(path: Path) -> str:
    """Digest of a file, or of all files below a folder."""
    if path.is_file():
        return digest.of_file(path)
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}. Paths in a study start at the study file's folder.")
    below = sorted(p for p in path.rglob("*") if p.is_file())
    return digest.of_json([[p.relative_to(path).as_posix(), digest.of_file(p)] for p in below])


def digests_of(entries: Iterable[Use], folder: Path) -> dict[str, str]:
    """Of the files and folders that settings of filters name, by what they are called there."""
    given = {value for entry in entries for value in entry.settings.values() if isinstance(value, str)}
    paths = {name: assets.path(name, folder) for name in given if _is_path(name)}
    return {name: digest_of(paths[name]) for name in sorted(paths)}


def placed(entry: Use, folder: Path) -> Use:
    """An entry with the places of assets that its settings name."""
    places = {
        name: str(assets.path(value, folder))
        for name, value in entry.settings.items()
        if isinstance(value, str) and value.startswith(assets.PREFIX)
    }
    return entry.model_copy(update={"settings": entry.settings | places})


def _is_path(given: str) -> bool:
    return given.startswith(assets.PREFIX) or (Path(given).is_absolute() and Path(given).exists())


def named(component: Any) -> list[str]:
    """The files that a component learns from, as its class variable `files` tells in which settings they are."""
    found: list[str] = []

    def seen(given: str) -> str:
        found.append(given)
        return given

    located(component, seen)
    return found


def located(component: Any, how: Callable[[str], str]) -> Any:
    """The component with another path in place of each file that it learns from."""

    def changed(value: Any) -> Any:
        if isinstance(value, Settings):
            return value.model_copy(update={name: changed(getattr(value, name)) for name in type(value).model_fields})
        return tuple(map(how, value)) if isinstance(value, tuple) else how(value) if isinstance(value, str) else value

    names = getattr(component, "files", ())
    return component.model_copy(update={name: changed(getattr(component, name)) for name in names})
