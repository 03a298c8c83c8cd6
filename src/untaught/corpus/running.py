"""Running: every shard of a corpus through the rules, wherever there are hands to do it.

An executor is a function that does tasks and yields each as it is done:  executor(worker, tasks) -> tasks.  Three are
here, and whatever is killed under any of them, receipts tell what is left:

    local        threads where every stage lets go of Python's lock, processes of their own elsewhere
    on_ray       tasks of Ray, on the cluster at RAY_ADDRESS, or on a local one that is started
    on_datatrove ranks of a datatrove pipeline on this machine

Where nobody is there to hand out tasks, as in a Slurm job array, each job takes its own part of the shards: `share`, or
a `datatrove_step` in a pipeline. Whoever runs `untaught filter` on the folder afterwards finds them decided.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from ..core import UserError
from ..core.extras import from_extra
from ..core.interrupts import undisturbed
from . import applying, deciding, receipts, shards
from .policy import Rules
from .receipts import Receipt
from .shards import Shard, Source
from .writing import is_half

EXECUTORS = ("local", "processes", "ray", "datatrove")
OURS = ("decisions", "findings", receipts.FOLDER, *receipts.DECISIONS, deciding.WORK)
"""What a filter folder holds that follows from the input and the rules."""
RETRIES = 3
"""How often what was killed is tried again while nothing else gets done."""


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
    left = [source for source in sources if source not in finished]
    done(parts := to_decide(left))
    done([Task("finish", source) for source in dict.fromkeys(part.source for part in parts if not part.only)])
    if apply:
        done([Task("apply", source) for source in sources])
    sweep(sources, folder)
    return len(left)


def to_decide(sources: Sequence[Source]) -> list[Task]:
    """Every shard of every source, in order. Those of a source that has several leave its end to a task of its own."""
    cut = {source: shards.cut(source) for source in sources}
    return [Task("decide", source, part, only=len(parts) == 1) for source, parts in cut.items() for part in parts]


def sweep(sources: Sequence[Source], folder: Path) -> None:
    """Remove what no receipt of these sources vouches for: of sources that are gone, of older rules, of killed runs."""
    known = _vouched(sources, folder)
    for path in filter(is_half, folder.iterdir()):
        path.unlink(missing_ok=True)
    for room in OURS:
        for path in sorted((folder / room).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
            elif path not in known:
                path.unlink()
        with suppress(OSError):
            (folder / room).rmdir()


def _vouched(sources: Sequence[Source], folder: Path) -> set[Path]:
    """Receipts of sources and the outputs they name; those of written documents while the decisions still stand."""
    known: set[Path] = set()
    for source in sources:
        decided = Receipt.load(receipts.path_of(folder, source.name))
        written = Receipt.load(receipts.path_of(folder, source.name, applied=True))
        if decided is None:
            continue
        known |= {receipts.path_of(folder, source.name), *(folder / path for path in decided.outputs)}
        if written and (written.policy, written.shards) == (decided.policy, decided.shards):
            known |= {receipts.path_of(folder, source.name, applied=True), *(folder / path for path in written.outputs)}
    return known


def local(rules: Rules, workers: int | None, *, processes: bool = False) -> Doing:
    """Hands on this machine."""
    count = workers or os.cpu_count() or 1

    def here(worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
        yield from ((task, worker(task)) for task in tasks)

    def threads(worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
        with ThreadPoolExecutor(count) as pool:
            try:
                yield from _collected({pool.submit(worker, task): task for task in tasks})
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    if count == 1:
        return here
    return Processes(count) if processes or not all(stage.lock_free for stage in rules.stages) else threads


_Work = TypeVar("_Work")
_Done = TypeVar("_Done")
_work: Callable[[Any], Any] | None = None
"""What a process of a pool was begun for."""


class Processes:
    """Processes of their own, which stay from one call to the next and go with this object, or with this process.

    When one is killed, what was left undone is given to new ones.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._for: Any = None
        self._leash: Connection | None = None

    def __call__(self, work: Callable[[_Work], _Done], items: Sequence[_Work]) -> Iterator[tuple[_Work, _Done]]:
        left, kills = dict.fromkeys(items), 0
        try:
            while left:
                try:
                    with undisturbed():
                        pool = self._begun(work)
                        waiting = {pool.submit(_do, item): item for item in left}
                    for item, answer in _collected(waiting):
                        del left[item]
                        kills = 0
                        yield item, answer
                except BrokenProcessPool:
                    self._stop()
                    if (kills := kills + 1) > RETRIES:
                        raise killed(len(left)) from None
        except BaseException:
            self._stop()
            raise

    def _begun(self, work: Callable[[Any], Any]) -> ProcessPoolExecutor:
        if self._pool is None or self._for is not work:
            self._stop()
            context = multiprocessing.get_context("spawn")
            held, self._leash = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (work, held))
            self._for = work
        return self._pool

    def _stop(self) -> None:
        """End the processes at once, whatever they are at: nothing half done counts."""
        if self._pool is not None and self._leash is not None:
            self._leash.close()
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._leash = None


