"""Ordinary fine-tuning on documents: what `finetune` does for good and `relearn` and `benign_finetune` for ill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..core import Documents, Rig, Subject
from . import examples
from .anatomy import blocks, layer_index, names_of
from .batches import Batch
from .models import fresh, settled, with_lora
from .scoring import mean_logprob
from .states import Activations


def tune_on_text(  # noqa: PLR0913  the settings that three components share
    subject: Subject,
    docs: Documents,
    rig: Rig,
    *,
    batch_size: int,
    length: int,
    rank: int | None = None,
    lowest: int | float | None = None,
    masks: bool = False,
    **how: Any,
) -> Subject:
    """A new subject trained on documents by next-token loss, with all weights or with LoRA adapters of `rank`.

    With `lowest`, only blocks from that one up are trained, and neither embedding nor head; what the blocks below make
    of a text is computed once. With `masks`, what the documents' column `masked` marks is left out of the loss. Of
    examples (documents with `messages`) the answers alone are learned; those without one are left out. `how` is passed
    to the rig's loop: `steps`, `lr` and the rest.
    """
    rows = examples.rows(subject, docs, length, masks=masks)
    first = 0 if lowest is None else layer_index(lowest, len(blocks(subject.model)))
    train = [] if lowest is None or rank is not None else _weights(subject.model, first)
    model: Any = fresh(subject.model, train if lowest is not None or rank is not None else None)
    if rank is not None:
        model = with_lora(model, rank, rig.generator("adapters"), lowest=first)
    below = Activations(subject.model, first - 1, rows) if first else None

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"next_token": -mean_logprob(model, batch, below)}

    rig.tune(model, loss, rows.stream(size=batch_size, generator=rig.generator("order")), train=train, **how)
    return replace(subject, model=settled(model).requires_grad_(True).eval())


def _weights(model: nn.Module, first: int) -> list[str]:
    """Names of everything that the blocks from `first` up are made of."""
    return names_of(model, (parameter for block in blocks(model)[first:] for parameter in block.parameters()))
