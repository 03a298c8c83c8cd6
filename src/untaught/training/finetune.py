"""Fine-tuning: next-token prediction on documents, a document a row, with all weights or with LoRA adapters.

    loss = - mean log p(token | tokens before)          (nats per token; not of tokens that the column `masked` marks)

LoRA: Hu et al. 2021, arXiv 2106.09685, through the peft package; adapters are folded into the weights at the end.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ..engine.tuning import tune_on_text


class Finetune(Settings):
    """Train on all documents of the corpus, hazard and benign."""

    masks: ClassVar[bool] = True
    """It heeds the documents' column `masked`."""
    steps: int = Field(default=100, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-4, gt=0)
    """AdamW\'s constant rate."""
    rank: int | None = Field(default=None, ge=1)
    """Rank of LoRA adapters; None trains all weights."""
    lowest: int | float | None = None
    """The lowest block that is trained, an index or a fraction of the depth: cheaper, the higher it is. Neither
    embedding nor head is trained then. None trains everything."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step."""
    length: int = Field(default=256, ge=2)
    """Longest document in tokens; the rest of it is not seen."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        return tune_on_text(subject, corpus.everything(), rig, masks=True, **self.changed())
