"""Applying decisions: kept, removed and quarantined documents as files, or only the kept ones as they are read.

    apply(source, folder)         writes kept/NAME, removed/NAME and quarantined/NAME, in the source's own format
    kept_documents(data, folder)  an iterator for training: tables of what is kept, nothing written

Both hold the source against its receipt first: decisions about other bytes are refused. Documents are passed on as they
stand, with all columns: JSON lines byte for byte, parquet with the source's schema.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ..core import MASKED, Documents, UserError
from . import receipts, shards
from .deciding import about
from .masking import Part, masks
from .policy import Reading
from .receipts import DECISIONS, Receipt
from .shards import Source
from .writing import replacing

Masking: TypeAlias = Literal["document"] | Part
"""What training does without: whole removed documents, or only sentences or terms of them."""
HELD = 32 * 2**20
"""Bytes held before they are written: row groups are those of the source, but for very large ones."""


def applied(source: Source, folder: Path) -> bool:
    """Whether a source's documents are written out, by the decisions that stand now."""
    told = Receipt.load(receipts.path_of(folder, source.name, applied=True))
    decided = Receipt.load(receipts.path_of(folder, source.name))
    if told is None or decided is None or told.policy != decided.policy or told.shards != decided.shards:
        return False
    return told.counts == decided.counts and told.holds(folder)


def apply(source: Source, folder: Path) -> None:
    """Write out what was decided of a source. A damaged source is written nowhere."""
    receipt = vouched(source, folder)
    outputs: dict[str, Any] = {}
    if not receipt.damaged:
        paths = [folder / decision / source.name for decision in DECISIONS]
        codes = _codes(folder, receipt)
        with shards.unchanged(source):
            if source.kind == ".parquet":
                _parquet(source, codes, paths)
            else:
                _lines(source, codes, paths)
        for path in paths:
            outputs |= receipts.output(folder, path)
    said = Receipt(
        source.name, receipt.policy, receipt.shards, receipt.stages, receipt.counts, outputs, receipt.damaged
    )
    said.write(receipts.path_of(folder, source.name, applied=True))


def kept_documents(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], *,
    text_column: str = "text", id_column: str = "id", masking: Masking = "document", check: bool = True,
    examples: bool = False,
) -> Iterator[Documents]:  # fmt: skip
    """Tables of `id` and `text`, a few thousand kept documents each, in the order of the sources.

    Of fine-tuning data, which `examples` says it is, also `messages`.

    With `masking` other than "document", removed documents stay, and a column `masked` says which of their characters
    training must leave out of its loss (see `masking.py`). `check` reads each source once more to hold it against its
    receipt.
    """
    folder, reading = Path(folder), Reading(text_column, id_column, examples)
    columns = ["id", "text", *(["messages"] if examples else [])]
    for source in shards.sources([data] if isinstance(data, str | os.PathLike) else data):
        receipt = vouched(source, folder, check=check)
        decided, row = _decisions(folder, receipt, masking), 0
        for shard in () if receipt.damaged else shards.cut(source):
            for batch in shards.read(shard, reading):
                here = decided.slice(row, batch.num_rows)
                row += batch.num_rows
                table = _chosen(batch.select(columns), here, masking)
                if table.num_rows:
                    yield table


def _decisions(folder: Path, receipt: Receipt, masking: Masking) -> pa.Table:
    """The columns of a source's decisions that choosing its documents needs."""
    columns = ["decision", *([] if masking == "document" else ["score", "spans"])]
    path = receipt.decisions
    return pa.table({"decision": []}) if path is None else pq.read_table(folder / path, columns=columns)


