"""Auditing: a stratified sample of decisions, to be labelled by hand. `policies/auditing.py` says what the labels mean.

    draw(sources, folder, reading, size)   the sample, in `audit.csv`, with the labels that are there already
    Before.read(folder)                    the sample as it stands, and its labels

The decided documents are parted into strata: those removed, by the stage that removed them; those kept, by the stage
that had the last word, and apart where it found something. "Something" is a score above 0; of a stage that hardly ever
says 0, it is a score in the highest tenth of those it kept. What is quarantined is in no stratum: it is not kept.

Every stratum gives `LEAST` documents, or all it has. A quarter of the sample goes to what was removed, the rest to what
was kept, each document to where it narrows the bound on hazard left most. Without a hit an exact bound is about
log(1/a) / n, so that is the stratum of size N and n drawn where N/n - N/(n + 1) is largest.

Within a stratum the documents with the lowest numbers are drawn. A number is a hash of the policy, the source and the
row (permanent random numbers, Ohlsson 1995): the same decisions give the same sample, and a larger one holds the
smaller. Another policy gives another sample, since a policy that was tuned on labels would look good on them. Documents
stand in a mixed order, so that those labelled first are a sample of their own.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..attest import digest
from ..core import UserError
from . import applying, receipts, shards
from .receipts import Counts, Receipt
from .shards import Reading, Shard, Source
from .writing import write_atomically

pc: Any = pyarrow.compute
Key: TypeAlias = tuple[str, int]
"""A document: its source and its row there."""
Line: TypeAlias = tuple[str, int, bool]
"""A line of `audit.csv`: a document, and whether it was drawn earlier and is no longer."""

FILES = LABELS, RESULT, PAGE = "audit.csv", "audit.json", "audit.html"
COLUMNS = ("source", "row", "id", "stratum", "decision", "stage", "score", "label")
WORDS = ("hazard", "benign")
EARLIER = "earlier"
"""Stratum of documents whose label is kept and that the sample no longer holds."""
LEAST = 20
REMOVED_SHARE = 0.25
TENTH = 0.1
ROWS = 2**16
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for a formula."""


