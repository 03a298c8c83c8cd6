"""Writing corpora and other files: all or nothing, and the same bytes for the same content.

A file is written under a hidden name in its own folder and put in place by one rename: whoever looks sees the old
file, the whole new one, or none.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..core import UserError

ROWS = 5_000
"""Rows of a row group: about 25 MB of ordinary web text."""
HALF = ".tmp"
"""End of the hidden name of a file that is being written. Whose writer was killed stays, and may be removed."""


def write_documents(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a table as one parquet file (zstd, pages with checksums). How it was chunked does not show in the bytes."""
    with replacing(path) as temporary:
        pq.write_table(
            table.combine_chunks(), temporary, compression="zstd", row_group_size=ROWS, write_page_checksum=True
        )


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write bytes, or text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a name beside `path` to write to; it becomes `path` at the end, unless something was raised.

    Folders that are missing are made. The content is on the disk before the name is.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}{HALF}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Give a path that can be.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put(made: Path, path: Path) -> None:
    """Put a file that is written already in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Give a path that can be.") from None


def is_half(path: Path) -> bool:
    """Whether a file was being written when its writer was killed, or is being written now."""
    return path.name.startswith(".") and path.name.endswith(HALF)
