"""Refusal: how often a model refuses, such as prompts that it should refuse.

    refused = 1 where the answer, the likeliest token each time, refuses: by a phrase, or by a guard model that tells

Phrases in place of a judge as in Zou et al. 2023, arXiv 2307.15043, with a list of our own; a judge is named with
`scorer` and `form: wild_guard` (Han et al. 2024, arXiv 2406.18495). With `rated`, answers of which people said whether
they refuse, the judge's agreement with them stands beside its score. On prompts that only sound dangerous the same is a
cost: `over_refusal`.
"""

from __future__ import annotations

from ._judging import Refusing


class Refusal(Refusing):
    """Grade items with columns `id` and `text` or `question`, which are prompts."""
