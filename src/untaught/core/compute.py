"""What a number is computed with: device, precision, processor threads. It is part of what fixes the last bit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .settings import Settings


class Compute(Settings):
    """Device and precision. Everything here is stated in the records."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`; `auto` is CUDA where there is any, else the processor."""
    dtype: Literal["auto", "float32", "mixed", "bfloat16"] = "auto"
    """`mixed`: weights in float32, products in bfloat16. `bfloat16`: weights too, in half the memory; an edit smaller
    than its rounding is lost. `auto` is `mixed` on a CUDA device that can, else `float32`."""
    threads: int = Field(default=1, ge=1)
    """Processor threads a step computes with."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Most texts that are trained on at once; a larger batch goes through in parts, whose gradients are added up. It
    saves memory and changes a result by rounding only."""
    checkpointing: bool = False
    """Compute a block's activations anew on the way back in place of keeping them: less memory, a third more time."""
    shard: bool = False
    """With several processes: each keeps its part only of the weights that are trained, of their gradients and of the
    optimiser's averages (FSDP2). It changes a result by rounding only."""
    checkpoint_seconds: float = Field(default=60, ge=0)
    """How often a step that is under way is saved, so that a run that was killed goes on in the middle of it; 0 is
    after every optimiser step. It changes no result."""
