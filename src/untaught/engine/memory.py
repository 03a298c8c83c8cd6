"""Memory: what is held now, the most that was held since a moment, and what training is expected to take.

On CUDA what torch has given out; else what the process has resident. Importing this needs no torch.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_highest = 0


def most() -> float:
    """Most bytes this process has ever had resident."""
    return float(max(_highest, _resident("VmHWM")))


@contextlib.contextmanager
def metered(cost: dict[str, float]) -> Iterator[None]:
    """Note in `cost` what memory is held before the block, and the most that is held in it.

    Of several blocks, what was held before the first, and the most in any.
    """
    import torch

    from .compute import device

    cuda = device().type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device())
    else:
        _forget_peak()
    cost.setdefault("memory_before", float(torch.cuda.memory_allocated(device()) if cuda else _resident("VmRSS")))
    try:
        yield
    finally:
        peak = torch.cuda.max_memory_allocated(device()) if cuda else _resident("VmHWM")
        cost["memory_peak"] = max(cost.get("memory_peak", 0.0), float(peak))


def expected(model: nn.Module, averages: Mapping[nn.Parameter, int]) -> float:
    """Bytes for a model's weights and, for each that moves, for its gradient and its `averages` in the optimiser.

    Of weights in shards, this process's part. Activations come on top: they depend on the batch.
    """
    weights = sum(_here(weight).nbytes for weight in model.parameters())
    return float(weights + sum(_here(weight).nbytes * (1 + count) for weight, count in averages.items()))


def _here(weight: Any) -> Tensor:
    return weight.to_local() if hasattr(weight, "to_local") else weight


def _resident(line: str) -> int:
    """Bytes resident by a line of /proc/self/status; the most there ever were, where there is no such file."""
    with contextlib.suppress(OSError):
        for told in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if told.startswith(f"{line}:"):
                return int(told.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Let the kernel count the most that is resident anew, where it can."""
    global _highest  # noqa: PLW0603
    _highest = int(most())
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
