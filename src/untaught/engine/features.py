"""Features of examples: one vector a block of what a model makes of each, and how likely it finds the answer.

    mean     mean of a block's outputs over the tokens of the answers
    last     its output at the last token of an answer
    header   its output at the token before the last answer, where the model has read the prompt and said nothing
    nats     - log p(answer | prompt), natural logarithm, and the number of its tokens

Only the blocks up to the highest that is asked for are run. What was computed, all three vectors of it, is kept by
model and example, up to `ROOM` bytes a model, so that filters which look at the same pool share one pass over it.

Company shows in no feature. The last bits of a matrix product depend on its shape, so an example is always run in the
shape that its own length gives, as `sequences.py` does: so many rows of that width, rows that are left filled with
copies. On a CPU this gives equal bits in any order and any batches (tested); on a GPU it is meant to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..core import Documents, Subject
from . import examples
from .anatomy import blocks, layer_index
from .batches import Batch, pad, pad_id
from .compute import autocast, device
from .examples import Example
from .sequences import TOGETHER, pieces
from .states import hidden_of

Pooling: TypeAlias = Literal["mean", "last", "header"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last", "header")
ROOM = 2**31
"""Bytes of features that are kept for a model."""
NATS = "nats"
NOT_FINITE = "the model's states are not finite numbers"


@dataclass(frozen=True)
class Features:
    """Vectors of some examples."""

    values: np.ndarray
    """float32, (examples, layers, width); zeros where there is a cause."""
    causes: list[str | None]
    """Why an example has no vectors."""

    @property
    def sound(self) -> np.ndarray:
        """Which examples have vectors, (examples,)."""
        return np.array([cause is None for cause in self.causes], bool)


@dataclass(frozen=True)
class Answers:
    """How likely some examples' answers are."""

    nats: np.ndarray
    """float64, (examples,); NaN where there is a cause."""
    tokens: np.ndarray
    """Tokens of each answer, (examples,)."""
    causes: list[str | None]

    @property
    def nats_per_token(self) -> np.ndarray:
        return self.nats / np.maximum(self.tokens, 1)


def depths(subject: Subject, layers: Sequence[int | float]) -> list[int]:
    """Indices of blocks from indices or fractions of the depth."""
    return [layer_index(layer, len(blocks(subject.model))) for layer in layers]


def features(
    subject: Subject, docs: Documents, layers: Sequence[int | float], pooling: Pooling = "mean",
    length: int | None = None,
) -> Features:  # fmt: skip
    """The vectors of every document at some blocks. `length` cuts what is longer (see `examples.read`)."""
    chosen = depths(subject, layers)
    read = examples.read(subject, docs, length)
    with _alone:
        kept = _Kept.of(subject.model)
        names = [_name(one) if isinstance(one, Example) else None for one in read]
        wanted = {
            name: one
            for name, one in zip(names, read, strict=True)
            if isinstance(one, Example) and not all((name, layer) in kept for layer in chosen)
        }
        fresh: dict[Any, np.ndarray] = {}
        for name, vectors in _vectors(subject, wanted, chosen):
            fresh.update({(name, layer): vector for layer, vector in zip(chosen, vectors, strict=True)})
        kept.add(fresh)
        width = int(subject.model.config.get_text_config().hidden_size)
        values = np.zeros((len(read), len(chosen), width), np.float32)
        causes: list[str | None] = [one if isinstance(one, str) else None for one in read]
        for row, name in enumerate(names):
            for place, layer in enumerate(chosen if name is not None else ()):
                key = (name, layer)
                values[row, place] = (fresh[key] if key in fresh else kept[key])[POOLINGS.index(pooling)]
    for row in np.flatnonzero(~np.isfinite(values).all((1, 2))):
        values[row], causes[row] = 0, NOT_FINITE
    return Features(values, causes)


