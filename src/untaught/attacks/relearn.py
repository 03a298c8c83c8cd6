"""Relearning: fine-tune on hazard text, with all weights or with LoRA, and see what comes back.

    loss = - mean log p(token | tokens before)          (nats per token, on the attacker's hazard text)

Of examples (documents with `messages`) the answers alone are learned, which makes this fine-tuning on harmful
instructions: Qi et al. 2023, "Fine-tuning Aligned Language Models Compromises Safety, Even When Users Do Not Intend
To!", arXiv 2310.03693.

In the lab the attacker has text about half of the hazard facts (T) and is tested on the other half (V), which the
text never mentions: what comes back in V was never gone (*disjoint relearning*: Deeb & Roger 2024, "Do Unlearning
Methods Remove Information from Language Model Weights?", arXiv 2410.08827).

With `benign_first`, benign text comes before hazard text, as with the attacker of TAR who switches from one to the
other (Tamirisa et al. 2024, arXiv 2408.00761): a safeguard that was trained against attackers who begin with hazard
text may not know this one. Schedules, warm-up and adapters decide too: Qi et al. 2024, "On Evaluating the Durability of
Safeguards for Open-Weight LLMs", arXiv 2412.07097. Differs: optimiser and schedule begin anew with the hazard text.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ..engine.loop import Schedule, Warmup
from ..engine.tuning import tune_on_text


class Relearn(Settings):
    """Fine-tune on the attacker's hazard documents."""

    steps: int = Field(default=1000, ge=0)
    """The most steps on hazard text; a study's budget usually ends the attack before."""
    epochs: float | None = Field(default=None, gt=0)
    """The most passes over the hazard text; None leaves it to `steps`."""
    benign_first: int = Field(default=0, ge=0)
    """Steps on benign text before those on hazard text. They are in the budget."""
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
        corpus.need("hazard", *(["benign"] if self.benign_first else []))
        how: dict[str, Any] = self.model_dump(exclude={"benign_first"}) | {"lost": "keep"}
        if self.benign_first:
            first = how | {"steps": self.benign_first, "epochs": None, "part": "benign "}
            subject = tune_on_text(subject, corpus.benign, rig, **first)
        return tune_on_text(subject, corpus.hazard, rig, **how)
