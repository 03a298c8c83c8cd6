"""Task files of lm-evaluation-harness as items, read from local data without it.

    prompt = description + shown examples + doc_to_text
    a shown example = doc_to_text + target_delimiter + right answer + fewshot_delimiter
    completions     = target_delimiter + each of doc_to_choice; doc_to_target itself of a `loglikelihood`

as version 0.4.13 has it (MIT, https://github.com/EleutherAI/lm-evaluation-harness, api/task.py and api/samplers.py), to
the letter. Examples are drawn as there, with its seed. A name is a column, or else a template, which runs in a sandbox;
no function is ever called. A file that asks for anything that is not read here is refused by the name of what it asks.
One difference: data files are looked for in the task file's folder first, and in the working folder then.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import yaml
from jinja2 import BaseLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from ..core import Settings, UserError
from ..core.files import read_yaml

SEED = 1234
"""What lm-eval draws examples with."""
HARNESS = " What is not read here lm-eval runs itself: 'task: NAME' with 'folder: FOLDER' of the task file."
EMPTY = "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
"""Words that are no text in a csv file, as pandas reads it, which reads it for lm-eval."""
ITEMS = pa.schema([
    ("id", pa.string()),
    ("output_type", pa.string()),
    ("prompt", pa.string()),
    ("completions", pa.list_(pa.string())),
    ("choices", pa.list_(pa.string())),
    ("right", pa.list_(pa.int64())),
    ("metrics", pa.list_(pa.string())),
    ("note", pa.string()),
])  # fmt: skip
"""What a task asks: `right` are the places of the right choices, `note` says why an item cannot be marked."""
METRICS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "exact_match"),
    "loglikelihood": ("perplexity", "acc"),
}
OUTSIDE = ("task", "task_alias", "tag", "metadata", "should_decontaminate", "doc_to_decontamination_query")
"""What a file may say of a task that changes no item: its names, its version, and where to look for leaks."""


class Data(Settings):
    """`dataset_kwargs`."""

    data_files: str | tuple[str, ...] | dict[str, str | tuple[str, ...]]


class Shown(Settings):
    """`fewshot_config`."""

    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None


class Metric(Settings):
    """One of `metric_list`."""

    metric: str
    aggregation: Literal["mean", "perplexity"] | None = None
    higher_is_better: bool | None = None


class TaskFile(Settings):
    """What is read of a task file; names and defaults are lm-eval's."""

    dataset_path: Literal["json", "csv", "parquet"]
    dataset_kwargs: Data
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    output_type: Literal["multiple_choice", "loglikelihood"]
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: str | tuple[str, ...] | dict[str, str] | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    num_fewshot: int = Field(default=0, ge=0)
    fewshot_config: Shown = Shown()
    metric_list: tuple[Metric, ...] = ()
    repeats: Literal[1] = 1

    @property
    def metrics(self) -> list[str]:
        """By name; lm-eval's own for the kind of task where the file names none."""
        usual = METRICS[self.output_type][:2]
        return [one.metric for one in self.metric_list] or list(usual)


def read(path: Path, most: int | None = None) -> pa.Table:
    """What a task file asks, one row a document, or of its first `most`."""
    table = _merged(path, ())
    name = str(table.get("task") or path.stem)
    task = _settled(table, path)
    split = task.test_split or task.validation_split
    shown = task.fewshot_config.split or task.fewshot_split
    if split is None:
        raise UserError(f"{path} names no 'test_split' or 'validation_split'. Name the split that is asked.")
    docs = _split(task, split, path)
    if not docs:
        raise UserError(f"{path}: the split '{split}' holds no documents. Give a file with at least one.")
    others = _split(task, shown or task.training_split or task.validation_split or split, path)
    asking = _Asking(task, path, others if task.num_fewshot else [], same=shown == task.test_split)
    rows = [asking.item(name, number, doc) for number, doc in enumerate(docs[:most])]
    return pa.Table.from_pylist(rows, schema=ITEMS)


