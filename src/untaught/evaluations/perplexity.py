"""Perplexity: how well the model predicts ordinary text it was not trained on.

    nats_per_token = - log p(text) / tokens          perplexity = exp(mean nats_per_token)

One mark a document; the first token of each is given, not scored. Lower is better, and there is no chance level.
Jelinek et al. 1977, "Perplexity - a measure of the difficulty of speech recognition tasks".
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ..core import Mark, Marks, Role, Settings, Subject, marks, require
from ..engine.scoring import text_nats


class Perplexity(Settings):
    """Grade documents with columns `id` and `text`."""

    items: str = "benign_text"
    """Name of a document set of the world, or a file of documents."""
    role: Role | None = None
    """What predicting the text well means; None takes it from the items."""
    length: int = Field(default=512, ge=2)
    """Longest document in tokens; the rest of it is not scored."""
    batch_size: int = Field(default=16, ge=1)
    """It changes nothing: which texts share a batch follows from the texts alone."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        rows = require(items, ["id", "text"], f"the documents '{self.items}'")
        texts, names = rows["text"].to_pylist(), rows["id"].to_pylist()
        scored = text_nats(subject, texts, length=self.length, batch_size=self.batch_size, names=names)
        return marks(
            Mark(
                item,
                "nats_per_token",
                None if text.nats_per_token is None else -text.nats_per_token,
                note=None if text.nats_per_token is not None else "no finite score",
            )
            for item, text in zip(names, scored, strict=True)
        )
