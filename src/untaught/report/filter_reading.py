"""Read a filter folder: its summary, policy, receipts, decisions and findings. No text of a corpus is read.

Everything is read in batches. Scores are counted by their first three digits; of examples only the few that are shown
are held; of terms one number each. So a folder of any size is read with the memory of a batch, and two bytes for each
document of the largest source.
"""

from __future__ import annotations

import functools
import heapq
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import yaml

from ..core import UserError

pc: Any = pyarrow.compute
FILES = ("policy.yaml", "summary.json", "receipts")
READ = "read"
"""The stage that quarantines what has no text."""
DECISIONS = ("kept", "removed", "quarantined")
KEPT, REMOVED, QUARANTINED = range(3)
THRESHOLDS = ("distinct", "threshold")
"""Settings that say from which score a document is flagged."""
ROWS = 2**16
SHOWN, SPANS = 6, 64
"""Examples of each kind, and places in the text of one."""
MEND = "Give the folder that `untaught filter --out` wrote, or run the filter again: what is decided is not repeated."


@dataclass(frozen=True)
class Stage:
    """A stage of the policy."""

    name: str
    escalate: bool
    settings: Mapping[str, Any]

    @functools.cached_property
    def terms(self) -> frozenset[str]:
        """The terms that the policy itself says; a stage without any names pieces of the corpus."""
        listed = self.settings.get("terms")
        return frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()

    @property
    def threshold(self) -> float | None:
        """The score from which it flags, as far as its settings say."""
        found = [self.settings[name] for name in THRESHOLDS if isinstance(self.settings.get(name), int | float)]
        return float(found[0]) if found else None


@dataclass
class Scores:
    """What a stage gave the documents that it saw."""

    clear: Counter[float] = field(default_factory=Counter)
    flagged: Counter[float] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    """For each term how many removed documents hold it, of those that the stage flagged."""
    decisive: Counter[str] = field(default_factory=Counter)
    """The same for documents that would not have been flagged without it."""
    counted: bool = True
    """Whether a flagged document's score is the number of its terms, so that one term less is one less."""


@dataclass(frozen=True)
class Example:
    """A document, without its text."""

    source: str
    row: int
    id: str
    score: float | None
    reason: str
    terms: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Examples:
    """Some documents that have something in common."""

    title: str
    stage: Stage | None
    rows: tuple[Example, ...]


@dataclass(frozen=True)
class Filtered:
    """A filter folder as the page shows it."""

    summary: Mapping[str, Any]
    stages: tuple[Stage, ...]
    scores: tuple[Scores, ...]
    """Of each stage."""
    examples: tuple[Examples, ...]
    audit: Mapping[str, Any] | None


@dataclass(frozen=True)
class Batch:
    """Some documents as a stage saw them."""

    score: np.ndarray
    flagged: np.ndarray
    removed: np.ndarray
    """Whether they were removed in the end."""
    terms: Any


def is_filter(folder: Path) -> bool:
    """Whether a folder is what `untaught filter` wrote."""
    return all((folder / name).exists() for name in FILES)


def read(folder: Path, *, spans: bool = False) -> Filtered:
    """A filter folder, or a `UserError` that says which file is damaged. Of examples, `spans` only when asked for."""
    summary, stages = _json(folder / "summary.json"), policy(folder)
    scores, picks = tuple(Scores() for _ in stages), _Picks(stages)
    for receipt in _receipts(folder):
        for index, batch in _seen(folder, receipt, stages, picks):
            _count(scores[index], batch, stages[index])
    audit = _json(folder / "audit.json") if (folder / "audit.json").is_file() else None
    return Filtered(
        summary, stages, scores, picks.examples(folder, spans=spans), audit if audit and "stands" in audit else None
    )


def policy(folder: Path) -> tuple[Stage, ...]:
    """The stages of `policy.yaml`, named as decisions name them."""
    path, stages = folder / "policy.yaml", []
    for table in _filters(path):
        use, settings = str(table.get("use")), {k: v for k, v in table.items() if k not in ("use", "escalate")}
        before = sum(stage.name.split("#")[0] == use for stage in stages)
        stages.append(Stage(f"{use}#{before + 1}" if before else use, bool(table.get("escalate")), settings))
    return tuple(stages)