# -------------------------------------------------------------------------------------------------------- the file


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file over those that it includes; what is null is left out, as if it were not there."""
    if path.resolve() in above:
        raise UserError(f"{path} includes itself. Remove 'include' from one of the files.")
    _check_tags(path)
    table = read_yaml(path)
    given = table.pop("include", None) or []
    merged: dict[str, Any] = {}
    for one in [given] if isinstance(given, str) else given:
        merged |= _merged(path.parent / str(one), (*above, path.resolve()))
    return {name: value for name, value in (merged | table).items() if value is not None}


def _check_tags(path: Path) -> None:
    """A `UserError` where a file names a function: none is ever called."""
    with suppress(OSError, UnicodeError, yaml.YAMLError):  # of these `read_yaml` tells
        top = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        for key, value in top.value if isinstance(top, yaml.MappingNode) else ():
            if any(tag.startswith("!") for tag in _tags(value)):
                raise UserError(f"{path}: '{key.value}' is a function of Python, which is not called here.{HARNESS}")


def _tags(node: yaml.Node) -> list[str]:
    """Tags of a node and all that it holds."""
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    inner = parts if isinstance(parts, list) else []
    return [node.tag, *(tag for part in inner for tag in _tags(part))]


def _settled(table: Mapping[str, Any], path: Path) -> TaskFile:
    plain = {name: value for name, value in table.items() if name not in OUTSIDE}
    if foreign := sorted(plain.keys() - TaskFile.model_fields.keys()):
        raise UserError(f"{path} asks for '{foreign[0]}', which is not read here.{HARNESS}")
    try:
        task = TaskFile.settle(plain, str(path))
    except UserError as error:
        raise UserError(f"{error}{HARNESS}") from None
    known = METRICS[task.output_type]
    if unknown := [name for name in task.metrics if name not in known]:
        raise UserError(
            f"{path} asks for the metric '{unknown[0]}' of a {task.output_type}. Read are: {', '.join(known)}.{HARNESS}"
        )
    if task.output_type == "multiple_choice" and task.doc_to_choice is None:
        raise UserError(f"{path} is a multiple_choice without 'doc_to_choice'. Add it.")
    return task


# -------------------------------------------------------------------------------------------------------- the data


def _split(task: TaskFile, name: str, path: Path) -> list[dict[str, Any]]:
    """The documents of a split."""
    given = task.dataset_kwargs.data_files
    splits = given if isinstance(given, dict) else {"train": given}
    if name not in splits:
        raise UserError(f"{path}: there is no split '{name}' in 'data_files'. It has: {', '.join(splits)}.")
    files = splits[name]
    tables = [_table(task, one, path) for one in ([files] if isinstance(files, str) else files)]
    return pa.concat_tables(tables, promote_options="default").to_pylist()


def _table(task: TaskFile, given: str, path: Path) -> pa.Table:
    """One data file, with the types that lm-eval would see."""
    places = [path.parent / given, Path(given), path.parent / Path(given).name]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"{path}: there is no data file '{given}', neither beside the task file nor in this folder.")
    try:
        if task.dataset_path == "parquet":
            return pq.read_table(file)
        if task.dataset_path == "csv":
            words = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=["", *EMPTY.split("|")])
            quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
            return pyarrow.csv.read_csv(file, convert_options=words, parse_options=quoted)
        block = pyarrow.json.ReadOptions(block_size=max(1 << 20, file.stat().st_size))
        return pyarrow.json.read_json(file, read_options=block)
    except (pa.ArrowException, UnicodeError) as error:
        raise UserError(f"{file} is no {task.dataset_path} file: {type(error).__name__}. Mend or replace it.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or 'it is damaged'}. Mend or replace it.") from None


# ----------------------------------------------------------------------------------------------------- what is asked


class _Asking:
    """A task at work: turns documents into items, one after another, since examples are drawn in their order."""

    def __init__(self, task: TaskFile, path: Path, others: Sequence[dict[str, Any]], *, same: bool) -> None:
        self.task, self.path, self.others, self.same = task, path, list(others), same
        self._luck = random.Random(SEED)
        self._templates = ImmutableSandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
        )
        self._templates.filters["regex_replace"] = _regex_replace

    def item(self, name: str, number: int, doc: dict[str, Any]) -> dict[str, Any]:
        """One row of items."""
        self._place = f"document {number}"
        told = json.dumps(doc, indent=2, default=str, ensure_ascii=False)
        shown = "".join(self._example(other) for other in self._drawn(doc))
        self._place = f"document {number}"
        described = self.task.description and self._field("description", self.task.description, doc)
        choices = self._choices(doc)
        target = self._target(doc)
        kind = self.task.output_type == "multiple_choice"
        right, note = _right(target, choices) if kind else ([0], None)
        ends = [f"{self.task.target_delimiter}{one}" for one in choices] if kind else [str(target)]
        return {
            "id": f"{name}/{number}#{hashlib.sha256(told.encode()).hexdigest()[:8]}",
            "output_type": self.task.output_type,
            "prompt": f"{described}{shown}{self._text(doc)}",
            "completions": ends,
            "choices": choices if kind else ends,
            "right": right,
            "metrics": self.task.metrics,
            "note": note or (None if all(ends) else "an empty completion"),
        }

    def _drawn(self, doc: dict[str, Any]) -> list[dict[str, Any]]:
        """The examples that stand before a document: never the document itself where both are of one split."""
        count, pool = self.task.num_fewshot, self.others
        if count == 0:
            return []
        without = [other for other in pool if other != doc] if self.same else pool
        if len(without) < count:
            raise UserError(f"{self.path}: 'num_fewshot' is {count}, and there are {len(without)} documents to show.")
        if self.task.fewshot_config.sampler == "first_n":
            return without[:count]
        if not self.same:
            return self._luck.sample(pool, count)
        found = [other for other in self._luck.sample(pool, min(count + 1, len(pool))) if other != doc][:count]
        return found if len(found) == count else self._luck.sample(without, count)

    def _example(self, doc: dict[str, Any]) -> str:
        self._place = "a document that is shown"
        text, answer, choices = self._text(doc), self._target(doc), self._choices(doc)
        if isinstance(answer, list) and answer:
            answer = answer[0]
        elif isinstance(answer, int) and choices:
            answer = choices[answer] if -len(choices) <= answer < len(choices) else None
        if not isinstance(answer, str):
            raise self._wrong("doc_to_target", "gives no right answer")
        return f"{text}{self.task.target_delimiter}{answer}{self.task.fewshot_delimiter}" if answer else text

    def _text(self, doc: dict[str, Any]) -> str:
        text = self._field("doc_to_text", self.task.doc_to_text, doc)
        if not isinstance(text, str):
            raise self._wrong("doc_to_text", "gives no text")
        if text.isdigit() and self.task.doc_to_choice is not None and self.task.doc_to_text not in doc:
            raise self._wrong("doc_to_text", f"gives a number, for several inputs, which is not read here.{HARNESS}")
        return text

    def _choices(self, doc: dict[str, Any]) -> list[str]:
        given = self.task.doc_to_choice
        if given is None:
            return []
        if isinstance(given, str):
            found = self._field("doc_to_choice", given, doc)
            found = found if given in doc else self._literal("doc_to_choice", found)
        else:
            found = list(given.values() if isinstance(given, dict) else given)
        if not (isinstance(found, list) and found and all(isinstance(one, str) for one in found)):
            raise self._wrong("doc_to_choice", "gives no list of texts")
        return found

    def _target(self, doc: dict[str, Any]) -> Any:
        given = self.task.doc_to_target
        if isinstance(given, int):
            return given
        found = self._field("doc_to_target", given, doc)
        if given in doc:
            return found
        if found.isdecimal() and self.task.doc_to_choice is not None:
            return int(found)
        if found[:1] == "[" and found[-1:] == "]":
            with suppress(SyntaxError, ValueError):
                return ast.literal_eval(found)
        return found

    def _field(self, name: str, given: str, doc: dict[str, Any]) -> Any:
        """A column of a document, or what a template makes of it."""
        if given in doc:
            return doc[given]
        try:
            return self._templates.from_string(given).render(**doc)
        except (TemplateError, ArithmeticError, LookupError, OverflowError, TypeError, ValueError) as error:
            said = f" ({error})" if isinstance(error, TemplateError) else ""
            raise self._wrong(name, f"cannot be filled in: {type(error).__name__}{said}") from None

    def _literal(self, name: str, text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise self._wrong(name, "gives no list of texts") from None

    def _wrong(self, name: str, what: str) -> UserError:
        return UserError(f"{self.path}, {name}, {self._place}: it {what.removesuffix('.')}.")


def _right(target: Any, choices: Sequence[str]) -> tuple[list[int], str | None]:
    """Places of the right choices; and why an item cannot be marked, where it cannot."""
    if any(not choice for choice in choices):
        return [], "an empty choice"
    if len(set(choices)) < len(choices):
        return [], "two choices are the same"
    given = target if isinstance(target, list) else [target]
    found = [choices.index(one) if isinstance(one, str) and one in choices else one for one in given]
    places = [one for one in found if isinstance(one, int) and 0 <= one < len(choices)]
    if not places or len(places) < len(found):
        return [], "the right answer is none of the choices"
    return places, None


def _regex_replace(text: str, pattern: str, put: str, count: int = 0) -> str:
    """A filter that templates of lm-eval may use."""
    return re.sub(pattern, put, text, count=count)
