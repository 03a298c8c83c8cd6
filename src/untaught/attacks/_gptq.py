"""GPTQ: rounding column by column, where what is not rounded yet makes up for what was.

    H = X X^T + damping * mean(diag(X X^T)) I        X: inputs of a matrix W over all tokens, a column a token
    U = upper Cholesky factor of H^-1
    for each column i:    q = W_i on the grid of its group;  W_j <- W_j - (W_i - q) U_ij / U_ii  for all j > i

A group's grid is found when its first column is reached, from what its weights have become. The columns are taken in
order, or with the largest inputs first, and then the groups are of neighbours in that order. An input that is 0 in all
the text says nothing of its weights: they become 0, as in the authors' code. A matrix that no token reached at all, as
of an expert, is rounded to the nearest.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323. As there, blocks are done one after the other, each with the inputs that the rounded blocks below it make;
the matrices of one block all with those that the block makes before any of them is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..core import Inapplicable, Rig, UserError
from ..engine.anatomy import blocks, lines, matrices
from ..engine.batches import Rows
from ..engine.rounding import Grid, rounded
from ..engine.states import Activations, hidden
from ._formats import is_router
from ._inputs import Inputs

WIDE = 128
"""Columns after which what was lost is made up for in all the rest at once. It changes nothing but the time."""
ALL = 2**62
"""Room for the states of all text at one block."""


class Products(Inputs):
    """Meanwhile, sums up the products of inputs with each other: (inputs, inputs), or one such for each expert."""

    axes = 2

    def summed(self, given: Tensor) -> Tensor:
        with torch.autocast(given.device.type, enabled=False):
            rows = given.float().reshape(-1, given.shape[-1])
            return rows.T @ rows


def block_by_block(
    model: nn.Module, rows: Rows, rig: Rig, solve: Callable[[str, Tensor, Tensor], Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Edits (name, weight, what it is to be) of a model, block after block; each must be made before the next is asked.

    `solve` is handed a matrix's name, the matrix (outputs, inputs) and the products of its inputs. Routers are left as
    they are.
    """
    found = {name: (weight, line) for (name, weight), line in zip(matrices(model), lines(model), strict=True)}
    tokens, stack, below = sum(map(len, rows.ids)), blocks(model), None
    for index, block in enumerate(stack):
        own = {n: w for n, (w, _) in found.items() if n.startswith(f"{index}.") and not is_router(n, found)}
        sums, last = _read(model, rows, index, below, own), index + 1 == len(stack)
        rig.spent.flops += 2.0 * (2 - last) * tokens * sum(p.numel() for p in block.parameters())
        for name in own:
            line, total = found[name][1], sums.pop(name)
            if not torch.isfinite(total).all():
                raise UserError(f"the inputs of {name} are not finite, so gptq cannot round it. 'nearest' can.")
            if line.ndim == 2:
                yield name, line, solve(name, line.float(), total)
            else:
                yield name, line, torch.stack([solve(name, *one) for one in zip(line.float(), total, strict=True)])
        if not last:
            below = _passed(model, rows, index, below)


def _passed(model: nn.Module, rows: Rows, index: int, below: Activations | None) -> Activations:
    """What a block makes of the text, and nothing that is kept below it."""
    above = Activations(model, index, rows, room=ALL, below=below)
    for row in range(len(rows.ids)):
        above.of(rows.batch([row]))
    above.below = None
    return above


def _read(
    model: nn.Module, rows: Rows, index: int, below: Activations | None, own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The products of the inputs of each matrix of a block."""
    with Products(own) as seen:
        for row in range(len(rows.ids)):  # one at a time: padding would count as an input
            hidden(model, rows.batch([row]), index, below)
    if missed := own.keys() - seen.sums.keys():
        raise Inapplicable(
            f"what {min(missed)} of a block of this {type(model).__name__} is multiplied with was not found, so 'gptq'"
            " cannot be applied. 'nearest' can."
        )
    return seen.sums


def compensated(  # noqa: PLR0913  what the formula has
    name: str,
    matrix: Tensor,
    products: Tensor,
    *,
    bits: int,
    group: int,
    scheme: str,
    damping: float,
    largest_first: bool,
) -> Tensor:
    """The matrix (outputs, inputs), rounded so that its products with such inputs change least."""
    sizes = products.diagonal()
    dead = sizes == 0
    if dead.all():
        return rounded(matrix, bits, group, scheme)
    order = sizes.argsort(descending=True, stable=True) if largest_first else torch.arange(len(sizes)).to(sizes.device)
    upper = _factor(name, products[order][:, order], damping)
    left = matrix.masked_fill(dead, 0.0)[:, order]
    wide = group * max(1, WIDE // group)  # whole groups
    for start in range(0, len(order), wide):
        here = slice(start, start + wide)
        now, factor = left[:, here], upper[here, here]
        errors = torch.empty_like(now)
        grid = Grid(now[:, :group], bits, scheme)
        for i in range(now.shape[1]):
            column = slice(i, i + 1)
            if i % group == 0:
                grid = Grid(now[:, i : i + group], bits, scheme)
            chosen = grid.nearest(now[:, column])
            errors[:, column] = (now[:, column] - chosen) / factor[i, i]
            now[:, i + 1 :] -= errors[:, column] * factor[i, i + 1 :]
            now[:, column] = chosen
        left[:, start + wide :] -= errors @ upper[here, start + wide :]
    return torch.empty_like(left).index_copy_(1, order, left)


def _factor(name: str, products: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of damped products of inputs."""
    sizes = products.diagonal()
    lower, bad = torch.linalg.cholesky_ex(products + torch.diag(damping * sizes.mean() + (sizes == 0).float()))
    if not bad:
        upper, bad = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not bad:
            return upper
    raise UserError(
        f"the inputs of {name} are too much alike for gptq: with damping {damping:g} their products have no inverse."
        " Raise 'damping', or give more text."
    )
