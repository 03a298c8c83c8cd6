"""Where things are in a model: the one place that knows blocks, their MLPs and attention, and the matrices in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from ..core import UserError


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks, first to last, of any causal language model whose blocks are one module list."""
    depth = cast(Any, model).config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise UserError(f"no list of {depth} blocks was found in a {type(model).__name__}; its layers cannot be chosen.")


def layer_index(layer: int | float, depth: int) -> int:
    """A block's index from an index, or from a fraction of the depth.

    >>> layer_index(0.25, 32), layer_index(0.25, 4), layer_index(-1, 4), layer_index(0.999, 2)
    (8, 1, 3, 1)
    """
    index = int(layer * depth) if isinstance(layer, float) else layer
    if isinstance(layer, float) and not 0 <= layer < 1:
        raise UserError(f"layer is {layer}: a fraction of the depth is from 0 to less than 1.")
    if not -depth <= index < depth:
        raise UserError(f"layer is {layer}, but the model has {depth} blocks, numbered 0 to {depth - 1}.")
    return index % depth


def output_matrices(block: nn.Module) -> list[str]:
    """Names, within a block, of the matrices that its MLP writes to the residual stream with."""
    names = [name for name, m in block.named_modules() if isinstance(m, nn.Linear) and "mlp" in name.split(".")]
    if not names:
        raise UserError(f"no MLP was found in a {type(block).__name__}; choose another method or layer.")
    return [f"{names[-1]}.weight"]


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every weight matrix of the blocks: what rounding, merging and low-rank edits work on."""
    for index, block in enumerate(blocks(model)):
        for name, parameter in block.named_parameters():
            if parameter.ndim == 2:
                yield f"{index}.{name}", parameter
