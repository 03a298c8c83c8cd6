"""Deciding: a shard goes in, a row of decisions comes out for each of its documents, and a receipt, written last.

    decide(rules, shard, folder)          a shard of a source; several may be at work at once, anywhere
    finish(rules, source, folder)         its shards together, when all are decided: the source's decisions and receipt

What is finished stands under the source's own name in `decisions/`, `findings/` and `receipts/`; what is at work stands
in `.work/` and goes when the source is finished. Killed at any moment and called again, the folder ends up the same.

Findings outlive the rules they were made for: where the text of a shard and what a stage measures are as they were,
only thresholds are read anew, and a dear stage is asked only about documents that it has not seen.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..core import FINDINGS, Documents, Finding, Findings, Scorer, UserError, findings
from . import receipts, shards
from .policy import Fitted, Rules
from .receipts import DECISIONS, Counts, Receipt
from .shards import Damaged, Shard, Source
from .writing import put, replacing

pc: Any = pyarrow.compute
READ = "read"
"""The stage that quarantines what has no text to decide."""
WORK = ".work"
KEPT, REMOVED, QUARANTINED = range(3)
ROWS = 2**14
"""Rows of a row group in decisions and findings."""
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("decision", pa.string()),
        ("stage", pa.string()),
        *FINDINGS,
        ("bytes", pa.int64()),
        ("source", pa.string()),
    ]
)
"""Decisions: the row in the source from 0, what was decided by which stage, what that found, bytes of text, source."""
READABLE = ("id", "text", "messages")
"""What a filter sees of a document, as far as it is there."""
MEASURED = pa.schema([("row", pa.int64()), *FINDINGS])
"""Findings of a stage, for the documents that it saw."""


def finished(rules: Rules, source: Source, folder: Path) -> bool:
    """Whether a source's receipt is there and true: same rules, same input, outputs in place."""
    receipt = Receipt.load(receipts.path_of(folder, source.name))
    if receipt is None or receipt.policy != rules.digest:
        return False
    return about(receipt, source) and receipt.holds(folder)


def about(receipt: Receipt, source: Source) -> bool:
    """Whether a receipt is about the bytes that a source has now."""
    try:
        parts = [shards.digest(shard) for shard in shards.cut(source)]
    except Damaged:
        parts = [None]
    return [shard["sha256"] for shard in receipt.shards] == parts


def decide(rules: Rules, shard: Shard, folder: Path) -> None:
    """Decide a shard, unless it is decided already."""
    place = folder / WORK / shard.source.name / f"{shard.index:05d}.json"
    sha256, counts, outputs, damaged = None, Counts(), {}, None
    try:
        with shards.unchanged(shard.source):
            sha256 = shards.digest(shard)
            before = Receipt.load(place)
            if (
                before
                and (before.policy, before.shards[0]["sha256"]) == (rules.digest, sha256)
                and before.holds(folder)
            ):
                return
            counts, paths = _decided(rules, shard, folder, _prior(rules, shard, sha256, folder))
        outputs = {name: known for path in paths for name, known in receipts.output(folder, path).items()}
    except Damaged as damage:
        damaged = str(damage)
    read = [{"sha256": sha256, "read": counts.read}]
    Receipt(shard.source.name, rules.digest, read, _stages(rules), counts, outputs, damaged).write(place)


def finish(rules: Rules, source: Source, folder: Path) -> None:
    """Put the decided shards of a source together. Refused while one of them is not decided.

    Asked again by whoever did not hear that it was done, there is nothing to put together and nothing to do.
    """
    work = folder / WORK / source.name
    count = len(shards.cut(source))
    parts = [Receipt.load(work / f"{index:05d}.json") for index in range(count)]
    ready = [part for part in parts if part and part.policy == rules.digest and part.holds(folder)]
    if len(ready) < count:
        if finished(rules, source, folder):
            shutil.rmtree(work, ignore_errors=True)
            return
        raise RuntimeError(f"{source.name}: {len(ready)} of {count} shards are decided")
    read = [dict(shard) for part in ready for shard in part.shards]
    damaged = next((part.damaged for part in ready if part.damaged), None)
    outputs: dict[str, Any] = {}
    counts = Counts() if damaged else Counts.total(part.counts for part in ready)
    for end, path in {} if damaged else _places(rules, source).items():
        first = np.cumsum([0, *(part.counts.read for part in ready)])
        _joined([work / f"{index:05d}.{end}" for index in range(count)], first, source, folder / path)
        outputs |= receipts.output(folder, folder / path)
    receipt = Receipt(source.name, rules.digest, read, _stages(rules), counts, outputs, damaged)
    receipt.write(receipts.path_of(folder, source.name))
    shutil.rmtree(work, ignore_errors=True)


