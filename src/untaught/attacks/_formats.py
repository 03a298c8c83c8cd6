"""What the tools that write quantised files make of a matrix, read again as ordinary weights.

gguf            the types that the package `gguf` can write without llama.cpp itself, with the bits of llama.cpp:
                of 32 neighbouring weights of a row, a scale in float16 (and in `_1` types a least value)
bitsandbytes    nf4, fp4: 16 values times the largest |w| of 64 neighbours, rows laid end to end; int8: -127 to 127
                times the largest |w| of a row, over 127 (Dettmers et al. 2023, arXiv 2305.14314; 2022, 2208.07339)
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..core.extras import from_extra

TYPES = {
    "gguf": {"q8_0": 8, "q5_0": 5, "q5_1": 5, "q4_0": 4, "q4_1": 4},
    "bitsandbytes": {"int8": 8, "nf4": 4, "fp4": 4},
}
"""What each tool writes, and the bits of it. Of those with the same bits the first is what is taken unasked."""
EXTRAS = {"gguf": "models", "bitsandbytes": "quantise"}
ROUTERS = ("gate", "router", "shared_expert_gate")
"""What families call the matrix that sends tokens to experts."""


def installed(name: str) -> AbstractContextManager[None]:
    """Import a tool's package; where it is missing, a `UserError` says how to get it."""
    needed = f"'way: {name}' needs the package {name}, which is not installed"
    return from_extra(name, EXTRAS[name], needed, " The ways 'nearest' and 'gptq' need none.")


def is_router(name: str, names: Iterable[str]) -> bool:
    """Whether a matrix of a block sends tokens to experts. `names` are those of all matrices."""
    index, *steps = name.split(".")
    mixed = any(one.startswith(f"{index}.") and "experts" in one.split(".") for one in names)
    return mixed and any(step in ROUTERS for step in steps) and "experts" not in steps


def through_gguf(matrix: Tensor, kind: str) -> Tensor | None:
    """The matrix (..., columns) after a type of GGUF; None where its rows are no whole blocks of that type."""
    with installed("gguf"):
        import gguf
    written = gguf.GGMLQuantizationType[kind.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[written]
    if matrix.shape[-1] % block:
        return None
    given = matrix.float().cpu().contiguous().numpy()
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(given, written), written)).to(matrix.device)


def through_bitsandbytes(matrix: Tensor, kind: str) -> Tensor:
    """The matrix (..., columns), each expert by itself, after a type of bitsandbytes."""
    if matrix.ndim == 3:
        return torch.stack([through_bitsandbytes(one, kind) for one in matrix])
    with installed("bitsandbytes"):
        import bitsandbytes.functional as tool  # pyright: ignore[reportMissingImports]
    given = matrix.contiguous()
    if kind != "int8":
        return tool.dequantize_4bit(*tool.quantize_4bit(given, blocksize=64, quant_type=kind)).to(matrix.dtype)
    rows, largest, _ = tool.int8_vectorwise_quant(given.half())  # a row of zeros is what it was, times 0
    return (rows.float() * (largest / 127)[:, None]).to(matrix.dtype)
