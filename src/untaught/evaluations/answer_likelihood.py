"""Answer likelihood: how well a model predicts the answers of examples that it was not trained on.

    nats_per_token = - log p(answer | prompt) / tokens of the answer          perplexity = exp(mean nats_per_token)

One mark an example; prompts are given, not scored. A text without `messages` is all answer, and what the wrap puts
around prompts stands before it; `chat` is of messages alone. Lower is better.
What fine-tuning is for shows here: a filter that takes good examples with the bad leaves this higher. As in the
evaluation of `perplexity` (Jelinek et al. 1977), for answers in place of texts.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ..core import MESSAGES, Documents, Mark, Marks, Role, Settings, Subject, marks, require
from ..engine.examples import conversation
from ..engine.features import answers


class AnswerLikelihood(Settings):
    """Grade examples with columns `id`, `text` and `messages`."""

    items: str = "benign_text"
    """Name of a set of examples of the world, or a file of them."""
    role: Role | None = None
    """What predicting the answers well means; None takes it from the items."""
    length: int | None = Field(default=256, ge=2)
    """Tokens at which an example is cut. None: one longer than the model reads is missing."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        docs = require(items, ["id", "text"], f"the examples '{self.items}'")
        found = answers(subject, docs if subject.wrap.chat else _answering(docs), self.length)
        rows = zip(items["id"].to_pylist(), found.nats_per_token.tolist(), found.causes, strict=True)
        return marks(Mark(item, "nats_per_token", None if why else nats, note=why) for item, nats, why in rows)


def _answering(docs: Documents) -> Documents:
    """The same, with texts as answers to an empty prompt, which a wrap is put around."""
    told = docs["messages"].to_pylist() if "messages" in docs.column_names else [None] * docs.num_rows
    texts = docs["text"].to_pylist()
    turns = [conversation("", text) if one is None else one for one, text in zip(told, texts, strict=True)]
    rest = docs.drop_columns(["messages"]) if "messages" in docs.column_names else docs
    return rest.append_column("messages", pa.array(turns, MESSAGES))
