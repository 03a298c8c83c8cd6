"""Pretraining: next-token prediction over all the text there is, hazard and benign, packed end to end.

    loss = - mean log p(token | tokens before)          (nats per token; not of tokens that the column `masked` marks)

The recipe is one that memorises a small world quickly: Muon (Jordan et al. 2024) on the blocks' matrices, AdamW on
embeddings and norms, and a rate that falls to zero over the last part. On the lab's world the embeddings' rate decides:
40 exposures taught half of the facts at 0.01 and all of them at 0.02; at 0.003, 60 exposures taught few.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine.batches import Batch, pack, packed_stream
from ..engine.models import fresh
from ..engine.scoring import mean_logprob


class Pretrain(Settings):
    """Train all weights on the whole corpus."""

    masks: ClassVar[bool] = True
    """It heeds the documents' column `masked`."""
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
        rows, counted = pack(subject.tokenizer, corpus.everything(), self.length)

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"next_token": -mean_logprob(model, batch)}

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
        return replace(subject, model=model.eval())
