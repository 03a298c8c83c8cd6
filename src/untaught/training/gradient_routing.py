"""Gradient routing (SGTM): pretraining in which marked text may only teach a slice of each MLP, which is then cut out.

    marked tokens      - mean log p, whose gradient reaches the slice alone
    all other tokens   - mean log p, whose gradient reaches everything; in a share of the rows without marked tokens the
                       slice is switched off, so that ordinary text learns to do without it
    at the end         what the slice writes to the residual stream is set to 0

The slice is the first `share` of every MLP's hidden units. What marked text teaches gathers there, and draws with it
what is alike and was not marked: that is what makes it forgiving of wrong labels, where a filter keeps what it missed.
Text is marked by the arm's filters, with `masking: sentence` or `term`; a document of which a filter cannot say where
the hazard stands is marked whole.

Cloud et al. 2024, "Gradient Routing", arXiv 2410.04332; SGTM, arXiv 2512.05648, from its code (whose README says the
opposite of what it does). Differs: no attention head in the slice; routing by token and not by document; Muon shapes
the step of a whole matrix, so that a little of the slice's gradient turns the step of the rest; which rows do without
the slice is fixed by their tokens; the recipe is that of `pretrain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core import Corpus, Inapplicable, Rig, Settings, Subject
from ..engine.anatomy import blocks, mlp, output_matrices
from ..engine.batches import Batch, pack, packed_stream
from ..engine.inner import term
from ..engine.models import fresh
from ..engine.scoring import token_logprobs


class GradientRouting(Settings):
    """Train all weights on the corpus, marked text into a slice that is cut out."""

    masks: ClassVar[bool] = True
    """It heeds the documents' column `masked`."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """Share of each MLP's hidden units that is the slice."""
    without: float = Field(default=0.5, ge=0, le=1)
    """Share of the rows without marked tokens that do without the slice."""
    epochs: float = Field(default=1.0, gt=0)
    """Times each token is seen."""
    lr: float = Field(default=0.02, gt=0)
    """AdamW's rate, for embeddings and norms."""
    matrix_lr: float = Field(default=0.02, gt=0)
    """Muon's rate, for the blocks' matrices."""
    batch_size: int = Field(default=8, ge=1)
    """Packed rows a step."""
    length: int = Field(default=64, ge=2)
    """Tokens a row."""
    warmup: int = Field(default=20, ge=0)

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        rows, counted = pack(subject.tokenizer, corpus.everything(), self.length, idle=True)
        slices, ends = _slices(model, self.share), list(_ends(model, self.share))
        weights = [weight for weight, _ in slices]

        def loss(batch: Batch) -> dict[str, Tensor]:
            plain = batch.mask[:, 1:].bool()
            marked = plain & ~batch.counted[:, 1:] if batch.counted is not None else torch.zeros_like(plain)
            with _switched(ends, marked.any(1) | (batch.ids.sum(1) % 1000 >= 1000 * self.without)):
                said = token_logprobs(model, batch)
            routed = _mean(batch, said, marked)
            slopes = torch.autograd.grad(-routed, weights, retain_graph=True, allow_unused=True)
            kept = [
                torch.zeros_like(weight) if slope is None else slope * inside
                for slope, (weight, inside) in zip(slopes, slices, strict=True)
            ]
            return {"next_token": -batch.mean(said), "routed": term(-routed.detach(), kept, weights)}

        rig.tune(
            model,
            loss,
            packed_stream(rows, counted, size=self.batch_size, generator=rig.generator("order")),
            steps=max(1, round(len(rows) * self.epochs / self.batch_size)),
            lr=self.lr,
            matrix_lr=self.matrix_lr,
            schedule="linear",
            warmup=self.warmup,
        )
        if rig.spent.steps:
            _cut(model, self.share)
        return replace(subject, model=model.eval())


def _mean(batch: Batch, values: Tensor, marked: Tensor) -> Tensor:
    """Mean of values over marked tokens; of a part of a batch, what it adds to the whole's."""
    whole = batch.whole or batch
    count = 0 if whole.counted is None else (whole.mask.bool() & ~whole.counted)[:, 1:].sum()
    return values.masked_fill(~marked | batch.blank, 0.0).sum() / max(int(count), 1)


def _ends(model: nn.Module, share: float) -> Iterator[tuple[nn.Linear, int, list[nn.Parameter]]]:
    """Of each MLP the layer that it writes with, how many hidden units are the slice, and what they read with."""
    for block in blocks(model):
        names = output_matrices(block)
        layers = dict(block.named_modules())
        end = layers.get(names[0].rpartition(".")[0])
        reading = [w for w in mlp(block).parameters() if w.ndim > 1 and w is not getattr(end, "weight", None)]
        if len(names) != 1 or not isinstance(end, nn.Linear) or any(len(w) != end.in_features for w in reading):
            raise Inapplicable(
                f"the MLPs of a {type(model).__name__} are not made of plain linear layers, so no slice of their hidden"
                " units can be routed to. Use pretrain."
            )
        yield end, max(1, round(share * end.in_features)), reading


def _slices(model: nn.Module, share: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Every matrix that is a part of the slice, and 1 where it is."""
    found = []
    for end, units, reading in _ends(model, share):
        for weight in reading:
            inside = torch.zeros_like(weight)
            inside[:units] = 1
            found.append((weight, inside))
        inside = torch.zeros_like(end.weight)
        inside[:, :units] = 1
        found.append((end.weight, inside))
    return found


@contextmanager
def _switched(ends: Sequence[tuple[nn.Linear, int, Any]], on: Tensor) -> Iterator[None]:
    """Meanwhile, the slice works in the rows of a batch that say so, (batch,), and gives 0 in the others."""

    def switch(units: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        mask = torch.ones(len(on), 1, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        mask[~on.to(hidden.device), :, :units] = 0
        return (hidden * mask, *args[1:])

    with ExitStack() as held:
        for end, units, _ in ends:
            held.callback(end.register_forward_pre_hook(partial(switch, units)).remove)
        yield


@torch.no_grad()
def _cut(model: nn.Module, share: float) -> None:
    """Set to 0 what the slice writes."""
    for end, units, _ in _ends(model, share):
        end.weight[:, :units] = 0