@dataclass(frozen=True)
class Kind:
    """Which documents a stratum holds: decision, stage, and scores above one number and up to another."""

    decision: str
    stage: str
    above: float | None = None
    upto: float | None = None

    @property
    def name(self) -> str:
        edge = f", score above {self.above:g}" if self.above is not None else ""
        return f"{self.decision} by {self.stage}{edge}" + (
            f", score up to {self.upto:g}" if self.upto is not None else ""
        )

    def mask(self, batch: Any) -> np.ndarray:
        """Which rows of a batch of decisions belong to it."""
        found = pc.and_(pc.equal(batch["decision"], self.decision), pc.equal(batch["stage"], self.stage))
        for edge, test in ((self.above, pc.greater), (self.upto, pc.less_equal)):
            found = found if edge is None else pc.and_(found, test(batch["score"], edge))
        return found.fill_null(False).to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class Sample:
    """A sample, for the page that it is labelled on."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, str]]
    texts: Sequence[str]
    """Of the first rows, in order. The others are labels that are kept though their document was not drawn again."""
    decisions: str
    """Identity of the decisions that it was drawn from."""


def standing(folder: Path) -> str:
    """Identity of the decisions in a filter folder: whatever changes one of them changes this."""
    every = receipts.every(folder).values()
    return digest.of_json([[r.source, r.policy, [shard["sha256"] for shard in r.shards]] for r in every])


# -- the sample --------------------------------------------------------------------------------------------------------


def draw(sources: Sequence[Source], folder: Path, reading: Reading, size: int) -> Sample:
    """Draw a sample and write `audit.csv`, with the labels that are there already. None of them is lost."""
    before, now = Before.read(folder), standing(folder)
    kinds = strata(folder)
    sizes, ranked = _ranked(folder, kinds, size)
    counts = allotted(sizes, [kind.decision for kind in kinds], size)
    chosen = [pick for found, count in zip(ranked, counts, strict=True) for pick in found[:count]]
    place = {key: at for at, key in enumerate(before.drawn)} if before.decisions == now else {}
    chosen.sort(key=lambda pick: (place.get(pick.key, len(place)), pick.turn, pick.key))
    texts = texts_of(sources, folder, reading, [pick.key for pick in chosen])
    marks = {key: hashlib.sha256(text.encode()).hexdigest()[:16] for key, text in texts.items()}
    carried, left = before.shared(marks)
    rows = [pick.line(kinds[pick.kind], carried.get(pick.key, {}), before.more) for pick in chosen]
    rows += [{**line, "stratum": EARLIER} for line in left.values()]
    columns = [*COLUMNS, *before.more]
    if before.decisions != now or [*before.drawn] != [pick.key for pick in chosen] or not (folder / LABELS).is_file():
        write_atomically(folder / LABELS, written(columns, rows))
    result = {
        "version": 0,
        "decisions": now,
        "strata": [
            {"name": kind.name, "decision": kind.decision, "size": many, "drawn": count}
            for kind, many, count in zip(kinds, sizes, counts, strict=True)
        ],
        "drawn": [[*pick.key, pick.kind, marks[pick.key]] for pick in chosen],
        "earlier": [[*key[:2], before.marks[key]] for key in left if key in before.marks],
    }
    write_atomically(folder / RESULT, json.dumps(result, ensure_ascii=False) + "\n")
    return Sample(columns, rows, [texts[pick.key] for pick in chosen], now)


def strata(folder: Path) -> list[Kind]:
    """The strata of the decisions that stand, none of them empty."""
    stages = Counts.total(receipt.counts for receipt in receipts.every(folder).values()).stages
    kept: dict[str, Counter[float]] = {stage: Counter() for stage, counts in stages.items() if counts.get("kept")}
    for _, batch in _decisions(folder, ["decision", "stage", "score"]):
        for stage, seen in kept.items():
            scores = batch["score"].to_numpy(zero_copy_only=False)[Kind("kept", stage).mask(batch)]
            values, counts = np.unique(_short(scores), return_counts=True)
            seen.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    kinds = [Kind("removed", stage) for stage, counts in stages.items() if counts.get("removed")]
    for stage, seen in kept.items():
        edge = _edge(seen)
        split = edge is not None and any(score > edge for score in seen)
        kinds += [Kind("kept", stage, edge), Kind("kept", stage, None, edge)] if split else [Kind("kept", stage)]
    return kinds


def _short(scores: np.ndarray) -> np.ndarray:
    """Scores to three digits, so that a few thousand of them stand for all."""
    with np.errstate(divide="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.abs(scores))))
    return np.where(np.isfinite(scale), np.round(scores * np.where(np.isfinite(scale), scale, 1)) / scale, scores)


def _edge(seen: Mapping[float, int]) -> float | None:
    """The score above which a stage that kept a document found something in it."""
    total, below = sum(seen.values()), 0
    if sum(count for score, count in seen.items() if score <= 0) >= TENTH * total:
        return 0.0
    for score, count in sorted(seen.items()):
        below += count
        if below >= (1 - TENTH) * total:
            return score
    return None


@dataclass(frozen=True, order=True)
class Pick:
    """A document that may be drawn."""

    rank: int
    turn: int
    """Where it stands in the order of labelling; of another hash, or large strata would all come first."""
    key: Key
    kind: int = field(compare=False)
    score: float = field(compare=False)
    id: str = field(compare=False)

    def line(self, kind: Kind, before: Mapping[str, str], more: Sequence[str]) -> dict[str, str]:
        """As `audit.csv` has it, with its label and what else someone wrote beside it."""
        values = (_safe(self.key[0]), str(self.key[1]), _safe(self.id), kind.name, kind.decision, kind.stage)
        own = dict(zip(COLUMNS, (*values, f"{self.score:.6g}", before.get("label", "")), strict=True))
        return {**own, **{name: before.get(name, "") for name in more}}


def _ranked(folder: Path, kinds: Sequence[Kind], most: int) -> tuple[list[int], list[list[Pick]]]:
    """How many documents each stratum holds, and those with the lowest numbers, in order."""
    sizes, found = [0] * len(kinds), [[] for _ in kinds]
    policies = {receipt.source: receipt.policy for receipt in receipts.every(folder).values()}
    for source, batch in _decisions(folder, ["row", "id", "decision", "stage", "score"]):
        rows = batch["row"].to_numpy()
        seed = int.from_bytes(hashlib.sha256(f"{policies[source]} {source}".encode()).digest()[:8], "little")
        ranks = mixed(rows.astype(np.uint64) + np.uint64(seed))
        for index, kind in enumerate(kinds):
            here = np.flatnonzero(kind.mask(batch))
            sizes[index] += len(here)
            if len(found[index]) == most:
                here = here[ranks[here] < np.uint64(found[index][-1].rank)]
            here = here[np.argsort(ranks[here], kind="stable")[:most]]
            turns, few = mixed(ranks[here]), batch.take(pa.array(here))
            told = zip(few["score"].to_pylist(), few["id"].to_pylist(), strict=True)
            keys = [(source, row) for row in rows[here].tolist()]
            new = [
                Pick(rank, turn, key, index, score, id)
                for rank, turn, key, (score, id) in zip(ranks[here].tolist(), turns.tolist(), keys, told, strict=True)
            ]
            found[index] = heapq.nsmallest(most, [*found[index], *new])
    return sizes, found


def mixed(values: np.ndarray) -> np.ndarray:
    """Numbers that look drawn by chance, each from one value (SplitMix64; Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        state = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def allotted(sizes: Sequence[int], decisions: Sequence[str], total: int) -> list[int]:
    """How many documents each stratum gives to a sample, by the rule of this module.

    >>> allotted([5, 400, 100_000], ["removed", "kept", "kept"], 200)
    [5, 20, 175]
    """
    counts = [min(LEAST, total // max(len(sizes), 1), size) for size in sizes]
    left = total - sum(counts)
    removed = [index for index, decision in enumerate(decisions) if decision == "removed"]
    kept = [index for index, decision in enumerate(decisions) if decision != "removed"]
    aim = max(0, int(total * REMOVED_SHARE) - sum(counts[index] for index in removed))
    for group, budget in ((removed, min(aim, left)), (kept, None), (removed, None)):
        wanted = total - sum(counts) if budget is None else budget
        queue = [(_gain(sizes, counts, index), index) for index in group if counts[index] < sizes[index]]
        heapq.heapify(queue)
        while queue and wanted > 0:
            _, index = heapq.heappop(queue)
            counts[index], wanted = counts[index] + 1, wanted - 1
            if counts[index] < sizes[index]:
                heapq.heappush(queue, (_gain(sizes, counts, index), index))
    return counts


def _gain(sizes: Sequence[int], counts: Sequence[int], index: int) -> float:
    """What one more document takes from the sum of size / drawn; negative, for a heap."""
    drawn = counts[index]
    return -sizes[index] / (drawn * (drawn + 1)) if drawn else -float("inf")


def _decisions(folder: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Batches of all decisions, each with its source."""
    for receipt in receipts.every(folder).values():
        if receipt.decisions:
            with pq.ParquetFile(folder / receipt.decisions) as file:
                for batch in file.iter_batches(ROWS, columns=list(columns)):
                    yield receipt.source, batch


# -- texts -------------------------------------------------------------------------------------------------------------


def texts_of(
    sources: Sequence[Source], folder: Path, reading: Reading, wanted: Iterable[Key]
) -> dict[Key, str]:  # fmt: skip
    """Texts of some decided documents, from sources that are still what was decided about."""
    rows: dict[str, set[int]] = {}
    for source, row in wanted:
        rows.setdefault(source, set()).add(row)
    known = {source.name: source for source in sources}
    if lost := sorted(rows.keys() - known.keys()):
        raise UserError(f"{lost[0]} was decided and is not among the corpus files given. Give all of them.")
    found: dict[Key, str] = {}
    for name in sorted(rows):
        receipt = applying.vouched(known[name], folder)
        for first, shard in _parts(known[name], receipt, rows[name]):
            row = first
            for batch in shards.read(shard, reading):
                here = [one - row for one in sorted(rows[name]) if row <= one < row + batch.num_rows]
                for at, text in zip(here, batch["text"].take(pa.array(here, pa.int64())).to_pylist(), strict=True):
                    found[name, row + at] = text
                row += batch.num_rows
    return found


def _parts(source: Source, receipt: Receipt, rows: set[int]) -> Iterator[tuple[int, Shard]]:
    """The parts of a source that hold some of these rows, as small as they come, each with its first row."""
    parts = shards.cut(source)
    if source.kind == ".parquet":
        with pq.ParquetFile(source.path) as file:
            counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        parts = [Shard(source, index, index, index + 1) for index in range(len(counts))]
    else:
        counts = [shard["read"] for shard in receipt.shards]
    first = 0
    for part, count in zip(parts, counts, strict=True):
        if any(first <= row < first + count for row in rows):
            yield first, part
        first += count


# -- labels ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Before:
    """What an earlier sample left: its documents in order, and its lines with their labels."""

    decisions: str = ""
    drawn: Mapping[Key, int] = field(default_factory=dict)
    """The stratum of each, by number."""
    marks: Mapping[Line, str] = field(default_factory=dict)
    """Digests of texts, so that a label never comes to stand at another text."""
    lines: Mapping[Line, dict[str, str]] = field(default_factory=dict)
    more: Sequence[str] = ()
    """Columns that someone has added."""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> dict[Key, str]:
        """Labels of documents of the sample, not of those that were once drawn."""
        return {key[:2]: line["label"] for key, line in self.lines.items() if line["label"] and not key[2]}

    def shared(self, marks: Mapping[Key, str]) -> tuple[dict[Key, dict[str, str]], dict[Line, dict[str, str]]]:
        """Lines with a label: those whose text is among those marked, and all others."""
        told = {key: line for key, line in self.lines.items() if line["label"]}
        same = {key: line for key, line in told.items() if key in self.marks and marks.get(key[:2]) == self.marks[key]}
        return {key[:2]: line for key, line in same.items()}, {k: line for k, line in told.items() if k not in same}

    @classmethod
    def read(cls, folder: Path) -> Before:
        try:
            result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            drawn = {(source, row): kind for source, row, kind, _ in result["drawn"]}
            marks = {(source, row, False): mark for source, row, _, mark in result["drawn"]}
            marks |= {(source, row, True): mark for source, row, mark in result["earlier"]}
            decisions = str(result["decisions"])
        except (OSError, ValueError, TypeError, KeyError):
            result, drawn, marks, decisions = {}, {}, {}, ""
        names, found = labelled(folder / LABELS) if (folder / LABELS).is_file() else ([], {})
        by_name = {(_safe(source).strip(), row, past): (source, row, past) for source, row, past in marks}
        lines = {by_name.get(key, key): line for key, line in found.items()}
        return cls(decisions, drawn, marks, lines, [*dict.fromkeys(n for n in names if n and n not in COLUMNS)], result)


def labelled(path: Path) -> tuple[list[str], dict[Line, dict[str, str]]]:
    """The columns of a file of labels, and its lines by document. Spaces, case, quotes and separators may vary.

    A label that is neither `hazard` nor `benign` nor empty is refused, and so are two labels for one document.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8. Save it as CSV in UTF-8.") from None
    first = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True
    )  # fmt: skip
    names, lines = [], {}
    for fields in reader:
        where, cells = f"{path} line {reader.line_num}", [cell.strip() for cell in fields]
        if not any(cells):
            continue
        if not names:
            names = [cell.casefold() for cell in cells]
            if lost := {"source", "row", "label"} - {*names}:
                raise UserError(f"{where} has no column '{min(lost)}'. Its columns should be: {', '.join(COLUMNS)}.")
            continue
        line = dict(zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=False))
        line["label"] = _label(line["label"], where)
        key = line["source"], _row(line["row"], where), line.get("stratum", "").casefold() == EARLIER
        if line["label"] and lines.get(key, line)["label"] not in ("", line["label"]):
            raise UserError(f"{where} gives another label to a document that has one. Remove one of the two.")
        if line["label"] or key not in lines:
            lines[key] = {name: line.get(name, "") for name in (*COLUMNS, *names)}
    return names, lines


def _label(given: str, where: str) -> str:
    plain = given.strip(" \"'").casefold()
    if plain not in ("", *WORDS):
        raise UserError(f"{where}: the label '{given[:40]}' is not known. Write hazard or benign, or leave it empty.")
    return plain


def _row(given: str, where: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise UserError(f"{where}: the row '{given[:40]}' is not a whole number. Put back the one drawn.") from None


def written(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Lines of CSV (RFC 4180, with line feeds)."""
    whole = io.StringIO(newline="")
    writer = csv.DictWriter(whole, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return whole.getvalue()


def _safe(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value
