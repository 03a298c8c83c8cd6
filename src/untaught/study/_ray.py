"""Groups of steps as tasks of Ray. Imported only where Ray is installed.

Ray is asked for little: to do a group where there are the processors and the share of a GPU that it takes, and to do it
again when what did it died. What is done is told by records, so the store must be on a disk that all nodes share.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
from ray import exceptions  # pyright: ignore[reportMissingImports]

from ..core import UserError
from ..corpus._ray import connect
from ..corpus.running import RETRIES
from ..engine import compute
from .plan import Step
from .processes import killed
from .provenance import code, versions
from .run import Group, Watcher, hand_out
from .schema import Study
from .steps import Bench
from .store import Store

LOOK = 0.5
"""Seconds between looks at how far the tasks are."""
PATIENCE = 90.0
"""Seconds that a shared file system may take to show on one node what was written on another."""
DEATHS = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)


def on_ray(left: Sequence[Group], study: Study, store: Store, watcher: Watcher) -> None:
    """As many at once as `workers` says, or as the nodes have room for."""
    study = study.model_copy(update={"compute": _settled(study)})
    abreast = study.workers or max(1, (os.cpu_count() or 1) // study.compute.threads)
    with _connected(abreast * study.compute.threads):
        tasks = _Tasks(study, store, watcher)
        try:
            hand_out(left, store, watcher, begin=tasks.begin, ended=tasks.ended, room=tasks.room)
        except Exception:
            tasks.wait()  # what the others are at is not lost
            raise
        finally:
            tasks.cancel()
            store.sweep()  # what killed tasks left half done


class _Tasks:
    """Groups that Ray was given."""

    def __init__(self, study: Study, store: Store, watcher: Watcher) -> None:
        self.study, self.store, self.watcher = study, store, watcher
        self.threads, self.gpus = study.compute.threads, _gpus(study)
        if not self._fitting():
            raise UserError(
                f"no node of Ray has what a step asks for (processors: {self.threads}, GPUs: {self.gpus:g}). Lower"
                " compute.threads or gpus_per_step, or add a node that has."
            )
        self._do = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=RETRIES)(_do)
        keeper: Any = ray.remote(num_cpus=0, max_restarts=-1)(Reports)
        self._reports = keeper.remote()
        self._shared = ray.put(Shared(study, store.root.parent.absolute(), _ground(), self._reports))
        self._running: dict[Any, Group] = {}

    def begin(self, group: Group) -> None:
        self._running[self._do.remote([self._shared], group)] = group

    def ended(self) -> Iterator[Group]:
        """The next that is done, if one is before long; and what the others reported."""
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=LOOK)
        with suppress(exceptions.RayError):  # whoever keeps the reports died, and is being replaced
            for report in ray.get(self._reports.taken.remote()):
                self.watcher.progress(*report)
        for reference in done:
            _answer(reference, self._running[reference])
            group = self._running.pop(reference)
            _shown(self.store, group.steps)
            yield group

    def room(self) -> int:
        """Nodes may join while a run goes on."""
        return self.study.workers or max(1, self._fitting())

    def _fitting(self) -> int:
        """How many groups the nodes could do at once."""
        count = 0
        for node in ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            by_processors = int(has.get("CPU", 0) // self.threads)
            whole = has.get("GPU", 0)
            by_gpus = whole // self.gpus if self.gpus >= 1 else whole * (1 // self.gpus) if self.gpus else by_processors
            count += min(by_processors, int(by_gpus))
        return count

    def wait(self) -> None:
        with suppress(exceptions.RayError):
            ray.wait(list(self._running), num_returns=len(self._running))

    def cancel(self) -> None:
        for reference in self._running:
            with suppress(exceptions.RayError):
                ray.cancel(reference, force=True)


def _settled(study: Study) -> Any:
    """What `auto` means is settled here, where identities were made. Ray shows a task the GPU it got, and no other."""
    settled = compute.settled(study.compute)
    return settled.model_copy(update={"device": settled.device.partition(":")[0]})


def _gpus(study: Study) -> float:
    if study.gpus_per_step is not None:
        return study.gpus_per_step
    return float(study.compute.device == "cuda")


@contextmanager
def _connected(processors: int) -> Iterator[None]:
    """A Ray that was started here ends with the block; one that this program had before goes on."""
    if ray.is_initialized():
        yield
        return
    connect(processors)
    try:
        yield
    finally:
        ray.shutdown()


def _answer(reference: Any, group: Group) -> None:
    """Nothing, once a task is done; what the input is to blame for is raised as itself."""
    try:
        ray.get(reference)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except DEATHS:
        raise killed([group]) from None


def _shown(store: Store, steps: Iterable[Step]) -> None:
    """Wait until records that were written on another node are seen on this one."""
    patient_until = time.monotonic() + PATIENCE
    for step in steps:
        while store.record(step.identity) is None:
            if time.monotonic() > patient_until:
                raise UserError(
                    f"{step.label} was done, and {platform.node()} does not see its record in {store.root}. Set"
                    " UNTAUGHT_HOME to a folder that all nodes of Ray share, under the same path."
                )
            time.sleep(LOOK)


# -- on the nodes ------------------------------------------------------------------------------------------------------


class Reports:
    """An actor that keeps how far each step is, until somebody looks."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[str, int, int]] = {}

    def say(self, identity: str, done: int, total: int) -> None:
        self._latest[identity] = identity, done, total

    def taken(self) -> list[tuple[str, int, int]]:
        taken, self._latest = list(self._latest.values()), {}
        return taken


@dataclass(frozen=True)
class Shared:
    """What every task is told."""

    study: Study
    home: Path
    ground: dict[str, str]
    """What identities were made from, beside settings."""
    reports: Any


def _ground() -> dict[str, str]:
    return versions() | {"code of untaught": code("world", ())}


_benches: dict[str, Bench] = {}
"""The bench of the run that this process of Ray last worked for, by the reference to what that run shares."""


def _do(shared: Sequence[Any], group: Group) -> None:
    """What Ray runs. What is shared comes as a reference in a list, which Ray leaves alone."""
    name = shared[0].hex()
    if name not in _benches:
        _benches.clear()
        _benches[name] = _bench(ray.get(shared[0]))
    bench = _benches[name]
    _shown(bench.store, {above for step in group.steps for above in step.inputs.values()} - set(group.steps))
    bench.do(group.steps)


def _bench(shared: Shared) -> Bench:
    """A bench in this process, which computes what the study's own machine would."""
    if apart := sorted(name for name, value in _ground().items() if shared.ground.get(name) != value):
        raise UserError(
            f"{platform.node()} differs from where the run was started in: {', '.join(apart)}. Install the same on"
            " every node."
        )
    os.environ["UNTAUGHT_HOME"] = str(shared.home)
    compute.begin(shared.study.compute)
    told = 0.0

    def say(identity: str, done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told > LOOK:
            told = time.monotonic()
            shared.reports.say.remote(identity, done, total)

    return Bench(shared.study, Store(shared.home), say)
