"""An attacker inside a loss: what a term is at weights that a few steps of fine-tuning have moved.

    phi_0 = theta,   phi_k = phi_{k-1} - lr m_k / (sqrt(v_k) + 1e-8)   Adam's m and v, of the attack's loss on batch k
    term  = mean over the looks of L(phi_k),   its gradient the mean of grad L at phi_k, taken as that at theta

First order: how phi depends on theta is left out, as in first-order MAML (Finn et al. 2017, arXiv 1703.03400, section
5.2; Nichol et al. 2018, arXiv 1803.02999) and as in TAR (Tamirisa et al. 2024, arXiv 2408.00761).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch

Attack = Callable[[Batch], Tensor]
"""The loss that an attacker descends, on one of his batches."""


def after_attack(
    model: nn.Module, attack: Attack, batches: Sequence[Batch], look: Callable[[], Tensor], **how: Any
) -> Tensor:
    """What `look` is worth on the way of an attack, as a term whose gradient for `train` is the first-order one.

    `how` is as in `attacked`.
    """
    value, gradients = attacked(model, attack, batches, look, **how)
    return term(value, gradients, [model.get_parameter(name) for name in how["train"]])


def attacked(  # noqa: PLR0913  all of it by name
    model: nn.Module,
    attack: Attack,
    batches: Sequence[Batch],
    look: Callable[[], Tensor],
    *,
    moved: Sequence[str],
    train: Sequence[str],
    lr: float,
    every: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """Mean over the looks of what `look` is worth, and of its gradients for the parameters `train`.

    `moved` names the parameters that the attacker moves, one step of Adam a batch; there is a look after every `every`
    of these and after the last. The weights are put back. His steps are simulated: the meter counts their tokens, as
    part of the step that they belong to. Batches that are parts are attacked with as wholes, so that the parts of an
    outer batch meet the same attacker.
    """
    weights = [model.get_parameter(name) for name in moved]
    trained = [model.get_parameter(name) for name in train]
    totals = [torch.zeros_like(weight) for weight in trained]
    value, looks = torch.zeros((), device=trained[0].device), 0
    with _borrowed(weights):
        adam = _Adam(weights, lr)
        for step, batch in enumerate(batches, 1):
            adam.move(torch.autograd.grad(attack(batch.whole or batch), weights, allow_unused=True))
            if step % every == 0 or step == len(batches):
                seen = look()
                found: Sequence[Any] = torch.autograd.grad(seen, trained, allow_unused=True)
                for total, gradient in zip(totals, found, strict=True):
                    if gradient is not None:
                        total.add_(gradient)
                value, looks = value + seen.detach(), looks + 1
    return value / max(looks, 1), [total / max(looks, 1) for total in totals]


def term(value: Tensor, gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """A loss term with this value, and these gradients for these weights."""
    line = sum(
        ((slope * weight).sum() for slope, weight in zip(gradients, weights, strict=True)), torch.zeros_like(value)
    )
    return value + line - line.detach()


class _Adam:
    """Kingma and Ba 2015, arXiv 1412.6980, without weight decay."""

    def __init__(self, weights: Sequence[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.95)) -> None:
        self.weights, self.lr, self.betas, self.steps = weights, lr, betas, 0
        self.first, self.second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))

    @torch.no_grad()
    def move(self, gradients: Sequence[Any]) -> None:
        """One step; a weight without a gradient stays."""
        self.steps += 1
        one, two = (1 - beta**self.steps for beta in self.betas)
        for weight, gradient, first, second in zip(self.weights, gradients, self.first, self.second, strict=True):
            if gradient is not None:
                first.lerp_(gradient, 1 - self.betas[0])
                second.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
                weight.addcdiv_(first / one, (second / two).sqrt_().add_(1e-8), value=-self.lr)


@contextmanager
def _borrowed(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Meanwhile, weights may be moved and have gradients; after it all is as it was."""
    before = [(weight.detach().clone(), weight.grad, weight.requires_grad) for weight in weights]
    for weight in weights:
        weight.grad = None
        weight.requires_grad_(True)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, (value, gradient, moves) in zip(weights, before, strict=True):
                weight.requires_grad_(moves)
                weight.copy_(value)
                weight.grad = gradient
