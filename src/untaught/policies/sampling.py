"""A seeded sample of a corpus, spread over its sources and shards, without reading all of it.

A corpus is cut into blocks: row groups of parquet files, 4 MB of JSON lines, whole packed files. With few blocks all
are read, and every document has the same chance. With more, `BLOCKS` of them are drawn, each as likely as it is large
(systematic sampling: evenly spread points on all blocks laid end to end, from a random start), and the same number of
documents is drawn from each. A line of JSON belongs to the block that its first byte lies in, so long documents are no
likelier than short ones. Documents of a block are neighbours and may be alike: `effect` says what that costs when only
some blocks are read.

    effect = variance of the mean of block shares / variance of independent documents, at least 1     (Kish 1965)
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import UserError
from ..corpus import shards
from ..corpus.shards import Damaged, Reading, Shard, Source

BLOCKS = 48
"""Blocks that are read at most."""
SIZE = 4 * 2**20
"""Bytes of a block of JSON lines."""


@dataclass(frozen=True)
class Sample:
    """Documents drawn from a corpus."""

    documents: pa.Table
    """`id`, `text`, `cause` (null: it can be decided), and `block`, the number of the block it is from."""
    blocks: int
    of_blocks: int
    read: int
    """Documents that were read to draw these."""
    corpus: float
    """Documents of the whole corpus, as far as the blocks tell."""
    seconds: float
    """Processor seconds that a document took to be read."""
    damaged: tuple[str, ...] = ()
    """Sources that could not be read."""

    def halves(self) -> tuple[pa.Table, pa.Table]:
        """Every other document of those that can be decided."""
        table = self.documents.filter(self.documents["cause"].is_null())
        odd = np.arange(table.num_rows) % 2 == 1
        return table.filter(pa.array(~odd)), table.filter(pa.array(odd))


def sample(sources: Sequence[Source], reading: Reading, count: int, seed: int) -> Sample:
    """Draw `count` documents, or all when there are no more."""
    blocks, damaged = _blocks(sources)
    whole = len(blocks) <= BLOCKS
    sizes = [size for _, size in blocks]
    drawn = dict.fromkeys(range(len(blocks)), count) if whole else _systematic(sizes, count, seed)
    tables, read, size, began = [], 0, 0.0, time.process_time()
    for number, each in drawn.items():
        shard = blocks[number][0]
        try:
            rows, table = _drawn(shard, reading, each, seed)
        except Damaged:
            damaged.append(shard.source.name)
            continue
        read, size = read + rows, size + blocks[number][1]
        tables.append(table.append_column("block", pa.array(np.full(table.num_rows, number))))
    if not read:
        raise UserError("no document of the corpus could be read, so there is none to sample. Look at its files.")
    seconds = (time.process_time() - began) / read
    table = pa.concat_tables(tables)
    best = np.sort(np.argsort(table["key"].to_numpy(), kind="stable")[: count if whole else None])
    corpus = read if whole else read / size * sum(sizes)
    documents = table.take(pa.array(best)).drop_columns(["key"])
    return Sample(documents, len(drawn), len(blocks), read, corpus, seconds, tuple(sorted(set(damaged))))


def _blocks(sources: Sequence[Source]) -> tuple[list[tuple[Shard, float]], list[str]]:
    """Every block with its bytes on the disk, and the sources that are too damaged to be cut."""
    found, damaged = [], []
    for source in sources:
        size = source.path.stat().st_size
        if source.kind == ".jsonl":
            edges = [*range(0, max(size, 1), SIZE), size]
            pairs = zip(edges[:-1], edges[1:], strict=True)
            found += [(Shard(source, i, a, b), float(max(b - a, 1))) for i, (a, b) in enumerate(pairs)]
        elif source.kind == ".parquet":
            try:
                with pq.ParquetFile(source.path) as file:
                    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            except (pa.ArrowException, OSError):
                damaged.append(source.name)
                continue
            rows = max(sum(groups), 1)
            found += [(Shard(source, i, i, i + 1), size * n / rows) for i, n in enumerate(groups) if n]
        else:
            found.append((Shard(source, 0, 0, 1), float(max(size, 1))))
    return found, damaged


def _systematic(sizes: Sequence[float], count: int, seed: int) -> dict[int, int]:
    """Blocks at evenly spread points, from a random start, and how many documents each is to give."""
    edges, number = np.cumsum(sizes), min(BLOCKS, count)
    start = np.random.default_rng([seed, len(sizes)]).random()
    points = (start + np.arange(number)) / number * edges[-1]
    hit = np.searchsorted(edges, points, side="right").clip(max=len(sizes) - 1)
    share = np.full(number, count // number) + (np.arange(number) < count % number)
    wanted = np.bincount(hit, share, minlength=len(sizes)).astype(int)
    return {int(block): int(wanted[block]) for block in np.flatnonzero(wanted)}


def _drawn(shard: Shard, reading: Reading, count: int, seed: int) -> tuple[int, pa.Table]:
    """How many documents a block has, and those with the lowest random keys."""
    rng = np.random.default_rng([seed, zlib.crc32(shard.source.name.encode()), shard.start])
    kept, rows = [], 0
    for table in _read(shard, reading):
        keys = rng.random(table.num_rows)
        lowest = np.sort(np.argsort(keys, kind="stable")[:count])
        named = _named(table, rows, shard).append_column("key", pa.array(keys))
        kept.append(named.take(pa.array(lowest)))
        rows += table.num_rows
    if not kept:
        return 0, pa.table({n: pa.array([], t) for n, t in (*COLUMNS, ("key", pa.float64()))})
    table = pa.concat_tables(kept)
    best = np.sort(np.argsort(table["key"].to_numpy(), kind="stable")[:count])
    return rows, table.take(pa.array(best))


COLUMNS = (("id", pa.string()), ("text", pa.large_string()), ("cause", pa.string()))


def _read(shard: Shard, reading: Reading) -> Iterator[pa.Table]:
    yield from shards.read(shard, reading)


def _named(table: pa.Table, first: int, shard: Shard) -> pa.Table:
    """One schema for all; a document without an id gets one that holds within the sample."""
    ids = table["id"].to_pylist()
    name = f"{shard.source.name}:{shard.start}"
    filled = [f"{name}+{first + row}" if id is None else id for row, id in enumerate(ids)]
    columns = {"id": pa.array(filled, pa.string()), "text": table["text"], "cause": table["cause"]}
    return pa.table(columns).cast(pa.schema(list(COLUMNS)))


def effect(hit: np.ndarray, block: np.ndarray) -> float:
    """What neighbours in a block do to the variance of a share of documents (Kish's design effect).

    >>> effect(np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]))
    3.0
    """
    n, mean = len(hit), hit.mean() if len(hit) else 0.0
    _, which = np.unique(block, return_inverse=True)
    clusters = int(which.max()) + 1 if n else 0
    plain = mean * (1 - mean) / max(n - 1, 1)
    if clusters < 2 or plain <= 0:
        return 1.0
    sums = np.bincount(which, hit - mean)
    spread = clusters / (clusters - 1) * (sums * sums).sum() / n**2
    return max(1.0, round(float(spread / plain), 6))
