"""Read a finished run folder. Everything that the report shows comes from here; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ConfigDict, Field

from ..core import Record, Role, Settings, UserError

MEND = "Give the folder that `untaught run --out` wrote, or run the study again: finished steps are not repeated."


class Cost(Settings):
    """What an attacker spent to get to one row."""

    model_config = ConfigDict(extra="ignore")
    steps: float = Field(default=0, ge=0)
    tokens: float = Field(default=0, ge=0)
    examples: float = Field(default=0, ge=0)
    flops: float = Field(default=0, ge=0)
    seconds: float = Field(default=0, ge=0)
    memory: float | None = Field(default=None, ge=0)
    """Most bytes held meanwhile; None where that is not known."""
    money: float | None = Field(default=None, ge=0)
    """By the study's rate; None where it gives none."""


class Trial(Settings):
    """What a row that is a search's trial says of it."""

    model_config = ConfigDict(extra="ignore")
    trial: int = Field(ge=0)
    of: int = Field(ge=1)
    ranges: dict[str, list[Any]]
    """What its settings were searched in."""
    hazard: float | None
    """The measure that the search decided by: more is better for the attacker."""
    cost: float
    """Of utility."""


class Row(Settings):
    """One line of `results.jsonl`. Columns that a later version adds are passed over."""

    model_config = ConfigDict(extra="ignore")
    arm: str
    attack: str | None
    """The component's name; None for the arm as it is."""
    attack_settings: dict[str, Any] | None = None
    budget: Cost | None = None
    evaluation: str
    role: Role
    items: str
    metric: str
    value: float | None
    """None when it could not be computed."""
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=0)
    """Items scored."""
    missing: int = Field(ge=0)
    """Items that were not scored."""
    chance: float | None = None
    seed: int
    attack_seed: int | None = None
    """None without an attack, and for attacks that draw nothing."""
    weights: str = ""
    """Digest of the weights that were evaluated."""
    search: Trial | None = None
    """Of a trial: which it was."""

    @property
    def cost(self) -> Cost:
        return self.budget or Cost()


@dataclass(frozen=True)
class Run:
    """A finished study: its resolved settings, its rows, and the record of every step."""

    title: str
    study: str
    """The text of `study.yaml`."""
    seeds: tuple[int, ...]
    attack_seeds: tuple[int, ...]
    """Empty where no attack drew anything."""
    arms: tuple[str, ...]
    """In the study's order; arms that only the results know come last."""
    rows: tuple[Row, ...]
    records: tuple[Record, ...]
    folder: Path | None = None
    """Where the marks are."""
    shallow: tuple[str, ...] = ()
    """Arms that the study names as shallow defences."""
    never: str | None = None
    """The arm that it names as one that never learned the hazard."""
    currency: str = ""
    """What its attacks' money is counted in."""


def read(folder: Path) -> Run:
    """A run folder as one frozen object, or a `UserError` that says which file is missing or damaged."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. {MEND}")
    rows = tuple(_rows(folder))
    text, study = _study(folder)
    arms, controls, price = (_table(study, name) for name in ("arms", "controls", "price"))
    shallow = controls.get("shallow")
    return Run(
        title=str(study.get("title") or "An untitled study"),
        study=text,
        seeds=tuple(sorted({row.seed for row in rows} | set(_whole_numbers(study.get("seeds"))))),
        attack_seeds=tuple(sorted({row.attack_seed for row in rows if row.attack_seed is not None})),
        arms=_in_order([*map(str, arms), *(row.arm for row in rows)], {row.arm for row in rows}),
        rows=rows,
        records=tuple(records_of(folder)),
        folder=folder,
        shallow=tuple(map(str, shallow)) if isinstance(shallow, list) else (),
        never=str(controls["never"]) if controls.get("never") else None,
        currency=str(price.get("currency") or ""),
    )


def marks_of(folder: Path, arm: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table | None:
    """An arm's marks, or a `UserError` where they are damaged; None where the run has none of it."""
    path = folder / "marks" / f"{arm}.parquet"
    if not path.is_file():
        return None
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), filters=filters)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path} has no marks of a run, or is damaged. {MEND}") from None


def _text(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} has no {name}. {MEND}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text. {MEND}") from None


def results_of(folder: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """The rows of `results.jsonl` as tables, each with its place in words."""
    lines = [line for line in _text(folder, "results.jsonl").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{folder / 'results.jsonl'} has no rows: nothing was evaluated. {MEND}")
    for number, line in enumerate(lines, start=1):
        where = f"{folder / 'results.jsonl'} row {number}"
        yield where, _json(line, where)


def _rows(folder: Path) -> Iterable[Row]:
    for where, table in results_of(folder):
        try:
            yield Row.settle(table, where)
        except UserError as error:
            raise UserError(f"{error} {MEND}") from None


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}. {MEND}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where} is a {type(found).__name__} and must be a table. {MEND}")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number; a value that is missing is null")


def _study(folder: Path) -> tuple[str, dict[str, Any]]:
    text = _text(folder, "study.yaml")
    try:
        study = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{folder / 'study.yaml'} is not YAML. {MEND}") from None
    if not isinstance(study, dict):
        raise UserError(f"{folder / 'study.yaml'} is not a table of settings. {MEND}")
    return text, study


def _table(study: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the study that is a table; empty where it is none."""
    found = study.get(name)
    return found if isinstance(found, dict) else {}


def records_of(folder: Path) -> Iterable[Record]:
    """The records of a run folder."""
    if not (folder / "records").is_dir():
        raise UserError(f"{folder} has no folder records. {MEND}")
    for path in sorted((folder / "records").glob("*.json")):
        table = _json(_text(folder / "records", path.name), str(path))
        try:
            yield Record(**table)
        except TypeError as error:
            raise UserError(f"{path} is not a step's record: {str(error).split('() ')[-1]}. {MEND}") from None


def _whole_numbers(seeds: object) -> list[int]:
    return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []


def _in_order(names: Iterable[str], wanted: set[str]) -> tuple[str, ...]:
    """Names once each, as they first come, the wanted ones alone."""
    return tuple(name for name in dict.fromkeys(names) if name in wanted)