def _stages(rules: Rules) -> list[dict[str, str]]:
    return [{"name": stage.name, "measures": stage.measures} for stage in rules.stages]


def _places(rules: Rules, source: Source) -> dict[str, str]:
    """Where a source's tables belong, by the end of the names that its shards' have while at work.

    The findings of each stage are kept apart where there are several; those of a single one are all in the decisions.
    """
    places = {"decisions.parquet": f"decisions/{source.table}"}
    for index, stage in enumerate(rules.stages if len(rules.stages) > 1 else ()):
        places[f"{index}.parquet"] = _findings(stage.name, stage.measures, source)
    return places


def _findings(name: str, measures: str, source: Source) -> str:
    return f"findings/{name.replace('#', '-')}-{measures[:12]}/{source.table}"


def scores(rules: Rules, source: Source, folder: Path) -> pa.Table:
    """What every stage gave the documents of a source that is decided: `row`, `id`, a column a stage, null for none."""
    path = folder / "decisions" / source.table
    decided = pq.read_table(path, columns=["row", "id", "score", "stage"])
    table = decided.select(["row", "id"])
    for stage in rules.stages:
        if len(rules.stages) == 1:
            found = pc.if_else(pc.equal(decided["stage"], stage.name), decided["score"], None)
        else:
            seen = pq.read_table(folder / _findings(stage.name, stage.measures, source), columns=["row", "score"])
            values = np.full(decided.num_rows, np.nan)
            values[seen["row"].to_numpy()] = seen["score"].to_numpy()
            found = pa.array(values, from_pandas=True)
        table = table.append_column(stage.name, found)
    return table


def _joined(parts: Sequence[Path], firsts: np.ndarray, source: Source, path: Path) -> None:
    """The tables of shards end to end, rows counted from the start of the source."""
    if len(parts) == 1:
        put(parts[0], path)
        return
    with Writer(path, pq.read_schema(parts[0])) as writer:
        for part, first in zip(parts, firsts[:-1], strict=True):
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(ROWS):
                    writer.write(_moved(pa.Table.from_batches([batch]), int(first), source))


def _moved(table: pa.Table, first: int, source: Source) -> pa.Table:
    """A shard's rows, counted from the start of its source; documents without an id are called after them."""
    rows = pc.add(table["row"], first)
    table = table.set_column(0, "row", rows)
    if "id" not in table.column_names or not table["id"].null_count:
        return table
    names = pa.chunked_array([[f"{source.name}:{row}" for row in rows.to_pylist()]])
    return table.set_column(1, "id", pc.fill_null(table["id"], names))


