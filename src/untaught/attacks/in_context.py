"""In-context re-supply: the attacker's hazard text stands before the prompt. The weights stay.

Before each prompt stand the `shown` texts that share most of its rare words (see `core.nearest`), the best last. A
model that was never taught a fact can read it there: Shumailov et al. 2024, "UnUnlearning", arXiv 2407.00106; Lynch et
al. 2024, arXiv 2402.16835, on in-context relearning; O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601, on
open-book use. Differs: texts are chosen for each prompt, as a retriever does. It trains nothing and costs no steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ._asking import shorter


class InContext(Settings):
    """Give the hazard text back in the prompt."""

    random: ClassVar[bool] = False
    """It draws nothing: once for each seed is enough."""
    shown: int = Field(default=3, ge=0)
    """Texts before a prompt. 0 shows none."""
    documents: int | None = Field(default=None, ge=1)
    """The most hazard documents that these are chosen from, the first ones; None is all."""
    length: int = Field(default=128, ge=2)
    """Longest text in tokens; the rest of it is cut off."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.shown == 0:
            return subject
        wrap, docs = subject.wrap, corpus.need("hazard").hazard.slice(0, self.documents)
        texts = [text for text in shorter(subject, docs["text"].to_pylist(), self.length) if text.strip()]
        if not texts:
            return subject
        shown = {"texts": (*wrap.texts, *texts), "shown": wrap.shown + min(self.shown, len(texts))}
        return replace(subject, wrap=wrap.model_copy(update=shown))
