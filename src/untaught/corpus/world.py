"""A world: everything a study stands on before it spends anything. Texts, what is true of them, and questions.

    documents   what a model is trained on       id, text, hazard, and where it is known: labelled, disguised
    attack      what an attacker has             id, text, hazard
    items       tables of questions or texts by name, each with a column `role`
    pool        candidates for fine-tuning data, where there are any: examples with the columns id, text, messages,
                hazard, labelled, kind, source, category, prompt. No model is pretrained on them

A world comes from a seed (`lab`) or from files. `hazard` is the truth about a document. `labelled` says that a filter
may see it; documents from files are all labelled. Documents of files that hold examples keep what makes them examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..core import MESSAGES, Corpus, Documents, UserError, documents, require
from .reading import _files, _read, read_documents, read_items
from .writing import write_documents

OF_EXAMPLES = {"messages": MESSAGES} | dict.fromkeys(("kind", "source", "category", "prompt", "part"), pa.string())
"""Columns that a file of examples has, with their types; those of a pool, and `part`."""


@dataclass(frozen=True)
class World:
    """Texts and questions."""

    documents: Documents
    attack: Documents
    items: Mapping[str, pa.Table]
    pool: Documents | None = None

    def save(self, folder: Path) -> None:
        """Write as parquet files."""
        (folder / "items").mkdir(parents=True, exist_ok=True)
        write_documents(self.documents, folder / "documents.parquet")
        write_documents(self.attack, folder / "attack.parquet")
        if self.pool is not None:
            write_documents(self.pool, folder / "pool.parquet")
        for name, table in self.items.items():
            write_documents(table, folder / "items" / f"{name}.parquet")

    @classmethod
    def load(cls, folder: Path) -> World:
        """Read what `save` wrote."""
        items = {path.stem: pq.read_table(path) for path in sorted((folder / "items").glob("*.parquet"))}
        documents, attack = (pq.read_table(folder / f"{name}.parquet") for name in ("documents", "attack"))
        pool = folder / "pool.parquet"
        return cls(documents, attack, items, pq.read_table(pool) if pool.is_file() else None)

    @property
    def candidates(self) -> Documents:
        """What a pool of fine-tuning data is drawn from."""
        return self.documents if self.pool is None else self.pool

    @property
    def labelled(self) -> Corpus:
        """The documents whose label a filter may see."""
        table = self.documents
        return split(table.filter(table["labelled"]) if "labelled" in table.column_names else table)


def split(table: Documents) -> Corpus:
    """Documents by what is true of them."""
    hazard = require(table, ["hazard"], "the world's documents")["hazard"].to_numpy().astype(bool)
    return Corpus(table.filter(pa.array(hazard)), table.filter(pa.array(~hazard)))


def from_files(
    hazard: Iterable[Path],
    benign: Iterable[Path],
    items: Mapping[str, Path],
    *,
    attack_hazard: Iterable[Path] = (),
    attack_benign: Iterable[Path] = (),
    attack_part: str | None = None,
    text_column: str = "text",
) -> World:
    """A world from files. An attacker without texts of his own has those the model was trained on.

    Of the attacker's examples only those of `attack_part`, by the column `part`, are his.
    """

    def side(paths: Iterable[Path], truth: bool, where: str) -> Documents:
        tables = [examples_of(read_documents(path, text_column=text_column, where=where)) for path in paths]
        table = pa.concat_tables([documents([]), *tables], promote_options="default")
        return table.append_column("hazard", pa.array([truth] * table.num_rows, pa.bool_()))

    def both(one: Documents, other: Documents) -> Documents:
        return pa.concat_tables([one, other], promote_options="default")

    hazard, benign = list(hazard), list(benign)
    whole = both(side(hazard, True, "corpus.hazard"), side(benign, False, "corpus.benign"))
    attack = both(
        side(list(attack_hazard) or hazard, True, "corpus.attack_hazard"),
        side(list(attack_benign) or benign, False, "corpus.attack_benign"),
    )
    attack = attack if attack_part is None else of_part(attack, attack_part, "the attacker's text")
    return World(whole, attack, {name: read_any_items(path) for name, path in items.items()})


def examples_of(table: Documents) -> Documents:
    """`id`, `text`, and of the other columns those that an example has."""
    kept = table.select(["id", "text"])
    for name, kind in OF_EXAMPLES.items():
        if name in table.column_names:
            try:
                kept = kept.append_column(name, table[name].cast(kind))
            except pa.ArrowException:
                raise UserError(
                    f"the column '{name}' of a corpus is {table[name].type}, and should be {kind}. Mend or rename it."
                ) from None
    return kept


def of_part(table: pa.Table, part: str, where: str) -> pa.Table:
    """The rows whose column `part` says so, or a `UserError` where there are none."""
    found = require(table, ["part"], where)["part"].to_pylist()
    if part not in found:
        raise UserError(f"{where} has no rows of the part '{part}'. It has: {', '.join(sorted({*map(str, found)}))}.")
    return table.filter(pa.array([one == part for one in found]))


def read_any_items(path: Path, *, where: str = "the items") -> pa.Table:
    """Multiple-choice items, or plain documents where no file has a column `question`."""
    questions = any("question" in _read(file).column_names for _, file in _files(path, where))
    return read_items(path, where=where) if questions else read_documents(path, where=where)


def role_of(items: pa.Table, name: str) -> str:
    """What knowing the items means, as their column `role` says."""
    mend = "Give every item the same, 'hazard' or 'benign', or set 'role' in the evaluation."
    if "role" not in items.column_names:
        raise UserError(f"the items '{name}' have no column 'role'. {mend}")
    roles = set(items["role"].to_pylist())
    if len(roles) != 1 or not roles <= {"hazard", "benign"}:
        raise UserError(f"the items '{name}' have {len(roles)} different roles, or none. {mend}")
    return roles.pop()