class Writer:
    """A parquet file of row groups of one size, whatever the sizes of what is written; all of it or nothing."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._stack = ExitStack()
        self._path, self._schema = path, schema
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Writer:
        temporary = self._stack.enter_context(replacing(self._path))
        self._file = self._stack.enter_context(
            pq.ParquetWriter(temporary, self._schema, compression="zstd", write_page_checksum=True)
        )
        return self

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        while sum(t.num_rows for t in self._waiting) >= ROWS:
            whole = pa.concat_tables(self._waiting)
            self._put(whole.slice(0, ROWS))
            self._waiting = [whole.slice(ROWS)]

    def _put(self, table: pa.Table) -> None:
        self._file.write_table(table.combine_chunks().cast(self._schema), ROWS)

    def __exit__(self, *problem: Any) -> None:
        if problem[0] is None and any(t.num_rows for t in self._waiting):
            self._put(pa.concat_tables(self._waiting))
        self._stack.__exit__(*problem)


# -- one shard ---------------------------------------------------------------------------------------------------------


class _Unread(Exception):
    """A document must be measured and its text has not been read."""


@dataclass(frozen=True)
class _Prior:
    """What an earlier run found in the same shard: documents without their text, and findings by stage."""

    documents: pa.Table
    """`id`, `cause` and `bytes`."""
    found: Mapping[str, tuple[np.ndarray, pa.Table]] = field(default_factory=dict)
    """By what is measured: for each document its place in the findings or -1, and the findings."""

    def batches(self) -> Iterator[pa.Table]:
        for first in range(0, self.documents.num_rows, ROWS):
            yield self.documents.slice(first, ROWS)


def _prior(rules: Rules, shard: Shard, sha256: str, folder: Path) -> _Prior | None:
    """What the source's receipt vouches for, where it saw the same bytes and measured something that is wanted now."""
    receipt = Receipt.load(receipts.path_of(folder, shard.source.name))
    if receipt is None or receipt.damaged or len(receipt.shards) <= shard.index:
        return None
    wanted = {stage.measures for stage in rules.stages}
    known = {stage["measures"]: stage["name"] for stage in receipt.stages if stage["measures"] in wanted}
    if receipt.shards[shard.index]["sha256"] != sha256 or not known or not receipt.holds(folder):
        return None
    first = sum(part["read"] for part in receipt.shards[: shard.index])
    count = receipt.shards[shard.index]["read"]
    decided = pq.read_table(folder / "decisions" / shard.source.table).slice(first, count)
    unread = pc.equal(decided["stage"], READ)
    cause = pc.if_else(unread, decided["reason"], pa.scalar(None, pa.string()))
    documents = pa.table({"id": decided["id"], "cause": cause, "bytes": decided["bytes"]})
    found = {}
    for measures, name in known.items():
        if len(receipt.stages) == 1:
            table = decided.filter(pc.invert(unread))
        else:
            table = pq.read_table(folder / _findings(name, measures, shard.source))
        rows = table["row"].to_numpy() - first
        here = (rows >= 0) & (rows < count)
        places = np.full(count, -1)
        places[rows[here]] = np.arange(here.sum())
        found[measures] = (places, table.filter(pa.array(here)).select(FINDINGS.names).cast(FINDINGS))
    return _Prior(documents, found)


def _decided(rules: Rules, shard: Shard, folder: Path, prior: _Prior | None) -> tuple[Counts, list[Path]]:
    """Decide a shard from findings alone where they are enough, else from its text."""
    if prior is not None:
        with suppress(_Unread):
            return _written(rules, shard, folder, prior, prior.batches())
    return _written(rules, shard, folder, prior, shards.read(shard, rules.reading))


def _written(
    rules: Rules, shard: Shard, folder: Path, prior: _Prior | None, batches: Iterator[pa.Table]
) -> tuple[Counts, list[Path]]:
    work = folder / WORK / shard.source.name
    paths = [work / f"{shard.index:05d}.{end}" for end in _places(rules, shard.source)]
    counts, row = [Counts()], 0
    alone = shard.index == 0  # rows and ids of the first shard are those of the source
    with ExitStack() as stack:
        decisions, *kept = [
            stack.enter_context(Writer(path, SCHEMA if path == paths[0] else MEASURED)) for path in paths
        ]
        for batch in batches:
            rows = np.arange(row, row + batch.num_rows)
            row += batch.num_rows
            table, measured, account = _through(rules.stages, batch, rows, prior)
            if alone:
                table = _moved(table, 0, shard.source)
            decisions.write(table.append_column("source", _repeat(shard.source.name, len(rows))))
            for writer, found in zip(kept, measured, strict=False):
                writer.write(found)
            counts.append(account)
    return Counts.total(counts), paths


def _repeat(value: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), [value]).cast(pa.string())


def decisions(stages: Sequence[Fitted], documents: Documents) -> pa.Table:
    """The decisions about documents in memory."""
    causes = pa.nulls(documents.num_rows, pa.string())
    seen = documents.select([name for name in READABLE if name in documents.column_names])
    batch = seen.append_column("cause", causes)
    return _through(stages, batch, np.arange(documents.num_rows), None)[0]


