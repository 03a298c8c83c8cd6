"""Where things are in a model: the one place that knows its blocks, what they write with, and their matrices.

Blocks read the residual stream and add to it; their attention and their MLP write, each with one matrix, or one an
expert. Families give these parts different names. A part that is not known by the names below is an error that says
so: an attack that missed it would look weak, and the model it was tried on strong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core import Inapplicable, UserError


@dataclass(frozen=True)
class _Part:
    """A part of a block: what families call it, the matrices it writes with, a norm that its output goes through."""

    kind: str
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    norms: tuple[str, ...]


ATTENTION = _Part(
    "attention",
    ("self_attn", "self_attention", "attention", "attn", "linear_attn"),
    ("o_proj", "out_proj", "c_proj", "dense"),
    ("post_self_attn_layernorm", "post_attention_layernorm"),
)
MLP = _Part(
    "MLP",
    ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc1", "fc2"),
    ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2"),
    ("post_mlp_layernorm", "post_feedforward_layernorm"),
)
TRANSPOSED = ("Conv1D", "Llama4TextExperts")
"""Modules that keep a matrix as (in, out), where others keep it as (out, in). Some say so by `is_transposed`."""


@dataclass(frozen=True)
class Writer:
    """A parameter that the residual stream is written with: a matrix, the matrices of all experts, or a bias."""

    name: str
    """Among the model's parameters."""
    axis: int
    """Its axis on which the stream lies, counted from the last: -1 or -2."""
    scale: Tensor | None = None
    """What a norm behind it multiplies its output with, one number for each coordinate of the stream."""


def blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks, first to last: the largest module list that is as long as the model is deep."""
    config = cast(Any, model).config
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise Inapplicable(
            f"a {_kind(model)} is an unknown architecture: no list of its blocks was found. What works on blocks"
            " (rmu, ablate, quantise, any 'layer' or 'lowest') cannot be applied; what trains all weights, or adapters"
            " on all layers, can."
        )
    return list(max(lists, key=lambda found: sum(p.numel() for p in found.parameters())))


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


# ---------------------------------------------------------------------------------------------------- what is written


def mlp(block: nn.Module) -> nn.Module:
    """A block's MLP, with all of its experts."""
    _outward(block, MLP)
    return _whole(block, MLP)


def output_matrices(block: nn.Module) -> list[str]:
    """Names, within a block, of the matrices that its MLP writes to the residual stream with; of all its experts."""
    return [name for name in _outward(block, MLP) if not _is_bias(name)]


def mlp_output(block: nn.Module) -> nn.Module:
    """The module whose output the MLP adds to the residual stream."""
    return _output(block, MLP)


def attention_output(block: nn.Module) -> nn.Module:
    """The module whose output attention adds to the residual stream; of a tuple, the first."""
    return _output(block, ATTENTION)


