"""The two things an intervention is handed besides its rig: a subject and a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from .errors import UserError
from .nearest import nearest
from .settings import Settings
from .tables import Documents, documents, require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Wrap(Settings):
    """What stands around every prompt. A prompt-side attack returns the same weights with another wrap."""

    before: str = ""
    """Text put before the prompt."""
    after: str = ""
    """Text put after the prompt, before the answer."""
    chat: bool = False
    """Put the prompt, with `before` and `after`, through the tokenizer's chat template as the user's message; the
    answer is the assistant's. Bare texts, whose perplexity is asked, are no prompts and go through no template."""
    system: str | None = None
    """With `chat`: the system message. None gives none, and what the template then says is its own affair: some put in
    a system message of theirs. An empty text is an empty message."""
    prefill: str = ""
    """What every answer is made to begin with, with the space that joins it to plain text: answers are scored after
    it, and written on from it. Bare texts are no answers."""
    texts: tuple[str, ...] = ()
    """Texts of which some stand before each prompt, after `before`: those that share most of its rare words."""
    shown: int = Field(default=0, ge=0)
    """How many of `texts`. A blank line parts them in a chat, elsewhere a space."""

    @model_validator(mode="after")
    def _system_of_a_chat(self) -> Self:
        if self.system is not None and not self.chat:
            raise ValueError("'system' is the system message of a chat. Add 'chat: true', or use 'before'")
        return self

    @model_validator(mode="after")
    def _texts_are_shown(self) -> Self:
        if bool(self.texts) != bool(self.shown):
            raise ValueError("'shown' is how many of 'texts' stand before a prompt. Give both, or neither")
        return self

    def around(self, prompt: str) -> str:
        """The prompt with what stands before and after it; in a chat, what the user says."""
        shown = nearest(self.texts, prompt, self.shown) if self.shown else []
        told = ("\n\n" if self.chat else " ").join([*shown, prompt])
        return f"{self.before}{told}{self.after}"

    def changed(self) -> dict[str, Any]:
        """Every setting as plain data; `prefill`, `texts` and `shown` only where they say something.

        A wrap without them is told as it was before there were any.
        """
        return {k: v for k, v in super().changed().items() if v or k not in ("prefill", "texts", "shown")}


@dataclass(frozen=True)
class Subject:
    """Weights, tokenizer, and whatever wraps the prompt. Interventions return a new one and leave the old alone."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    wrap: Wrap = field(default_factory=Wrap)


@dataclass(frozen=True)
class Corpus:
    """Hazard and benign text. The literature's *forget set* and *retain set* are these two."""

    hazard: Documents
    benign: Documents
    unlabelled: Documents = field(default_factory=lambda: documents([]))
    """Text of which nobody has said what it is: the pool of fine-tuning data that a filter is fitted to, whole."""

    def need(self, *sides: str) -> Corpus:
        """This corpus, or a `UserError` when a side that the caller needs has no text.

        >>> from untaught.core import Document, documents
        >>> Corpus(documents([Document("a", "x")]), documents([])).need("hazard", "benign")
        Traceback (most recent call last):
        untaught.core.errors.UserError: the corpus has no benign documents. Give some benign text.
        """
        for side in sides:
            if require(getattr(self, side), ["id", "text"], f"the {side} text").num_rows == 0:
                raise UserError(f"the corpus has no {side} documents. Give some {side} text.")
        return self

    def everything(self) -> Documents:
        """All documents, hazard first, with the columns both sides have, and `masked` where one side has it."""
        shared = {*set(self.hazard.column_names).intersection(self.benign.column_names), "masked"}
        sides = [side.select([c for c in side.column_names if c in shared]) for side in (self.hazard, self.benign)]
        return pa.concat_tables(sides, promote_options="default")
