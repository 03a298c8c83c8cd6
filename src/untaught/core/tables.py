"""Documents, findings and marks as columns.

A batch is an Arrow table, never a Python object for each row: an object a document costs more than deciding it.

    documents   id, text, and whatever columns they came with; `masked` is what training leaves out of its loss,
                `messages` the conversation that an example of fine-tuning data is
    findings    score (larger = more reason to drop; null = could not be measured), reason, terms, spans
    marks       item, metric, value (null = missing), chance, note
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from .errors import UserError

Documents: TypeAlias = pa.Table
"""Columns `id` (string), `text` (string), and any others.

`masked`, where there is one, has the type `MASKED`: spans of `text` that training sees and does not learn (null: none).
`messages`, where there is one, has the type `MESSAGES`: the turns of a conversation in order. Such a document is an
*example* of fine-tuning data: what its assistant says is the answer, all else is the prompt, and `text` is what is
said, a line a turn. A document without `messages` is an answer to nothing.
"""
Findings: TypeAlias = pa.Table
"""Columns `score` (float64), `reason` (string), `terms` (list of strings), `spans`, one row a document.

A null score is no decision: the document is quarantined, and `reason` says why it could not be measured. `spans` are
the places in the text that the score rests on, as far as a filter knows them: `start` and `stop` count characters of
`text`, `term` is an index into the row's `terms` (-1: of no term). A term has one span for each time it stands there.
"""
Marks: TypeAlias = pa.Table
"""Columns `item`, `metric` (string), `value`, `chance` (float64, null allowed), `note` (string, null allowed)."""
Mask: TypeAlias = np.ndarray
"""One bool a document: True is kept."""

MASKED = pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32())]))
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SPAN = pa.struct([("term", pa.int32()), ("start", pa.int32()), ("stop", pa.int32())])
FINDINGS = pa.schema(
    [
        ("score", pa.float64()),
        ("reason", pa.string()),
        ("terms", pa.list_(pa.string())),
        ("spans", pa.list_(SPAN)),
    ]
)
MARKS = pa.schema(
    [
        ("item", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("chance", pa.float64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class Document:
    """One text and its id: a row of `Documents`, for the places that look at a single one."""

    id: str
    text: str


@dataclass(frozen=True)
class Finding:
    """What a scorer says of one document: a row of `Findings`. A span is (index of its term, start, stop)."""

    score: float | None
    reason: str
    terms: tuple[str, ...] = ()
    spans: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Mark:
    """What an evaluation says of one item: a row of `Marks`.

    `value` is None when it could not be computed. It is then *missing*, counted and shown, and never 0: on a
    hazard test 0 would read as safety. `chance` is what guessing gives, None where guessing has no meaning.
    """

    item: str
    metric: str
    value: float | None
    chance: float | None = None
    note: str | None = None


def documents(rows: Iterable[Document]) -> Documents:
    """A table of documents from single ones (small corpora, tests, examples)."""
    rows = list(rows)
    return pa.table({"id": [r.id for r in rows], "text": [r.text for r in rows]}, schema=pa.schema(
        [("id", pa.string()), ("text", pa.string())]
    ))  # fmt: skip


def findings(rows: Iterable[Finding]) -> Findings:
    """A table of findings from single ones."""
    rows = list(rows)
    spans = [[dict(zip(SPAN.names, span, strict=True)) for span in r.spans] for r in rows]
    columns = [[r.score for r in rows], [r.reason for r in rows], [list(r.terms) for r in rows], spans]
    return pa.table(columns, schema=FINDINGS)


def marks(rows: Iterable[Mark]) -> Marks:
    """A table of marks from single ones. A value that is not finite is missing, and every missing one says why."""
    rows = list(rows)
    bad = [r.value is None or not np.isfinite(r.value) for r in rows]
    return pa.table(
        [
            [r.item for r in rows],
            [r.metric for r in rows],
            [None if b else r.value for r, b in zip(rows, bad, strict=True)],
            [r.chance for r in rows],
            [r.note or "not a finite number" if b else r.note for r, b in zip(rows, bad, strict=True)],
        ],
        schema=MARKS,
    )


def require(table: pa.Table, columns: Sequence[str], where: str) -> pa.Table:
    """The table, or a `UserError` that names the column it lacks."""
    for column in columns:
        if column not in table.column_names:
            have = ", ".join(table.column_names) or "none"
            raise UserError(f"{where} has no column '{column}'. It has: {have}. Name the right one, or add it.")
    return table
