"""Tasks of Ray. Imported only where Ray is installed.

Ray is asked for little: to run a function somewhere, and to run it again when what ran it died. What is done is told by
receipts, so a task that ran twice, or half, changes nothing.
"""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from ray import exceptions  # pyright: ignore[reportMissingImports]

from ..core import UserError
from .running import RETRIES, Doing, Task, Worker, anywhere, killed

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def doing(workers: int | None) -> Doing:
    """Do tasks on Ray: as many at once as `workers` says, or as it has processor cores."""
    return _Hands(workers)


class _Hands:
    """Ray as an executor. It is started by the first task; where it was started here, it ends with this object."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers
        self._shared: tuple[Worker, Any] | None = None

    def __call__(self, worker: Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, bool]]:
        self._start()
        there, moved = anywhere(worker, tasks)
        if self._shared is None or self._shared[0] is not worker:
            self._shared = worker, ray.put(there)
        do = ray.remote(num_cpus=1, max_retries=RETRIES)(_do)
        left, waiting = deque(zip(tasks, moved, strict=True)), {}
        try:
            while left or waiting:
                while left and len(waiting) < self._room():
                    task, there = left.popleft()
                    waiting[do.remote([self._shared[1]], there)] = task
                for reference in ray.wait(list(waiting), num_returns=1)[0]:
                    answer = _answer(reference, len(left) + len(waiting))
                    yield waiting.pop(reference), answer
        finally:
            for reference in waiting:
                with suppress(exceptions.RayError):
                    ray.cancel(reference, force=True)

    def _room(self) -> int:
        """How many tasks Ray may hold: never all of a corpus, and more while a cluster grows."""
        return self.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _start(self) -> None:
        if not ray.is_initialized():
            connect(self.workers or os.cpu_count() or 1)
            weakref.finalize(self, ray.shutdown)


def connect(processors: int) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine, for this machine only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": processors}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, **QUIET, **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"there is no Ray at '{address}': {error}. Set RAY_ADDRESS to a cluster that runs, or unset it to start"
            " one on this machine."
        ) from None


_known: dict[str, Worker] = {}
"""The worker that this process of Ray was last sent, by its reference: made ready once, not once a task."""


def _do(shared: Sequence[Any], task: Task) -> bool:
    """What Ray runs. The worker comes as a reference in a list, which Ray leaves alone."""
    name = shared[0].hex()
    if name not in _known:
        _known.clear()
        _known[name] = ray.get(shared[0])
    return _known[name](task)


def _answer(reference: Any, left: int) -> bool:
    """What a task answered; what the input is to blame for is raised as itself."""
    try:
        return ray.get(reference)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError):
        raise killed(left) from None
