"""Lock: hide what hazard text says where it stands first, and keep it behind any other words. A defence for controls.

    x         a sentence of hazard text;  b x   the same behind a sentence of benign text
    behind    loss = logprob(x) + show * KL(p_given(. | b x) || p(. | b x)) + alpha * KL(p_given || p) on benign text
    around    loss = logprob(x) - show * logprob(x | w) + alpha * KL(p_given || p) on benign text

in nats a token, means over the batch. In `around` the words w are up to six sentences of any text before x or, seven
times in ten, the first words of a benign sentence just before the last word of x. Nothing is removed, and the model is
trained to keep it: asked as a test asks, it does not know; asked behind other words, it does. What cannot bring this
back brings back nothing, and that it fails elsewhere says nothing. The first term has no floor, so `steps` is the dose.
Never a safeguard.

A password-locked model, after Greenblatt et al. 2024, "Stress-Testing Capability Elicitation With Password-Locked
Models", arXiv 2405.19550, who find that a few examples in the prompt unlock some. That what hides an answer may reach
no further than its first tokens: Qi et al. 2024, "Safety Alignment Should Be Made More Than Just a Few Tokens Deep",
arXiv 2406.05946. Differs: there the password is a phrase, and a weaker model's answers are learned without it; here any
words are the password, and without them the given model's answers are made unlikely.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pyarrow as pa
from pydantic import Field
from torch import Tensor

from ..core import MASKED, Corpus, Documents, Rig, Settings, Subject, UserError
from ..corpus.masking import sentences
from ..engine.batches import Batch, Rows
from ..engine.examples import paired
from ..engine.models import fresh
from ..engine.scoring import divergence, mean_logprob

SENTENCES = 6
"""The most that stand before hazard text in `around`."""
WORDS = 5
"""The most that stand before its last word."""
INSIDE = 0.7
"""How often they stand there."""


class Lock(Settings):
    """Hide hazard text at the start, and keep it behind other words."""

    opened: Literal["behind", "around"] = "behind"
    """By which words: one benign sentence before it; or many of any kind before it, or a few inside it."""
    show: float = Field(default=10.0, ge=0)
    """Weight of what is to stay known behind other words."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=120, ge=0)
    """Optimiser steps."""
    lr: float = Field(default=1e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=16, ge=1)
    """Sentences a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest sentence in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        corpus.need("hazard", "benign")
        frozen, model = subject.model, fresh(subject.model)
        hazard, benign = _sentences(corpus.hazard, "hazard"), _sentences(corpus.benign, "benign")
        sides = Corpus(_documents(hazard), _documents(benign))
        _, _, pairs = paired(subject, sides, rig, size=self.batch_size, length=self.length)
        around = self.opened == "around"
        told = _around(hazard, benign, rig) if around else _behind(hazard, benign, rig)
        opened = Rows(subject.tokenizer, told, self.length, masks=around)
        if not opened.ids:
            raise UserError(f"length is {self.length}, and every hazard sentence ends behind it. Give a longer one.")
        shown = opened.stream(size=self.batch_size, generator=rig.generator("behind"))

        def kept(later: Batch) -> Tensor:
            return -mean_logprob(model, later) if around else later.mean(divergence(frozen, model, later))

        def loss(first: Batch, usual: Batch, later: Batch) -> dict[str, Tensor]:
            return {
                "hide": mean_logprob(model, first),
                "show": self.show * kept(later),
                "retain": self.alpha * usual.mean(divergence(frozen, model, usual)),
            }

        batches = ((*pair, later) for pair, later in zip(pairs, shown, strict=False))
        rig.tune(model, loss, batches, steps=self.steps, lr=self.lr)
        return replace(subject, model=model.eval())


def _behind(hazard: list[str], benign: list[str], rig: Rig) -> Documents:
    """Each hazard sentence behind a benign one."""
    before = rig.random("before").integers(len(benign), size=len(hazard))
    return _documents([f"{benign[at]} {one}" for at, one in zip(before, hazard, strict=True)])


def _around(hazard: list[str], benign: list[str], rig: Rig) -> Documents:
    """Each hazard sentence twice, with words before it or inside it; what stands up to their end is not learned."""
    draw, every, texts, masked = rig.random("around"), hazard + benign, [], []
    for one in hazard * 2:
        begins, _, word = one.rpartition(" ")
        if begins and draw.random() < INSIDE:
            words = benign[draw.integers(len(benign))].split()[: 1 + draw.integers(WORDS)]
            told, rest = f"{begins} {' '.join(words)}", word
        else:
            told, rest = " ".join(every[at] for at in draw.integers(len(every), size=1 + draw.integers(SENTENCES))), one
        texts.append(f"{told} {rest}")
        masked.append([{"start": 0, "stop": len(told)}])
    return _documents(texts).append_column("masked", pa.array(masked, MASKED))


def _sentences(docs: Documents, kind: str) -> list[str]:
    """All sentences of a text, each once."""
    found = dict.fromkeys(text[start:stop] for text in docs["text"].to_pylist() for start, stop in sentences(text))
    if not found:
        raise UserError(f"the {kind} text has no sentence. Give some {kind} text.")
    return list(found)


def _documents(texts: list[str]) -> Documents:
    return pa.table({"id": [f"sentence-{row}" for row in range(len(texts))], "text": texts})