def writers(model: nn.Module, lowest: int = 0) -> list[Writer]:
    """All that the blocks from `lowest` up write to the residual stream with.

    To take a direction r out of what a writer writes, project r times its scale out of the parameter along its axis.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    size = width(model)
    return [
        Writer(names[id(block.get_parameter(name))], _axis(block, name, size), _scale(block, part, size))
        for block in blocks(model)[lowest:]
        for part in _parts(block)
        for name in _outward(block, part)
    ]


def embedding_writers(model: nn.Module) -> list[Writer]:
    """What is written to the residual stream before the first block: the embeddings of tokens and of positions."""
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    outside = {name: module for name, module in model.named_modules() if id(module) not in inside}
    found = [name for name, module in outside.items() if isinstance(module, nn.Embedding)]
    straight = all(cast(nn.Embedding, outside[name]).embedding_dim == width(model) for name in found)
    if not straight or any(name.endswith("embeddings_layernorm") for name in outside):
        raise Inapplicable(
            f"the embedding of a {_kind(model)} is changed before it enters the residual stream, so nothing can be"
            " projected out of it. Leave 'embedding' out."
        )
    return [Writer(f"{name}.weight", -1) for name in found]


def width(model: nn.Module) -> int:
    """How many coordinates the residual stream has."""
    return int(cast(Any, model).config.get_text_config().hidden_size)


def unexplained(model: nn.Module, **inputs: Tensor) -> float:
    """Largest share, over the blocks, of what a block adds to the stream that its known parts do not account for.

    It is about 0 when what a block adds is what attention gives plus what the MLP gives, each times any number. It is
    not in families that normalise the stream itself, or write to it by a way that is not known here.
    """
    shares, given = [0.0], {}

    def keep(part: _Part, module: nn.Module, args: Any, output: Any) -> None:
        given[part] = first(output).clone()  # what is added in place would change it

    def compare(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        added = (first(output) - (args[0] if args else kwargs["hidden_states"])).float().reshape(-1, 1)
        parts = torch.cat([given[part].float().reshape(-1, 1) for part in (ATTENTION, MLP)], 1)
        rest = added - parts @ (torch.linalg.pinv(parts.T @ parts) @ (parts.T @ added))
        shares.append(float(rest.norm() / added.norm().clamp(min=1e-12)))

    with torch.no_grad(), ExitStack() as held:
        for block in blocks(model):
            for part in (ATTENTION, MLP):
                held.callback(_output(block, part).register_forward_hook(partial(keep, part)).remove)
            held.callback(block.register_forward_hook(compare, with_kwargs=True).remove)
        model(**inputs, use_cache=False)
    return max(shares)


# ------------------------------------------------------------------------------------------------------- the matrices


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every weight matrix of the blocks. Those of fused experts are one parameter, (experts, ., .)."""
    for index, block in enumerate(blocks(model)):
        for name, parameter in block.named_parameters():
            if parameter.ndim in (2, 3) and not _is_bias(name) and not _is_convolution(_owner(block, name)):
                yield f"{index}.{name}", parameter


def names_of(model: nn.Module, weights: Iterable[Tensor]) -> list[str]:
    """Full names of some of a model's parameters, in the model's order."""
    ids = {id(weight) for weight in weights}
    return [name for name, parameter in model.named_parameters() if id(parameter) in ids]


def mlp_matrices(model: nn.Module) -> list[str]:
    """Full names of all matrices of the MLPs."""
    return names_of(model, (weight for block in blocks(model) for weight in mlp(block).parameters() if weight.ndim > 1))


def lines(model: nn.Module) -> Iterator[Tensor]:
    """Every weight matrix of the blocks with its inputs on the last axis. To write into one is to change the model."""
    stack = blocks(model)
    for name, parameter in matrices(model):
        index, _, inner = name.partition(".")
        turned = _is_transposed(_owner(stack[int(index)], inner))
        yield parameter.transpose(-1, -2) if turned else parameter


def linear_layers(model: nn.Module, lowest: int = 0) -> tuple[list[str], list[str]]:
    """Names of all linear layers but the head, and of the parameters that are the matrices of fused experts.

    With `lowest`, those in the blocks from that one up.
    """
    head = cast(Any, model).get_output_embeddings()
    inside = {id(module) for block in blocks(model)[lowest:] for module in block.modules()} if lowest else None
    layers, experts = [], []
    for name, module in model.named_modules():
        if module is head or (inside is not None and id(module) not in inside):
            continue
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            layers.append(name)
        elif not _is_convolution(module):
            experts += [f"{name}.{own}" for own, p in module.named_parameters(recurse=False) if p.ndim == 3]
    return layers, experts


def first(output: Any) -> Tensor:
    """The hidden states among what a module returned."""
    return output if isinstance(output, Tensor) else output[0]


# ------------------------------------------------------------------------------------------------------ looking for it


def _kind(model: Any) -> str:
    """What a model is, also below adapters."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def _steps(name: str) -> list[str]:
    """A parameter's path without what adapters put between."""
    return [step for step in name.split(".") if step != "base_layer"]


