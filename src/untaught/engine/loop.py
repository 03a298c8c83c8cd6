"""The training loop. There is one; a method hands it named loss terms and a stream of batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ..core import Loss, Settings, UserError
from . import parallel
from .anatomy import matrices
from .compute import device, now, seeded
from .memory import expected, metered
from .models import fresh, settled
from .muon import Muon
from .shards import Shards, sharded, whole
from .states import recomputed

if TYPE_CHECKING:
    from .batches import Batch
    from .rig import Rig


def _steps_or_share(warmup: int | float) -> int | float:
    if isinstance(warmup, float) and warmup >= 1:
        raise ValueError("a share of the steps is below 1. Give a number of steps without a point, such as 10")
    return warmup


Schedule = Literal["constant", "linear", "cosine"]
Warmup = Annotated[int | float, Field(ge=0), AfterValidator(_steps_or_share)]
"""A number of steps, or, with a point, a share of them."""


class Descent(Settings):
    """How the weights move.

        rate    lr up                                                           constant
                lr up min(1, (steps - step) / (decay steps))                    linear
                lr up (1 + cos(pi (step - warmup) / (steps - warmup))) / 2      cosine; lr up before the warm-up is over
        up      min(1, (step + 1) / (warmup + 1))

    A step is counted from 0; `steps` are those that the budget allows.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    """`sgd` is plain descent: a step is the rate times the gradient."""
    lr: float = Field(default=1e-4, gt=0)
    """The optimiser's rate."""
    matrix_lr: float | None = Field(default=None, gt=0)
    """When given, the blocks' matrices move by Muon at this rate, and AdamW moves the rest."""
    schedule: Schedule = "constant"
    """`linear` falls to zero over the last `decay` of the steps, `cosine` over all that follow the warm-up."""
    decay: float = Field(default=0.4, gt=0, le=1)
    warmup: Warmup = 0
    """Steps over which the rate rises from zero, or, with a point, the share of the steps that these are."""
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    lost: Literal["error", "keep"] = "error"
    """What becomes of a descent whose loss or gradient is no number, where the rig has no watch: an error, or an end
    at the last weights of which both were numbers."""
    asked: int = Field(default=0, ge=0)
    """Parameters of other models that the loss asks: they are in the price of a token."""

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied with at a step (from 0)."""
        rise = round(self.warmup * steps) if isinstance(self.warmup, float) else self.warmup
        up = min(1.0, (step + 1) / (rise + 1))
        if self.schedule == "linear":
            return up * min(1.0, (steps - step) / (steps * self.decay))
        if self.schedule == "cosine":
            return up * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise))) / 2
        return up

    @property
    def open_ended(self) -> bool:
        """Whether no rate depends on how many steps there will be: then a descent on the way is a shorter one."""
        return self.schedule == "constant" and not (isinstance(self.warmup, float) and self.warmup > 0)


def descend(
    model: nn.Module, loss: Loss, batches: Iterable[Any], *, steps: int, how: Descent, train: Sequence[str], rig: Rig
) -> None:
    """Train `model` in place for `steps`, or until the rig's budget or the batches end.

    `train` names the parameters that move (all that require a gradient when empty). `loss` is called with what the
    stream yields (a pair as two arguments), or with parts of it, and returns named terms; their sum is descended, their
    values are logged. What a checkpoint holds of this descent is not done again: its batches are drawn and passed by.
    Where the rig has a watch, it ends the descent when that costs too much, or when a term is no number, and the last
    good weights are put back; without one `how.lost` says what becomes of the latter.
    """
    if steps <= 0:
        return
    names = _moving(model, train)
    with metered(rig.cost), sharded(model, names) as shards:
        moving = {name: weight for name, weight in model.named_parameters() if name in names}
        optimisers = _optimisers(model, list(moving.values()), how)
        rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
        flops = _flops(model, moving) + 2.0 * how.asked
        guard = _Guard(rig, model, moving, keeps=how.lost == "keep")
        _tell_size(model, moving, optimisers, rig, copies=1 if guard.spare else 0)
        take = _snapshot(model, shards) if how.open_ended else None
        model.train()
        done = rig.checkpoints.resume(rig, guard.held, optimisers, take) if rig.checkpoints else 0
        guard.begin(done)
        for step, drawn in _draws(batches, steps):
            if step < done:
                _pass_by(loss, drawn, step)
                continue
            if not rig.charge(drawn, flops):
                break
            values = _gradients(model, loss, drawn)
            if shards is None:  # those of shards are summed already
                parallel.sum_gradients(list(moving.values()))
            norm = _clip(list(moving.values()), how.clip)
            if guard.lost(values, norm, step):
                break
            if step == 0 and norm == 0.0:
                raise UserError("no trained parameter has a gradient at the first step, so nothing would be learnt.")
            _move(optimisers, rates, how.factor(step, steps))
            rig.report(step + 1, steps, values, take)
            if guard.ended(step + 1):
                break
            if rig.checkpoints and guard.good_at(step + 1):
                rig.checkpoints.offer(rig, step + 1, guard.held, optimisers)
        guard.last()
    model.eval()


def gradient(
    model: nn.Module, loss: Loss, batches: Iterable[Any], *, steps: int, train: Sequence[str], rig: Rig
) -> dict[str, Tensor]:
    """Mean gradient of a loss over batches, by parameter, at the weights as they are. Empty when the budget is."""
    names = _moving(model, train)
    moving = {name: weight for name, weight in model.named_parameters() if name in names}
    flops = _flops(model, moving)
    taken = 0
    with metered(rig.cost):
        for step, drawn in _draws(batches, steps):
            if not rig.charge(drawn, flops):
                break
            values = _gradients(model, loss, drawn)
            _check(values, 0.0, step)
            rig.report(step + 1, steps, values, None)
            taken += 1
        parallel.sum_gradients(list(moving.values()))
    found = {name: weight.grad / taken for name, weight in moving.items() if weight.grad is not None}
    for weight in moving.values():
        weight.grad = None
    return found


def _flops(model: nn.Module, moving: Mapping[str, nn.Parameter]) -> float:
    """What a token costs there and back: see `core.Spent`."""
    return 4.0 * sum(p.numel() for p in model.parameters()) + 2.0 * sum(p.numel() for p in moving.values())


def _draws(batches: Iterable[Any], steps: int) -> Iterator[tuple[int, tuple[Batch, ...]]]:
    """Steps from 0, each with its batches, one or several."""
    for step, batch in zip(range(steps), batches, strict=False):
        yield step, batch if isinstance(batch, tuple) else (batch,)


def _gradients(model: nn.Module, loss: Loss, drawn: tuple[Batch, ...]) -> dict[str, float]:
    """Gradients of the loss on batches, and the values of its terms: over all parts, in all processes.

    A batch goes through in parts no larger than `micro_batch`, and of these each process takes its share.
    """
    largest, processes = max(batch.examples for batch in drawn), parallel.world()
    passes = math.ceil(largest / (processes * (now().micro_batch or largest)))
    mine = slice(parallel.rank() * passes, (parallel.rank() + 1) * passes)
    values: dict[str, float] = {}
    for part in zip(*(batch.parts(passes * processes)[mine] for batch in drawn), strict=True):
        with recomputed(model) if now().checkpointing else contextlib.nullcontext():
            terms = loss(*(one.to(device()) for one in part))
            total = sum(terms.values(), torch.zeros(()))
            if not total.requires_grad:
                raise UserError("the loss depends on no trained parameter, so nothing would be learnt.")
            total.backward()
        for name, term in terms.items():
            values[name] = values.get(name, 0.0) + float(term.detach())
    return parallel.summed(values)


def _pass_by(loss: Loss, drawn: tuple[Batch, ...], step: int) -> None:
    """A batch that a checkpoint has behind it. A loss may have taken its bearings from the first, and sees it again."""
    if step == 0:
        with seeded(0), torch.no_grad():
            loss(*(one.to(device()) for one in drawn))


def _move(optimisers: list[torch.optim.Optimizer], rates: list[list[float]], factor: float) -> None:
    """One step of each optimiser, at its rates times `factor`."""
    for optimiser, before in zip(optimisers, rates, strict=True):
        for group, rate in zip(optimiser.param_groups, before, strict=True):
            group["lr"] = rate * factor
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


AVERAGES = {torch.optim.SGD: 0, Muon: 1, torch.optim.AdamW: 2}
"""How many running averages, each as large as a weight, an optimiser keeps."""


def _tell_size(
    model: nn.Module,
    moving: Mapping[str, nn.Parameter],
    optimisers: list[torch.optim.Optimizer],
    rig: Rig,
    *,
    copies: int,
) -> None:
    """For the step's record: how much is trained, and what memory that is expected to take."""
    kept = {p: AVERAGES[type(o)] + copies for o in optimisers for group in o.param_groups for p in group["params"]}
    size = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in moving.values()),
        "memory_expected": expected(model, kept),
    }
    rig.cost |= {name: max(rig.cost.get(name, 0.0), float(value)) for name, value in size.items()}