def answers(subject: Subject, docs: Documents, length: int | None = None) -> Answers:
    """How likely the model finds the answers of every document."""
    read = examples.read(subject, docs, length)
    tokens = np.array([0 if isinstance(one, str) else int(one.answer[1:].sum()) for one in read])
    causes: list[str | None] = [one if isinstance(one, str) else None for one in read]
    with _alone:
        kept = _Kept.of(subject.model)
        sound = {row: (_name(one), NATS) for row, one in enumerate(read) if isinstance(one, Example) and tokens[row]}
        wanted = {key: one for row, one in enumerate(read) if (key := sound.get(row)) and key not in kept}
        fresh = dict(_nats(subject, wanted))
        kept.add(fresh)
        nats = np.array([
            float(fresh[key] if key in fresh else kept[key]) if (key := sound.get(row)) else np.nan
            for row in range(len(read))
        ])  # fmt: skip
    for row in np.flatnonzero(~np.isfinite(nats)):
        nats[row] = np.nan
        causes[row] = causes[row] or (NOT_FINITE if tokens[row] else examples.NO_ANSWER)
    return Answers(nats, tokens, causes)


# -- one pass ----------------------------------------------------------------------------------------------------------

_alone = threading.RLock()
"""A pass takes blocks of the model out of the way, so there is one at a time."""


def _vectors(
    subject: Subject, wanted: dict[Any, Example], layers: Sequence[int]
) -> Iterator[tuple[Any, list[np.ndarray]]]:  # fmt: skip
    """For each example, under its name, the pooled outputs of each block."""
    with torch.inference_mode():
        for names, batch in _runs(subject, wanted):
            states = hidden_of(subject.model, batch, layers)
            for line, name in enumerate(names):
                yield name, [_pooled(state[line].float(), wanted[name]).cpu().numpy() for state in states]


def _nats(subject: Subject, wanted: dict[Any, Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """For each example, under its name, - log p of its answers."""
    model: Any = subject.model
    with torch.inference_mode():
        for names, batch in _runs(subject, wanted):
            with autocast():
                logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1].float()
            chosen = logits.gather(-1, batch.ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
            for line, name in enumerate(names):
                marks = torch.from_numpy(wanted[name].answer[1:]).to(chosen.device)
                yield name, -chosen[line, : len(marks)][marks].double().sum().cpu().numpy()


def _pooled(state: Tensor, example: Example) -> Tensor:
    """From a block's outputs, (time, width), to the example's vectors in the order of `POOLINGS`, (3, width)."""
    marks = torch.from_numpy(example.answer).to(state.device)
    said = state[: len(marks)][marks]
    return torch.stack([said.mean(0), said[-1], state[example.header]])


def _runs(subject: Subject, wanted: dict[Any, Example]) -> Iterator[tuple[list[Any], Batch]]:
    """Batches in the shapes that lengths give, the longest first, each with the names of its first rows."""
    by_width: dict[int, list[Any]] = {}
    for name, one in wanted.items():
        by_width.setdefault(rounded(len(one.ids)), []).append(name)
    filler, together = pad_id(subject.tokenizer), TOGETHER.get(device().type, TOGETHER["cpu"])
    for width in sorted(by_width, reverse=True):
        size = max(1, together // width)
        for names in pieces(by_width[width], size):
            rows = [wanted[names[line if line < len(names) else 0]].ids for line in range(size)]
            batch = pad(rows, filler)
            short = width - batch.ids.shape[1]
            ids, mask = (nn.functional.pad(t, (0, short), value=v) for t, v in ((batch.ids, filler), (batch.mask, 0)))
            yield list(names), Batch(ids, mask).to(device())


def rounded(size: int) -> int:
    """A length rounded up by at most a sixteenth, or to the next multiple of 4.

    >>> [rounded(size) for size in (3, 64, 65, 129, 1000)]
    [4, 64, 68, 136, 1024]
    """
    step = max(4, 1 << max((size - 1).bit_length() - 5, 0))
    return -(-size // step) * step


# -- what is kept ------------------------------------------------------------------------------------------------------


def _name(example: Example) -> bytes:
    """What an example is to the model: its tokens, and which are answers."""
    return np.array(example.ids, np.int32).tobytes() + np.packbits(example.answer).tobytes()


class _Kept(dict[Any, np.ndarray]):
    """Of one model: pooled outputs by example and block, and how likely answers are by example."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def add(self, fresh: dict[Any, np.ndarray]) -> None:
        for key, vector in fresh.items():
            if self.bytes + vector.nbytes > ROOM:
                return
            if key not in self:
                self.bytes += vector.nbytes
                self[key] = vector

    @classmethod
    def of(cls, model: nn.Module) -> _Kept:
        return _models.setdefault(model, cls())


_models: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
