"""Hidden states: what a block puts out, at the cost of the blocks that are needed for it and of no more.

Blocks above the one that is asked for are passed over, and so is the head. Blocks below those
that training moves make the same of a text at every step: `Activations` computes that once and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .anatomy import blocks, first
from .batches import Batch, Rows
from .compute import autocast, device

ROOM = 2**31
"""Bytes of states that are kept for one block. Beyond it they are computed anew each time."""


def hidden(model: nn.Module, batch: Batch, layer: int, below: Activations | None = None) -> Tensor:
    """Output of block `layer` in float32: (batch, time, width).

    Blocks above it, and those that `below` covers, are not run.
    """
    (found,) = hidden_of(model, batch, [layer], below)
    return found.float()


def hidden_of(
    model: nn.Module, batch: Batch, layers: Sequence[int], below: Activations | None = None
) -> list[Tensor]:  # fmt: skip
    """Outputs of several blocks from one pass, in the order of `layers`: each (batch, time, width).

    Blocks above the highest of them, and those that `below` covers, are not run.
    """
    stack, batch = blocks(model), batch.to(device())
    highest = max(layers)
    with ExitStack() as held:
        if below is not None:
            held.enter_context(below.standing_in(model, batch))
        found = held.enter_context(overheard(model, layers))
        held.enter_context(replaced(stack[highest + 1 :], lambda state: like(found[highest], state)))
        held.enter_context(replaced(_head(model), lambda state: state))
        with autocast():
            model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return [first(found[layer]) for layer in layers]


@contextmanager
def overheard(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    """What these blocks put out in whatever pass is made meanwhile, the last if there are several."""
    found: dict[int, Any] = {}

    def keep(layer: int, module: nn.Module, args: Any, output: Any) -> None:
        found[layer] = output

    with ExitStack() as held:
        for layer in set(layers):
            held.callback(blocks(model)[layer].register_forward_hook(partial(keep, layer)).remove)
        yield found


class Activations:
    """What block `layer` of a model that does not change makes of each row of a set, computed once and kept.

    Rows that were drawn together for the first time are computed together, so that a state depends on the order of
    drawing alone: a run that was interrupted, and draws the same rows anew, has the same bits.
    """

    def __init__(
        self, model: nn.Module, layer: int, rows: Rows, *, below: Activations | None = None, room: int = ROOM
    ) -> None:
        """`below` is what is kept of the same model and rows at a lower block: it is not computed twice."""
        self.model, self.layer, self.rows, self.below, self.room = model, layer, rows, below, room
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0
        self._form: Any = None

    def of(self, batch: Batch) -> Tensor:
        """The states of a batch of these rows: (batch, time, width), 0 on padding."""
        fresh: dict[int, Tensor] = {}
        for row in batch.rows:
            if row not in self._kept and row not in fresh:
                fresh.update(self._computed(self.rows.together.get(row, (row,))))
        states = [self._kept[row] if row in self._kept else fresh[row] for row in batch.rows]
        made = states[0].new_zeros((*batch.ids.shape, states[0].shape[-1]))
        for index, state in enumerate(states):
            made[index, : len(state)] = state
        return made.to(device())

    @contextmanager
    def standing_in(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Meanwhile, the blocks up to `layer` of a model that shares them hand on what is kept in place of working."""
        states = self.of(batch)
        with replaced(blocks(model)[: self.layer + 1], lambda _: like(self._form, states)):
            yield

    def _computed(self, chosen: Sequence[int]) -> dict[int, Tensor]:
        with torch.no_grad():
            batch = self.rows.batch(chosen).to(device())
            found: list[Any] = []  # what `below` has to compute first passes here too: the last is ours
            hook = blocks(self.model)[self.layer].register_forward_hook(lambda m, a, output: found.append(output))
            try:
                hidden(self.model, batch, self.layer, self.below)
            finally:
                hook.remove()
        self._form = like(found[-1], torch.empty(0))
        states, lengths = first(found[-1]), batch.mask.sum(1).tolist()
        made = {row: state[:length].clone() for row, state, length in zip(chosen, states, lengths, strict=True)}
        size = sum(state.nbytes for state in made.values())
        if self._bytes + size <= self.room:
            self._bytes += size
            self._kept.update(made)
        return made


def like(output: Any, state: Tensor) -> Any:
    """A hidden state in the form in which blocks of this family return theirs."""
    return state if isinstance(output, Tensor) else (state, *(None for _ in output[1:]))


@contextmanager
def replaced(parts: Sequence[nn.Module], hand_on: Callable[[Tensor], Any]) -> Iterator[None]:
    """Meanwhile, these blocks do no work: each gives what `hand_on` makes of the hidden states it is called with."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return hand_on(args[0] if args else kwargs["hidden_states"])

    with _forwards(parts, lambda block: forward):
        yield


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Meanwhile, blocks keep their input in place of what they work out, and work it out anew on the way back.

    Chen et al. 2016, arXiv 1604.06174. It changes no gradient; dropout is drawn as it was.
    """
    with _forwards(blocks(model), lambda block: partial(checkpoint, block.forward, use_reentrant=False)):
        yield


@contextmanager
def _forwards(changed: Sequence[nn.Module], made: Callable[[nn.Module], Callable[..., Any]]) -> Iterator[None]:
    """Meanwhile, these blocks have other forwards; after it those they had."""
    before = [(block, vars(block).get("forward")) for block in changed]
    for block in changed:
        block.forward = made(block)
    try:
        yield
    finally:
        for block, own in before:
            del block.forward
            if own is not None:
                block.forward = own


def _head(model: Any) -> list[nn.Module]:
    """What turns hidden states into logits."""
    head = model.get_output_embeddings()
    return [] if head is None else [head]