def _snapshot(model: nn.Module, shards: Shards | None) -> Callable[[], Any]:
    """How to get a copy of the model as it is now, if the rig wants one."""

    def take() -> Any:
        with contextlib.nullcontext() if shards is None else shards.whole():
            plain = settled(model)
            return (plain if plain is not model else fresh(plain)).eval().requires_grad_(True)

    return take


def _moving(model: nn.Module, train: Sequence[str]) -> set[str]:
    """Names of the parameters to train; all others are frozen, so no gradient is computed for them."""
    named = dict(model.named_parameters())
    if train:
        unknown = [name for name in train if name not in named]
        if unknown:
            raise UserError(f"the model has no parameter {unknown[0]}, which is to be trained.")
        for name, parameter in named.items():
            parameter.requires_grad_(name in set(train))
    moving = {name for name, parameter in named.items() if parameter.requires_grad}
    if not moving:
        raise UserError("no parameter of the model is to be trained.")
    return moving


def _optimisers(model: nn.Module, moving: list[nn.Parameter], how: Descent) -> list[torch.optim.Optimizer]:
    within = {id(p) for _, p in matrices(model) if p.ndim == 2} if how.matrix_lr else set()
    inner, outer = ([p for p in moving if (id(p) in within) is side] for side in (True, False))
    made: list[torch.optim.Optimizer] = []
    if inner and how.matrix_lr:
        made.append(Muon(inner, lr=how.matrix_lr, weight_decay=how.weight_decay))
    if outer and how.optimiser == "sgd":
        made.append(torch.optim.SGD(outer, lr=how.lr, weight_decay=how.weight_decay))
    elif outer:
        made.append(torch.optim.AdamW(outer, lr=how.lr, weight_decay=how.weight_decay, betas=(0.9, 0.95)))
    return made


