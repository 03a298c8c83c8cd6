"""Reading corpora and multiple-choice items: a file, or a folder of files in the order of their names.

    .parquet                               a row a document
    .jsonl  .jsonl.gz  .jsonl.zst          a line a document, each a JSON object; blank lines are skipped
    .txt                                   a file a document

A folder is searched to its bottom; files of other kinds, and those whose name starts with a dot, are left alone. A
document without an id is called `FILE:ROW`: the file's name (below the folder), and its row in that file from 0.
Whatever cannot be read whole is an error that names the file and the place: half a corpus is never returned.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from ..core import Documents, UserError


def read_documents(path: str | os.PathLike[str], *, text_column: str = "text", where: str = "the corpus") -> Documents:
    """Columns `id`, `text` and all others. `where` is how messages name the place that asked for this path."""
    tables = []
    for name, file in _files(Path(path), where):
        table = _read(file)
        if table.num_rows:
            text = _text(table, text_column, file)
            rest = table.drop_columns([c for c in ("id", text_column) if c in table.column_names])
            tables.append(_joined(file, {"id": _ids(table, name, file), "text": text}, rest))
    return _stacked(tables, path, where, "documents")


def read_items(path: str | os.PathLike[str], *, where: str = "the items") -> pa.Table:
    """Multiple-choice items: columns `id`, `question`, `choices`, `answer` (an index from 0), and all others.

    Each has a question, at least two different choices, an answer among them and an id of its own; a column `role`,
    where there is one, says `hazard` or `benign`. Items without choices have their answer as text.
    """
    tables, seen = [], set()
    for name, file in _files(Path(path), where):
        table = _read(file)
        if not table.num_rows:
            continue
        texts = "answer" in table.column_names and pa.types.is_string(table["answer"].type)
        bare = texts and "choices" not in table.column_names
        _have(table, ("question", "answer") if bare else ("question", "choices", "answer"), file)
        ids = _ids(table, name, file)
        items = table.drop_columns(["id"] if "id" in table.column_names else [])
        for id, item in zip(ids.to_pylist(), items.to_pylist(), strict=True):
            problem = "shares its id with another. Ids must differ" if id in seen else _problem(item)
            if problem:
                raise UserError(f"{file}: item '{id}' {problem}.")
            seen.add(id)
        own = {"id": ids, "question": items["question"].cast(pa.string())}
        if not bare:
            own |= {"choices": items["choices"].cast(pa.list_(pa.string())), "answer": items["answer"].cast(pa.int64())}
        tables.append(_joined(file, own, items.drop_columns([name for name in own if name != "id"])))
    return _stacked(tables, path, where, "items")


def _problem(item: dict[str, Any]) -> str | None:
    """What is wrong with an item, as the end of a sentence, and what would be right."""
    if not (isinstance(item["question"], str) and item["question"].strip()):
        return "has no question. Give it one, as text"
    if item.get("role") not in (None, "hazard", "benign"):
        return "has a role that is neither 'hazard' nor 'benign'. Give one of them"
    if "choices" in item:
        return _problem_of_choices(item["choices"], item["answer"])
    answered = isinstance(item["answer"], str) and item["answer"].strip()
    return None if answered else "has no answer. Give it one, as text"


def _problem_of_choices(choices: Any, answer: Any) -> str | None:
    if not (isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)):
        return "has choices that are not a list of texts. Give each choice a text"
    different = len({choice.strip() for choice in choices})
    if different < max(2, len(choices)):
        return f"has {different} different choices of {len(choices)}. Give at least 2, all different"
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        given = answer if isinstance(answer, int | float) else "not a number"
        return f"has an answer that is no choice ({given}). Give the index of the right choice: 0 to {len(choices) - 1}"
    return None


def _files(path: Path, where: str) -> Iterator[tuple[str, Path]]:
    """Name and path of every file to read."""
    if not path.exists():
        raise UserError(f"{where}: there is no file or folder '{path}'. Give the path of one.")
    inside = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file()) if path.is_dir() else [Path(path.name)]
    known = [p for p in inside if p.name.endswith(tuple(READERS)) and not any(part[0] == "." for part in p.parts)]
    if not known:
        kinds = ", ".join(READERS)
        raise UserError(f"{where}: '{path}' is or holds no file of a kind that can be read. Give one of: {kinds}.")
    folder = path if path.is_dir() else path.parent
    yield from ((p.as_posix(), folder / p) for p in known)


def _read(file: Path) -> pa.Table:
    """One file as a table, by the end of its name."""
    reader = next(READERS[end] for end in READERS if file.name.endswith(end))
    try:
        return reader(file)
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException, UnicodeError) as error:
        kind = error.__class__.__name__
        raise UserError(f"{file} is damaged or cut short, and cannot be unpacked ({kind}). Fetch it again.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}. Mend or remove it.") from None


def _parquet(file: Path) -> pa.Table:
    with pq.ParquetFile(file, page_checksum_verification=True) as opened:
        return opened.read()


def _jsonl(file: Path, unpack: Callable[[bytes], bytes] = bytes) -> pa.Table:
    columns: dict[str, list[Any]] = {}
    rows = 0
    for number, line in enumerate(_decoded(unpack(file.read_bytes()), file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            detail = (
                f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "out of bounds"
            )
            raise UserError(f"{file}, line {number} is not valid JSON ({detail}). Mend or remove that line.") from None
        if not isinstance(row, dict):
            raise UserError(f'{file}, line {number} is not a JSON object. Make it one: {{"text": ...}}.')
        for name, value in row.items():
            columns.setdefault(name, [None] * rows).append(value)
        rows += 1
        for values in columns.values():
            values.extend([None] * (rows - len(values)))
    return pa.table({name: _column(values, name, file) for name, values in columns.items()})


def _column(values: list[Any], name: str, file: Path) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError):
        raise UserError(
            f"{file}: column '{name}' holds values of different kinds, or broken Unicode. Give its rows one kind."
        ) from None


def _text_file(file: Path) -> pa.Table:
    return pa.table({"text": [_decoded(file.read_bytes(), file)]})


def _zst(packed: bytes) -> bytes:
    """All frames, whole: the library's own stream takes a truncated one for a short one."""
    parts = []
    while packed:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(packed))
        if not frame.eof:
            raise EOFError
        packed = frame.unused_data
    return b"".join(parts)


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".jsonl.gz": lambda file: _jsonl(file, gzip.decompress),
    ".jsonl.zst": lambda file: _jsonl(file, _zst),
    ".txt": _text_file,
}


