"""Looking into a model at a depth: what its head would say of a block's output, without the blocks above."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .anatomy import blocks
from .remembering import unkept
from .states import like, overheard, replaced


@contextmanager
def ending(model: nn.Module, layer: int) -> Iterator[None]:
    """Meanwhile, blocks above `layer` hand on what they are given: final norm and head read that block's output.

    Whatever a family does between its last block and its logits is done as ever, so no family needs to be known. What
    is kept of the whole model's answers is neither looked up nor added to.
    """
    stack = blocks(model)
    above = stack[layer % len(stack) + 1 :]
    if not above:
        yield
        return
    with (
        unkept(model),
        overheard(model, [layer % len(stack)]) as found,
        replaced(above, lambda state: like(found[layer % len(stack)], state)),
    ):
        yield
