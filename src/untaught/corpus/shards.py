"""Shards: what a corpus on disk is cut into, and how one is read.

A corpus is its sources: files in the order of their names. A source is cut into shards, always at the same places:

    .parquet                      runs of row groups, up to 128 MB of unpacked data each
    .jsonl                        runs of bytes, 128 MB each; a line belongs to the shard that its first byte lies in
    .jsonl.gz  .jsonl.zst         the file

A shard is read as tables of `id`, `text` and `cause`, a row a document, in order. `cause` says why a document cannot be
decided (no text, broken Unicode, ...) and is null for all others; its text is then empty. Nothing is left out: what
cannot be told apart into documents at all is `Damaged`, and no part of its source is then used.

Fine-tuning data is read as examples: the same with a column `messages`, from rows of the shapes that `shapes.py` knows.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.json as pj
import pyarrow.parquet as pq
import zstandard

from ..core import UserError
from . import hub, shapes

pc: Any = pyarrow.compute
KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
PIECE = 128 * 2**20
"""Bytes of a shard: unpacked ones of parquet, bytes on the disk of jsonl."""
ROWS = 2048
"""Most documents of a parquet file read at once: few enough for their text to stay in a processor's cache."""
BLOCK = 8 * 2**20
"""Bytes of JSON lines read at once; a longer line is read whole."""
CONVERSATION = "messages"
"""The column of a chat: a list of messages, each with its `content`."""
NO_TEXT = "no text"
DAMAGE = (pa.ArrowException, zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError, OSError, MemoryError)


class Damaged(Exception):
    """A source that cannot be read to its end. The message says why."""


@dataclass(frozen=True)
class Source:
    """An input file: its name below the folder that was given, and where it is."""

    name: str
    path: Path
    kind: str
    """The end of its name: one of `KINDS`."""

    @property
    def table(self) -> str:
        """Its name with the end of a parquet file: what tables about it are called."""
        return self.name if self.kind == ".parquet" else f"{self.name.removesuffix(self.kind)}.parquet"


@dataclass(frozen=True)
class Shard:
    """A part of a source: row groups or bytes from `start` to `stop`."""

    source: Source
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Reading:
    """Which columns hold the text and the id, and whether rows are examples of fine-tuning data."""

    text_column: str = "text"
    id_column: str = "id"
    examples: bool = False


