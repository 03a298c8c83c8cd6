"""The training loop. There is one; a method hands it named loss terms and a stream of batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Loss, Settings, UserError
from .anatomy import matrices
from .compute import device
from .models import fresh, settled

if TYPE_CHECKING:
    from .rig import Rig


class Descent(Settings):
    """How the weights move."""

    lr: float = Field(default=1e-4, gt=0)
    """AdamW's rate."""
    matrix_lr: float | None = Field(default=None, gt=0)
    """When given, the blocks' matrices move by Muon at this rate, and AdamW moves the rest."""
    schedule: Literal["constant", "linear"] = "constant"
    """`linear` falls to zero over the last `decay` of the steps."""
    decay: float = Field(default=0.4, gt=0, le=1)
    warmup: int = Field(default=0, ge=0)
    """Steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied with at a step (from 0)."""
        up = min(1.0, (step + 1) / (self.warmup + 1))
        down = min(1.0, (steps - step) / (steps * self.decay)) if self.schedule == "linear" else 1.0
        return up * down


def descend(
    model: nn.Module, loss: Loss, batches: Iterable[Any], *, steps: int, how: Descent, train: Sequence[str], rig: Rig
) -> None:
    """Train `model` in place for `steps`, or until the rig's budget or the batches end.

    `train` names the parameters that move (all that require a gradient when empty). `loss` is called with what the
    stream yields (a pair as two arguments) and returns named terms; their sum is descended, their values are logged.
    """
    if steps <= 0:
        return
    moving = _moving(model, train)
    optimisers = _optimisers(model, moving, how)
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    flops = 4.0 * sum(p.numel() for p in model.parameters()) + 2.0 * sum(p.numel() for p in moving)
    model.train()
    for step, batch in zip(range(steps), batches, strict=False):
        drawn = tuple(one.to(device()) for one in (batch if isinstance(batch, tuple) else (batch,)))
        if not rig.charge(drawn, flops):
            break
        terms = loss(*drawn)
        total = sum(terms.values(), torch.zeros(()))
        values = {name: float(term.detach()) for name, term in terms.items()}
        _check(values, step)
        if not total.requires_grad:
            raise UserError("the loss depends on no trained parameter, so nothing would be learnt.")
        total.backward()
        norm = _clip(moving, how.clip)
        if step == 0 and norm == 0.0:
            raise UserError("no trained parameter has a gradient at the first step, so nothing would be learnt.")
        for optimiser, before in zip(optimisers, rates, strict=True):
            for group, rate in zip(optimiser.param_groups, before, strict=True):
                group["lr"] = rate * how.factor(step, steps)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        rig.report(step + 1, steps, values, _snapshot(model) if how.schedule == "constant" else None)
    model.eval()


def _snapshot(model: nn.Module) -> Callable[[], Any]:
    """How to get a copy of the model as it is now, if the rig wants one."""

    def take() -> Any:
        plain = settled(model)
        return (plain if plain is not model else fresh(plain)).eval().requires_grad_(True)

    return take


def _moving(model: nn.Module, train: Sequence[str]) -> list[nn.Parameter]:
    """The parameters to train; all others are frozen, so no gradient is computed for them."""
    named = dict(model.named_parameters())
    if train:
        unknown = [name for name in train if name not in named]
        if unknown:
            raise UserError(f"the model has no parameter {unknown[0]}, which is to be trained.")
        for name, parameter in named.items():
            parameter.requires_grad_(name in set(train))
    moving = [p for p in named.values() if p.requires_grad]
    if not moving:
        raise UserError("no parameter of the model is to be trained.")
    return moving


def _optimisers(model: nn.Module, moving: list[nn.Parameter], how: Descent) -> list[torch.optim.Optimizer]:
    within = {id(p) for _, p in matrices(model)} if how.matrix_lr else set()
    inner, outer = ([p for p in moving if (id(p) in within) is side] for side in (True, False))
    made: list[torch.optim.Optimizer] = []
    if inner and how.matrix_lr:
        made.append(torch.optim.Muon(inner, lr=how.matrix_lr, weight_decay=how.weight_decay))
    if outer:
        made.append(torch.optim.AdamW(outer, lr=how.lr, weight_decay=how.weight_decay, betas=(0.9, 0.95)))
    return made


def _check(values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(f"the loss term '{name}' became {value} at step {step + 1}. A smaller lr may mend it.")


def _clip(moving: list[nn.Parameter], largest: float | None) -> float:
    grads = [p.grad for p in moving if p.grad is not None]
    bound = math.inf if largest is None else largest
    norm: Tensor = torch.nn.utils.clip_grad_norm_(moving, bound) if grads else torch.zeros(())
    return float(norm)
