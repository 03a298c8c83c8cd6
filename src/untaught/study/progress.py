"""What a run will cost, and how far it is: estimates from earlier runs, and a progress bar with the time left."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .. import assets
from ..engine.compute import settled
from ..engine.folders import size
from .plan import Plan, Step
from .run import Group, waiting
from .schema import Study
from .store import Store

GUESS = {
    **{"world": 3.0, "pool": 0.5, "filters": 2.0, "training": 75.0, "unlearning": 8.0, "attacks": 4.0},
    **{"preparation": 60.0, "evaluations": 0.6, "search": 120.0},
}
"""Seconds a step of each kind takes on the lab, for when nothing like it was ever run here."""


@dataclass
class Prices:
    """Seconds a step takes, learnt from records: by component where there are any, else by kind."""

    seen: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> Self:
        prices = cls()
        for record in store.records():
            for key in ((record.kind, record.component), (record.kind, None)):
                prices.seen.setdefault(key, []).append(record.cost.get("seconds", 0.0))
        return prices

    def known(self, step: Step) -> bool:
        """Whether a step of this kind was ever done here."""
        return bool(self.seen.get((step.kind, None)))

    def step(self, step: Step) -> float:
        """Seconds for one step."""
        for key in ((step.kind, step.entry.use if step.entry else None), (step.kind, None)):
            if found := self.seen.get(key):
                return statistics.median(found)
        return GUESS[step.kind]

    def group(self, group: Group, store: Store) -> float:
        """Seconds for what is left of a group; attacks that differ in budget only are one run."""
        left = [step for step in group.steps if store.record(step.identity) is None]
        attacks = [self.step(step) for step in left if step.kind == "attacks"]
        return sum(self.step(step) for step in left if step.kind != "attacks") + max(attacks, default=0.0)


@dataclass(frozen=True)
class Outlook:
    """What is done of a plan, and what the rest is expected to cost."""

    kind: str
    steps: int
    done: int
    seconds: float
    """Of one processor, for what is left."""
    guessed: bool
    """No step of this kind was ever done here: the seconds are a guess from the lab."""


def outlook(plan: Plan, store: Store) -> list[Outlook]:
    """One line a kind of step, in the order they run."""
    prices = Prices.of(store)
    left = waiting(plan, store)
    found: list[Outlook] = []
    for kind in GUESS:
        steps = [step for step in plan.steps if step.kind == kind]
        if not steps:
            continue
        open_ = [step for step in steps if store.record(step.identity) is None]
        parts = [Group(tuple(s for s in group.steps if s.kind == kind)) for group in left]
        seconds = sum(prices.group(part, store) for part in parts)
        guessed = bool(open_) and not prices.known(open_[0])
        found.append(Outlook(kind, len(steps), len(steps) - len(open_), seconds, guessed))
    return found


def expected_memory(study: Study) -> dict[str, Any] | None:
    """How large the base model is, and the bytes that each copy of it will take; None where a world makes it."""
    if study.base is None:
        return None
    dtype = settled(study.compute).dtype
    parameters, taken = size(assets.path(study.base, study.folder), dtype)
    return {"parameters": parameters, "bytes": taken, "dtype": "bfloat16" if dtype == "bfloat16" else "float32"}


class Bar:
    """A progress bar on stderr that knows what each step is expected to take. Silent when that is no terminal."""

    def __init__(self, plan: Plan, store: Store, *, quiet: bool = False) -> None:
        self._store, self._prices = store, Prices.of(store)
        self._left = {group.steps: self._prices.group(group, store) for group in waiting(plan, store)}
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("groups of steps ·"),
            TimeElapsedColumn(), TextColumn("· left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=console, disable=quiet or not console.is_terminal, speed_estimate_period=120,
        )  # fmt: skip
        self._all = self._progress.add_task("study", total=len(self._left))
        self._running: dict[str, tuple[Step, ...]] = {}
        self._lines: dict[tuple[Step, ...], TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def started(self, steps: Sequence[Step]) -> None:
        group = tuple(steps)
        self._lines[group] = self._progress.add_task(f"  {_shortened(group)}", total=None)
        self._running |= {step.identity: group for step in group}

    def progress(self, identity: str, done: int, total: int) -> None:
        line = self._lines.get(self._running.get(identity, ()))
        if line is not None:
            self._progress.update(line, completed=done, total=total)

    def finished(self, steps: Sequence[Step]) -> None:
        group = tuple(steps)
        self._progress.remove_task(self._lines.pop(group))
        self._progress.advance(self._all)


def _shortened(steps: Iterable[Step]) -> str:
    first = next(iter(steps)).label
    return first if len(first) <= 60 else first[:59] + "…"
