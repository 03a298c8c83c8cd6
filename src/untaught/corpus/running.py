"""Running: every shard of a corpus through the rules, wherever there are hands to do it.

An executor is a function that does tasks and yields each as it is done:  executor(worker, tasks) -> tasks.  Three are
here, and whatever is killed under any of them, receipts tell what is left:

    local        threads where every stage lets go of Python's lock, processes of their own elsewhere
    on_ray       tasks of Ray, on the cluster at RAY_ADDRESS, or on a local one that is started
    on_datatrove ranks of a datatrove pipeline, for Slurm through its own executor
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..core import UserError
from . import applying, deciding, receipts, shards
from .policy import Rules
from .receipts import Receipt
from .shards import Shard, Source

EXECUTORS = ("local", "processes", "ray", "datatrove")
OURS = ("decisions", "findings", receipts.FOLDER, *receipts.DECISIONS, deciding.WORK)
"""What a filter folder holds that follows from the input and the rules."""
RETRIES = 3


@dataclass(frozen=True)
class Task:
    """Something to do with a shard or a whole source."""

    kind: Literal["check", "decide", "finish", "apply"]
    source: Source
    shard: Shard | None = None
    only: bool = False
    """The shard is all there is of its source: finish that too."""


@dataclass(frozen=True)
class Worker:
    """What does tasks: rules and a folder, small enough to be sent to another machine."""

    rules: Rules
    folder: Path

    def __call__(self, task: Task) -> bool:
        """Do a task. A check tells whether a source is finished."""
        if task.kind == "check":
            return deciding.finished(self.rules, task.source, self.folder)
        if task.kind == "decide" and task.shard is not None:
            deciding.decide(self.rules, task.shard, self.folder)
        if task.kind == "finish" or task.only:
            deciding.finish(self.rules, task.source, self.folder)
        if task.kind == "apply" and not applying.applied(task.source, self.folder):
            applying.apply(task.source, self.folder)
        return True


Doing: TypeAlias = Callable[[Worker, Sequence[Task]], Iterable[tuple[Task, bool]]]


def run(
    rules: Rules, sources: Sequence[Source], folder: Path, doing: Doing, *, apply: bool = False,
    say: Callable[[Task], None] | None = None,
) -> int:  # fmt: skip
    """Decide what is not decided, and write it out when asked to. Returns how many sources were decided now."""
    worker = Worker(rules, folder)

    def done(tasks: Sequence[Task]) -> list[tuple[Task, bool]]:
        answers = []
        for task, answer in doing(worker, tasks) if tasks else ():
            answers.append((task, answer))
            if say is not None:
                say(task)
        return answers

    known = [Task("check", s) for s in sources if receipts.path_of(folder, s.name).is_file()]
    finished = {task.source for task, answer in done(known) if answer}
    left = {source: shards.cut(source) for source in sources if source not in finished}
    done([Task("decide", source, part, only=len(parts) == 1) for source, parts in left.items() for part in parts])
    done([Task("finish", source) for source, parts in left.items() if len(parts) > 1])
    if apply:
        done([Task("apply", source) for source in sources])
    sweep(sources, folder)
    return len(left)


def sweep(sources: Sequence[Source], folder: Path) -> None:
    """Remove what no receipt of these sources vouches for: of sources that are gone, of older rules, of killed runs."""
    known: set[Path] = set()
    for source in sources:
        decided = Receipt.load(receipts.path_of(folder, source.name))
        written = Receipt.load(receipts.path_of(folder, source.name, applied=True))
        if decided is None:
            continue
        known |= {receipts.path_of(folder, source.name), *(folder / path for path in decided.outputs)}
        if written and (written.policy, written.shards) == (decided.policy, decided.shards):
            known |= {receipts.path_of(folder, source.name, applied=True), *(folder / path for path in written.outputs)}
    for room in OURS:
        for path in sorted((folder / room).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in known:
                path.unlink()
        if (folder / room).is_dir() and not any((folder / room).iterdir()):
            (folder / room).rmdir()


def local(rules: Rules, workers: int | None, *, processes: bool = False) -> Doing:
    """Hands on this machine."""
    count = workers or os.cpu_count() or 1

    def doing(worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
        if count == 1:
            yield from ((task, worker(task)) for task in tasks)
        elif processes or not all(stage.lock_free for stage in rules.stages):
            yield from _in_processes(worker, tasks, count)
        else:
            with ThreadPoolExecutor(count) as pool:
                yield from _collected(pool, {pool.submit(worker, task): task for task in tasks})

    return doing


_worker: Worker | None = None


def _begin(worker: Worker) -> None:
    global _worker
    _worker = worker


def _do(task: Task) -> bool:
    if _worker is None:
        raise RuntimeError("a process was given no worker")
    return _worker(task)


def _in_processes(worker: Worker, tasks: Sequence[Task], count: int) -> Iterator[tuple[Task, bool]]:
    """Tasks in processes of their own. When one is killed, what it left undone is given to new ones."""
    left = dict.fromkeys(tasks)
    for attempt in range(RETRIES + 1):
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(count, context, _begin, (worker,)) as pool:
                for task, answer in _collected(pool, {pool.submit(_do, task): task for task in left}):
                    del left[task]
                    yield task, answer
            return
        except BrokenProcessPool:
            if attempt == RETRIES:
                names = sorted({task.source.name for task in left})
                raise UserError(
                    f"workers were killed {RETRIES + 1} times, {len(names)} sources left, the first {names[0]}."
                    " They may need more memory: use fewer with --set workers=1, then run again to go on."
                ) from None


def _collected(pool: Executor, waiting: dict[Future[bool], Task]) -> Iterator[tuple[Task, bool]]:
    try:
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def on_ray(workers: int | None) -> Doing:
    """Tasks of Ray: on the cluster at RAY_ADDRESS, or on a local one. The folder must be one that all nodes see."""
    from ._ray import doing

    return doing(workers)


def on_datatrove(workers: int | None, folder: Path) -> Doing:
    """Ranks of a datatrove pipeline on this machine. On Slurm: examples/slurm."""
    from ._datatrove import doing

    return doing(workers, folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a filter folder, or say that another run does."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is at work in {folder}. Wait for it, or give another --out.") from None
        yield
