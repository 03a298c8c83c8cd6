"""Fine-tuning data in memory: the whole pool, and the slice of it, or beside it, of which it is known what it is.

    pool     every example that can be read, in the order of its content: neither rows nor sources have a say
    slice    labelled rows of the pool (`label_column`), rows that were labelled by hand (`labels: audit`), and examples
             that are known for what they are (`corpus`). Each different example counts once a side

The contamination is what the policy says; else the share of hazard among the labelled rows of the pool, which must
then be drawn by chance. Labels by hand are of a stratified sample, and weighted by what each stratum stands for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..attest import digest
from ..core import MESSAGES, Corpus, Documents, UserError
from ..corpus import shapes, shards
from ..corpus.auditing import LABELS, Before, standing
from ..corpus.policy import Policy
from ..corpus.shards import Damaged, Source

HAZARD, BENIGN = "hazard", "benign"
MARK = 12
"""Hexadecimal digits that stand for a prompt."""
WORDS = {
    **dict.fromkeys(("1", "true", "hazard", "harmful"), HAZARD),
    **dict.fromkeys(("0", "false", "benign", "safe", "clean"), BENIGN),
}
NOTHING = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("messages", MESSAGES)]).empty_table()


@dataclass(frozen=True)
class Pool:
    """Fine-tuning data, in the order of its content."""

    documents: Documents
    """`id`, `text`, `messages`, and `source`, the file."""
    rows: np.ndarray
    """Where each stands in its source."""
    names: Sequence[bytes]
    """The digest of what each says."""
    labels: Sequence[str | None]
    """`hazard`, `benign` or None, of each."""
    shapes: Mapping[str, str]
    """Of each source."""
    unread: int = 0
    """Rows that are no example."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sources(self) -> list[str]:
        return self.documents["source"].to_pylist()

    @property
    def digest(self) -> str:
        """Identity of what is in it, and of its labels."""
        return digest.of_json([[name.hex(), label] for name, label in zip(self.names, self.labels, strict=True)])


@dataclass(frozen=True)
class Slice:
    """Examples of which it is known what they are, each once, in the order of their content."""

    hazard: Documents
    benign: Documents
    contamination: float | None = None
    estimated: str | None = None
    """Where the contamination is from: the policy, labels, labels by hand."""
    inside: Counter[str] = field(default_factory=Counter)
    """Rows of the pool that its column of labels knows, by side."""
    changed: int = 0
    """Labels by hand that stand at another text now, and do not count."""

    def __len__(self) -> int:
        return self.hazard.num_rows + self.benign.num_rows

    @property
    def documents(self) -> Documents:
        """All of them, hazard first."""
        return pa.concat_tables([self.hazard, self.benign])

    @property
    def hits(self) -> np.ndarray:
        """Which of them are hazard."""
        return np.repeat([True, False], [self.hazard.num_rows, self.benign.num_rows])

    @property
    def digest(self) -> str:
        """Identity of what it holds."""
        sides = [[name.hex() for name in contents(side)] for side in (self.hazard, self.benign)]
        return digest.of_json(sides)

    def without(self, learned: str) -> Slice:
        """Only those with other prompts than these, as `prompt_marks` tells them."""
        known = {learned[at : at + MARK] for at in range(0, len(learned), MARK)}
        sides = [
            side.filter(pa.array([name.hex()[:MARK] not in known for name in prompts(side)], pa.bool_()))
            for side in (self.hazard, self.benign)
        ]
        return replace(self, hazard=sides[0], benign=sides[1])

    @property
    def prompt_marks(self) -> str:
        """Marks of all prompts, end to end."""
        return "".join(sorted({name.hex()[:MARK] for name in prompts(self.documents)}))

    def lacking(self) -> str | None:
        """Why nothing can be measured on it."""
        if not len(self):
            return "no example is labelled"
        sides = {HAZARD: self.hazard, BENIGN: self.benign}
        empty = next((side for side, table in sides.items() if not table.num_rows), None)
        return f"no labelled example is {empty}" if empty else None

    def corpus(self, pool: Pool, *, learn: np.ndarray | None = None) -> Corpus:
        """What filters are fitted to, or only some of the labelled examples and the whole pool."""
        learn = np.ones(len(self), bool) if learn is None else learn
        hits = self.hits
        sides = [
            table.filter(pa.array(learn[hits == truth])) for table, truth in ((self.hazard, True), (self.benign, False))
        ]
        alone = len(pool.shapes) < 2  # a single source says nothing about its examples
        return Corpus(*sides, unlabelled=pool.documents.drop_columns(["source"]) if alone else pool.documents)


