"""The step store: one folder a finished step, named by the step's identity.

A step's outputs are written to a folder under a name of its own, the record last, and the folder is then renamed: it is
there whole or not at all. Two workers that finish the same step write the same bytes, and either may win.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..core import Record, UserError

RECORD = "record.json"


def home() -> Path:
    """Where finished steps are kept: `UNTAUGHT_HOME`, or the user's cache folder."""
    if given := os.environ.get("UNTAUGHT_HOME"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "untaught"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "untaught"


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

    def folder(self, identity: str) -> Path:
        """Where a finished step's outputs are."""
        return self.root / identity[:2] / identity

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
        place = self.folder(identity)
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{identity[:16]}-", dir=place.parent))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def finish(self, made: Path, record: Record) -> None:
        """Write the record, last, and put the folder in its place."""
        with (made / RECORD).open("w", encoding="utf-8") as file:
            file.write(record.to_json())
            file.flush()
            os.fsync(file.fileno())
        place = self.folder(record.identity)
        if place.exists():
            shutil.rmtree(place)  # a damaged one, or the same bytes by another worker
        with contextlib.suppress(OSError):
            made.rename(place)
        if self.record(record.identity) is None:
            raise OSError(f"the step {record.title} could not be put in its place in {place.parent}")

    def drop(self, identity: str, name: str) -> None:
        """Remove one output of a finished step. Its record stays: the step is done, and can be done again."""
        shutil.rmtree(self.folder(identity) / name, ignore_errors=True)

    def records(self) -> Iterator[Record]:
        """Every finished step's record, in no order."""
        for path in self.root.glob(f"*/*/{RECORD}"):
            record = self.record(path.parent.name)
            if record is not None:
                yield record
