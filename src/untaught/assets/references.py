"""References to assets in study files and on the command line: `asset:NAME` or `asset:NAME/PATH`."""

from __future__ import annotations

from pathlib import Path

from ..core import UserError
from . import keeping
from .catalogue import catalogue

PREFIX = "asset:"


def path(given: str, folder: Path = Path()) -> Path:
    """The path that is meant: a reference's place among the assets, or a plain path from a folder."""
    if not given.startswith(PREFIX):
        return folder / given
    name, _, below = given.removeprefix(PREFIX).partition("/")
    if keeping.intact(name) is None:
        mend = name if name in catalogue() else f"FOLDER --name {name}, or a name of the catalogue"
        raise UserError(f"the asset '{name}' is not there. Fetch it: untaught fetch {mend}.")
    found = keeping.folder_of(name) / below
    if ".." in Path(below).parts or not found.exists():
        there = [p.name for p in sorted(keeping.folder_of(name).glob("*")) if p.name != keeping.PROVENANCE]
        raise UserError(f"the asset '{name}' holds no '{below}'. It holds {', '.join(there)}.")
    return found


def whole(given: str, folder: Path) -> str:
    """What means the same from anywhere: a reference as it is, a path made absolute."""
    return given if given.startswith(PREFIX) else str((folder / given).absolute())
