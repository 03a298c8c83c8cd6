"""Benign fine-tuning: train on text that has nothing to do with the hazard, as any honest user might.

    loss = - mean log p(token | tokens before)          (nats per token, on benign text)

The text may be plain, or examples of a chat (documents with `messages`), of which the answers alone are learned. A
defence that this undoes only hid the knowledge; no attacker was needed. Qi et al. 2023, "Fine-tuning Aligned Language
Models Compromises Safety, Even When Users Do Not Intend To!", arXiv 2310.03693; on plain text Lucki et al. 2024, "An
Adversarial Perspective on Machine Unlearning for AI Safety", arXiv 2409.18025.
"""

from __future__ import annotations

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ..engine.loop import Schedule, Warmup
from ..engine.tuning import tune_on_text


class BenignFinetune(Settings):
    """Fine-tune on benign documents."""

    steps: int = Field(default=1000, ge=0)
    """The most steps; a study's budget usually ends the attack before."""
    epochs: float | None = Field(default=None, gt=0)
    """The most passes over the benign text; None leaves it to `steps`."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's rate, where the schedule is at its highest."""
    schedule: Schedule = "constant"
    """Over the steps that the budget allows, `cosine` falls to zero, `linear` does so over their last two fifths."""
    warmup: Warmup = 0
    """Steps over which the rate rises from zero; with a point, such as 0.1, the share of the steps that these are."""
    rank: int | None = Field(default=None, ge=1)
    """Rank of LoRA adapters; None trains all weights."""
    alpha: int | None = Field(default=None, ge=1)
    """Of LoRA adapters: what they say counts alpha / rank times. None counts it once."""
    lowest: int | float | None = None
    """The lowest block that is trained, an index or a fraction of the depth: cheaper, the higher it is. Neither
    embedding nor head is trained then. None trains everything."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step."""
    length: int = Field(default=256, ge=2)
    """Longest document in tokens; the rest of it is not seen."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        return tune_on_text(subject, corpus.need("benign").benign, rig, **self.model_dump(), lost="keep")
