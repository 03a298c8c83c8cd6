"""Relearning: fine-tune on hazard text, with all weights or with LoRA, and see what comes back.

    loss = - mean log p(token | tokens before)          (nats per token, on the attacker's hazard text)

In the lab the attacker has text about half of the hazard facts (T) and is tested on the other half (V), which the
text never mentions: what comes back in V was never gone (*disjoint relearning*: Deeb & Roger 2024, "Do Unlearning
Methods Remove Information from Language Model Weights?", arXiv 2410.08827).
"""

from __future__ import annotations

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ..engine.tuning import tune_on_text


class Relearn(Settings):
    """Fine-tune on the attacker's hazard documents."""

    steps: int = Field(default=1000, ge=0)
    """The most steps; a study's budget usually ends the attack before."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate."""
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
        return tune_on_text(subject, corpus.need("hazard").hazard, rig, **self.changed())
