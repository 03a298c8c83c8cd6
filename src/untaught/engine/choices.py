"""Multiple choice by likelihood: which option does a subject find most likely after a prompt?"""

from __future__ import annotations

from collections.abc import Sequence

from ..core import Subject
from .scoring import completions


def right(
    subject: Subject,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    answers: Sequence[int],
    *,
    batch_size: int = 256,
) -> list[float | None]:
    """1 where the right option has the highest log-likelihood per token, else 0; None where any option has none."""
    pairs = [(p, f" {option}") for p, options in zip(prompts, choices, strict=True) for option in options]
    scored = iter(completions(subject, pairs, batch_size=batch_size))
    found: list[float | None] = []
    for options, answer in zip(choices, answers, strict=True):
        scores = [next(scored).nats_per_token for _ in options]
        if any(score is None for score in scores):
            found.append(None)
        else:
            found.append(float(max(range(len(scores)), key=scores.__getitem__) == answer))
    return found
