"""The summary of a filter folder: one account over all receipts, and what a reader must be told."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..core import UserError
from . import receipts
from .receipts import Counts, Receipt
from .shards import Source
from .writing import write_atomically

pc: Any = pyarrow.compute
FILE = "summary.json"
AT_ONCE = 20_000_000
"""Ids held at once in the search for equal ones."""
SHOWN = 20


def summarise(
    sources: Sequence[Source], policy: str, folder: Path, *, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write and return the summary. What an unchanged folder said before is not worked out again.

    `more` is what else is known: of fine-tuning data its shapes, what the gate measured, the budget curve.
    """
    told = {source.name: Receipt.load(receipts.path_of(folder, source.name)) for source in sources}
    found = {name: receipt for name, receipt in told.items() if receipt is not None}
    if len(found) < len(told):
        raise UserError(f"{len(told) - len(found)} sources of {len(told)} are not decided. Run again to go on.")
    written = [name for name in found if receipts.path_of(folder, name, applied=True).is_file()]
    root = receipts.root(folder)
    before = read(folder)
    more = more or {}
    known = {"root": root, "policy": policy, **more}
    if before and all(before.get(name) == value for name, value in known.items()):
        return before
    whole = Counts.total(receipt.counts for receipt in found.values())
    summary = {
        **asdict(whole),
        "sources": {name: _line(receipt) for name, receipt in found.items()},
        "damaged": {name: receipt.damaged for name, receipt in found.items() if receipt.damaged},
        "duplicate_ids": _duplicates(found, folder),
        "applied": len(written) == len(found),
        "policy": policy,
        "root": root,
        **more,
    }
    write_atomically(folder / FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def read(folder: Path) -> dict[str, Any] | None:
    """The summary that is there."""
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _line(receipt: Receipt) -> dict[str, Any]:
    counts = receipt.counts
    return {name: getattr(counts, name) for name in ("read", *receipts.DECISIONS)}


def _duplicates(found: dict[str, Receipt], folder: Path) -> dict[str, Any]:
    """How many documents share an id with an earlier one, and some of those ids."""
    paths = [folder / r.decisions for r in found.values() if r.decisions]
    total = sum(r.counts.read for r in found.values())
    passes, doubled, shown = -(-total // AT_ONCE), 0, []
    for index in range(passes):
        ids = pa.chunked_array([chunk for path in paths for chunk in _ids(path, index, passes)], pa.string())
        counts = ids.value_counts()
        often = counts.filter(pc.greater(counts.field("counts"), 1))
        doubled += (pc.sum(often.field("counts")).as_py() or 0) - len(often)
        shown += often.field("values").slice(0, SHOWN).to_pylist()
    return {"documents": doubled, "ids": sorted(shown)[:SHOWN]}


def _ids(path: Path, index: int, passes: int) -> Iterator[pa.Array]:
    """The ids of a table of decisions that fall into one of several passes, told by their last bytes."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(2**16, columns=["id"]):
            ids = batch.column(0)
            if passes > 1:
                tails = pc.binary_slice(ids.cast(pa.binary()), -8).to_pylist()
                mine = np.fromiter((zlib.crc32(tail) % passes == index for tail in tails), bool, len(tails))
                ids = ids.filter(pa.array(mine))
            yield ids