def sources(data: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Every file that files, folders and globs name. Names must differ, since outputs carry them."""
    found: dict[str, Source] = {}
    for given in data:
        here = [source for source in _named(str(given)) if source.kind]
        if not here:
            raise UserError(f"'{given}' is or holds no corpus file. Give one of: {', '.join(KINDS)}.")
        for source in here:
            if found.setdefault(source.table, source).path != source.path:
                both = f"{found[source.table].path} and {source.path}"
                raise UserError(f"tables about {both} would both be called '{source.table}'. Rename one of them.")
    return sorted(found.values(), key=lambda source: source.name)


def _named(given: str) -> Iterator[Source]:
    path = hub.fetched(given, KINDS) if given.startswith(hub.PREFIX) else Path(given)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        plain = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        yield from (Source(p.relative_to(path).as_posix(), p, kind_of(p)) for p in plain)
    elif path.exists():
        yield Source(path.name, path, kind_of(path))
    elif glob.has_magic(given):
        parts = path.parts
        fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
        files = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file())
        yield from (Source(p.relative_to(fixed).as_posix(), p, kind_of(p)) for p in files)
    else:
        raise UserError(f"there is no file or folder '{given}'. Give the path of one, or a glob in quotes.")


def kind_of(path: Path) -> str:
    """Which of `KINDS` a file is; empty when none."""
    return next((kind for kind in KINDS if path.name.endswith(kind)), "")


def cut(source: Source) -> list[Shard]:
    """The shards of a source; one, when it is too damaged to be cut."""
    try:
        edges = _edges(source)
    except Damaged:
        edges = [0, 0]
    return [Shard(source, i, start, stop) for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True))]


def _edges(source: Source) -> list[int]:
    if source.kind == ".parquet":
        with _opened(source), pq.ParquetFile(source.path) as file:
            groups = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
        edges, held = [0], 0
        for index, size in enumerate(groups):
            if held and held + size > PIECE:
                edges.append(index)
                held = 0
            held += size
        return [*edges, len(groups)]
    if source.kind == ".jsonl":
        with _opened(source):
            size = source.path.stat().st_size
        return [*range(0, max(size, 1), PIECE), size]
    return [0, 1]


@contextmanager
def _opened(source: Source) -> Iterator[None]:
    """Turn what a broken file raises into `Damaged`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{source.path} is no longer there. Put it back, or run again without it.") from None
    except PermissionError:
        raise UserError(f"{source.path} must not be read. Give yourself the right to, or leave it out.") from None
    except EOFError:
        raise Damaged("cut short") from None
    except DAMAGE as error:
        raise Damaged(f"damaged, or not what its name says ({error.__class__.__name__})") from None


@contextmanager
def unchanged(source: Source) -> Iterator[None]:
    """Refuse what was read when the file changed meanwhile, and call it that when it looks damaged for that reason."""
    before, damage = _stamp(source), None
    try:
        yield
    except Damaged as found:
        damage = found
    if _stamp(source) != before:
        raise UserError(f"{source.path} changed while it was read. Nothing of it was decided: run again.")
    if damage:
        raise damage


def _stamp(source: Source) -> tuple[int, ...]:
    with _opened(source):
        stat = source.path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


# -- digests -----------------------------------------------------------------------------------------------------------


def digest(shard: Shard) -> str:
    """SHA-256 of what a shard is made of: its bytes; of parquet, the bytes of its row groups and the file's footer."""
    whole = hashlib.sha256()
    with _opened(shard.source), shard.source.path.open("rb") as file:
        if shard.source.kind == ".parquet":
            with pq.ParquetFile(shard.source.path) as opened:
                spans = [_bytes_of(opened.metadata.row_group(i)) for i in range(shard.start, shard.stop)]
                footer = opened.metadata.serialized_size
            size = file.seek(0, os.SEEK_END)
            ranges = [*spans, (size - footer - 8, size)]
        elif shard.source.kind == ".jsonl":
            ranges = [_lines_from(file, shard)]
        else:
            ranges = [(0, file.seek(0, os.SEEK_END))]
        for start, stop in ranges:
            for block in _blocks(file, start, stop, 2**20):
                whole.update(block)
    return whole.hexdigest()


def _bytes_of(group: Any) -> tuple[int, int]:
    """Where a row group's columns lie in its file."""
    columns = [group.column(i) for i in range(group.num_columns)]
    starts = [c.data_page_offset if c.dictionary_page_offset is None else c.dictionary_page_offset for c in columns]
    return min(starts, default=0), max(
        (s + c.total_compressed_size for s, c in zip(starts, columns, strict=True)), default=0
    )


def _blocks(file: BinaryIO, start: int, stop: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop:
        block = file.read(min(size, stop - start))
        if not block:
            raise EOFError
        start += len(block)
        yield block


def _lines_from(file: BinaryIO, shard: Shard) -> tuple[int, int]:
    """The bytes of the lines whose first byte lies in the shard."""
    return _line_start(file, shard.start), _line_start(file, shard.stop)


def _line_start(file: BinaryIO, at: int) -> int:
    """The first place from `at` on where a line starts."""
    if at == 0:
        return 0
    file.seek(at - 1)
    while block := file.read(2**16):
        end = block.find(b"\n")
        if end >= 0:
            return file.tell() - len(block) + end + 1
    return file.tell()


# -- documents ---------------------------------------------------------------------------------------------------------


def columns_of(source: Source, reading: Reading) -> tuple[str, bool]:
    """Which column of a source holds the text, and whether it is a conversation. A `UserError` when none does."""
    with _opened(source):
        if source.kind == ".parquet":
            with pq.ParquetFile(source.path) as file:
                names = file.schema_arrow.names
        else:
            names = next((list(row) for line in _lines(source) if (row := _object(line)) is not None), None)
    if names is None or reading.text_column in names:
        return reading.text_column, reading.text_column == CONVERSATION
    if reading.text_column == "text" and CONVERSATION in names:
        return CONVERSATION, True
    raise UserError(
        f"{source.path} has no column '{reading.text_column}'. It has: {', '.join(map(str, names)) or 'none'}."
        " Name the right one: --set text_column=NAME."
    )


def shape_of(source: Source, reading: Reading) -> shapes.Shape:
    """The shape of a source's examples: of a parquet file by its columns, else by the first row that has one."""
    seen: dict[str, None] = {}
    with _opened(source):
        if source.kind == ".parquet":
            with pq.ParquetFile(source.path) as file:
                seen = dict.fromkeys(file.schema_arrow.names)
            found = shapes.shape_of(seen, reading.text_column)
        else:
            found = None
            for row in filter(None, map(_object, _lines(source))):
                seen |= dict.fromkeys(row)
                if found := shapes.shape_of(row, reading.text_column):
                    break
    if found is not None or (not seen and source.kind != ".parquet"):
        return found or shapes.SHAPES[0]
    known = "; ".join(" and ".join(shape.needed) for shape in shapes.SHAPES)
    raise UserError(
        f"{source.path} has no columns of examples. It has: {', '.join(seen) or 'none'}. Name them after a shape that"
        f" is known ({known}), or name a column of bare answers: --set text_column=NAME."
    )


def read(shard: Shard, reading: Reading, *, label: str | None = None) -> Iterator[pa.Table]:
    """The documents of a shard: `id` (null where it has none), `text`, `cause`.

    Of examples also `messages`, and with a column of labels what stands in it, as `shapes.table` says.
    """
    if reading.examples:
        yield from _examples(shard, reading, label)
        return
    column, chat = columns_of(shard.source, reading)
    with unchanged(shard.source), _opened(shard.source):
        tables = _parquet(shard, reading, column) if shard.source.kind == ".parquet" else _jsonl(shard, reading, column)
        for table in tables:
            yield _checked(table, chat)


def _examples(shard: Shard, reading: Reading, label: str | None) -> Iterator[pa.Table]:
    shape = shape_of(shard.source, reading)
    with unchanged(shard.source), _opened(shard.source):
        if shard.source.kind == ".parquet":
            rows = _parquet_rows(shard, {*shape.columns, reading.id_column, label})
        else:
            rows = ([_row(line) for line in block.split(b"\n") if line.strip()] for block in _line_blocks(shard))
        for some in rows:
            yield shapes.table(some, shape, reading.id_column, label)


def _parquet_rows(shard: Shard, wanted: set[str | None]) -> Iterator[list[shapes.Row]]:
    with pq.ParquetFile(shard.source.path, page_checksum_verification=True) as file:
        names = [name for name in file.schema_arrow.names if name in wanted]
        groups = list(range(shard.start, shard.stop))
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=names, use_threads=False):
            try:
                yield [(row, None) for row in batch.to_pylist()]
            except UnicodeDecodeError:
                yield [_alone(batch.slice(place, 1)) for place in range(batch.num_rows)]


def _alone(batch: Any) -> shapes.Row:
    try:
        return batch.to_pylist()[0], None
    except UnicodeDecodeError:
        return None, shapes.NOT_UTF8


def _row(line: bytes) -> shapes.Row:
    """A line as an object, or why it is none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return None, shapes.NOT_UTF8
    except (ValueError, RecursionError):
        return None, "a line that is not JSON"
    return (row, None) if isinstance(row, dict) else (None, "a line that is not a JSON object")


def _parquet(shard: Shard, reading: Reading, column: str) -> Iterator[pa.Table]:
    with pq.ParquetFile(shard.source.path, page_checksum_verification=True) as file:
        names = [column, *({reading.id_column} & set(file.schema_arrow.names) - {column})]
        groups = list(range(shard.start, shard.stop))
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=names, use_threads=False):
            yield _table(batch, column, reading.id_column)


def _table(batch: Any, column: str, id_column: str) -> pa.Table:
    """`id` and the raw text column of what was read."""
    ids = batch.column(id_column) if id_column in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
    return pa.table({"id": _strings(ids), "text": batch.column(column)})


def _strings(ids: Any) -> Any:
    try:
        return ids.cast(pa.string())
    except pa.ArrowException:
        return pa.array([None if id is None else json.dumps(id, default=str) for id in ids.to_pylist()], pa.string())


def lines(shard: Shard) -> Iterator[bytes]:
    """The lines of a shard of JSON lines as they stand, those with nothing but white space left out."""
    with unchanged(shard.source), _opened(shard.source):
        for block in _line_blocks(shard):
            yield from (line for line in block.split(b"\n") if line.strip())


def _lines(source: Source) -> Iterator[bytes]:
    for block in _line_blocks(Shard(source, 0, 0, source.path.stat().st_size), first=2**16):
        yield from (line for line in block.split(b"\n") if line.strip())


def _line_blocks(shard: Shard, first: int = BLOCK) -> Iterator[bytes]:
    """Whole lines, about `BLOCK` bytes of them at a time."""
    rest: list[bytes] = []
    with shard.source.path.open("rb") as file:
        for index, packed in enumerate(_unpacked(file, shard, first)):
            block = packed.removeprefix(codecs.BOM_UTF8) if index == 0 and shard.index == 0 else packed
            end = block.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, block[:end]])
                rest = []
            rest.append(block[end:])
    if any(rest):
        yield b"".join(rest)


def _unpacked(file: BinaryIO, shard: Shard, size: int) -> Iterator[bytes]:
    if shard.source.kind == ".jsonl":
        yield from _blocks(file, *_lines_from(file, shard), size)
    elif shard.source.kind == ".jsonl.gz":
        with gzip.open(file) as opened:
            while block := opened.read(size):
                yield block
    else:
        yield from _frames(file, size)


def _frames(file: BinaryIO, size: int) -> Iterator[bytes]:
    """All zstd frames, whole: the library's own stream takes a truncated one for a short one."""
    frame, fed = zstandard.ZstdDecompressor().decompressobj(), False
    while packed := file.read(size // 4 + 1):
        while packed:
            fed = True
            yield frame.decompress(packed)
            packed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame, fed = zstandard.ZstdDecompressor().decompressobj(), False
    if fed:
        raise EOFError


def _jsonl(shard: Shard, reading: Reading, column: str) -> Iterator[pa.Table]:
    for block in _line_blocks(shard):
        yield _quick(block, reading.id_column, column) or _careful(block, reading.id_column, column)


def _quick(block: bytes, id_column: str, column: str) -> pa.Table | None:
    """Plain objects, one a line, by Arrow's own reader; None where a line needs a closer look."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == 10)
    if not len(ends) or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    starts = np.append(0, ends[:-1] + 1)
    last = np.maximum(ends - 1, 0)
    before = np.where(data[last] == 13, data[np.maximum(last - 1, 0)], data[last])
    if not ((data[starts] == ord("{")) & (before == ord("}"))).all():
        return None
    first = _object(block[: ends[0]])
    if first is None:
        return None
    kind = pa.list_(pa.struct([("content", pa.string())])) if column == CONVERSATION else pa.string()
    id_kind = pa.int64() if isinstance(first.get(id_column), int) else pa.string()
    schema = pa.schema([(column, kind), *([(id_column, id_kind)] if id_column != column else [])])
    try:
        table = pj.read_json(
            io.BytesIO(block),
            pj.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    return _table(table, column, id_column) if table.num_rows == len(starts) else None


def _careful(block: bytes, id_column: str, column: str) -> pa.Table:
    """Line by line; a line that is no document has a `cause`."""
    ids: list[str | None] = []
    texts: list[Any] = []
    causes: list[str | None] = []
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        row, text, cause = None, None, None
        try:
            row = json.loads(line.decode("utf-8"))
            text = row[column] if isinstance(row, dict) else None
        except UnicodeDecodeError:
            cause = "text that is not UTF-8"
        except (ValueError, RecursionError):
            cause = "a line that is not JSON"
        except KeyError:
            cause = NO_TEXT
        if cause is None and not isinstance(row, dict):
            cause = "a line that is not a JSON object"
        id = row.get(id_column) if isinstance(row, dict) else None
        ids.append(id if id is None or isinstance(id, str) else json.dumps(id))
        texts.append(text)
        causes.append(cause)
    ids = [None if id is None or not _encodes(id) else id for id in ids]
    told = [(None, c) if c else _told(t, column == CONVERSATION) for t, c in zip(texts, causes, strict=True)]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array([text for text, _ in told], pa.large_string()),
            "cause": pa.array([cause for _, cause in told], pa.string()),
        }
    )


def _told(value: Any, chat: bool) -> tuple[str | None, str | None]:
    """The text in a JSON value, or why there is none."""
    text = _conversation(value) if chat and value is not None else value
    if text is None:
        return None, NO_TEXT
    if not isinstance(text, str):
        return None, "a text that is not a string"
    return (text, None) if _encodes(text) else (None, "text that is not UTF-8")


def _conversation(messages: Any) -> Any:
    """What is said in a conversation, a line a message. Content in parts: the text of each."""
    said = []
    for message in messages if isinstance(messages, list) else [None]:
        content = message.get("content") if isinstance(message, dict) else 0
        if isinstance(content, list):
            content = "\n".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
        if not isinstance(content or "", str):
            return 0
        said.append(content or "")
    return "\n".join(said)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(table: pa.Table, chat: bool) -> pa.Table:
    """`id`, `text`, `cause`, with a cause for every text that is null, not text, not UTF-8 or holds NUL."""
    chunks = table["text"].chunks
    text: Any = chunks[0] if len(chunks) == 1 else table["text"].combine_chunks()
    causes: Any = table["cause"].to_pylist() if "cause" in table.column_names else None
    if chat and causes is None:
        text, causes = _said(text)
    if pa.types.is_dictionary(text.type):
        text = text.cast(text.type.value_type)
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        kind = text.type
        text = text.cast(pa.large_string()) if pa.types.is_string_view(kind) else pa.nulls(len(text), pa.large_string())
        causes = causes or [None if pa.types.is_string_view(kind) else "a text that is not a string"] * len(text)
    if text.null_count or not _sound(text):
        causes = causes or [None] * len(text)
        text = _mended(text, causes)
    cause = pa.nulls(len(text), pa.string()) if causes is None else pa.array(causes, pa.string())
    return pa.table({"id": table["id"], "text": text, "cause": cause})


def _said(messages: Any) -> tuple[Any, list[str | None] | None]:
    """The text of conversations in Arrow's own form."""
    kind = messages.type
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if inner is not None and pa.types.is_struct(inner) and inner.get_field_index("content") >= 0:
        content = pc.struct_field(messages.flatten(), "content")
        if pa.types.is_string(content.type) and not messages.null_count:
            offsets = messages.offsets.cast(pa.int32())
            offsets = pc.subtract(offsets, offsets[0])
            return pc.binary_join(pa.ListArray.from_arrays(offsets, content.fill_null("")), "\n"), None
    told = [_told(value, chat=True) for value in messages.to_pylist()]
    return pa.array([text for text, _ in told], pa.large_string()), [cause for _, cause in told]


def _sound(text: Any) -> bool:
    """Whether all texts are UTF-8 without NUL."""
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return not len(text) or bool(_bytes(text).all())


def _bytes(text: Any) -> np.ndarray:
    """The bytes of all texts, end to end."""
    width = np.int64 if pa.types.is_large_string(text.type) else np.int32
    _, offsets, data = text.buffers()
    edges = np.frombuffer(offsets, width)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, np.uint8)[edges[0] : edges[-1]] if data is not None else np.zeros(0, np.uint8)


def _mended(text: Any, causes: list[str | None]) -> Any:
    """The texts with empty ones where there is a cause, and the causes noted."""
    kind = pa.large_binary() if pa.types.is_large_string(text.type) else pa.binary()
    texts: list[str] = []
    for row, value in enumerate(text.view(kind).to_pylist()):
        if causes[row] is None and value is None:
            causes[row] = NO_TEXT
        elif causes[row] is None and b"\0" in value:
            causes[row] = "text with NUL characters"
        elif causes[row] is None:
            try:
                texts.append(value.decode("utf-8"))
                continue
            except UnicodeDecodeError:
                causes[row] = "text that is not UTF-8"
        texts.append("")
    return pa.array(texts, pa.large_string())
