"""Worker processes of this machine, which do groups of steps side by side."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any

from ..core import UserError
from ..core.interrupts import undisturbed
from ..engine import compute
from .run import Group, Watcher, hand_out, here
from .schema import Study
from .steps import Bench
from .store import Store

LEAKS = "ignore::UserWarning:multiprocessing.resource_tracker"
"""A helper process of Python's, started with our warning options, would warn of locks that Ctrl-C left behind."""


def in_processes(left: Sequence[Group], study: Study, store: Store, watcher: Watcher) -> None:
    """As many at once as `workers` says, or as the processors allow. One at a time is done in this process."""
    workers = study.workers or max(1, (os.cpu_count() or 1) // study.compute.threads)
    workers = min(workers, len(left))
    if workers == 1:
        here(left, study, store, watcher)
        return
    context = get_context("spawn")
    with undisturbed():
        if LEAKS not in sys.warnoptions:
            sys.warnoptions.append(LEAKS)
        reports = context.Queue()
        initargs = (study, store.root.parent, reports)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=initargs)
    running: dict[Future[None], Group] = {}

    def begin(group: Group) -> None:
        with undisturbed():
            running[pool.submit(_do, group)] = group

    def ended() -> Iterator[Group]:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            group = running.pop(future)
            future.result()
            yield group

    with pool, _listening(reports, watcher.progress):
        try:
            hand_out(left, store, watcher, begin=begin, ended=ended, room=lambda: workers)
        except BrokenProcessPool:
            raise killed(running.values()) from None
        except KeyboardInterrupt:
            for worker in active_children():
                worker.terminate()  # what they were at is lost, as in any kill; what is finished is kept
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def killed(at: Iterable[Group]) -> UserError:
    """What to say when something outside ends what does the work."""
    titles = "; ".join(group.steps[0].label for group in at) or "its step"
    return UserError(
        f"a worker process was ended from outside while the run was at: {titles}. Often memory ran out."
        " What is finished is kept: run again, with fewer at a time (--set workers=1)."
    )


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
    compute.begin(study.compute)
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