def _begin(work: Callable[[Any], Any], held: Connection) -> None:
    """What a process does first. It ends when the other end of the pipe that it holds is closed, if only by death."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that hands out the work answers Ctrl-C
    threading.Thread(target=lambda: (wait([held]), os._exit(1)), daemon=True).start()
    _work = work


def _do(item: Any) -> Any:
    if _work is None:
        raise RuntimeError("a process was given nothing to work with")
    return _work(item)


def _collected(waiting: dict[Future[_Done], _Work]) -> Iterator[tuple[_Work, _Done]]:
    for future in as_completed(waiting):
        yield waiting[future], future.result()


def killed(left: int) -> UserError:
    """What to say when whatever does the work is killed again and again."""
    return UserError(
        f"workers were killed {RETRIES + 1} times and got nothing done meanwhile; {left} pieces of work are left."
        " They may need more memory: use fewer with --set workers=1, then run again to go on."
    )


def on_ray(workers: int | None) -> Doing:
    """Tasks of Ray: on the cluster at RAY_ADDRESS, or on a local one. The folder must be one that all nodes see."""
    with from_extra("ray", "cluster"):
        from ._ray import doing
    return doing(workers)


def on_datatrove(workers: int | None, folder: Path) -> Doing:
    """Ranks of a datatrove pipeline on this machine."""
    with from_extra("datatrove", "cluster"):
        from ._datatrove import doing
    return doing(workers, folder)


# -- parts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part(Worker):
    """A worker that nobody told what is decided already: it looks at a source's receipt before each shard.

    What that says of other files is left to be checked by `run`.
    """

    def __call__(self, task: Task) -> bool:
        return (task.shard is not None and self._told(task.shard)) or super().__call__(task)

    def _told(self, shard: Shard) -> bool:
        receipt = Receipt.load(receipts.path_of(self.folder, shard.source.name))
        if receipt is None or receipt.policy != self.rules.digest or shard.index >= len(receipt.shards):
            return False
        try:
            return receipt.shards[shard.index]["sha256"] == shards.digest(shard)
        except shards.Damaged:
            return False


def share(rules: Rules, sources: Sequence[Source], folder: Path, rank: int, count: int) -> None:
    """Decide every `count`-th shard from the `rank`-th on, ranks counted from 0: one job of an array, on any machine.

    Jobs need nothing of each other but the folder. `untaught filter` finishes when they are through, or does the rest.
    """
    if not 0 <= rank < count:
        raise UserError(f"there is no part {rank} of {count}. Parts are counted from 0 to {count - 1}.")
    part = Part(rules, folder)
    for task in to_decide(sources)[rank::count]:
        part(task)


def datatrove_step(rules: Rules, sources: Sequence[Source], folder: Path) -> Any:
    """A `PipelineStep` for any of datatrove's executors, each of whose ranks decides its share."""
    with from_extra("datatrove", "cluster"):
        from ._datatrove import Decide
    return Decide(*anywhere(Part(rules, folder), to_decide(sources)))


_AWorker = TypeVar("_AWorker", bound=Worker)


def anywhere(worker: _AWorker, tasks: Sequence[Task]) -> tuple[_AWorker, list[Task]]:
    """The same with absolute paths, for processes that may stand in another folder."""

    def told(task: Task) -> Task:
        source = replace(task.source, path=task.source.path.absolute())
        return replace(task, source=source, shard=task.shard and replace(task.shard, source=source))

    return replace(worker, folder=worker.folder.absolute()), [told(task) for task in tasks]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a filter folder, or say that another run does."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Give another with --out.") from None
    with held as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}. Wait for it, or give another --out.") from None
        except OSError:
            pass  # a file system without locks: two runs at once write the same bytes
        yield
