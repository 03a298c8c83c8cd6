"""Few-shot: some questions with their answers stand before every prompt, and show what an answer is. The weights stay.

They are drawn once from the attacker's hazard text: of examples with `messages` a prompt and its answer, other
documents as they are, in the world's own form. All of them stand before each prompt, in the order in which they were
drawn; in a chat, in the user's message. Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv 2005.14165;
as an attack, Wei et al. 2023, "Jailbreak and Guard Aligned Language Models with Only Few In-Context Demonstrations",
arXiv 2310.06387. It trains nothing and costs no steps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ._asking import pair, shorter


class FewShot(Settings):
    """Show questions that are answered."""

    shots: int = Field(default=5, ge=0)
    """How many. 0 shows none."""
    length: int = Field(default=128, ge=2)
    """Longest of them in tokens; the rest of it is cut off."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.shots == 0:
            return subject
        docs, wrap = corpus.need("hazard").hazard, subject.wrap
        gap = "\n" if wrap.chat else " "
        told = [(pair(row), row["text"]) for row in docs.to_pylist()]
        texts = [gap.join(filter(None, one)) if one else text for one, text in told if one is None or one[1].strip()]
        order = torch.randperm(len(texts), generator=rig.generator("shots"))[: self.shots].tolist()
        drawn = shorter(subject, [texts[index] for index in order if texts[index].strip()], self.length)
        if not drawn:
            return subject
        shown = {"texts": (*wrap.texts, *drawn), "shown": wrap.shown + len(drawn)}
        return replace(subject, wrap=wrap.model_copy(update=shown))
