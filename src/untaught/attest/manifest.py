"""The files of a model folder, and one digest that stands for all of them: the root.

    root = SHA-256 over the files' SHA-256, 32 bytes each, in the order of their paths, part by part

It is what OpenSSF Model Signing 1.0 gives by its method `files` as the digest of its subject
(https://github.com/sigstore/model-transparency), so one number names a folder there and here. As there, git's own files
at the top of a folder are no part of it, nor is the signature, nor are empty folders.

Differs: what would be read otherwise elsewhere is refused by its name, and not hashed. That is links, unless `follow`
is given, and then links to anything but a file; special files; names that lead outside, that hide what they say, or
that other file systems take for one another.

Files are read a piece at a time and hashed by threads, a file by one thread, since SHA-256 cannot be divided. Mapping
them instead would spare a tenth of the time, and end the process where one is cut short meanwhile. Where the digest of
the weights is asked for too, it comes of the same reading (`weights`). What is seen to change while it is read is
refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from ..core import UserError
from ..core.files import home
from . import weights
from .refusals import BytesDiffer

GIT = (".git", ".gitattributes", ".github", ".gitignore")
"""No part of a model, at the top of its folder."""
PIECE = 2**18
"""Bytes that a thread reads at a time: few enough to be in its core's cache still when they are hashed."""
WORKERS = 16
"""Threads at most, unless more are asked for."""
UNSURE = 2_000_000_000
"""Nanoseconds. A file that was changed so shortly before it was hashed could change again without its time telling."""
NAMED = 20
"""Differences that a message names."""
SHA256, STAMP = re.compile(r"[0-9a-f]{64}"), re.compile(r"[-0-9a-f ]{9,200}")
WEIGHTS = "*.safetensors at the top/"
"""What a cache keeps the digest of the weights under: no file is called so."""


class Unfit(UserError):
    """A folder whose files cannot be told apart, followed or read as one and the same everywhere."""


@dataclass(frozen=True)
class Entry:
    """One file: its path below the folder with `/` between the parts, and SHA-256 of its bytes."""

    path: str
    size: int
    """Bytes; -1 in what a signature expects, which does not tell. A manifest of a folder always has it."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Every file of a folder, in the order of their paths."""

    name: str
    """The folder's last name: for people only."""
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    """Files and folders that are there and are no part of it: git's, a signature."""
    weights: str | None = field(default=None, compare=False)
    """The digest of the safetensors at the top, where it was asked for and there are some that can be read."""

    @property
    def root(self) -> str:
        """What the folder is known by, whatever its name."""
        return root_of(entry.sha256 for entry in self.entries)


@dataclass(frozen=True)
class Difference:
    """One file that is not as it was signed."""

    kind: Literal["extra", "missing", "changed"]
    path: str


def root_of(digests: Iterable[str]) -> str:
    """The root of files' digests in hexadecimal, in the order they are given in."""
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in digests)).hexdigest()


def in_order(path: str) -> list[str]:
    """What paths are sorted by: part by part, so that a folder's files stay together."""
    return path.split("/")


