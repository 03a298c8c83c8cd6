"""Guard: a model that was made to tell harmful from harmless says what it thinks of each example.

The labels are somebody else's: no example of the pool has to be labelled, and what counts as harm is what the guard was
trained on. Two kinds of folder will do.

    a sequence classifier       p = that of the label which means hazard, on prompt and answer, of the highest window
                                (`engine/sequences.py`)
    a language model            is asked with a template (`prompt`): p = p(unsafe) / (p(unsafe) + p(safe)), where
                                p(word) is how likely the whole word is to follow

An example is dropped when p >= threshold. Each is asked about alone, so that company shows in no score. Special tokens
that stand in the template are read as such. An example that spells one could pass off its own words as the template's:
it has no score, and neither has one that is longer than the guard reads.

The template that is here is ours and is short. A guard is best asked with the one that it was trained with; its model
card says which, and which words it answers with. One whose chat template puts the question itself must be given what
that comes to, with `chat: false`.

Source: Inan et al. 2023, "Llama Guard", arXiv 2312.06674, and Zeng et al. 2024, "ShieldGemma", arXiv 2407.21772, who
take the two words' probabilities for a score. Differs from them: whole words count and not their first tokens.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings, Subject, UserError, Wrap
from ._cause import cause
from ._examples import NO_ANSWER, below, halves, settled, told

if TYPE_CHECKING:
    from ..engine.sequences import Judge

PROMPT = (
    "A user said to an assistant:\n{prompt}\n\nThe assistant answered:\n{answer}\n\n"
    "Could this answer do harm, or help to do harm? If so it is unsafe, and if not it is safe. The answer is"
)
"""Ours. The word follows."""
SLOT = re.compile(r"\{(prompt|answer)\}")
NOT_FINITE = "the guard's score is not a finite number"


class Guard(Settings):
    """Rank by what a guard model says."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    needs: ClassVar[tuple[str, ...]] = ("model",)

    model: str | None = None
    """Folder of the guard, with safetensors weights. It must be given."""
    prompt: str = PROMPT
    """Language model: what it is asked; `{prompt}` and `{answer}` stand for the example's."""
    unsafe: str = "unsafe"
    """Language model: the word for harm."""
    safe: str = "safe"
    """Language model: the other word."""
    chat: bool = False
    """Language model: what it is asked goes through its chat template."""
    label: str | int | None = None
    """Classifier: name or number of the label that means hazard. None: the only one, or the last of two."""
    window: int | None = Field(default=None, ge=2)
    """Classifier: tokens in a window. None: as many as it takes."""
    overlap: int = Field(default=64, ge=0)
    """Classifier: tokens that a window shares with the one before it."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Score from which an example is dropped. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""

    @model_validator(mode="after")
    def _askable(self) -> Self:
        if "{answer}" not in self.prompt:
            raise ValueError("'prompt' does not say where the answer goes. Put {answer} there")
        if not self.unsafe.strip() or not self.safe.strip() or self.unsafe == self.safe:
            raise ValueError("'unsafe' and 'safe' must be two different words")
        return self

    def resolved(self, folder: Path) -> Guard:
        """With the place of the model made absolute, and looked at."""
        if self.model is None:
            return self
        place = Path(os.path.abspath(folder / self.model))
        _kind(place)
        return self.model_copy(update={"model": str(place)})

    def fit(self, pool: Corpus, rig: Rig) -> GuardScorer:
        if self.model is None:
            raise UserError(
                "guard has no model to ask. Give 'model': the folder of a sequence classifier, or of a language model"
                " that tells harmful answers."
            )
        return settled(GuardScorer(self._way(Path(self.model)), self.threshold), pool.unlabelled, self.removed)

    def frozen(self, scorer: GuardScorer, folder: Path) -> Guard:
        """These settings with the threshold that `fit` found."""
        return self.model_copy(update={"threshold": scorer.threshold, "removed": None})

    def _way(self, place: Path) -> Way:
        """How the guard is asked. One that is in use already is not loaded again."""
        from ..engine import compute

        key = (str(place), self.model_copy(update={"threshold": None, "removed": None}), compute.now())
        way = _in_use.get(key)
        if way is None:
            way = _in_use[key] = self._judged(place) if _kind(place) == CLASSIFIER else self._asked(place)
        return way

    def _judged(self, place: Path) -> Judged:
        from ..engine import sequences

        return Judged(sequences.load(place, self.label, sequences.Cut(self.window, self.overlap)))

    def _asked(self, place: Path) -> Asked:
        from ..engine import models
        from ..engine.prompts import check_chat

        wrap = Wrap(chat=self.chat)
        check_chat(place, wrap)
        subject = models.load(place, wrap)
        tokens = getattr(subject.tokenizer, "added_tokens_decoder", {}).values()
        special = tuple(sorted({token.content for token in tokens if token.special}))
        return Asked(subject, self.prompt, (self.unsafe, self.safe), special)


class Way(Protocol):
    """A guard that is ready."""

    def scores(self, docs: Documents) -> list[float | str]:
        """Of examples that have an answer: the probability of harm, or why there is none."""
        ...


_in_use: WeakValueDictionary[Any, Way] = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class GuardScorer:
    """A guard, and the score from which an example is dropped."""

    way: Way
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        answered = np.array([bool(answer.strip()) for _, answer in halves(batch)], bool)
        found = iter(self.way.scores(batch.filter(pa.array(answered))))
        said = [next(found) if one else NO_ANSWER for one in answered]
        causes = [one if isinstance(one, str) else None for one in said]
        return told(np.array([math.nan if isinstance(one, str) else one for one in said]), causes, "p = {:.3f}")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)


@dataclass(frozen=True, eq=False)
class Judged:
    """A sequence classifier."""

    judge: Judge

    def scores(self, docs: Documents) -> list[float | str]:
        texts = docs["text"].to_pylist()
        verdicts = self.judge.verdicts(texts)
        return [v.score if v.error is None else cause(v.error, t) for v, t in zip(verdicts, texts, strict=True)]


@dataclass(frozen=True, eq=False)
class Asked:
    """A language model, and what it is asked."""

    subject: Subject
    prompt: str
    words: tuple[str, str]
    """For harm, and for none."""
    special: Sequence[str]
    """How the tokenizer's special tokens are spelt."""

    def scores(self, docs: Documents) -> list[float | str]:
        from ..engine.sequences import attempt

        found = []
        for prompt, answer in halves(docs):
            score = attempt(self._score, prompt, answer)
            found.append(cause(score, f"{prompt}\n{answer}") if isinstance(score, Exception) else score)
        return found

    def _score(self, prompt: str, answer: str) -> float | str:
        from ..engine.scoring import completions

        said = {"prompt": prompt, "answer": answer}
        if any(token in text for token in self.special for text in said.values()):
            return "an example that spells a special token of the guard"
        asked = SLOT.sub(lambda slot: said[slot[1]], self.prompt)
        joint = "" if self.prompt[-1].isspace() else " "
        try:
            unsafe, safe = completions(self.subject, [(asked, joint + word) for word in self.words])
        except UserError as error:  # too long, or refused by the chat template; it never quotes a text
            return str(error).partition(". ")[0]
        if unsafe.nats is None or safe.nats is None:
            return NOT_FINITE
        return float(1 / (1 + np.exp(np.clip(safe.nats - unsafe.nats, -700, 700))))


# -- folders -----------------------------------------------------------------------------------------------------------

CLASSIFIER, LANGUAGE = "a sequence classifier", "a language model"


def _kind(place: Path) -> str:
    """What kind of guard a folder holds, or a `UserError` when none. Loads nothing."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from ..engine.folders import check_folder
    from ..engine.sequences import KIND

    check_folder(place, causal=False)
    kinds = json.loads((place / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if any(kind.endswith(KIND) for kind in kinds):
        return CLASSIFIER
    if not set(kinds) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(
            f"{place} holds a model of the kind {', '.join(kinds) or 'that its config.json does not name'}, which is"
            f" neither {CLASSIFIER} nor {LANGUAGE}. Give the folder of one of these."
        )
    return LANGUAGE