def _through(
    stages: Sequence[Fitted], batch: pa.Table, rows: np.ndarray, prior: _Prior | None
) -> tuple[pa.Table, list[pa.Table], Counts]:
    """A batch through the stages: the decisions, what each stage measured, and the account."""
    sound = batch["cause"].is_null().to_numpy()
    decision = np.where(sound, KEPT, QUARANTINED)
    stage = np.full(len(rows), len(stages))
    place = np.zeros(len(rows), np.int64)
    bad, here = np.flatnonzero(~sound), np.flatnonzero(sound)
    place[bad] = np.arange(len(bad))
    every = [findings(Finding(None, cause) for cause in batch["cause"].take(bad).to_pylist())]
    for index, fitted in enumerate(stages):
        found = _measured(fitted, batch, rows, here, prior)
        stage[here], place[here] = index, sum(t.num_rows for t in every) + np.arange(len(here))
        every.append(found)
        valid = found["score"].is_valid().to_numpy()
        clear = np.zeros(len(here), bool)
        clear[valid] = fitted.scorer.keep(found.filter(pa.array(valid)))
        decision[here[~valid]] = QUARANTINED
        if fitted.escalate and index + 1 < len(stages):
            here = here[valid & ~clear]
        else:
            decision[here[valid & ~clear]] = REMOVED
            here = here[valid & clear]
    told = pa.concat_tables(every).take(place) if len(bad) or len(every) > 2 else every[1]
    names = [*(fitted.name for fitted in stages), READ]
    size = batch["bytes"] if "bytes" in batch.column_names else pc.binary_length(batch["text"]).cast(pa.int64())
    own = {
        "row": rows,
        "id": batch["id"],
        "decision": pa.array(DECISIONS).take(decision),
        "stage": pa.array(names).take(stage),
    }
    table = pa.table({**own, **{name: told[name] for name in FINDINGS.names}, "bytes": size})
    saw = [np.flatnonzero(np.isin(stage, range(k, len(stages)))) for k in range(len(stages))]
    seen = [found.add_column(0, "row", pa.array(rows[s])) for found, s in zip(every[1:], saw, strict=True)]
    return table, seen, counted(decision, stage, names, size.to_numpy(), told["reason"])


def _measured(fitted: Fitted, batch: pa.Table, rows: np.ndarray, here: np.ndarray, prior: _Prior | None) -> Findings:
    """A stage's findings of some documents of a batch: earlier ones where there are any."""
    places, old = prior.found.get(fitted.measures, (None, None)) if prior else (None, None)
    if places is None or old is None:
        return _fresh(fitted.scorer, batch, here)
    place = places[rows[here]]
    new = np.flatnonzero(place < 0)
    if not len(new):
        return old.take(place)
    place[new] = old.num_rows + np.arange(len(new))
    return pa.concat_tables([old, _fresh(fitted.scorer, batch, here[new])]).take(place)


def _fresh(scorer: Scorer, batch: pa.Table, here: np.ndarray) -> Findings:
    if not len(here):
        return FINDINGS.empty_table()
    if "text" not in batch.column_names:
        raise _Unread
    documents = batch.select([name for name in READABLE if name in batch.column_names])
    return measured(scorer, documents if len(here) == batch.num_rows else documents.take(here))


def measured(scorer: Scorer, documents: Documents) -> Findings:
    """Findings of documents. One that makes the scorer fail has no score, and its reason is the failure's name."""
    try:
        return scorer.measure(documents).cast(FINDINGS)
    except UserError:
        raise
    except Exception as error:
        if documents.num_rows == 1:
            return findings([Finding(None, f"{error.__class__.__name__} in the filter")])
    half = documents.num_rows // 2
    return pa.concat_tables([measured(scorer, part) for part in (documents.slice(0, half), documents.slice(half))])


def counted(decision: np.ndarray, stage: np.ndarray, names: Sequence[str], size: np.ndarray, told: Any) -> Counts:
    """The account of some documents: codes of decisions and stages, bytes of text, reasons."""
    number = np.bincount(decision, minlength=len(DECISIONS)).tolist()
    text = np.bincount(decision, size, minlength=len(DECISIONS))
    stages, reasons = {}, {}
    for index, name in enumerate(names):
        here = np.bincount(decision[stage == index], minlength=len(DECISIONS))
        if here.any():
            stages[name] = {DECISIONS[code]: int(here[code]) for code in np.flatnonzero(here)}
    for code in (REMOVED, QUARANTINED):
        kinds: Counter[str] = Counter()
        for group in told.filter(pa.array(decision == code)).value_counts().to_pylist() if number[code] else ():
            kinds[re.sub(r"(?<![\w-])\d+(\.\d+)?", "#", group["values"])] += group["counts"]
        if kinds:
            reasons[DECISIONS[code]] = dict(kinds)
    sizes = {name: int(text[code]) for code, name in enumerate(DECISIONS) if number[code]}
    kept, removed, quarantined = number
    return Counts.total([Counts(len(decision), kept, removed, quarantined, sizes, stages, reasons)])