def _filters(path: Path) -> list[dict[str, Any]]:
    """The list `filters` of a policy. It is written as lines of JSON, which reads a long list fifty times faster."""
    text = _text(path)
    try:
        stages: list[dict[str, Any]] = []
        for line in text.partition("\nfilters:\n")[2].splitlines():
            if line.startswith("- "):
                stages.append({})
            name, _, value = line[2:].partition(": ")
            stages[-1][name] = json.loads(value)
        if stages:
            return stages
    except (ValueError, IndexError):
        pass
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError:
        table = None
    if not isinstance(table, dict) or not isinstance(table.get("filters"), list):
        raise UserError(f"{path} has no list 'filters'. {MEND}")
    return [stage for stage in table["filters"] if isinstance(stage, dict)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as UTF-8 text. {MEND}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON table. {MEND}")
    return found


def _receipts(folder: Path) -> Iterator[dict[str, Any]]:
    """Receipts of decisions with tables, by the names of their sources."""
    found = [_json(path) for path in (folder / "receipts" / "decided").rglob("*.json")]
    yield from sorted((r for r in found if r.get("outputs")), key=lambda r: r["source"])


# -- what the stages saw -----------------------------------------------------------------------------------------------


def _seen(
    folder: Path, receipt: Mapping[str, Any], stages: Sequence[Stage], picks: _Picks
) -> Iterator[tuple[int, Batch]]:
    """Batches of each stage. Those of a single one are the decisions; several have tables of findings."""
    single = len(stages) == 1
    columns = ["row", "decision", "stage", "score", *(["terms"] if single else [])]
    path = next(name for name in receipt["outputs"] if name.startswith("decisions/"))
    names, codes = [*(stage.name for stage in stages), READ], []
    for batch in _batches(folder / path, columns):
        decided, by = _coded(batch["decision"], DECISIONS), _coded(batch["stage"], names)
        score = batch["score"].to_numpy(zero_copy_only=False)
        picks.look(path, batch["row"].to_numpy(), decided, by, score)
        if single:
            saw = by == 0
            removed = decided[saw] == REMOVED
            yield 0, Batch(score[saw], removed, removed, batch["terms"].filter(pa.array(saw)))
        else:
            codes.append((decided, by))
    if codes and not single:
        yield from _found(folder, receipt, stages, *(np.concatenate(part) for part in zip(*codes, strict=True)))


def _found(
    folder: Path, receipt: Mapping[str, Any], stages: Sequence[Stage], decided: np.ndarray, by: np.ndarray
) -> Iterator[tuple[int, Batch]]:
    """Batches of findings, held against what was decided in the end."""
    for index, (stage, told) in enumerate(zip(stages, receipt["stages"], strict=True)):
        start = f"findings/{told['name'].replace('#', '-')}-{told['measures'][:12]}/"
        on = stage.escalate and index + 1 < len(stages)
        for path in (name for name in receipt["outputs"] if name.startswith(start)):
            for batch in _batches(folder / path, ["row", "score", "terms"]):
                rows = batch["row"].to_numpy()
                removed = decided[rows] == REMOVED
                flagged = by[rows] > index if on else removed & (by[rows] == index)
                score = batch["score"].to_numpy(zero_copy_only=False)
                yield index, Batch(score, flagged, removed, batch["terms"])


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    repeated = [name for name in ("decision", "stage") if name in columns]
    try:
        with pq.ParquetFile(path, read_dictionary=repeated) as file:
            yield from file.iter_batches(ROWS, columns=list(columns))
    except (OSError, pa.ArrowException):
        raise UserError(f"{path} is missing or damaged. {MEND}") from None


def _coded(column: Any, names: Sequence[str]) -> np.ndarray:
    """For each value its place among some names."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    places = np.array([names.index(value) for value in column.dictionary.to_pylist()], np.int8)
    return places[column.indices.to_numpy(zero_copy_only=False)] if len(places) else np.zeros(0, np.int8)


def _count(scores: Scores, batch: Batch, stage: Stage) -> None:
    """Add a batch to what is known of a stage."""
    known = np.isfinite(batch.score)
    for counter, here in ((scores.clear, known & ~batch.flagged), (scores.flagged, known & batch.flagged)):
        _add(counter, *np.unique(short(batch.score[here]), return_counts=True))
    here = batch.flagged & batch.removed
    terms, score = batch.terms.filter(pa.array(here)), batch.score[here]
    length = pc.list_value_length(terms).fill_null(0).to_numpy(zero_copy_only=False)
    scores.counted &= bool((length == score).all()) and bool(stage.terms)
    if not stage.terms:
        return  # pieces of the corpus: as many as there are documents, and not to be shown
    _tally(scores.held, terms)
    if scores.counted and stage.threshold is not None:
        _tally(scores.decisive, terms.filter(pa.array((score >= stage.threshold) & (score - 1 < stage.threshold))))


def _tally(counter: Counter[str], terms: Any) -> None:
    """Count the documents that hold each term."""
    flat = terms.flatten()
    flat = flat if pa.types.is_dictionary(flat.type) else flat.dictionary_encode()
    counts = np.bincount(flat.indices.to_numpy(zero_copy_only=False), minlength=len(flat.dictionary))
    here = np.flatnonzero(counts)
    _add(counter, flat.dictionary.take(pa.array(here)).to_pylist(), counts[here])


def _add(counter: Counter[Any], values: Any, counts: np.ndarray) -> None:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    for value, count in zip(values, counts.tolist(), strict=True):
        counter[value] += count


def short(scores: np.ndarray) -> np.ndarray:
    """Scores to three digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.abs(scores))))
        return np.where(np.isfinite(scale), np.round(scores * scale) / scale, scores)