def _outward(block: nn.Module, part: _Part) -> list[str]:
    """Names, within a block, of the weights and biases that a part writes with."""
    found = []
    for name, _ in block.named_parameters():
        steps = _steps(name)
        written = any(step.removesuffix("_bias") in part.outputs for step in steps)
        if steps[0] in part.names and written and not any(step.startswith("lora_") for step in steps):
            found.append(name)
    if not found:
        raise Inapplicable(
            f"a {type(block).__name__} is of an unknown architecture: its {part.kind} was not found, so what edits or"
            " steers it (rmu, ablate) cannot be applied. The other methods can."
        )
    return found


def _parts(block: nn.Module) -> tuple[_Part, ...]:
    """Both parts, or an `Inapplicable` when a block holds something that may write and is neither part nor norm."""
    known = ATTENTION.names + MLP.names
    for name, child in block.named_children():
        if name not in known and "Norm" not in type(child).__name__ and any(True for _ in child.parameters()):
            raise Inapplicable(
                f"a {type(block).__name__} is of an unknown architecture: whether its '{name}' writes to the residual"
                " stream is not known, so nothing can be projected out of what is written (ablate). The other methods"
                " can be applied."
            )
    return ATTENTION, MLP


def _output(block: nn.Module, part: _Part) -> nn.Module:
    """The norm behind a part if there is one, else the layer that it ends with, or all of it where experts write."""
    norm = _norm(block, part)
    if norm is not None:
        return norm
    ends = set()
    for name in _outward(block, part):
        path = name.split(".")
        last = next(i for i, step in enumerate(path) if step.removesuffix("_bias") in part.outputs)
        ends.add(".".join(path[: last + 1]))
    modules = dict(block.named_modules())
    if len(ends) == 1 and (end := ends.pop()) in modules:
        return modules[end]
    return _whole(block, part)


def _whole(block: nn.Module, part: _Part) -> nn.Module:
    """A part's module, or a list of its layers where a block holds them itself."""
    found = [child for name, child in block.named_children() if name in part.names]
    return found[0] if len(found) == 1 else nn.ModuleList(found)


def _norm(block: nn.Module, part: _Part) -> nn.Module | None:
    """The norm that a part's output goes through before it is added.

    `post_attention_layernorm` is one only in blocks with a norm behind the MLP too; elsewhere it stands before the MLP.
    """
    if not any(hasattr(block, name) for name in MLP.norms):
        return None
    return next((getattr(block, name) for name in part.norms if hasattr(block, name)), None)


def _scale(block: nn.Module, part: _Part, width: int) -> Tensor | None:
    """What the norm behind a part multiplies with, one number for each coordinate: what it makes of ones."""
    norm = _norm(block, part)
    if norm is None:
        return None
    if isinstance(norm, nn.LayerNorm):
        raise Inapplicable(
            f"what the {part.kind} of a {type(block).__name__} writes is made to have no mean, so nothing can be"
            " projected out of it (ablate). The other methods can be applied."
        )
    weight = next(norm.parameters(), torch.empty(0))
    with torch.no_grad():
        return norm(torch.ones(1, 1, width, device=weight.device, dtype=weight.dtype)).view(-1).float()


def _axis(block: nn.Module, name: str, width: int) -> int:
    """The axis, counted from the last, on which a parameter that writes has the stream."""
    axis = -1 if _is_bias(name) or _is_transposed(_owner(block, name)) else -2
    shape = tuple(block.get_parameter(name).shape)
    if shape[axis] != width:
        raise Inapplicable(f"{name} of a {type(block).__name__} is {shape}, which does not fit a stream of {width}.")
    return axis


def _owner(block: nn.Module, name: str) -> nn.Module:
    """The module that holds a parameter."""
    return block.get_submodule(name.rpartition(".")[0])


def _is_bias(name: str) -> bool:
    return name.endswith(("bias", "_bias"))


def _is_transposed(owner: nn.Module) -> bool:
    return bool(getattr(owner, "is_transposed", type(owner).__name__ in TRANSPOSED))


def _is_convolution(owner: nn.Module) -> bool:
    return isinstance(owner, nn.Conv1d)