def contents(table: Documents) -> list[bytes]:
    """A digest of what each example says, and who says it."""
    told = table["messages"].to_pylist() if "messages" in table.column_names else [None] * table.num_rows
    pairs = zip(told, table["text"].to_pylist(), strict=True)
    return [_digest(text if turns is None else [[t["role"], t["content"]] for t in turns]) for turns, text in pairs]


def prompts(table: Documents) -> list[bytes]:
    """A digest of each example's prompt, whatever its case and white space. What has no prompt stands for itself."""
    found = []
    for turns, name in zip(table["messages"].to_pylist(), contents(table), strict=True):
        asked = [turn for turn in turns or () if turn["role"] not in (shapes.ASSISTANT, "system")]
        plain = [[turn["role"], " ".join(turn["content"].split()).casefold()] for turn in asked]
        found.append(_digest(plain) if plain else name)
    return found


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).digest()


# -- the pool ----------------------------------------------------------------------------------------------------------


def pool(sources: Sequence[Source], policy: Policy) -> Pool:
    """All examples of the sources. What is damaged is left out here, and told when it is decided."""
    tables, known, unread = [], {}, 0
    for source in sources:
        try:
            known[source.name] = str(shards.shape_of(source, policy.reading))
            found, row = [], 0
            for shard in shards.cut(source):
                for table in shards.read(shard, policy.reading, label=policy.label_column or ""):
                    found.append(_placed(table, source, row))
                    row += table.num_rows
        except Damaged:
            known.pop(source.name, None)
            continue
        sound = [table.filter(table["cause"].is_null()) for table in found]
        unread += row - sum(table.num_rows for table in sound)
        tables += sound
    table = pa.concat_tables(tables).combine_chunks() if tables else _placed(_empty(), Source("", Path(), ""), 0)
    names, where = contents(table), list(zip(table["source"].to_pylist(), table["row"].to_pylist(), strict=True))
    order = sorted(range(len(names)), key=lambda at: (names[at], *where[at]))
    table = table.take(pa.array(order, pa.int64()))
    labels = [_label(*told) for told in zip(*(table[c].to_pylist() for c in ("label", "source", "row")), strict=True)]
    documents = table.select(["id", "text", "messages", "source"])
    return Pool(documents, table["row"].to_numpy(), [names[at] for at in order], labels, known, unread)


def _empty() -> pa.Table:
    return shapes.table([], shapes.SHAPES[0], "id", "")


def _placed(table: pa.Table, source: Source, first: int) -> pa.Table:
    """With where each row stands; documents without an id are called after that."""
    rows = np.arange(first, first + table.num_rows)
    ids = [f"{source.name}:{row}" if id is None else id for id, row in zip(table["id"].to_pylist(), rows, strict=True)]
    named = table.set_column(0, "id", pa.array(ids, pa.string()))
    return named.append_column("row", pa.array(rows)).append_column(
        "source", pa.array([source.name] * len(rows), pa.string())
    )


def _label(told: str | None, source: str, row: int) -> str | None:
    """A label as one of two words; a `UserError` for what is none."""
    value = None if told is None else json.loads(told)
    plain = str(value).strip().casefold() if isinstance(value, str | int | float | bool) else ""
    plain = plain.removesuffix(".0")
    if plain == "nan" or value is None or (isinstance(value, str) and not plain):
        return None
    if plain in WORDS:
        return WORDS[plain]
    what = f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__} that is no label"
    raise UserError(
        f"row {row} of {source} has {what} in the column of labels. Write 1, true, hazard or harmful; or 0, false,"
        " benign, safe or clean; or nothing where it is not known."
    )


# -- the slice ---------------------------------------------------------------------------------------------------------


def sliced(pool: Pool, policy: Policy, out: Path, paths: Mapping[str, Sequence[str]]) -> Slice:
    """The labelled examples. `paths` are the files of each side that stand beside the pool."""
    labels, changed = list(pool.labels), 0
    inside = Counter(label for label in labels if label)
    if policy.labels is not None:
        by_hand, changed = _by_hand(pool, out)
        labels = [mine or theirs for mine, theirs in zip(by_hand, labels, strict=True)]
    if policy.label_column is not None:
        _check_column(pool, policy)
    sides = []
    for side in (HAZARD, BENIGN):
        own = pool.documents.filter(pa.array([label == side for label in labels])).select(NOTHING.column_names)
        sides.append(_once([own, *(_beside(path, policy, f"corpus.{side}") for path in paths[side])]))
    share, why = _contamination(policy, inside, out)
    return Slice(sides[0], sides[1], share, why, inside, changed)


