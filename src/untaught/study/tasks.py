"""Export: the items of a run as tasks that lm-evaluation-harness runs, a YAML and a jsonl file each.

    multiple_choice   a multiple-choice task, and one with the question hidden: `acc`, `acc_norm`, `acc_bytes`
    cloze             a log-likelihood task: `acc` is `recalled`
    lm_eval           a multiple-choice task, where it asks items of its study

A prompt stands in the jsonl as the model is to see it, with what the wrap puts around it; a chat's template is for
lm-eval to put on. `acc` is `multiple_choice` with `per: none`, `acc_bytes` with `per: byte`; lm-eval has no measure by
the token, which is what `accuracy` is by default. Other evaluations have no like in lm-eval, and the README says so.
Format: https://github.com/EleutherAI/lm-evaluation-harness, docs/task_guide.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import assets
from ..core import UserError, Wrap
from ..core.files import read_yaml
from ..corpus.world import read_any_items
from ..corpus.writing import write_atomically
from . import files
from .schema import Entry, Study, load

HIDDEN = "option_only"
"""End of the name of a task whose question is hidden."""
METRICS = {"multiple_choice": ("acc", "acc_norm", "acc_bytes"), "loglikelihood": ("acc", "perplexity")}
README = """Tasks for lm-evaluation-harness, written by untaught. It looks for their data where it runs, so run it here:

    lm-eval run --model hf --model_args pretrained=MODEL --include_path . --tasks {names}{chat}
"""


@dataclass(frozen=True)
class Asked:
    """An evaluation and the items that it asks."""

    entry: Entry
    rows: list[dict[str, Any]]
    name: str
    """What its task is to be called."""


@dataclass(frozen=True)
class Task:
    """What becomes a YAML and a jsonl file."""

    name: str
    output_type: str
    docs: list[dict[str, Any]]
    delimiter: str = ""

    def plain(self) -> dict[str, Any]:
        """As it stands in its YAML file."""
        several = self.output_type == "multiple_choice"
        return {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{self.name}.jsonl"}},
            "test_split": "test",
            "output_type": self.output_type,
            "doc_to_text": "prompt",
            **({"doc_to_choice": "choices", "target_delimiter": self.delimiter} if several else {}),
            "doc_to_target": "answer",
            "num_fewshot": 0,
            "metric_list": [
                {"metric": one, "aggregation": one, "higher_is_better": False}
                if one == "perplexity"
                else {"metric": one, "aggregation": "mean", "higher_is_better": True}
                for one in METRICS[self.output_type]
            ],
            "metadata": {"version": 1.0},
        }


def write_tasks(run: Path, out: Path) -> list[Path]:
    """Write the tasks of a run folder, a study, or an evaluation's file or folder into a folder; returns the files."""
    asked, wrap = _read(run)
    tasks: list[Task] = []
    left: list[str] = []
    for one in asked:
        try:
            tasks += _tasks(one, wrap)
        except UserError as error:
            left.append(str(error))
    if not tasks:
        raise UserError(f"{run} asks nothing that lm-eval can ask. {' '.join(dict.fromkeys(left))}")
    written: list[Path] = []
    for task in tasks:
        lines = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in task.docs)
        text = yaml.safe_dump(task.plain(), sort_keys=False, allow_unicode=True)
        for path, content in ((out / f"{task.name}.yaml", text), (out / f"{task.name}.jsonl", lines)):
            write_atomically(path, content)
            written.append(path)
    names = ",".join(task.name for task in tasks)
    told = README.format(names=names, chat=_chat(wrap)) + "".join(f"\n- left out: {one}" for one in dict.fromkeys(left))
    write_atomically(out / "README.md", told.rstrip("\n") + "\n")
    return [*written, out / "README.md"]


# ------------------------------------------------------------------------------------------------- what was asked


def _read(run: Path) -> tuple[list[Asked], Wrap]:
    """Evaluations with their items, and what stands around prompts."""
    places = [run] if run.is_file() else [run / "study.yaml", run / "evaluation.yaml"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"{run} has neither study.yaml nor evaluation.yaml. Give a run folder, or such a file.")
    table = read_yaml(file)
    if "arms" in table:
        study = load(file)
        return _unlike(_of_study(study)), study.wrap
    wrap = Wrap.settle(table.get("wrap") or {}, f"{file}, wrap")
    single = {name: value for name, value in table.items() if name not in ("wrap", "compute", "seed")}
    entries = table.get("evaluations", [single])
    return _unlike(_of_evaluations(entries, file)), wrap


