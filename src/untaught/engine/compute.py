"""What this process computes with. Set once, by `begin`, before a model is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from ..core import Compute, UserError
from . import parallel

_now = Compute(device="cpu", dtype="float32")


def settled(asked: Compute) -> Compute:
    """With `auto` replaced by what this machine has, or a `UserError` when it lacks what was asked for."""
    device = asked.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UserError(f"compute.device is '{device}'. Give cpu, cuda, cuda:1 or mps, or leave it out.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise UserError(f"compute.device is '{device}', which this machine does not have. Leave it out.")
    if parallel.world() > 1 and device not in {"cpu", "cuda"}:
        raise UserError(f"compute.device is '{device}', and several processes compute on cpu or cuda. Leave it out.")
    dtype = asked.dtype
    if dtype == "auto":
        dtype = "mixed" if kind == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    shard = asked.shard or os.environ.get("ACCELERATE_USE_FSDP") == "true"  # as `accelerate launch` says it
    return asked.model_copy(update={"device": device, "dtype": dtype, "shard": shard})


def decisive(asked: Compute) -> dict[str, Any]:
    """All of it that the last bit of a number depends on, how many processes add up a gradient included."""
    plain = settled(asked).changed()
    del plain["checkpoint_seconds"]
    return plain | {"processes": parallel.world()}


def begin(asked: Compute) -> Compute:
    """Fix what the last bit of a number depends on, and keep libraries quiet. Returns what was settled."""
    global _now  # noqa: PLW0603
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA's products differ from run to run
    import transformers

    _now = parallel.placed(settled(asked))
    torch.set_num_threads(_now.threads)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return _now


def now() -> Compute:
    """What was settled; a processor in float32 where nothing was."""
    return _now


def device() -> torch.device:
    """Where models are."""
    return torch.device(_now.device)


def weights() -> torch.dtype:
    """What weights are kept in."""
    return torch.bfloat16 if _now.dtype == "bfloat16" else torch.float32


def autocast() -> contextlib.AbstractContextManager[Any]:
    """The precision that a forward pass is to run in."""
    if _now.dtype != "mixed":
        return contextlib.nullcontext()
    return torch.autocast(device().type, dtype=torch.bfloat16)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators, of the device too, start from a seed in this block and are as before after it."""
    here = device()
    with torch.random.fork_rng(devices=[here] if here.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if here.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
