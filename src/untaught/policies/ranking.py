"""The ranking of a pool of fine-tuning data: every example by the last stage's score, the most suspect first.

    ranking.parquet    rank (from 1), source, row, id, score, share (rank / examples), and with several stages the score
                       of each under its name

Equal scores stand in the order of what the examples say, so the order of sources and rows has no say. What has no
score is quarantined and in no ranking. The file says in its own metadata what it is about; while that stands it is not
written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..attest import digest
from ..corpus import deciding, receipts
from ..corpus.policy import Rules
from ..corpus.receipts import Receipt
from ..corpus.shards import Source
from ..corpus.writing import replacing
from .slicing import Pool

FILE = "ranking.parquet"
ABOUT = b"untaught-about"


def identity(rules: Rules, pool: Pool) -> str:
    """What a ranking follows from: what the stages measure, and which examples stand where."""
    where = sorted(zip(pool.sources, pool.rows.tolist(), [name.hex() for name in pool.names], strict=True))
    return digest.of_json([[stage.measures for stage in rules.stages], where])


def read(out: Path, about: str) -> pa.Table | None:
    """The ranking that is there, when it is about this."""
    try:
        found = pq.read_table(out / FILE)
    except (OSError, pa.ArrowException):
        return None
    return found if (found.schema.metadata or {}).get(ABOUT) == about.encode() else None


def write(rules: Rules, pool: Pool, sources: Sequence[Source], out: Path, about: str) -> pa.Table:
    """Rank every example by what was decided of it, and keep the ranking."""
    known = dict(zip(zip(pool.sources, pool.rows.tolist(), strict=True), pool.names, strict=True))
    tables = []
    for source in sources:
        receipt = Receipt.load(receipts.path_of(out, source.name))
        if receipt is not None and receipt.decisions is not None:
            table = deciding.scores(rules, source, out)
            tables.append(table.add_column(0, "source", pa.array([source.name] * table.num_rows, pa.string())))
    names = [stage.name for stage in rules.stages]
    table = pa.concat_tables(tables).combine_chunks()
    table = table.filter(table[names[-1]].is_valid())
    keys = zip(table["source"].to_pylist(), table["row"].to_pylist(), strict=True)
    ties = [(known.get(key, b""), *key) for key in keys]
    scores = table[names[-1]].to_numpy()
    order = sorted(range(len(ties)), key=lambda at: (-scores[at], ties[at]))
    table = table.take(pa.array(order, pa.int64()))
    ranks = np.arange(1, table.num_rows + 1)
    columns: dict[str, Any] = {"rank": ranks, **{name: table[name] for name in ("source", "row", "id")}}
    columns |= {"score": table[names[-1]], "share": ranks / max(table.num_rows, 1)}
    columns |= {name: table[name] for name in names} if len(names) > 1 else {}
    found = pa.table(columns).replace_schema_metadata({ABOUT: about.encode()})
    with replacing(out / FILE) as temporary:
        pq.write_table(found, temporary, compression="zstd", write_page_checksum=True)
    return found


def scores(rules: Rules, ranking: pa.Table) -> list[np.ndarray]:
    """What each stage gave the examples of a ranking; not a number for none."""
    if len(rules.stages) == 1:
        return [ranking["score"].to_numpy()]
    return [ranking[stage.name].to_numpy() for stage in rules.stages]
