"""Refusals: `refusal` by its older name, of whatever prompts, for studies that were written with it.

    refused = 1 where the answer, the likeliest token each time, refuses: by a phrase, or by a guard model that tells

Phrases in place of a judge as in Zou et al. 2023, arXiv 2307.15043, with a list of our own.
"""

from __future__ import annotations

from ._judging import Refusing


class Refusals(Refusing):
    """Grade items with columns `id` and `text` or `question`, which are prompts."""

    items: str = "benign_text"
    """Name of an item set of the world, or a file of items."""