def _of_study(study: Study) -> Iterator[Asked]:
    """Each seed's own items where a world makes them."""
    worlds = {seed: study.world_settings().build(seed).items for seed in study.seeds} if study.world is not None else {}
    for entry in study.evaluations:
        name = f"{entry.use}_{entry.settings.get('items')}"
        items = str(entry.settings.get("items"))
        if entry.settings.get("task") is not None:
            yield Asked(entry, [], name)
            continue
        for seed, world in worlds.items():
            if items in world:
                yield Asked(entry, world[items].to_pylist(), name + (f"_seed_{seed}" if len(worlds) > 1 else ""))
        if items in study.items:
            table = files.items(study.items[items], study.folder, f"items.{items}")
            yield Asked(entry, table.to_pylist(), name)


def _of_evaluations(entries: Any, file: Path) -> Iterator[Asked]:
    """Evaluations of a model alone, whose items are files."""
    for number, plain in enumerate(entries if isinstance(entries, list) else [entries]):
        where = f"{file}, evaluations.{number}"
        entry = Entry.settle(plain if isinstance(plain, Mapping) else {"use": plain}, where)
        component = entry.component("evaluations", where).resolved(file.parent)
        entry = entry.model_copy(update={"settings": component.changed()})
        if entry.settings.get("task") is not None:
            yield Asked(entry, [], entry.use)
            continue
        items = read_any_items(assets.path(component.items, file.parent), where=f"{where}, items")
        yield Asked(entry, items.to_pylist(), f"{entry.use}_{Path(component.items).stem}")


def _unlike(asked: Iterator[Asked]) -> list[Asked]:
    """With names that differ, and that lm-eval does not know."""
    found: dict[str, Asked] = {}
    for one in asked:
        plain = name = "untaught_" + re.sub(r"\W+", "_", one.name)
        turn = 2
        while name in found:
            name, turn = f"{plain}_{turn}", turn + 1
        found[name] = Asked(one.entry, one.rows, name)
    return list(found.values())


# ------------------------------------------------------------------------------------------------- what becomes of it


def _tasks(asked: Asked, wrap: Wrap) -> list[Task]:
    """An evaluation as tasks, or a `UserError` that says why there are none."""
    use, settings, where = asked.entry.use, asked.entry.settings, f"{asked.entry.use} of {asked.name}"
    if settings.get("task") is not None:
        raise UserError(f"{where} is a task of lm-eval already.")
    if use not in ("multiple_choice", "cloze", "lm_eval"):
        raise UserError(f"{where} has no like in lm-eval.")
    if settings.get("scoring", "options") != "options":
        raise UserError(f"{where} asks by letters, which are not exported: ask it with 'scoring: options'.")
    delimiter = "" if wrap.prefill[-1:].isspace() else " "
    prompts = [_around(wrap, settings.get("prompt", "{question}").format(**_named(row))) for row in asked.rows]
    if use == "cloze":
        docs = [
            {"id": row["id"], "prompt": prompt, "answer": f"{delimiter}{_answer(row)}"}
            for row, prompt in zip(asked.rows, prompts, strict=True)
        ]
        return [Task(asked.name, "loglikelihood", docs)]
    if asked.rows and "choices" not in asked.rows[0]:
        raise UserError(f"{where} has items without choices.")
    found = [Task(asked.name, "multiple_choice", _chosen(asked.rows, prompts), delimiter)]
    if use == "multiple_choice" and (blind := settings.get("blind")):
        hidden = [_around(wrap, blind)] * len(prompts)
        found.append(
            Task(f"{asked.name}_{HIDDEN}", "multiple_choice", _chosen(asked.rows, hidden), delimiter)
        )  # fmt: skip
    return found


def _chosen(rows: list[dict[str, Any]], prompts: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": row["id"], "prompt": prompt, "choices": row["choices"], "answer": row["answer"]}
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    """What a prompt may name of an item."""
    return {name: str(row.get(name) or "") for name in ("question", "subject", "context")}


def _answer(row: Mapping[str, Any]) -> str:
    answer, choices = row["answer"], row.get("choices")
    return choices[answer] if isinstance(answer, int) and choices else str(answer)


def _around(wrap: Wrap, prompt: str) -> str:
    """A prompt as plain text is seen; in a chat, what the user says."""
    return wrap.around(prompt) + ("" if wrap.chat else wrap.prefill)


def _chat(wrap: Wrap) -> str:
    """What lm-eval is to be told of a chat."""
    if not wrap.chat:
        return ""
    return " --apply_chat_template" + (" --system_instruction SYSTEM" if wrap.system else "")
