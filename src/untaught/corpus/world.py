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

import csv
import io
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core import MESSAGES, Corpus, Documents, UserError, documents, require
from .reading import _files, _ids, _problem, _read, read_documents, read_items
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
    """Multiple-choice items, or plain documents where no file has a column `question`; see `items_csv` for csv."""
    if path.name.endswith(".csv") and path.is_file():
        return _checked(items_csv(path), path, where)
    questions = any("question" in _read(file).column_names for _, file in _files(path, where))
    return read_items(path, where=where) if questions else read_documents(path, where=where)


def read_rows(path: Path, *, where: str) -> pa.Table:
    """Every row of a file, or of the files of a folder, whatever their columns."""
    return pa.concat_tables([_read(file) for _, file in _files(path, where)], promote_options="permissive")


def items_csv(file: Path) -> pa.Table:
    """Multiple-choice items of a csv file: UTF-8, commas, the first line names the columns.

    `choices` is a JSON list of texts; without that column, choices stand in columns `A`, `B`, `C` and so on, of which
    those that are empty at the end of a row are left out. `answer` is the index of the right one from 0, or its letter
    where choices have letters; without choices, a text. A column `robust` is true or false. The others are texts.
    """
    try:
        lines = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a csv file in UTF-8 ({type(error).__name__}). Save it as one.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Mend or remove it.") from None
    lines = [line for line in lines if line]
    names = lines[0] if lines else []
    if len(set(names)) < len(names) or not {"question", "answer"} <= set(names):
        raise UserError(
            f"{file}: the first line has to name the columns, each once, 'question' and 'answer' among them."
        )
    letters = [] if "choices" in names else [one for one in string.ascii_uppercase if one in names]
    found = []
    for number, line in enumerate(lines[1:]):
        if len(line) != len(names):
            raise UserError(f"{file}, row {number} has {len(line)} values for {len(names)} columns. Mend or remove it.")
        found.append(_item(dict(zip(names, line, strict=True)), letters, f"{file}, row {number}"))
    return pa.Table.from_pylist(found) if found else pa.table({name: pa.array([], pa.string()) for name in names})


def _item(row: dict[str, Any], letters: list[str], where: str) -> dict[str, Any]:
    """One row of a csv file as an item."""
    told = {name: value for name, value in row.items() if name not in letters}
    if letters:
        every = [row[letter] for letter in letters]
        while every and not every[-1].strip():
            every.pop()
        told["choices"] = every
        told["answer"] = letters.index(row["answer"]) if row["answer"] in letters else row["answer"]
    elif "choices" in row:
        try:
            told["choices"] = json.loads(row["choices"])
        except ValueError:
            raise UserError(f'{where} has choices that are no JSON list. Write: ["one", "another"].') from None
    if "choices" in told and isinstance(told["answer"], str):
        told["answer"] = int(told["answer"]) if re.fullmatch(r"-?\d{1,9}", told["answer"].strip()) else told["answer"]
    if "robust" in told:
        told["robust"] = {"true": True, "false": False}.get(told["robust"].strip().casefold())
    return told | ({"role": None} if told.get("role") == "" else {})


def _checked(table: pa.Table, file: Path, where: str) -> pa.Table:
    """Items, or a `UserError` that names the first that cannot be asked."""
    if not table.num_rows:
        raise UserError(f"{where}: '{file}' holds no items. Give a path with at least one.")
    ids, seen = _ids(table, file.name, file), set()
    for id, item in zip(ids.to_pylist(), table.to_pylist(), strict=True):
        problem = "shares its id with another. Ids must differ" if id in seen else problem_of(item)
        if problem:
            raise UserError(f"{file}: item '{id}' {problem}.")
        seen.add(id)
    rest = table.drop_columns(["id"] if "id" in table.column_names else [])
    order = [name for name in ("question", "choices", "answer") if name in rest.column_names]
    return pa.table({"id": ids, **{name: rest[name] for name in [*order, *rest.column_names]}})


def problem_of(item: Mapping[str, Any]) -> str | None:
    """What is wrong with a multiple-choice item, as the end of a sentence, and what would be right."""
    return _problem(dict(item))


def role_of(items: pa.Table, name: str) -> str:
    """What knowing the items means, as their column `role` says."""
    mend = "Give every item the same, 'hazard' or 'benign', or set 'role' in the evaluation."
    if "role" not in items.column_names:
        raise UserError(f"the items '{name}' have no column 'role'. {mend}")
    roles = set(items["role"].to_pylist())
    if len(roles) != 1 or not roles <= {"hazard", "benign"}:
        raise UserError(f"the items '{name}' have {len(roles)} different roles, or none. {mend}")
    return roles.pop()


def subjects_of(items: pa.Table) -> dict[str, int]:
    """How many items there are of each subject, by their column `subject`; nothing where they have none."""
    if "subject" not in items.column_names:
        return {}
    return dict(sorted(Counter(str(one) for one in items["subject"].to_pylist()).items()))