def _chosen(documents: Documents, decided: pa.Table, masking: Masking) -> Documents:
    decision = decided["decision"].to_numpy()
    if masking == "document":
        return documents.filter(pa.array(decision == "kept"))
    masked: list[Any] = [None] * documents.num_rows
    removed = np.flatnonzero(decision == "removed")
    for row, spans in zip(
        removed, masks(documents.take(removed), decided.take(removed), masking).to_pylist(), strict=True
    ):
        masked[row] = spans
    whole = documents.append_column("masked", pa.array(masked, MASKED))
    return whole.filter(pa.array(decision != "quarantined"))


def vouched(source: Source, folder: Path, *, check: bool = True) -> Receipt:
    """A source's receipt, which must be of the bytes that are there now."""
    receipt = Receipt.load(receipts.path_of(folder, source.name))
    if receipt is None or not receipt.holds(folder):
        raise UserError(
            f"{folder} holds no decisions about {source.name}. Decide first: untaught filter DATA --out {folder}."
        )
    if check and not receipt.damaged and not about(receipt, source):
        raise UserError(f"{source.path} is not what was decided about: its bytes differ. Decide again.")
    return receipt


def _codes(folder: Path, receipt: Receipt) -> np.ndarray:
    """For each row of a source the index of its decision in `DECISIONS`."""
    if receipt.decisions is None:
        return np.zeros(0, np.int8)
    column = _decisions(folder, receipt, "document")["decision"].combine_chunks().dictionary_encode()
    known = np.array([DECISIONS.index(name) for name in column.dictionary.to_pylist()], np.int8)
    return known[column.indices.to_numpy()] if len(known) else np.zeros(0, np.int8)


def _parquet(source: Source, codes: np.ndarray, paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        file = stack.enter_context(pq.ParquetFile(source.path, page_checksum_verification=True))
        schema, row = file.schema_arrow, 0
        repeated = [name for name in schema.names if _repeats(file, name)]
        writers = [
            stack.enter_context(
                pq.ParquetWriter(
                    stack.enter_context(replacing(path)),
                    schema,
                    compression="zstd",
                    use_dictionary=repeated,  # type: ignore[arg-type]
                    write_page_checksum=True,
                )
            )
            for path in paths
        ]
        for group in range(file.num_row_groups):
            waiting: list[list[Any]] = [[] for _ in paths]
            for batch in file.iter_batches(shards.ROWS, row_groups=[group], use_threads=False):
                here = codes[row : row + batch.num_rows]
                row += batch.num_rows
                for code, held in enumerate(waiting):
                    if (here == code).any():
                        held.append(batch if (here == code).all() else batch.filter(pa.array(here == code)))
                    if sum(part.nbytes for part in held) > HELD:
                        _flush(held, writers[code])
            for held, writer in zip(waiting, writers, strict=True):
                _flush(held, writer)


def _flush(held: list[Any], writer: pq.ParquetWriter) -> None:
    """Write what is held as one row group."""
    if held:
        writer.write_table(pa.Table.from_batches(held))
        held.clear()


def _repeats(file: pq.ParquetFile, name: str) -> bool:
    """Whether the source itself keeps a column as a dictionary all through, as it does where values repeat."""
    if not file.num_row_groups:
        return False
    group = file.metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return all(
        "PLAIN" not in column.encodings and column.has_dictionary_page
        for column in columns
        if column.path_in_schema.split(".")[0] == name
    )


def _lines(source: Source, codes: np.ndarray, paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        files = [_writing(stack.enter_context(replacing(path)), source.kind, stack) for path in paths]
        row = 0
        for shard in shards.cut(source):
            for line in shards.lines(shard):
                files[codes[row]](line + b"\n")
                row += 1


def _writing(path: Path, kind: str, stack: ExitStack) -> Callable[[bytes], Any]:
    """How to write to a new file of JSON lines, packed as its name says. The same lines give the same bytes."""
    file = stack.enter_context(path.open("wb"))
    if kind == ".jsonl.gz":
        return stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0)).write
    if kind == ".jsonl.zst":
        return stack.enter_context(zstandard.ZstdCompressor(3).stream_writer(file, closefd=False)).write
    return file.write
