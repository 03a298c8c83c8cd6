"""A run in several processes that a launcher started: all go through the same groups in the same order.

`torchrun --nproc-per-node 2 -m untaught run STUDY` starts two; so does `accelerate launch`. See `engine.parallel`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core import UserError
from ..engine import parallel
from ..engine.compute import settled
from .plan import Plan, Step
from .run import Watcher, groups, here, waiting
from .store import Store


class Unwatched:
    """For the processes that tell nobody how the run goes: the first one does."""

    def started(self, steps: Sequence[Step]) -> None: ...
    def progress(self, identity: str, done: int, total: int) -> None: ...
    def finished(self, steps: Sequence[Step]) -> None: ...


def together(plan: Plan, store: Store, watcher: Watcher, executor: str) -> int:
    """Do everything that is not done, each process its share. Returns how many steps were done."""
    if executor == "ray":
        raise UserError("--executor ray starts processes of its own. Leave out it, or torchrun or accelerate launch.")

    def left() -> tuple[list[int], int]:
        store.sweep()
        open_ = waiting(plan, store)
        count = sum(store.record(step.identity) is None for group in open_ for step in group.steps)
        return [index for index, group in enumerate(groups(plan)) if group in open_], count

    with parallel.joined(settled(plan.study.compute).device):
        chosen, count = parallel.first(left)
        every = groups(plan)
        here([every[index] for index in chosen], plan.study, store, watcher)
        return count
