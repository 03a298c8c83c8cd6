"""What a downloaded model folder contains, told before anything in it is loaded. Nothing in it is run or unpacked.

    pickle          loading it runs what it names; known by content, within archives too, and by name
    auto_map ...    a configuration that asks for code: of the folder, or fetched from a hub
    header          safetensors or GGUF whose header contradicts the file
    bomb            compressed data that grows to over a hundred times its size
    outside path    a link, or a name in an index, that leads out of the folder
    and notes       code that nothing asks for, chat templates, GGUF files, links within

Files are told by what they hold (`contents`) and configurations by what they ask for (`configurations`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..core import UserError
from . import configurations, contents
from .contents import HEAD, Seen
from .manifest import fault

__all__ = ["Seen", "inspect", "refuse_unsafe"]

CODE = (".py", ".pyc", ".pyo", ".ipynb", ".sh", ".bat", ".ps1", ".js")
LIBRARIES = (".so", ".dll", ".dylib", ".exe")
NATIVE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
"""How programs and libraries begin: Linux, macOS for one processor and for several."""


def inspect(folder: Path, *, follow: bool = False) -> list[Seen]:
    """Everything of note in a folder: what is refused first, then by path. With `follow` links may leave it."""
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}. Give a folder that was downloaded.")
    seen = [one for place, path in _walked(folder) for one in _looked_at(folder, place, path, follow)]
    return sorted(seen, key=lambda one: (one.severity != "refuse", one.path, one.kind))


def refuse_unsafe(folder: Path, *, what: str = "loaded", strict: bool = False, follow: bool = False) -> None:
    """A `UserError` naming what could run code or is malformed, if anything is. `what` is then not done to the folder.

    Loaders here read safetensors only, so a pickle beside these is not opened and passes; not if `strict`.
    """
    safe, seen = not strict and any(folder.glob("*.safetensors")), inspect(folder, follow=follow)
    bad = [one for one in seen if one.severity == "refuse" and not (safe and one.kind == "pickle")]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"{folder} is not {what}: {bad[0].path} {bad[0].reason}{more}. See: untaught inspect {folder}.")


def _walked(folder: Path) -> Iterator[tuple[Path, str]]:
    """Everything below a folder but folders, links not followed."""
    for inside, folders, files in os.walk(folder, onerror=_unreadable):
        folders.sort()
        linked = [name for name in folders if (Path(inside) / name).is_symlink()]
        for name in sorted([*files, *linked]):
            place = Path(inside) / name
            yield place, place.relative_to(folder).as_posix()


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}.")


def _looked_at(folder: Path, place: Path, path: str, follow: bool) -> Iterator[Seen]:
    """All there is to say about one file."""
    if wrong := fault(path):
        yield Seen(repr(path)[1:-1], "name", "refuse", f"has a name that {wrong}")
    if place.is_symlink():
        yield _link(folder, place, path, follow)
    try:
        info = place.stat()
    except (OSError, RuntimeError):
        return
    if stat.S_ISDIR(info.st_mode):
        return
    if not stat.S_ISREG(info.st_mode):
        yield Seen(path, "special file", "refuse", "is neither a file nor a folder")
        return
    try:
        with place.open("rb") as file:
            head = file.read(HEAD)
            yield from _code(path, head)
            yield from contents.of_file(path, file, head, info.st_size)
            yield from configurations.of_file(path, file, info.st_size)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}.") from None


def _link(folder: Path, place: Path, path: str, follow: bool) -> Seen:
    """A link, which may stay in the folder, or point at the blobs of a hub's snapshot."""
    try:
        target, root = place.resolve(strict=True), folder.resolve()
    except (OSError, RuntimeError):
        return Seen(path, "outside path", "refuse", "is a link to nothing")
    if not target.is_file():
        return Seen(path, "outside path", "refuse", "is a link to something that is no file")
    if target.is_relative_to(root):
        return Seen(path, "link", "note", "is a link to another file of the folder")
    if root.parent.name == "snapshots" and target.is_relative_to(root.parent.parent / "blobs"):
        return Seen(path, "link", "note", "is a link to the hub's store of files, as in every downloaded snapshot")
    return Seen(path, "outside path", "note" if follow else "refuse", "is a link that leaves the folder")


def _code(path: str, head: bytes) -> Iterator[Seen]:
    """Code that lies there. It runs only where something asks for it, which is told apart."""
    if path.lower().endswith(CODE):
        yield Seen(path, "code", "note", "is code: nothing here runs it, and other loaders do if told to trust it")
    elif path.lower().endswith(LIBRARIES) or head.startswith(NATIVE):
        yield Seen(path, "native code", "note", "is a program or library: nothing here runs it")
