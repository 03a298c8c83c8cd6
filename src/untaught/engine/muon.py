"""Muon in single precision, for processors on which bfloat16 is slow.

    B = momentum * B + (1 - momentum) * G        O = newton_schulz(G + momentum * (B - G))
    W = (1 - lr * weight_decay) * W - lr * sqrt(max(1, rows / columns)) * O

torch's own makes matrices orthogonal in bfloat16, which a graphics processor has units for. A processor without such
instructions emulates it: there, a step of the lab's pretraining took twenty times as long as in float32, and nearly all
of its time (benchmarks/muon_step.py). On CUDA this is torch's own.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Differs from torch's in the precision alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's Muon, with the orthogonal step in float32 on a processor."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if any(p.is_cuda for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in (p for p in group["params"] if p.grad is not None):
                self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """One matrix."""
        momentum = group["momentum"]
        average = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(grad)).lerp_(grad, 1 - momentum)
        update = grad.lerp(average, momentum) if group["nesterov"] else average
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = weight.shape
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.to(weight.dtype), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton and Schulz's iteration of five degrees: singular values near 1, the directions kept. In float32."""
    a, b, c = coefficients
    wide = matrix.float() if matrix.size(0) <= matrix.size(1) else matrix.float().T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.size(0) <= matrix.size(1) else wide.T
