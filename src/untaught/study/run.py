"""Running a plan: groups of steps in worker processes, until every step has its record.

A group is what one process does in one go: a world, a filter, a training, or one arm's subject under one attack with
all its evaluations. Killing anything at any moment loses no finished step; running again does only what is not done.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from ..core import UserError
from ..core.interrupts import undisturbed
from ..engine.compute import begin
from .plan import Plan, Step
from .schema import Study
from .steps import Bench
from .store import Store

LEAKS = "ignore::UserWarning:multiprocessing.resource_tracker"
"""A helper process of Python's, started with our warning options, would warn of locks that Ctrl-C left behind."""


@dataclass(frozen=True)
class Group:
    """Steps that one process does in one go."""

    steps: tuple[Step, ...]

    @property
    def needs(self) -> set[str]:
        """Identities of the steps that other groups must have done before."""
        own = {step.identity for step in self.steps}
        return {above.identity for step in self.steps for above in step.inputs.values()} - own


class Watcher(Protocol):
    """Who is told how a run goes."""

    def started(self, steps: Sequence[Step]) -> None: ...
    def progress(self, identity: str, done: int, total: int) -> None: ...
    def finished(self, steps: Sequence[Step]) -> None: ...


def groups(plan: Plan) -> list[Group]:
    """The plan's steps in groups, inputs first."""
    graded = {identity for cell in plan.cells for identity in (s.identity for _, s in cell.evaluations)}
    made = [Group((step,)) for step in plan.steps if step.kind != "attacks" and step.identity not in graded]
    gathered: dict[Any, dict[str, Step]] = {}
    for cell in plan.cells:
        attacked = cell.subject.kind == "attacks"
        key = _family(cell.subject) if attacked else cell.subject.identity
        steps = gathered.setdefault(key, {})
        for step in ([cell.subject] if attacked else []) + [step for _, step in cell.evaluations]:
            steps.setdefault(step.identity, step)
    return made + [Group(tuple(steps.values())) for steps in gathered.values()]


def _family(attack: Step) -> Any:
    """The same for attacks that differ in budget only, of whatever arm or entry of the study: one run does them all."""
    above = tuple(sorted((role, step.identity) for role, step in attack.inputs.items()))
    return above, json.dumps(dict(attack.settings), sort_keys=True)


def waiting(plan: Plan, store: Store) -> list[Group]:
    """The groups that have something left to do."""
    done = {step.identity for step in plan.steps if store.record(step.identity) is not None}
    return [group for group in groups(plan) if any(step.identity not in done for step in group.steps)]


def run(plan: Plan, store: Store, watcher: Watcher) -> int:
    """Do everything that is not done. Returns how many steps were done."""
    store.sweep()
    left = waiting(plan, store)
    if not left:
        return 0
    count = sum(store.record(step.identity) is None for group in left for step in group.steps)
    workers = plan.study.workers or max(1, (os.cpu_count() or 1) // plan.study.compute.threads)
    workers = min(workers, len(left))
    work = _here if workers == 1 else _in_processes
    work(left, plan.study, store, watcher, workers)
    return count


def _here(left: list[Group], study: Study, store: Store, watcher: Watcher, workers: int) -> None:
    """One group after another, in this process."""
    begin(study.compute)
    bench = Bench(study, store, watcher.progress)
    for group in left:
        watcher.started(group.steps)
        bench.do(group.steps)
        watcher.finished(group.steps)


def _in_processes(left: list[Group], study: Study, store: Store, watcher: Watcher, workers: int) -> None:
    """Groups side by side, each as soon as what it needs is done."""
    context = get_context("spawn")
    unmade = {step.identity for group in left for step in group.steps if store.record(step.identity) is None}
    with undisturbed():
        if LEAKS not in sys.warnoptions:
            sys.warnoptions.append(LEAKS)
        reports = context.Queue()
        begin = (study, store.root.parent, reports)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=begin)
    with pool, _listening(reports, watcher.progress):
        running: dict[Future[None], Group] = {}
        try:
            while left or running:
                for group in [g for g in left if not g.needs & unmade][: workers - len(running)]:
                    left.remove(group)
                    watcher.started(group.steps)
                    with undisturbed():
                        running[pool.submit(_do, group)] = group
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    group = running.pop(future)
                    future.result()
                    unmade -= {step.identity for step in group.steps}
                    watcher.finished(group.steps)
        except BrokenProcessPool:
            titles = "; ".join(group.steps[0].label for group in running.values()) or "its step"
            raise UserError(
                f"a worker process was ended from outside while the run was at: {titles}. Often memory ran out."
                " What is finished is kept: run again, with fewer at a time (--set workers=1)."
            ) from None
        except KeyboardInterrupt:
            for worker in active_children():
                worker.terminate()  # what they were at is lost, as in any kill; what is finished is kept
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _listening(reports: Any, say: Callable[[str, int, int], None]) -> Iterator[None]:
    """Pass on what the workers report while the block runs."""

    def listen() -> None:
        while (report := reports.get()) is not None:
            say(*report)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        reports.put(None)
        thread.join(timeout=1)  # a worker that was killed while it reported has left the queue locked
        reports.cancel_join_thread()


_bench: Bench | None = None


def _begin(study: Study, home: Any, reports: Any) -> None:
    """What a worker does first: it computes with the study's threads, and ends when its parent does."""
    global _bench
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(study.compute)
    _bench = Bench(study, Store(home), lambda *report: reports.put(report))


def _do(group: Group) -> None:
    if _bench is None:
        raise RuntimeError("the worker was not begun")
    _bench.do(group.steps)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
