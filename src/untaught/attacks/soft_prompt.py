"""Soft prompt: virtual tokens before every prompt, trained by gradient until hazard text is likely after them.

    loss = - mean log p(answer token | virtual tokens, prompt, tokens before)       over the attacker's hazard text

An embedding attack: Schwinn et al. 2024, "Soft Prompt Threats: Attacking Safety Alignment and Unlearning in
Open-Source LLMs through the Embedding Space", arXiv 2402.09063; trained as Lester et al. 2021, arXiv 2104.08691.
Differs: one prompt for all of the attacker's text, not one a question. Of examples the answers are made likely; of
texts what follows the first word, in a chat their second half.

The virtual tokens are new special tokens with a row each in the embedding, and these rows alone are trained: what is
given back is an ordinary checkpoint whose `wrap.before` begins with them. In a model whose head is its embedding they
are in the softmax as well (see `_soft`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ..engine import examples
from ..engine.batches import Batch
from ..engine.scoring import mean_logprob
from ._asking import asked
from ._soft import Soft, placed, widened


class SoftPrompt(Settings):
    """Train virtual tokens before the prompt."""

    tokens: int = Field(default=16, ge=1)
    """How many. Paper: 20 or so."""
    steps: int = Field(default=200, ge=0)
    """The most steps; a study's budget may end the attack before."""
    lr: float = Field(default=1e-2, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step."""
    length: int = Field(default=256, ge=2)
    """Longest document in tokens, the virtual ones not counted; the rest of it is not seen."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.steps == 0:
            return subject
        docs = asked(subject, corpus)
        wide, names, ids = widened(subject, self.tokens)
        follows = wide.wrap.before + docs["messages"][0].as_py()[0]["content"]
        before = placed(wide.tokenizer, names, follows) + wide.wrap.before
        wide = replace(wide, wrap=wide.wrap.model_copy(update={"before": before}))
        rows = examples.rows(wide, docs, self.length + self.tokens)
        soft: Any = Soft(wide.model, ids)

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"next_token": -mean_logprob(soft, batch)}

        stream = rows.stream(size=self.batch_size, generator=rig.generator("order"))
        rig.tune(soft, loss, stream, steps=self.steps, train=["rows"], lr=self.lr)
        if rig.spent.steps == 0:
            return subject
        return replace(wide, model=soft.merge_and_unload().requires_grad_(True).eval())
