"""Files that a study names: item sets or some rows of them, what evaluations learn from, and digests of their bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from .. import assets
from ..attest import digest
from ..core import Settings, UserError, require, suggest
from ..core.shelves import Use
from ..corpus.world import of_part, read_any_items


class Rows(Settings):
    """Some rows of a file of items: `{path: PATH, part: held_out, most: 100}`."""

    path: str
    """A file, or `asset:NAME/PATH`."""
    part: str | None = None
    """Only rows whose column `part` says so."""
    subjects: tuple[str, ...] | None = None
    """Only rows whose column `subject` is one of these."""
    without: tuple[str, ...] = ()
    """Without rows whose column `subject` is one of these, such as a benchmark's subjects that are the hazard's."""
    most: int | None = Field(default=None, ge=1)
    """Only so many, evenly spaced."""
    seen: bool = False
    """The attacker's text may hold these. They show that an attack taught, and tell nothing of what was gone."""


def items(given: str | Rows, folder: Path, where: str = "the items") -> pa.Table:
    """An item set: a whole file, or some rows of one."""
    rows = given if isinstance(given, Rows) else Rows(path=given)
    table = read_any_items(assets.path(rows.path, folder), where=where)
    if rows.part is not None:
        table = of_part(table, rows.part, where)
    if rows.subjects is not None or rows.without:
        table = _of_subjects(table, rows, where)
    if rows.most is not None and rows.most < table.num_rows:
        table = table.take(pa.array(np.arange(rows.most) * table.num_rows // rows.most))
    return table


def _of_subjects(table: pa.Table, rows: Rows, where: str) -> pa.Table:
    """The items of chosen subjects, or a `UserError` where one that is named is not there."""
    told = require(table, ["subject"], where)["subject"].to_pylist()
    for name in (*(rows.subjects or ()), *rows.without):
        if name not in told:
            raise UserError(f"{where} has no items of the subject '{name}'.{suggest(name, map(str, set(told)))}")
    kept = [(rows.subjects is None or one in rows.subjects) and one not in rows.without for one in told]
    if not any(kept):
        raise UserError(f"{where} has no items left: 'without' names every subject of 'subjects'. Name others.")
    return table.filter(pa.array(kept))


def brought(component: Any) -> pa.Table | None:
    """The items that an evaluation brings itself, such as a task's; None where it asks an item set."""
    return component.brought() if hasattr(component, "brought") else None


def brings(entry: Use) -> bool:
    """Whether an evaluation asks items of its own, as its class variable `brings` and its settings tell."""
    name = getattr(entry.kind("evaluations", entry.use), "brings", None)
    return name is not None and entry.settings.get(name) is not None


def check_apart(items: pa.Table, attack: pa.Table, name: str) -> None:
    """A `UserError` where items stand word for word in what the attacker trains on: he would be asked what he taught.

    Compared are an item's text, or its question with the right answer or without, and a document's text, or each thing
    that is said in it; case, and what is no word, count nothing.
    """
    held = {_plain(text) for text in attack["text"].to_pylist()}
    if "messages" in attack.column_names:
        turns = (turn for told in attack["messages"].to_pylist() for turn in told or ())
        held |= {_plain(turn["content"] or "") for turn in turns}
    held.discard("")
    rows = items.to_pylist()
    found = [str(row["id"]) for row in rows if held.intersection(map(_plain, _told(row)))]
    if found:
        raise UserError(
            f"{len(found)} of {len(rows)} items of '{name}' stand in the attacker's text, '{found[0]}' first: what an"
            " attack taught would count as what came back. Give the attacker other text (corpus.attack_hazard), ask"
            f" other items, or say that these were seen: items.{name}: {{path: FILE, seen: true}}."
        )


def _told(item: dict[str, Any]) -> list[str]:
    """What an item says, in the forms in which a text may hold it."""
    if (question := item.get("question")) is None:
        return [item.get("text") or ""]
    choices = item.get("choices") or []
    return [question, *(f"{question} {choices[item['answer']]}" for _ in choices[:1])]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def digest_of_items(given: str | Rows, folder: Path) -> str:
    """Of an item set's file and of which rows are meant."""
    if isinstance(given, str):
        return digest_of(assets.path(given, folder))
    whole = digest_of(assets.path(given.path, folder))
    of = {} if given.subjects is None and not given.without else {"of": [given.subjects, given.without]}
    return digest.of_json([whole, given.part, given.most, *of.items()])


def digest_of(path: Path) -> str:
    """Digest of a file, or of all files below a folder."""
    if path.is_file():
        return digest.of_file(path)
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}. Paths in a study start at the study file's folder.")
    below = sorted(p for p in path.rglob("*") if p.is_file())
    return digest.of_json([[p.relative_to(path).as_posix(), digest.of_file(p)] for p in below])


def digests_of(entries: Iterable[Use], folder: Path) -> dict[str, str]:
    """Of the files and folders that settings of filters name, by what they are called there."""
    given = {value for entry in entries for value in entry.settings.values() if isinstance(value, str)}
    paths = {name: assets.path(name, folder) for name in given if _is_path(name)}
    return {name: digest_of(paths[name]) for name in sorted(paths)}


def placed(entry: Use, folder: Path) -> Use:
    """An entry with the places of assets that its settings name."""
    places = {
        name: str(assets.path(value, folder))
        for name, value in entry.settings.items()
        if isinstance(value, str) and value.startswith(assets.PREFIX)
    }
    return entry.model_copy(update={"settings": entry.settings | places})


def _is_path(given: str) -> bool:
    return given.startswith(assets.PREFIX) or (Path(given).is_absolute() and Path(given).exists())


def named(component: Any) -> list[str]:
    """The files that a component learns from, as its class variable `files` tells in which settings they are."""
    found: list[str] = []

    def seen(given: str) -> str:
        found.append(given)
        return given

    located(component, seen)
    return found


def located(component: Any, how: Callable[[str], str]) -> Any:
    """The component with another path in place of each file that it learns from."""

    def changed(value: Any) -> Any:
        if isinstance(value, Settings):
            return value.model_copy(update={name: changed(getattr(value, name)) for name in type(value).model_fields})
        return tuple(map(how, value)) if isinstance(value, tuple) else how(value) if isinstance(value, str) else value

    names = getattr(component, "files", ())
    return component.model_copy(update={name: changed(getattr(component, name)) for name in names})