def of_folder(
    path: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    follow: bool = False,
    ignore: Iterable[str] = (),
    with_weights: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """The manifest of a folder.

    `cache` is a file that keeps digests of files whose size, times, inode and device did not change. It is for signing
    only: what it says is believed. `follow` reads files behind links. `ignore` names paths below the folder that are no
    part of it. `with_weights` asks for the digest of the weights too. `progress` is told every number of bytes that was
    read; several threads call it.
    """
    if not path.is_dir():
        raise UserError(f"there is no model folder {path}. Give a folder with the model's files.")
    left_out = {*GIT, *ignore}
    found = sorted(_walked(path, follow, left_out), key=lambda one: in_order(one.path))
    files = [one for one in found if one.info is not None]
    _refuse_collisions([one.path for one in files])
    if not files:
        raise UserError(f"{path} has no files, so there is nothing to sign or verify in it.")
    known = _Known(cache, path)
    whole = _weighed(files, known, progress) if with_weights else None
    digests = _hashed(files, known, workers or min(WORKERS, _cores()), progress)
    known.keep()
    entries = tuple(
        Entry(one.path, cast("os.stat_result", one.info).st_size, digest)
        for one, digest in zip(files, digests, strict=True)
    )
    return Manifest(path.resolve().name, entries, tuple(one.path for one in found if one.info is None), whole)


def check_folder(
    expected: Manifest,
    path: Path,
    *,
    workers: int | None = None,
    follow: bool = False,
    ignore: Iterable[str] = (),
    with_weights: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """The manifest of a folder that has exactly the files expected; otherwise `BytesDiffer`. No cache is asked."""
    try:
        found = of_folder(
            path, workers=workers, follow=follow, ignore=ignore, with_weights=with_weights, progress=progress
        )
    except Unfit as error:
        raise BytesDiffer(f"{error} So it is not what was signed.") from None
    refuse_differences(expected, found, str(path))
    return found


def cache_of(folder: Path) -> Path:
    """Where the digests of a folder are kept between signings: in the user's cache, by the folder's place."""
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return home() / "digests" / f"{place}.json"


def differences(expected: Manifest, found: Manifest) -> list[Difference]:
    """What is extra, missing and changed, by path. A renamed file is missing and extra."""
    was = {entry.path: entry.sha256 for entry in expected.entries}
    now = {entry.path: entry.sha256 for entry in found.entries}
    listed: list[Difference] = []
    for path in sorted({*was, *now}, key=in_order):
        if path not in was:
            listed.append(Difference("extra", path))
        elif path not in now:
            listed.append(Difference("missing", path))
        elif was[path] != now[path]:
            listed.append(Difference("changed", path))
    return listed


def refuse_differences(expected: Manifest, found: Manifest, where: str) -> None:
    """`BytesDiffer`, naming the files, if any differs from what was expected."""
    listed = differences(expected, found)
    if listed:
        named = ", ".join(f"{one.path} ({one.kind})" for one in listed[:NAMED])
        more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
        count = f"{len(listed)} file{'s' if len(listed) > 1 else ''}"
        raise BytesDiffer(f"{where} differs from what was signed in {count}: {named}{more}.")


def fault(path: str) -> str | None:
    """What is wrong with a file's path below a folder, in words, if anything is."""
    if not path.isprintable():
        return "has characters that are not printed, or is not UTF-8"
    if "\\" in path or re.match("[A-Za-z]:", path):
        return "would be read as another place on Windows"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "leads out of the folder, or has an empty part"
    return None


class _Found(NamedTuple):
    """A file, or what is ignored: that has no `info`."""

    path: str
    place: Path
    info: os.stat_result | None


def _walked(folder: Path, follow: bool, left_out: set[str]) -> Iterator[_Found]:
    """Everything below a folder that is a file or ignored, in no order."""
    waiting = [(folder, "")]
    while waiting:
        inside, above = waiting.pop()
        for child in _children(inside):
            path, place = above + child.name, Path(child.path)
            if path in left_out:
                yield _Found(path, place, None)
            elif wrong := fault(path):
                raise Unfit(f"{folder}: the name {path!r} {wrong}. Rename the file.")
            elif child.is_symlink():
                yield _Found(path, *_target(folder, place, path, follow))
            elif child.is_dir(follow_symlinks=False):
                waiting.append((place, f"{path}/"))
            elif child.is_file(follow_symlinks=False):
                yield _Found(path, place, child.stat(follow_symlinks=False))
            else:
                raise Unfit(f"{folder}: {path} is neither a file nor a folder. Take it out.")


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as children:
            return list(children)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None


def _target(folder: Path, place: Path, path: str, follow: bool) -> tuple[Path, os.stat_result]:
    """The file behind a link."""
    try:
        target = place.resolve(strict=True)
        info = target.stat()
    except (OSError, RuntimeError):
        raise Unfit(f"{folder}: {path} is a link to nothing. Take it out, or mend it.") from None
    if not follow:
        out = "" if target.is_relative_to(folder.resolve()) else " that leaves the folder"
        raise Unfit(f"{folder}: {path} is a link{out}. Ask for links to be followed, or put the file in its place.")
    if not stat.S_ISREG(info.st_mode):
        raise Unfit(f"{folder}: {path} is a link to something that is no file. Only links to files are followed.")
    return target, info


def _refuse_collisions(paths: Sequence[str]) -> None:
    """Names that macOS or Windows would take for one another: by case, or by how Unicode composes letters."""
    seen: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            name = "/".join(parts[:count])
            plain = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
            other = seen.setdefault(plain, name)
            if other != name:
                raise Unfit(f"the names {other!r} and {name!r} are one on some file systems. Rename one of them.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _weighed(files: Sequence[_Found], known: _Known, progress: Callable[[int], None] | None) -> str | None:
    """The digest of the weights; from the same reading, those of their files. None where there are no such weights."""
    found = [one for one in files if "/" not in one.path and one.path.endswith(".safetensors")]
    if not found:
        return None
    told = "\n".join(f"{one.path} {_stamp(_info(one))}" for one in found)
    stamps = hashlib.sha256(told.encode()).hexdigest()
    if held := known.weights(stamps):
        return held
    begun = time.time_ns()
    with contextlib.ExitStack() as held_open:
        opened = [held_open.enter_context(_unchanged(one)) for one in found]
        try:
            shards = [
                weights.shard(held_open.enter_context(open(file, "rb", closefd=False)), _info(one).st_size)
                for file, one in zip(opened, found, strict=True)
            ]
        except weights.Malformed:
            return None
        whole, digests = weights.digests(shards, progress)
    for one, digest in zip(found, digests, strict=True):
        if digest is not None:
            known.learn(one, digest, begun)
    known.weigh(stamps, whole, begun, found)
    return whole


def _hashed(files: Sequence[_Found], known: _Known, workers: int, progress: Callable[[int], None] | None) -> list[str]:
    """The files' digests in their order, the largest files begun first."""
    stop = threading.Event()

    def digest(one: _Found) -> str:
        if held := known.digest(one):
            return held
        begun = time.time_ns()
        with _unchanged(one) as file:
            made = _read(file, one, stop, progress)
        known.learn(one, made, begun)
        return made

    by_size = sorted(range(len(files)), key=lambda place: -_info(files[place]).st_size)
    with ThreadPoolExecutor(workers) as threads:
        try:
            made = list(threads.map(digest, (files[place] for place in by_size)))
        except BaseException:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return [digest for _, digest in sorted(zip(by_size, made, strict=True))]


def _read(file: int, one: _Found, stop: threading.Event, progress: Callable[[int], None] | None) -> str:
    """SHA-256 of an open file."""
    whole, left = hashlib.sha256(), _info(one).st_size
    buffer = memoryview(bytearray(min(PIECE, left)))
    while left and not stop.is_set():
        count = os.readv(file, [buffer[:left]])
        if not count:
            raise UserError(f"{one.path} became shorter while it was read. Wait until nobody writes it.")
        whole.update(buffer[:count])
        left -= count
        if progress:
            progress(count)
    return whole.hexdigest()


@contextlib.contextmanager
def _unchanged(one: _Found) -> Generator[int]:
    """The very file that was found, open for reading; a `UserError` if it is another before, or after."""
    stamp, changed = _stamp(_info(one)), f"{one.place} changed while it was read. Wait until nobody writes it."
    try:
        file = os.open(one.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise UserError(f"{one.place} cannot be read: {error.strerror}.") from None
    try:
        if _stamp(os.fstat(file)) != stamp:
            raise UserError(changed)
        yield file
        if _stamp(os.fstat(file)) != stamp:
            raise UserError(changed)
    finally:
        os.close(file)


def _info(one: _Found) -> os.stat_result:
    return cast("os.stat_result", one.info)


def _stamp(info: os.stat_result) -> str:
    """What changes when a file does."""
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino} {info.st_dev}"


class _Known:
    """Digests by the stamps of their files, kept in a file between runs or, without one, not at all."""

    def __init__(self, file: Path | None, folder: Path) -> None:
        if file is not None and file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the cache {file} is in the folder {folder}, which it would change. Keep it elsewhere.")
        self.file = file
        self.before = _recalled(file) if file is not None else {}
        self.now: dict[str, list[str]] = {}
        self.read: dict[str, str] = {}
        """What was learned by this process, kept or not."""

    def digest(self, one: _Found) -> str | None:
        """What is known of a file that has not changed."""
        if one.path in self.read:
            return self.read[one.path]
        stamp, digest = self.before.get(one.path, ["", ""])
        if stamp != _stamp(_info(one)):
            return None
        self.now[one.path] = [stamp, digest]
        return digest

    def learn(self, one: _Found, digest: str, begun: int) -> None:
        """Note a file's digest, which was begun to be read at a time in nanoseconds."""
        self.read[one.path] = digest
        if _settled(one, begun):
            self.now[one.path] = [_stamp(_info(one)), digest]

    def weights(self, stamps: str) -> str | None:
        """The digest of weights in files with these stamps, if it is known."""
        held = self.before.get(WEIGHTS)
        if held is None or held[0] != stamps:
            return None
        self.now[WEIGHTS] = held
        return held[1]

    def weigh(self, stamps: str, digest: str, begun: int, files: Iterable[_Found]) -> None:
        """Note the digest of the weights in files with these stamps, if all of them were old enough."""
        if all(_settled(one, begun) for one in files):
            self.now[WEIGHTS] = [stamps, digest]

    def keep(self) -> None:
        """Write what is known, all or nothing. Where that cannot be, the next run reads everything again."""
        if self.file is None or self.now == self.before:
            return
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps({"version": 1, "files": self.now}, indent=0).encode())


def _settled(one: _Found, begun: int) -> bool:
    """Whether a file was written long enough before it was read."""
    return begun - max(_info(one).st_mtime_ns, _info(one).st_ctime_ns) > UNSURE


def _recalled(file: Path) -> dict[str, list[str]]:
    """What a cache holds: nothing if it cannot be read or is not ours."""
    try:
        held: Any = json.loads(file.read_bytes())
        files: dict[str, list[str]] = held["files"] if held["version"] == 1 else {}
        sound = all(STAMP.fullmatch(stamp) and SHA256.fullmatch(digest) for stamp, digest in files.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return files if sound else {}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