# -- examples ----------------------------------------------------------------------------------------------------------


class _Picks:
    """Which documents to show: those nearest to the other decision, those with the highest scores. Chance breaks ties,
    and is the same each time.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._best: dict[tuple[str, int], list[tuple[float, int, str, int]]] = {}

    def look(self, path: str, row: np.ndarray, decided: np.ndarray, by: np.ndarray, score: np.ndarray) -> None:
        """Look over a batch of decisions."""
        with np.errstate(over="ignore"):
            tie = (row.astype(np.uint64) + np.uint64(zlib.crc32(path.encode()))) * np.uint64(
                0x9E3779B97F4A7C15
            ) >> np.uint64(32)
        for index in range(len(self._stages)):
            removed, kept = ((decided == code) & (by == index) for code in (REMOVED, KEPT))
            self._take(("Removed, nearest to being kept", index), path, row, tie, score, removed)
            self._take(("Removed, highest scores", index), path, row, tie, -score, removed)
            self._take(("Kept, nearest to being removed", index), path, row, tie, -score, kept)
        nothing = np.zeros(len(row))
        self._take(("Quarantined", len(self._stages)), path, row, tie, nothing, decided == QUARANTINED)

    def _take(
        self, kind: tuple[str, int], path: str, row: np.ndarray, tie: np.ndarray, order: np.ndarray, here: np.ndarray
    ) -> None:
        best = self._best.setdefault(kind, [])
        if len(best) == SHOWN:
            here = here & (order <= best[-1][0])
        places = np.flatnonzero(here)
        places = places[np.lexsort((tie[places], order[places]))[:SHOWN]]
        new = [(float(order[at]), int(tie[at]), path, int(row[at])) for at in places]
        self._best[kind] = heapq.nsmallest(SHOWN, [*best, *new])

    def examples(self, folder: Path, *, spans: bool) -> tuple[Examples, ...]:
        """What was picked, by stage, in the order of the page."""
        wanted: dict[str, set[int]] = {}
        for best in self._best.values():
            for *_, path, row in best:
                wanted.setdefault(path, set()).add(row)
        rows = {(path, e.row): e for path, own in wanted.items() for e in _rows(folder / path, own, spans=spans)}
        found = []
        for (title, index), best in sorted(self._best.items(), key=lambda item: item[0][1]):
            stage = self._stages[index] if index < len(self._stages) else None
            own = [rows[path, row] for *_, path, row in best]
            if own and not ("Kept" in title and not own[0].score):
                found.append(Examples(title, stage, tuple(own)))
        return tuple(found)


def _rows(path: Path, wanted: set[int], *, spans: bool) -> Iterator[Example]:
    """Some rows of a table of decisions, read from the row groups that hold them."""
    names = ["row", "id", "score", "reason", "terms", "source", *(["spans"] if spans else [])]
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = sorted(row - first for row in wanted if first <= row < first + count)
            first += count
            for found in _listed(file.read_row_group(group, columns=names).take(here)) if here else ():
                places = tuple((span["start"], span["stop"]) for span in found.get("spans") or ())
                terms, keys = tuple(found["terms"] or ()), ("source", "row", "id", "score", "reason")
                yield Example(**{key: found[key] for key in keys}, terms=terms, spans=places)


def _listed(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a table, of each row's spans the first few: a long document may have millions."""
    if "spans" in table.column_names:
        place = table.column_names.index("spans")
        table = table.set_column(place, "spans", pc.list_slice(table["spans"], 0, SPANS))
    return table.to_pylist()
