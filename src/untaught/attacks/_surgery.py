"""What edits of weights share: one matrix at a time, in float32, and how much of the model they changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..core import Rig, Subject, UserError
from ..engine.anatomy import blocks, layer_index, lines, matrices, mlp, names_of
from ..engine.models import fresh

Part = Literal["all", "attention", "mlp"]
"""Which matrices of a block."""


def edited(
    subject: Subject,
    rig: Rig,
    change: Callable[[str, Tensor], Tensor],
    *,
    lowest: int | float = 0,
    part: Part = "all",
) -> Subject:
    """The subject with `change` made of every weight matrix of the blocks from `lowest` up.

    `change` is handed a matrix's name as `engine.anatomy.matrices` has it, and the matrix (..., outputs, inputs). What
    is not edited is shared with the given subject. Without a budget nothing is changed.
    """
    chosen = {} if rig.budget.empty else _chosen(subject, lowest, part)
    model = fresh(subject.model, set(chosen.values()))
    found = {name: line for (name, _), line in zip(matrices(model), lines(model), strict=True)} if chosen else {}
    with torch.no_grad():
        written(rig, ((name, found[name], change(name, _finite(name, found[name]).float())) for name in chosen))
    return replace(subject, model=model.eval())


def written(rig: Rig, edits: Iterable[tuple[str, Tensor, Tensor]]) -> None:
    """Write edits (name, weight, what it is to be) one after the other, and log what they change of all they touch.

    changed   share of the weights that are no longer what they were
    moved     norm of the change, relative to the norm of the weights
    """
    counts, squares = [0, 0], [0.0, 0.0]
    for name, weight, wanted in edits:
        given, made = weight.float(), _finite(name, wanted.to(weight.dtype))
        apart = made.float() - given
        counts = [counts[0] + int(apart.count_nonzero()), counts[1] + apart.numel()]
        squares = [total + float(one.norm()) ** 2 for total, one in zip(squares, (apart, given), strict=True)]
        weight.copy_(made)
    if counts[1]:
        rig.log(changed=counts[0] / counts[1], moved=(squares[0] / max(squares[1], 1e-30)) ** 0.5)


def highest(scores: Tensor, count: int) -> Tensor:
    """True on the `count` highest of each row (..., n); of equals, on those that come first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def rows_of(weight: Tensor) -> Tensor:
    """Each matrix as one row of numbers: a parameter whole, or one row for each expert."""
    return weight.flatten(-2) if weight.ndim == 3 else weight.flatten()


def _finite(name: str, weight: Tensor) -> Tensor:
    if not torch.isfinite(weight).all():
        raise UserError(f"{name} is not finite, before the edit or after it. Give another model, or edit it less.")
    return weight


def _chosen(subject: Subject, lowest: int | float, part: Part) -> dict[str, str]:
    """Name among the matrices to name among the parameters."""
    model, stack = subject.model, blocks(subject.model)
    first = layer_index(lowest, len(stack))
    found = [(name, weight) for name, weight in matrices(model) if int(name.partition(".")[0]) >= first]
    if part != "all":
        inside = {id(weight) for block in stack for weight in mlp(block).parameters()}
        found = [(name, weight) for name, weight in found if (id(weight) in inside) == (part == "mlp")]
    return {name: names_of(model, [weight])[0] for name, weight in found}