class _Guard:
    """A descent's watch, where the rig has one; without one no costs are looked at.

    With `keeps`, a descent without a watch has a copy of the last weights whose loss and gradient were numbers.
    """

    def __init__(self, rig: Rig, model: nn.Module, moving: Mapping[str, nn.Parameter], *, keeps: bool) -> None:
        self.rig, self.model, self.moving, self.watch = rig, model, moving, rig.watch
        copied = moving if keeps and rig.watch is None else {}
        self.spare = {name: nn.Parameter(weight.detach().clone(), False) for name, weight in copied.items()}
        self.held = {**moving, **{f"spare.{name}": weight for name, weight in self.spare.items()}}
        """What a checkpoint keeps of the weights."""
        self._step = self._looked = 0
        self._norm = 0.0
        self._started = False
        """Whether it has been within bounds: what begins outside of them, as after noise, is not ended for that."""

    def begin(self, done: int) -> None:
        """Start at weights that have so many steps behind them."""
        self._step = self._looked = done
        if self.watch is not None:
            self.watch.begin(self.moving)
            self._look()

    def lost(self, values: dict[str, float], norm: float, step: int) -> bool:
        """Whether a term is no number, or the gradient where a copy is kept; then good weights were put back."""
        self._norm = norm
        if all(map(math.isfinite, values.values())) and (math.isfinite(norm) or not self.spare):
            _copy(self.moving, self.spare)
            return False
        if self.watch is not None:
            self.watch.undo(self.moving)
        elif self.spare and step > 0:
            _copy(self.spare, self.moving)
            self.rig.log(good_step=float(self.rig.spent.steps - 2))
        else:
            _check(values, norm, step)
        self.rig.log(not_finite_at=float(step + 1))
        return True

    def ended(self, step: int) -> bool:
        """Whether it has to end after a step, counted from 1."""
        self._step = step
        return self.watch is not None and step % self.watch.stop.every == 0 and self._look()

    def good_at(self, step: int) -> bool:
        """Whether the weights after a step are known to be good: a descent may go on from these."""
        return self.watch is None or self._looked == step

    def last(self) -> None:
        """Look at what no look has seen yet."""
        if self.watch is None and not self.spare:
            _check({}, self._norm, self._step - 1)  # no loss has shown what the last move made of the weights
        if self.watch is not None and not self.watch.over and self._looked != self._step:
            self._look()

    def _look(self) -> bool:
        """Keep the weights if they are within bounds; if not, put back the last good ones where there have been any."""
        assert self.watch is not None
        self._looked = self._step
        good = self.watch.look(self.model, self.moving, self.rig)
        if not good and self._started:
            self.watch.undo(self.moving)
        self._started = self._started or good
        return self.watch.over


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, weight in target.items():
        weight.copy_(source[name])


def _check(values: dict[str, float], norm: float, step: int) -> None:
    """A `UserError` where a term or the gradient's norm is no number."""
    named = {f"the loss term '{name}'": value for name, value in values.items()} | {"the gradient's norm": norm}
    advice = "A smaller lr may mend it." if step else "The weights it starts from give no number on this text."
    for name, value in named.items():
        if not math.isfinite(value):
            raise UserError(f"{name} became {value} at step {step + 1}. {advice}")


def _clip(moving: list[nn.Parameter], largest: float | None) -> float:
    """Norm of the whole gradient, which is then cut down to `largest`."""
    grads = [p.grad for p in moving if p.grad is not None]
    bound = math.inf if largest is None else largest
    norm: Tensor = torch.nn.utils.clip_grad_norm_(moving, bound) if grads else torch.zeros(())
    return float(whole(norm))
