"""Texts, questions and word lists out of wheels, as parquet files with columns `id` and `text`, or as items.

Each function is one way to read members; the catalogue names it in `make`. What is written has the members' own order,
so the same members give the same bytes. Texts of prompts meant to do harm are written like others, and never shown.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ..core import UserError
from ..corpus.writing import write_atomically, write_documents

Members = Mapping[str, Path]
Row = dict[str, Any]
CHOICES = 4
MARK = re.compile(r"\(([A-Z])\)\s*")
"""What stands before an option of a question: (A)."""
HEADING = re.compile(r"^ \n = ([^=\n]+) = \n \n", re.MULTILINE)
"""The title of an article in WikiText, alone between empty lines: one sign on each side, where sections have more."""


def copy(members: Members, folder: Path) -> None:
    """The files as they are."""
    for name, path in members.items():
        shutil.copyfile(path, folder / Path(name).name)


def leads(members: Members, folder: Path) -> None:
    """The first paragraph of encyclopedia articles, with their topic."""
    table = json.loads(_only(members).read_text(encoding="utf-8"))
    rows = [
        {"id": title, "text": f"{title}. {a['extract']}", "topic": a["topic"], "description": a["description"]}
        for title, a in sorted(table.items())
    ]
    _write(folder / "leads.parquet", rows)


def labelled(members: Members, folder: Path) -> None:
    """CSV files with columns `text` and `label`, 1 for what is to be found."""
    for name, path in members.items():
        kind = Path(name).stem
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {"id": f"{kind}-{number:05}", "text": row["text"], "label": int(row["label"])}
                for number, row in enumerate(csv.DictReader(file))
            ]
        _write(folder / f"{kind}.parquet", rows)


def wikitext(members: Members, folder: Path) -> None:
    """WikiText, an article a row."""
    for name, path in members.items():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            _, *found = HEADING.split(file.read())
        kind = Path(name).name.split(".")[0]
        rows = [
            {"id": f"{kind}-{number:04}", "title": title, "text": f" = {title} = \n \n{text}"}
            for number, (title, text) in enumerate(zip(found[::2], found[1::2], strict=True))
        ]
        _write(folder / f"{kind}.parquet", rows)


def dialogues(members: Members, folder: Path) -> None:
    """Exchanges of two or more lines, with their topic."""
    rows = [
        {"id": f"{Path(name).stem}-{number:04}", "text": "\n".join(map(str, lines)), "topic": Path(name).stem}
        for name, path in members.items()
        for number, lines in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"])
    ]
    _write(folder / "dialogues.parquet", rows)


def recipes(members: Members, folder: Path) -> None:
    """Recipes in English, with the meal they are for."""
    rows: list[Row] = []
    for path in members.values():
        for meal, found in json.loads(path.read_text(encoding="utf-8")).items():
            texts = [f"{r['name']['en']}. {r['recipe']['en']}" for r in found if r["recipe"].get("en")]
            rows += [{"id": f"{path.stem}-{n:04}", "text": text, "meal": meal} for n, text in enumerate(texts)]
    _write(folder / "recipes.parquet", rows)


def words(members: Members, folder: Path) -> None:
    """A word list, a term a line, for a blocklist."""
    found = {line.strip() for line in _only(members).read_text(encoding="utf-8").splitlines()}
    write_atomically(folder / "terms.txt", "".join(f"{word}\n" for word in sorted(found) if word))


def lines(members: Members, folder: Path) -> None:
    """A prompt a line."""
    found = [line.strip() for line in _only(members).read_text(encoding="utf-8").splitlines() if line.strip()]
    _write(folder / "prompts.parquet", [{"id": f"prompt-{n:04}", "text": text} for n, text in enumerate(found)])


def seeds(members: Members, folder: Path) -> None:
    """Prompts with the kinds of harm they ask for, from PyRIT's YAML."""
    table = yaml.safe_load(_only(members).read_text(encoding="utf-8"))
    rows = [
        {"id": f"prompt-{n:04}", "text": seed["value"], "harms": list(seed["harm_categories"])}
        for n, seed in enumerate(table["seeds"])
    ]
    _write(folder / "prompts.parquet", rows)


def trivia(members: Members, folder: Path) -> None:
    """Lists of questions with answers, each as items: the other choices are other answers of the same list."""
    for name, path in members.items():
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        asked = {str(question): [*map(str, a)] for question, a in table.items() if isinstance(a, list)}
        answers = {accepted[0] for accepted in asked.values()}
        rows = [_item(f"{path.stem}-{n:04}", q, right, answers) for n, (q, right) in enumerate(asked.items())]
        _write(folder / f"{Path(name).stem}.parquet", rows)


def _item(id: str, question: str, accepted: list[str], answers: set[str]) -> Row:
    """The first accepted answer, and three that are not accepted."""
    others = sorted(answers.difference(accepted), key=lambda answer: _chance(f"{question}/{answer}"))
    choices = sorted([accepted[0], *others[: CHOICES - 1]], key=lambda answer: _chance(f"{answer}/{question}"))
    return {"id": id, "question": question, "choices": choices, "answer": choices.index(accepted[0]), "role": "benign"}


def _chance(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def mmlu(members: Members, folder: Path) -> None:
    """Worked examples of MMLU's subjects as items."""
    table = json.loads(_only(members).read_text(encoding="utf-8"))
    rows = [row for subject, text in table.items() for row in _worked(subject, text)]
    _write(folder / "items.parquet", rows)


def _worked(subject: str, text: str) -> Iterator[Row]:
    """Questions, options and the letter that the reasoning ends with."""
    for number, part in enumerate(text.split("\nQ: ")[1:]):
        asked, _, reasoned = part.partition("\nA: ")
        question, *options = MARK.split(asked)
        letter = re.search(r"answer is \(([A-Z])\)", reasoned)
        letters, choices = options[::2], [option.strip() for option in options[1::2]]
        if letter and letter[1] in letters and len(set(choices)) == len(choices) > 1 and all(choices):
            yield {
                "id": f"{subject}-{number}",
                "question": " ".join(question.split()),
                "choices": choices,
                "answer": letters.index(letter[1]),
                "role": "benign",
                "subject": subject,
            }


def _only(members: Members) -> Path:
    if len(members) != 1:
        raise UserError(f"one member was expected, and the catalogue names {', '.join(members)}.")
    (path,) = members.values()
    return path


def _write(file: Path, rows: list[Row]) -> None:
    write_documents(pa.Table.from_pylist(rows), file)