def _decoded(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line} is not valid UTF-8. Save the file as UTF-8.") from None


def _have(table: pa.Table, columns: tuple[str, ...], file: Path) -> None:
    for column in columns:
        if column not in table.column_names:
            have = ", ".join(table.column_names) or "none"
            raise UserError(f"{file} has no column '{column}'. It has: {have}. Name the right one, or add it.")


def _text(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    """The text column as strings."""
    _have(table, (name,), file)
    if name != "text" and "text" in table.column_names:
        raise UserError(f"{file} has the text column asked for, '{name}', and a column 'text' too. Rename that one.")
    column = table[name]
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise UserError(f"{file}, row {row} has no text in column '{name}' (null). Give it a text, or remove the row.")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{file}: column '{name}' is {column.type}, not text. Name a column of text.")
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raise UserError(f"{file}: column '{name}' holds text that is not valid UTF-8. Write the file again.") from None
    return column.cast(pa.string())


def _ids(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    """The id column as strings, `FILE:ROW` where there is none."""
    given: list[str | None] = [None] * table.num_rows
    if "id" in table.column_names:
        try:
            given = table["id"].cast(pa.string()).to_pylist()
        except pa.ArrowException:
            raise UserError(f"{file}: column 'id' is {table['id'].type}. Ids must be text or numbers.") from None
    return pa.chunked_array([[f"{name}:{row}" if id is None else id for row, id in enumerate(given)]], pa.string())


def _joined(file: Path, own: dict[str, pa.ChunkedArray], rest: pa.Table) -> tuple[Path, pa.Table]:
    """Our own columns first, then the others, and the file they came from."""
    return file, pa.table({**own, **{name: rest[name] for name in rest.column_names}})


def _stacked(tables: list[tuple[Path, pa.Table]], path: str | os.PathLike[str], where: str, things: str) -> pa.Table:
    """All files as one table; a column that a file lacks is null there."""
    if not tables:
        raise UserError(f"{where}: '{path}' holds no {things}. Give a path with at least one.")
    schema = tables[0][1].schema
    for file, table in tables[1:]:
        try:
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(f"{file} and the files before it differ: {error}. Give each column one kind.") from None
    return pa.concat_tables([table for _, table in tables], promote_options="permissive")
