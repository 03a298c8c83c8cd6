"""Ranks of a datatrove pipeline. Imported only where datatrove is installed.

datatrove hands out ranks and keeps its logs; reading, deciding and writing are ours, and so is knowing what is done:
its own marks of completion know neither rules nor input and are not looked at.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.base import PipelineStep  # pyright: ignore[reportMissingImports]
from datatrove.utils.logging import logger  # pyright: ignore[reportMissingImports]

from .deciding import WORK
from .running import Doing, Processes, Task, Worker, anywhere

A_WORKER = 16
"""Ranks for each process: what one is told at once is done when all of it is done."""


class Decide(PipelineStep):
    """Rank r of n does the tasks r, r + n, r + 2 n, ... Documents of steps before it are passed on untouched."""

    type = "FILTER"
    name = "untaught"
    __slots__ = ("answers", "tasks", "worker")  # not in __dict__, all of which datatrove writes into its logs

    def __init__(self, worker: Worker, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.worker, self.tasks = worker, tasks
        self.answers: list[bool] = []

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Do the tasks of a rank."""
        if data:
            yield from data
        for task in self.tasks[rank::world_size]:
            self.answers.append(self.worker(task))
            self.stat_update("tasks")

    def __deepcopy__(self, memo: dict[int, Any]) -> Decide:
        """For each rank there is a copy, for the sake of its statistics. Rules are large, and never change."""
        twin = copy.copy(self)
        twin.stats = copy.deepcopy(self.stats, memo)
        return twin


class _Rank(LocalPipelineExecutor):
    """One rank, in this process. The local executor's own pool waits for ever for a rank whose process was killed."""

    def run(self) -> Any:
        return self._run_for_rank(self.local_rank_offset)


@dataclass(frozen=True)
class _Ranks:
    """The ranks of some tasks, to be done by their number."""

    worker: Worker
    tasks: Sequence[Task]
    count: int
    logs: str

    def __call__(self, rank: int) -> list[bool]:
        logger.disable("datatrove")
        step = Decide(self.worker, self.tasks)
        _Rank(
            [step], self.count, local_tasks=1, local_rank_offset=rank, logging_dir=self.logs, skip_completed=False
        ).run()
        return step.answers


def doing(workers: int | None, folder: Path) -> Doing:
    """Do tasks as the ranks of a pipeline, in processes of this machine. Logs are kept while it runs."""
    processes = Processes(workers or os.cpu_count() or 1)

    def do(worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
        there, moved = anywhere(worker, tasks)
        count = min(len(tasks), A_WORKER * processes.count)
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        # A rank that is being ended may still write there while it is removed; `sweep` takes what is left.
        with tempfile.TemporaryDirectory(
            dir=folder.absolute() / WORK, prefix=".datatrove-", ignore_cleanup_errors=True
        ) as logs:
            for rank, answers in processes(_Ranks(there, moved, count, logs), range(count)):
                yield from zip(tasks[rank::count], answers, strict=True)

    return do
