"""The rig: what an intervention is handed. Seeded randomness, a spending meter, the training loop.

Importing this needs no torch, so that filters can be fitted without it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import Budget, Loss, Spent, Subject, UserError
from . import parallel

if TYPE_CHECKING:
    import torch

    from .batches import Batch
    from .checkpoints import Checkpoints
    from .watch import Watch

Progress = Callable[[int, int], None]
"""Called with steps done and steps in all."""


class Rig:
    """One component's rig for one seed. Two rigs with the same seed and name give the same randomness."""

    def __init__(  # noqa: PLR0913  what a study hands over, all of it by name
        self,
        seed: int,
        name: str = "",
        *,
        budget: Budget | None = None,
        stops: Sequence[int] = (),
        donor: Callable[[], Subject] | None = None,
        base: Callable[[], Subject] | None = None,
        subject: Callable[[], Subject] | None = None,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.seed = seed
        self.name = name
        self.budget = budget or Budget()
        self.spent = Spent()
        self.stops = frozenset(stops)
        """Step counts at which a snapshot of the model is wanted on the way."""
        self.snapshots: dict[int, tuple[Any, Spent]] = {}
        self.measured: dict[str, float] = {}
        self.cost: dict[str, float] = {}
        """What the work took as it happened to be: memory, and the step that a checkpoint let it go on from."""
        self.checkpoints = checkpoints
        self.watch = watch
        """Where the step has a `stop`: what looks at the cost on benign text."""
        self.tunes = 0
        """How many descents are over."""
        self._others = {"donor": donor, "base": base}
        self._subject = subject
        self._progress = progress
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the rig was made."""
        return time.perf_counter() - self._began

    def number(self, purpose: str) -> int:
        """A seed for one purpose: the same for the same study seed, component and purpose."""
        words = f"{self.seed}/{self.name}/{purpose}".encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:7], "big")

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness for one purpose, for torch."""
        import torch

        return torch.Generator().manual_seed(self.number(purpose))

    def random(self, purpose: str) -> np.random.Generator:
        """Randomness for one purpose, for numpy."""
        return np.random.default_rng(self.number(purpose))

    def donor(self, setting: str = "donor") -> Subject:
        """The other arm that the component's setting `donor` names, or its setting `base`."""
        if (other := self._others.get(setting)) is None:
            raise UserError(
                f"this component needs a {setting}: name another arm, or a model folder, in its setting '{setting}'."
            )
        return other()

    def subject(self) -> Subject:
        """The model that is about to be fine-tuned, for filters that ask it."""
        if self._subject is None:
            raise UserError(
                "this filter asks the model that is about to be fine-tuned. Name its folder, or asset:NAME, with"
                " 'model' in the policy."
            )
        return self._subject()

    def tune(
        self,
        model: Any,
        loss: Loss,
        batches: Iterable[Any],
        *,
        steps: int,
        train: Sequence[str] = (),
        **how: Any,
    ) -> None:
        """Train `model` in place for at most `steps`, within the budget. `how` is the settings of `Descent`."""
        from .compute import seeded
        from .loop import Descent, descend

        if self.watch is not None and self.watch.over:
            return
        bound = self.budget.steps
        allowed = steps if bound is None else min(steps, bound - self.spent.steps)
        purpose = f"tune/{self.spent.steps}" + (f"/{parallel.rank()}" if parallel.rank() else "")
        with seeded(self.number(purpose)):  # a model with dropout draws from the global generator
            descend(model, loss, batches, steps=allowed, how=Descent(**how), train=train, rig=self)
        self.tunes += 1

    def gradient(
        self, model: Any, loss: Loss, batches: Iterable[Any], *, steps: int, train: Sequence[str] = ()
    ) -> dict[str, torch.Tensor]:
        """Mean gradient over at most `steps` batches, within the budget, by parameter; nothing moves."""
        from .compute import seeded
        from .loop import gradient

        bound = self.budget.steps
        allowed = steps if bound is None else min(steps, bound - self.spent.steps)
        with seeded(self.number(f"gradient/{self.spent.steps}")):
            return gradient(model, loss, batches, steps=allowed, train=train, rig=self)

    def affords(self, model: Any) -> bool:
        """Whether a model costs no more on benign text than the step's `stop` allows; yes where there is none."""
        if self.watch is None:
            return True
        cost = self.watch.cost(model)
        within = self.watch.within(cost)
        if within:
            self.log(**cost)
        return within

    def charge(self, drawn: Iterable[Batch], flops: float) -> bool:
        """Spend one step on these batches, or say that the budget does not allow it."""
        batches = list(drawn)
        tokens, examples = sum(b.tokens for b in batches), sum(b.examples for b in batches)
        if not self.spent.allows(self.budget, steps=1, tokens=tokens, examples=examples):
            return False
        self.spent.steps += 1
        self.spent.tokens += tokens
        self.spent.examples += examples
        self.spent.flops += flops * tokens
        return True

    def report(self, step: int, steps: int, terms: dict[str, float], take: Callable[[], Any] | None) -> None:
        """What the loop says after each step: for the progress bar, the record, and snapshots on the way."""
        for name, value in terms.items():
            self.measured.setdefault(f"{name}_first", value)
            self.measured[f"{name}_last"] = value
        if take is not None and self.spent.steps in self.stops:
            self.spent.seconds = self.elapsed
            self.snapshots[self.spent.steps] = (take(), replace(self.spent))
        if self._progress is not None:
            self._progress(step, steps)

    def restore(self, spent: Spent, measured: Mapping[str, float]) -> None:
        """Go on from where a checkpoint has it."""
        self.spent = spent
        self.measured.update(measured)
        self._began = time.perf_counter() - spent.seconds
        self.cost["resumed_at"] = float(spent.steps)

    def log(self, **numbers: float) -> None:
        """Numbers worth keeping; they go to the step's record."""
        self.measured.update(numbers)
