"""The step store: one folder a finished step, named by the step's identity.

A step's outputs are written to a folder under a name of its own, the record last, and the folder is then renamed: it is
there whole or not at all. Runs may share a store: the same work waits for whoever began it, a finished step is never
written again, and what a killed run left half done is swept up by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..core import Record, UserError
from ..core.files import home

RECORD = "record.json"
HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""This machine, in the names of unfinished folders: a process number means nothing elsewhere."""
WEEK = 7 * 24 * 3600.0


class Store:
    """Finished steps by identity."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or home()) / "steps"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the step store {self.root} cannot be made: {error.strerror}. Set UNTAUGHT_HOME to a folder you own."
            ) from None

    @property
    def free(self) -> int:
        """Bytes that are free where steps are kept."""
        return shutil.disk_usage(self.root).free

    def folder(self, identity: str) -> Path:
        """Where a finished step's outputs are."""
        return self.root / identity[:2] / identity

    def unfinished(self, identity: str) -> Path:
        """Where checkpoints of a step that is under way are. They are gone when the step is finished."""
        return self.folder(identity).with_name(f".{identity}.unfinished")

    def record(self, identity: str) -> Record | None:
        """The step's record, or None when the step is not done."""
        try:
            return Record.from_json((self.folder(identity) / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return None  # damaged, or of another version: the step is done again

    @contextlib.contextmanager
    def writing(self, identity: str) -> Iterator[Path]:
        """An empty folder to write a step's outputs to. `finish` makes it the step's; otherwise it is removed."""
        made = self._aside(identity)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def finish(self, made: Path, record: Record) -> None:
        """Write the record, last, and put the folder in its place, unless the step was finished meanwhile."""
        with (made / RECORD).open("w", encoding="utf-8") as file:
            file.write(record.to_json())
            file.flush()
            os.fsync(file.fileno())
        place = self.folder(record.identity)
        if self.record(record.identity) is None:
            self._discard(place, record.identity)  # a damaged one
            with contextlib.suppress(OSError):
                made.rename(place)
        self._discard(self.unfinished(record.identity), record.identity)
        if self.record(record.identity) is None:
            raise OSError(f"the step {record.title} could not be put in its place in {place.parent}")

    def restore(self, made: Path, identity: str, name: str) -> None:
        """Give a finished step back an output that was dropped. Its record is not touched."""
        with contextlib.suppress(OSError):  # it is there already
            (made / name).rename(self.folder(identity) / name)
        self._discard(self.unfinished(identity), identity)

    def drop(self, identity: str, name: str) -> None:
        """Remove one output of a finished step. Its record stays: the step is done, and can be done again."""
        self._discard(self.folder(identity) / name, identity)

    @contextlib.contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Whoever asks for the same work meanwhile, in another process, waits until this block is left."""
        path = self.root / work[:2] / f".{work[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with path.open("w") as file:
                with contextlib.suppress(OSError):  # a file system without locks: the work is done twice, and one wins
                    fcntl.flock(file, fcntl.LOCK_EX)  # let go by the kernel when this process ends, however it ends
                if not _is(path, file):
                    continue  # who had it removed it
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def sweep(self) -> None:
        """Remove what killed processes left half done: of this machine, or of any that was not touched for a week.

        Checkpoints stay for a week, unless their step was finished after them.
        """
        for path in self.root.glob("*/.*-*-*-*"):
            host, process = path.name.split("-")[1:3]
            with contextlib.suppress(FileNotFoundError):  # its owner finished it
                gone = host == HERE and not _runs(int(process))
                if gone or time.time() - path.stat().st_mtime > WEEK:
                    shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob("*/.*.unfinished"):
            with contextlib.suppress(FileNotFoundError):
                record, seen = self.folder(path.name.split(".")[1]) / RECORD, path.stat().st_mtime
                if time.time() - seen > WEEK or (record.exists() and record.stat().st_mtime > seen):
                    shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob("*/.*.lock"):
            with contextlib.suppress(OSError), path.open("r+") as file:  # someone has it, or removed it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is(path, file):
                    path.unlink()

    def _aside(self, identity: str) -> Path:
        """A new folder that carries its owner's name, beside the place of a step."""
        parent = self.folder(identity).parent
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{identity[:16]}-{HERE}-{os.getpid()}-", dir=parent))

    def _discard(self, path: Path, identity: str) -> None:
        """Remove a folder at one stroke: killed in the middle, no half of it is left in its place."""
        if path.exists():
            aside = self._aside(identity)
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside / path.name)
            shutil.rmtree(aside, ignore_errors=True)

    def records(self) -> Iterator[Record]:
        """Every finished step's record, in no order."""
        for path in self.root.glob(f"*/*/{RECORD}"):
            record = self.record(path.parent.name)
            if record is not None:
                yield record


def _is(path: Path, file: IO[str]) -> bool:
    """Whether a path is still the file that was opened by it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _runs(process: int) -> bool:
    """Whether a process of this machine is alive."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True
