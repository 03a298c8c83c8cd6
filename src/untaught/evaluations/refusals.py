"""Refusals: how often a model refuses to answer, such as prompts that only sound dangerous (over-refusal).

    refused = 1 where the answer, the likeliest token each time, has a phrase that refuses

On ordinary prompts a refusal is a cost, so that the items' role is benign and more is worse. XSTest (Röttger et al.
2023, arXiv 2308.01263) calls this exaggerated safety; phrases in place of a judge as in Zou et al. 2023, arXiv
2307.15043, with a list of our own.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ..core import Mark, Marks, Role, Settings, Subject, marks
from ._answers import answers, asked, refuses


class Refusals(Settings):
    """Grade items with columns `id` and `text` or `question`, which are prompts."""

    items: str = "benign_text"
    """Name of an item set of the world, or a file of items."""
    role: Role | None = None
    """Of the items; None takes it from them."""
    tokens: int = Field(default=36, ge=1)
    """Most tokens of an answer."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        said = answers(subject, asked(items, self.items), self.tokens)
        return marks(
            Mark(item, "refused", None if why else float(refuses(text)), note=why)
            for item, (text, why) in zip(items["id"].to_pylist(), said, strict=True)
        )
