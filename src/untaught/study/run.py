"""Running a plan: groups of steps, each where there are hands for it, until every step has its record.

A group is what one process does in one go: a world, a filter, a training, or one arm's subject under one attack with
all its evaluations. Killing anything at any moment loses no finished step; running again does only what is not done.
Who does the groups is told by an executor, and changes no result:

    processes    worker processes of this machine
    local        this process, one group after another
    ray          tasks of Ray, on the cluster at RAY_ADDRESS, or on a local one that is started
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from .. import assets
from ..core import UserError, suggest
from ..core.extras import from_extra
from ..engine import parallel
from ..engine.compute import begin
from .plan import Plan, Step
from .schema import Study
from .steps import Bench
from .store import Store

KEEPING = ("world", "training", "unlearning")
"""Kinds of steps that leave whole weights behind."""
WEIGHTS = (".safetensors", ".bin", ".gguf")
EXECUTORS = ("processes", "local", "ray")


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
    alone = [Group((step,)) for step in plan.steps if step.kind != "attacks" and step.identity not in graded]
    searches = [group for group in alone if group.steps[0].kind == "search"]
    gathered: dict[Any, dict[str, Step]] = {}
    for cell in plan.cells:
        attacked = cell.subject.kind == "attacks"
        key = _family(cell.subject) if attacked else cell.subject.identity
        steps = gathered.setdefault(key, {})
        for step in ([cell.subject] if attacked else []) + [step for _, step in cell.evaluations]:
            steps.setdefault(step.identity, step)
    asked = [Group(tuple(steps.values())) for steps in gathered.values()]
    return [group for group in alone if group not in searches] + asked + searches


def _family(attack: Step) -> Any:
    """The same for attacks that differ in budget only, of whatever arm or entry of the study: one run does them all."""
    above = tuple(sorted((role, step.identity) for role, step in attack.inputs.items()))
    return above, json.dumps(dict(attack.settings), sort_keys=True)


def waiting(plan: Plan, store: Store) -> list[Group]:
    """The groups that have something left to do."""
    done = {step.identity for step in plan.steps if store.record(step.identity) is not None}
    return [group for group in groups(plan) if any(step.identity not in done for step in group.steps)]


Executor: TypeAlias = Callable[[Sequence[Group], Study, Store, Watcher], None]
"""Does groups, given with what they need before them."""


def run(plan: Plan, store: Store, watcher: Watcher, executor: str = "processes") -> int:
    """Do everything that is not done. Returns how many steps were done."""
    do = _executor(executor)
    check_room(waiting(plan, store), plan.study, store)
    if parallel.world() > 1:
        from .together import together

        return together(plan, store, watcher, executor)
    store.sweep()
    left = waiting(plan, store)
    if not left:
        return 0
    count = sum(store.record(step.identity) is None for group in left for step in group.steps)
    do(left, plan.study, store, watcher)
    return count


def check_room(left: Sequence[Group], study: Study, store: Store) -> None:
    """A `UserError` where the weights of what is left to do would not fit beside the store.

    Arms are kept, as large as the base that they are made from; of attacked weights, those that are being evaluated. A
    lab's models are too small to count.
    """
    if study.base is None:
        return
    base = assets.path(study.base, study.folder)
    size = sum(file.stat().st_size for file in base.glob("*") if file.suffix in WEIGHTS)
    kept = {step.identity for group in left for step in group.steps if step.kind in KEEPING}
    made = sum(store.record(identity) is None for identity in kept)
    passing = min(study.workers or 1, sum(step.kind == "attacks" for group in left for step in group.steps))
    if (asked := size * (made + passing)) > store.free:
        raise UserError(
            f"the weights of {made} steps and of {passing} attacks at a time take about {asked / 1e9:.1f} GB, and"
            f" {store.free / 1e9:.1f} GB are free at {store.root}. Free some, or set UNTAUGHT_HOME to a larger disk."
        )


def _executor(name: str) -> Executor:
    if name not in EXECUTORS:
        raise UserError(f"there is no executor '{name}'.{suggest(name, EXECUTORS)}")
    if name == "local":
        return here
    if name == "processes":
        from .processes import in_processes

        return in_processes
    with from_extra("ray", "cluster"):
        from ._ray import on_ray
    return on_ray


def here(left: Sequence[Group], study: Study, store: Store, watcher: Watcher) -> None:
    """One group after another, in this process."""
    begin(study.compute)
    bench = Bench(study, store, watcher.progress)
    for group in left:
        watcher.started(group.steps)
        bench.do(group.steps)
        watcher.finished(group.steps)


def hand_out(
    left: Sequence[Group], store: Store, watcher: Watcher,
    *, begin: Callable[[Group], None], ended: Callable[[], Iterable[Group]], room: Callable[[], int],
) -> None:  # fmt: skip
    """Have groups begun side by side, at most `room`, each as soon as what it needs is done.

    `ended` tells which have ended since it was asked last. It may wait for one.
    """
    unmade = {step.identity for group in left for step in group.steps if store.record(step.identity) is None}
    waits, at = list(left), set[Group]()
    while waits or at:
        for group in [g for g in waits if not g.needs & unmade][: max(0, room() - len(at))]:
            waits.remove(group)
            at.add(group)
            watcher.started(group.steps)
            begin(group)
        for group in ended():
            at.remove(group)
            unmade -= {step.identity for step in group.steps}
            watcher.finished(group.steps)
