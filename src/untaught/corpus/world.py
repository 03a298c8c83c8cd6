"""A world: everything a study stands on before it spends anything. Texts, what is true of them, and questions.

    documents   what a model is trained on       id, text, hazard, and where it is known: labelled, disguised
    attack      what an attacker has             id, text, hazard
    items       tables of questions or texts by name, each with a column `role`

A world comes from a seed (`lab`) or from files. `hazard` is the truth about a document. `labelled` says that a filter
may see it; documents from files are all labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..core import Corpus, Documents, UserError, documents, require
from .reading import _files, _read, read_documents, read_items
from .writing import write_documents


@dataclass(frozen=True)
class World:
    """Texts and questions."""

    documents: Documents
    attack: Documents
    items: Mapping[str, pa.Table]

    def save(self, folder: Path) -> None:
        """Write as parquet files."""
        (folder / "items").mkdir(parents=True, exist_ok=True)
        write_documents(self.documents, folder / "documents.parquet")
        write_documents(self.attack, folder / "attack.parquet")
        for name, table in self.items.items():
            write_documents(table, folder / "items" / f"{name}.parquet")

    @classmethod
    def load(cls, folder: Path) -> World:
        """Read what `save` wrote."""
        items = {path.stem: pq.read_table(path) for path in sorted((folder / "items").glob("*.parquet"))}
        return cls(pq.read_table(folder / "documents.parquet"), pq.read_table(folder / "attack.parquet"), items)

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
    text_column: str = "text",
) -> World:
    """A world from files. An attacker without texts of his own has those the model was trained on."""

    def side(paths: Iterable[Path], truth: bool, where: str) -> Documents:
        tables = [read_documents(path, text_column=text_column, where=where) for path in paths]
        plain = [table.select(["id", "text"]) for table in tables]
        table = pa.concat_tables([documents([]), *plain])
        return table.append_column("hazard", pa.array([truth] * table.num_rows, pa.bool_()))

    hazard, benign = list(hazard), list(benign)
    whole = pa.concat_tables([side(hazard, True, "corpus.hazard"), side(benign, False, "corpus.benign")])
    attack = pa.concat_tables(
        [
            side(list(attack_hazard) or hazard, True, "corpus.attack_hazard"),
            side(list(attack_benign) or benign, False, "corpus.attack_benign"),
        ]
    )
    return World(whole, attack, {name: read_any_items(path) for name, path in items.items()})


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
