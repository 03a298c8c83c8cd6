"""Moments: the mean and the spread of what blocks put out on a text, those of every block from one pass, and kept.

    mean    mean of x over the tokens that are read      x: a block's output, or how far it is from another model's
    spread  sum of (x - mean)(x - mean)^T over them

Added up batch by batch in float64: Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances". Kept in memory, up to `ROOM`, under a digest of all that they depend on: every weight, the
configuration, the token ids as they are batched, which of them are read, what is computed with. A path is no part of
it: weights that are saved where others were are others.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from . import compute
from .anatomy import blocks, unexplained, width
from .batches import Batch
from .states import hidden_of

ROOM = 2**30
"""Bytes that are kept of all models and texts. Beyond it, what was not asked for longest is computed anew."""

Name: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Moments:
    """Of what one block puts out, in float64."""

    count: int
    """Tokens that were read."""
    mean: Tensor
    """(width,)"""
    spread: Tensor | None
    """(width, width); None where the mean alone was asked for."""

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes + (0 if self.spread is None else self.spread.nbytes)

    def about(self, centre: Tensor) -> Tensor:
        """Sum of (x - centre)(x - centre)^T: (width, width)."""
        if self.spread is None:
            raise ValueError("the spread was not asked for")
        away = self.mean - centre
        return self.spread + self.count * torch.outer(away, away)

    def to(self, place: torch.device) -> Moments:
        return Moments(self.count, self.mean.to(place), None if self.spread is None else self.spread.to(place))


class Reader:
    """One model's states, or how far they are, token by token, from those of another of the same shape.

    The models must not change while there is a reader of them.
    """

    def __init__(self, model: nn.Module, other: nn.Module | None = None) -> None:
        self.model, self.other = model, other
        self._who = tuple(digest(one) for one in (model, other) if one is not None)

    def moments(
        self, batches: Sequence[Batch], layers: Sequence[int], *, last: int | None = None, spread: bool = True
    ) -> Iterator[Moments]:
        """The moments of these blocks, one after the other, where matrices of float64 can be worked with.

        Read are all tokens of a text but the first, or the `last` of these. What is not kept yet is read in one pass,
        for all blocks at once where there is room for that, and otherwise for as many as there is room for.
        """
        depth, size, place = len(blocks(self.model)), width(self.model), _place()
        name = (*self._who, *_told(batches), last, spread)
        together = max(1, ROOM // (8 * size * (size if spread else 1)))
        fresh: dict[int, Moments] = {}
        for index, layer in enumerate(layers):
            found = fresh.pop(layer, None) or _KEPT.get((*name, layer))
            if found is None:
                read = range(depth) if depth <= together else layers[index : index + together]
                fresh = self._read(batches, list(dict.fromkeys(read)), last, spread)
                for block, made in fresh.items():
                    _KEPT.put((*name, block), made, made.nbytes)
                found = fresh.pop(layer)
            yield found.to(place)

    def unexplained(self, batch: Batch) -> float:
        """What `anatomy.unexplained` says of the model on a batch."""
        name = ("unexplained", *self._who, *_told([batch]))
        if (share := _KEPT.get(name)) is None:
            batch = batch.to(compute.device())
            share = unexplained(self.model, input_ids=batch.ids, attention_mask=batch.mask)
            _KEPT.put(name, share, 8)
        return share

    @torch.no_grad()
    def _read(self, batches: Sequence[Batch], layers: list[int], last: int | None, spread: bool) -> dict[int, Moments]:
        sums = {layer: _Sum(width(self.model), spread) for layer in layers}
        for batch in batches:
            read = _read_at(batch, last).to(compute.device())
            states = hidden_of(self.model, batch, layers)
            others = states if self.other is None else hidden_of(self.other, batch, layers)
            for layer, state, other in zip(layers, states, others, strict=True):
                own = state[read].to(_place(), torch.float64)
                sums[layer].add(own if self.other is None else own - other[read].to(_place(), torch.float64))
        return {layer: one.moments() for layer, one in sums.items()}


class _Sum:
    """Moments that grow."""

    def __init__(self, size: int, spread: bool) -> None:
        self.count, self.mean = 0, torch.zeros(size, dtype=torch.float64, device=_place())
        self.spread = self.mean.new_zeros(size, size) if spread else None

    def add(self, found: Tensor) -> None:
        """Rows (tokens, width)."""
        if not len(found):
            return
        mean = found.mean(0)
        away, total = mean - self.mean, self.count + len(found)
        if self.spread is not None:
            inner = found - mean
            self.spread += inner.T @ inner + torch.outer(away, away) * (self.count * len(found) / total)
        self.mean = self.mean + away * (len(found) / total)
        self.count = total

    def moments(self) -> Moments:
        """As they are kept: in the processor's memory."""
        return Moments(self.count, self.mean, self.spread).to(torch.device("cpu"))


class _Kept:
    """What was computed, by name; what was not asked for longest gives way."""

    def __init__(self) -> None:
        self._found: OrderedDict[Name, tuple[Any, int]] = OrderedDict()
        self.bytes = 0

    def get(self, name: Name) -> Any:
        if name not in self._found:
            return None
        self._found.move_to_end(name)
        return self._found[name][0]

    def put(self, name: Name, value: Any, size: int) -> None:
        self.bytes += size - self._found.pop(name, (None, 0))[1]
        self._found[name] = (value, size)
        while self.bytes > ROOM:
            self.bytes -= self._found.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._found.clear()
        self.bytes = 0


_KEPT = _Kept()


def forget() -> None:
    """Let go of all that is kept."""
    _KEPT.clear()


def digest(model: nn.Module) -> str:
    """SHA-256 over all that a model's states depend on: its kind, its configuration, every weight and every buffer."""
    config: Any = cast(Any, model).config
    told = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    how = [type(model).__qualname__, getattr(config, "_attn_implementation", None), told]
    whole = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode())
    named = [*model.named_parameters(), *model.named_buffers()]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run meanwhile
        for (name, tensor), own in zip(named, pool.map(_digest, (tensor for _, tensor in named)), strict=True):
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {own}\n".encode())
    return whole.hexdigest()


def _digest(tensor: Tensor) -> str:
    raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw).hexdigest()


def _told(batches: Sequence[Batch]) -> tuple[str, str]:
    """Digest of the token ids as they are batched, and what they are computed with."""
    whole = hashlib.sha256()
    for batch in batches:
        whole.update(f"{tuple(batch.ids.shape)}".encode())
        whole.update(_digest(batch.ids).encode() + _digest(batch.mask).encode())
    return whole.hexdigest(), json.dumps(compute.now().changed(), sort_keys=True)


def _read_at(batch: Batch, last: int | None) -> Tensor:
    """True on the tokens that are read: (batch, time). The first never is: attention sinks into it."""
    time, lengths = torch.arange(batch.ids.shape[1]), batch.mask.cpu().sum(1, keepdim=True)
    lowest = torch.ones_like(lengths) if last is None else (lengths - last).clamp(min=1)
    return (time >= lowest) & (time < lengths)


def _place() -> torch.device:
    """Where float64 is: the device, or the processor beside one that has none."""
    place = compute.device()
    return torch.device("cpu") if place.type == "mps" else place
