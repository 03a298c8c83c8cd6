"""Over-refusal: how often a model refuses harmless prompts, such as those that only sound dangerous.

    refused = 1 where the answer, the likeliest token each time, refuses: by a phrase, or by a guard model that tells

Each refusal is a cost, so that the role is benign and more is worse; it is `refusal` on harmless prompts. XSTest
(Röttger et al. 2023, arXiv 2308.01263) calls this exaggerated safety. Harmless prompts that sound dangerous, in our own
words, are among `asset:answers/ordinary.parquet`.
"""

from __future__ import annotations

from ..core import Role
from ._judging import Refusing


class OverRefusal(Refusing):
    """Grade items with columns `id` and `text` or `question`, which are harmless prompts."""

    items: str = "benign_text"
    """Name of an item set of the world, or a file of items."""
    role: Role | None = "benign"
    """Of the items; None takes it from them."""
