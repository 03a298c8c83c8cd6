"""Lm-eval: tasks of lm-evaluation-harness, asked of the loaded model.

    acc         1 where the right choice has the highest log-likelihood after the prompt, else 0
    acc_norm    the same of log-likelihoods a character
    acc_bytes   the same of log-likelihoods a byte of UTF-8
    exact_match 1 where the right choice is what decoding without chance would write
    acc         of a `loglikelihood`: 1 where decoding without chance would write the target
    nats        of a `loglikelihood`: - log p(target | prompt); exp of its mean is lm-eval's `perplexity`

`task` is the path of a task file, which is read without lm-eval as far as `_task_files` tells, or the name of a task or
group that lm-eval knows. The latter it runs itself, and its metrics bear its names: whatever it asks for goes through
the loaded model, log-likelihoods through the scorer that all evaluations share. Without `task` the items are asked as
lm-eval asks plain ones: the question, and each choice after a space. The wrap stands around every prompt. An item of a
task is called TASK/NUMBER#HASH, by its document's place and the beginning of the hash that lm-eval gives it.

Where we differ: a prompt longer than the model reads is an error and not cut, and an item that cannot be marked (two
choices alike, no right one) is missing, where lm-eval takes the first or marks it 0. Gao et al. 2021, "A framework for
few-shot language model evaluation", doi 10.5281/zenodo.5371628; https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, model_validator

from ..core import Mark, Marks, Role, Settings, Subject, marks, require
from ..core.extras import from_extra
from ._task_files import ITEMS, read

FILES = (".yaml", ".yml")


class LmEval(Settings):
    """Grade a task's items, or those with columns `id`, `question`, `choices`, `answer` (an index)."""

    brings: ClassVar[str] = "task"
    """The setting that, where it is given, brings items of its own."""
    items: str = "hazard_held_out"
    """Name of an item set of the world, or a file of items; with `task`, what its items are called in results."""
    role: Role | None = None
    """What knowing the answers means; None takes it from the items. Those of a task do not tell."""
    task: str | None = None
    """A task file (.yaml), or the name of a task or group of the installed lm-eval."""
    folder: str | None = None
    """Folder of further task files for lm-eval, its `include_path`. It calls what functions they name."""
    most: int | None = Field(default=None, ge=1)
    """Only so many documents of a task, from the first on, as `--limit` of lm-eval has it."""
    batch_size: int = Field(default=256, ge=1)
    """Texts scored together; it changes no mark."""

    @model_validator(mode="before")
    @classmethod
    def _called(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and isinstance(table.get("task"), str) and table.get("items") is None:
            task = Path(table["task"])
            return {**table, "items": task.stem if task.suffix in FILES else table["task"]}
        return table

    def resolved(self, folder: Path) -> LmEval:
        """With whole paths, which mean the same from anywhere."""
        whole = {"task": self.task} if self._of_file else {}
        whole |= {"folder": self.folder}
        return self.model_copy(update={n: str((folder / p).absolute()) for n, p in whole.items() if p is not None})

    def brought(self) -> pa.Table | None:
        """What the task asks; None without one."""
        if self.task is None:
            return None
        if self._of_file:
            return read(Path(self.task), self.most)
        return self._harness().documents(self.task, self.folder, self.most)

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        if self.task is not None and not self._of_file:
            wanted = set(require(items, ["id"], f"the items '{self.items}'")["id"].to_pylist())
            found = self._harness().asked(subject, self.task, self.folder, self.most, self.batch_size)
            return marks(mark for mark in found if mark.item in wanted)
        return marks(_marked(subject, self._rows(items), self.batch_size))

    @property
    def _of_file(self) -> bool:
        return self.task is not None and Path(self.task).suffix in FILES

    def _rows(self, items: pa.Table) -> list[dict[str, Any]]:
        """Items in the form of a task's."""
        if set(ITEMS.names) <= set(items.column_names):
            return items.to_pylist()
        columns = ["id", "question", "choices", "answer"]
        return [plain(row) for row in require(items, columns, f"the items '{self.items}'").to_pylist()]

    def _harness(self) -> Any:
        """What stands between lm-eval and a subject."""
        with from_extra("lm_eval", "evals", f"lm-eval, which knows the task '{self.task}', is not installed",
                        " Or give a task file: task: FILE.yaml."):  # fmt: skip
            from . import _harness
        return _harness


def plain(row: Mapping[str, Any], prompt: str = "{question}") -> dict[str, Any]:
    """A multiple-choice item in the form of a task's."""
    return {
        "id": row["id"],
        "output_type": "multiple_choice",
        "prompt": prompt.format(question=row["question"]),
        "completions": [f" {choice}" for choice in row["choices"]],
        "choices": row["choices"],
        "right": [row["answer"]],
        "metrics": ["acc", "acc_norm"],
        "note": None,
    }


def _marked(subject: Subject, rows: Sequence[dict[str, Any]], batch_size: int) -> list[Mark]:
    """Every metric of every item."""
    from ._likelihoods import likelihoods

    sound = [row for row in rows if row["note"] is None]
    pairs = [(row["prompt"], end) for row in sound for end in row["completions"]]
    names = [row["id"] for row in sound for _ in row["completions"]]
    scored = iter(likelihoods(subject, pairs, batch_size, names))
    found: list[Mark] = []
    for row in rows:
        kind, several = row["output_type"], len(row["choices"])
        chance = len(set(row["right"])) / several if kind == "multiple_choice" and row["right"] else None
        scores = [] if row["note"] else [next(scored) for _ in row["completions"]]
        nats = [one.nats for one in scores]
        known = [one for one in nats if one is not None]
        why = row["note"] or ("no finite score" if len(known) < len(nats) else None)
        for metric in row["metrics"]:
            name = "nats" if metric == "perplexity" else metric
            value = None if why else _value(row, metric, known, [one.greedy for one in scores])
            found.append(Mark(row["id"], name, value, chance if name in GUESSED else None, why))
    return found


GUESSED = ("acc", "acc_norm", "acc_bytes")
"""Metrics that guessing gives something."""


def _value(row: Mapping[str, Any], metric: str, nats: Sequence[float], greedy: Sequence[bool]) -> float:
    """A metric of an item whose every completion has a score."""
    if row["output_type"] == "loglikelihood":
        return float(greedy[0]) if metric == "acc" else -nats[0]
    if metric == "exact_match":
        return float(any(greedy[place] for place in row["right"]))
    lengths = {
        "acc": [1] * len(nats),
        "acc_norm": [len(choice) for choice in row["choices"]],
        "acc_bytes": [len(choice.encode()) for choice in row["choices"]],
    }[metric]
    scores = [one / length for one, length in zip(nats, lengths, strict=True)]
    return float(scores.index(max(scores)) in row["right"])
