"""Ordinary fine-tuning on documents: what `finetune` does for good and `relearn` and `benign_finetune` for ill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..core import Documents, Rig, Subject
from .batches import Batch, Rows
from .models import fresh, settled, with_lora
from .scoring import mean_logprob


def tune_on_text(
    subject: Subject,
    docs: Documents,
    rig: Rig,
    *,
    batch_size: int,
    length: int,
    rank: int | None = None,
    masks: bool = False,
    **how: Any,
) -> Subject:
    """A new subject trained on documents by next-token loss, with all weights or with LoRA adapters of `rank`.

    With `masks`, what the documents' column `masked` marks is left out of the loss. `how` is passed to the rig's loop:
    `steps`, `lr` and the rest.
    """
    model: Any = fresh(subject.model)
    if rank is not None:
        model = with_lora(model, rank, rig.generator("adapters"))

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"next_token": -mean_logprob(model, batch)}

    rows = Rows(subject.tokenizer, docs, length, masks=masks)
    rig.tune(model, loss, rows.stream(size=batch_size, generator=rig.generator("order")), **how)
    return replace(subject, model=settled(model).eval())