def _check_column(pool: Pool, policy: Policy) -> None:
    counts = Counter(label for label in pool.labels if label)
    if not counts and policy.labels is None and policy.corpus is None:
        raise UserError(
            f"no row has a label in the column '{policy.label_column}'. Name the right column with 'label_column', or"
            " label some rows."
        )
    if len(counts) == 1 and policy.labels is None and policy.corpus is None:
        (only, many), = counts.items()  # fmt: skip
        raise UserError(
            f"all {many} labels in the column '{policy.label_column}' say {only}, and both sides are needed to tell"
            " them apart. Label some of the other side too."
        )


def _by_hand(pool: Pool, out: Path) -> tuple[list[str | None], int]:
    """What `audit.csv` says of each example, and how many of its labels are of texts that are no longer there."""
    before = Before.read(out)
    if not before.labels:
        raise UserError(
            f"{out / LABELS} is not there, or has no labels. Draw examples with --audit N and label them, or leave out"
            " 'labels'."
        )
    found: list[str | None] = [None] * len(pool)
    places = {key: at for at, key in enumerate(zip(pool.sources, pool.rows.tolist(), strict=True))}
    used = 0
    for (source, row), label in before.labels.items():
        at = places.get((source, row))
        mark = before.marks.get((source, row, False))
        text = "" if at is None else pool.documents["text"][at].as_py()
        if at is not None and hashlib.sha256(text.encode()).hexdigest()[:16] == mark:
            found[at], used = label, used + 1
    return found, len(before.labels) - used


def _beside(path: str, policy: Policy, where: str) -> Documents:
    """Examples of a file or folder that stands beside the pool. All of them must be readable."""
    tables = []
    for source in shards.sources([path]):
        row = 0
        for shard in shards.cut(source):
            try:
                parts = list(shards.read(shard, policy.reading))
            except Damaged as damage:
                raise UserError(f"{where}: {source.path} is {damage}. Fetch it again.") from None
            for table in parts:
                bad = table.filter(table["cause"].is_valid())
                if bad.num_rows:
                    at = row + table["cause"].is_valid().to_pylist().index(True)
                    raise UserError(
                        f"{where}: row {at} of {source.path} is no example: {bad['cause'][0]}. Mend it, or leave it"
                        " out."
                    )
                tables.append(_placed(table, source, row).select(NOTHING.column_names))
                row += table.num_rows
    if not sum(table.num_rows for table in tables):
        raise UserError(f"{where}: {path} holds no example. Give a file with at least one.")
    return pa.concat_tables(tables)


def _once(tables: Sequence[Documents]) -> Documents:
    """Each different example once, in the order of content."""
    table = pa.concat_tables([NOTHING, *(one.cast(NOTHING.schema) for one in tables)]).combine_chunks()
    first: dict[bytes, int] = {}
    for at, name in enumerate(contents(table)):
        first.setdefault(name, at)
    return table.take(pa.array([first[name] for name in sorted(first)], pa.int64()))


def _contamination(policy: Policy, inside: Counter[str], out: Path) -> tuple[float | None, str | None]:
    """The share of hazard, and where it is known from."""
    if policy.contamination is not None:
        return policy.contamination, "the policy"
    before = ((policy.made or {}).get("gate") or {}).get("contamination") or {}
    if policy.labels is not None:
        share = _of_strata(out)
        if share is not None:
            return share, "labels by hand"
    elif total := inside.total():
        return inside[HAZARD] / total, "labelled rows"
    return before.get("share"), before.get("from")


def _of_strata(out: Path) -> float | None:
    """Hazard among all decisions, as a stratified sample of them has it. None where it is of other decisions."""
    before = Before.read(out)
    if before.decisions != standing(out):
        return None
    strata, hazard, total = before.result.get("strata", ()), 0.0, 0
    for index, stratum in enumerate(strata):
        told = [before.labels[key] for key, kind in before.drawn.items() if kind == index and key in before.labels]
        if told:
            hazard += stratum["size"] * told.count(HAZARD) / len(told)
            total += stratum["size"]
    return hazard / total if total else None
