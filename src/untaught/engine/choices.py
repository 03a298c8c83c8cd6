"""Multiple choice by likelihood: which option does a subject find most likely after a prompt?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import Mark, Marks, Subject, marks
from .scoring import completions


def graded(
    subject: Subject, items: Sequence[Mapping[str, Any]], asked: Mapping[str, Sequence[str | None]], *, batch_size: int
) -> Marks:
    """A mark for each metric and item: 1 where the right option has the highest log-likelihood per token, else 0.

    `items` have `id`, `choices` and `answer` (an index); `asked` has a prompt an item for each metric. A mark is
    missing where there is no prompt, or where any option has no finite score.
    """
    pairs = [
        (prompt, f" {option}")
        for prompts in asked.values()
        for prompt, item in zip(prompts, items, strict=True)
        if prompt is not None
        for option in item["choices"]
    ]
    scored = iter(completions(subject, pairs, batch_size=batch_size))

    def mark(metric: str, prompt: str | None, item: Mapping[str, Any]) -> Mark:
        chance = 1 / len(item["choices"])
        if prompt is None:
            return Mark(item["id"], metric, None, chance, "nothing fitting to ask it with")
        scores = [next(scored).nats_per_token for _ in item["choices"]]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return Mark(item["id"], metric, None, chance, "no finite score")
        return Mark(item["id"], metric, float(known.index(max(known)) == item["answer"]), chance)

    return marks(
        mark(metric, prompt, item)
        for metric, prompts in asked.items()
        for prompt, item in zip(prompts, items, strict=True)
    )
