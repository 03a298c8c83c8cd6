"""Where assets are kept: a folder each below `assets` of the user's cache, whole or not at all.

An asset is made in a folder under a name of its own, `provenance.json` is written last, and the folder is then renamed.
The provenance names every file with its digest: one that was changed, is missing or was added since makes the asset
damaged, and a damaged asset is refused by the name of that file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..attest import digest
from ..core import Settings, UserError
from ..core.files import home

PROVENANCE = "provenance.json"
CONVERTER = 1
"""Version of the conversions: raised when one writes other bytes from the same members, which are then fetched anew."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Kept(Settings):
    """One file of an asset."""

    sha256: str
    bytes: int


class Provenance(Settings):
    """Where an asset came from, and every file that it has."""

    asset: str
    given: str
    """What was asked for: the argument of `untaught fetch`."""
    what: str
    licence: str
    attribution: str
    source: dict[str, Any]
    """Wheels with their members, a Hub repository at a commit, or local files: each with SHA-256."""
    converter: int = CONVERTER
    made: dict[str, Any] = {}
    """What the conversion says of itself."""
    files: dict[str, Kept] = {}

    @property
    def megabytes(self) -> float:
        """What it takes on the disk."""
        return round(sum(file.bytes for file in self.files.values()) / 1e6, 1)

    @property
    def mend(self) -> str:
        """The command that fetches it anew."""
        return f"untaught fetch {self.given}{'' if self.given == self.asset else f' --name {self.asset}'} --again"


def folder_of(name: str) -> Path:
    """Where an asset is, or would be."""
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name an asset. Give one of letters, digits, '-', '_' and '.' with --name.")
    return home() / "assets" / name


def provenance(name: str) -> Provenance | None:
    """The provenance of an asset; None when it is not there."""
    folder = folder_of(name)
    if not folder.is_dir():
        return None
    try:
        table = dict(json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"the asset '{name}' is damaged: its {PROVENANCE} is missing or cannot be read. Fetch it anew:"
            f" untaught fetch {name} --again."
        ) from None
    return Provenance.settle(table, f"{folder / PROVENANCE}")


def intact(name: str, *, anew: bool = False) -> Provenance | None:
    """The provenance of an asset whose files are as they were written; None when it is not there.

    A file that was last written to before the provenance was is not read again, unless `anew`.
    """
    found = provenance(name)
    if found is None:
        return None
    folder = folder_of(name)
    made = (folder / PROVENANCE).stat().st_mtime_ns
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    del there[PROVENANCE]
    problems = {file: "missing" for file in found.files.keys() - there.keys()}
    problems |= {file: "not part of it" for file in there.keys() - found.files.keys()}
    for file in found.files.keys() & there.keys():
        seen, kept = there[file].stat(), found.files[file]
        unread = seen.st_mtime_ns <= made and not anew
        if seen.st_size != kept.bytes or not (unread or digest.of_file(there[file]) == kept.sha256):
            problems[file] = "changed"
    if problems:
        told = "; ".join(f"{file} is {problem}" for file, problem in sorted(problems.items())[:5])
        raise UserError(f"the asset '{name}' in {folder} is damaged: {told}. Fetch it anew: {found.mend}.")
    return found


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Whoever fetches the same asset meanwhile waits. What a killed fetch left half done is swept up."""
    folder = folder_of(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{name}.lock").open("w")
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written: {error.strerror}. Set UNTAUGHT_HOME to a folder you own."
        ) from None
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: the work is done twice, and one wins
            fcntl.flock(lock, fcntl.LOCK_EX)
        for half in folder.parent.glob(f".{name}~*"):
            shutil.rmtree(half, ignore_errors=True)
        yield


@contextlib.contextmanager
def making(name: str) -> Iterator[Path]:
    """An empty folder to make an asset in. `finish` makes it the asset; otherwise it is removed."""
    aside = Path(tempfile.mkdtemp(prefix=f".{name}~", dir=folder_of(name).parent))
    try:
        (made := aside / name).mkdir()
        yield made
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def finish(made: Path, about: Provenance) -> Provenance:
    """Write the provenance, last, and put the folder in its place; what stood there goes."""
    files = {}
    for path in sorted(p for p in made.rglob("*") if p.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        name = path.relative_to(made).as_posix()
        files[name] = Kept(sha256=digest.of_file(path), bytes=path.stat().st_size)
    about = about.model_copy(update={"files": files})
    with (made / PROVENANCE).open("w", encoding="utf-8") as file:
        file.write(json.dumps(about.changed(), indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    place = folder_of(about.asset)
    if place.exists():
        place.rename(made.parent / "replaced")  # swept up with the rest of what was made aside
    made.rename(place)
    return about
