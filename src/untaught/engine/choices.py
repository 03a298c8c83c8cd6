"""Multiple choice by likelihood: which option does a subject find most likely after a prompt?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ..core import Mark, Marks, Subject, marks
from .scoring import Completion, completions

Per: TypeAlias = Literal["token", "character", "byte", "none"]
"""What an option's log-likelihood is divided by: its tokens, characters, bytes of UTF-8, or nothing."""
NO_SCORE = "no finite score"
NO_PROMPT = "nothing fitting to ask it with"


def graded(
    subject: Subject,
    items: Sequence[Mapping[str, Any]],
    asked: Mapping[str, Sequence[str | None]],
    *,
    batch_size: int,
    per: Per = "token",
) -> Marks:
    """A mark for each metric and item: 1 where the right option has the highest log-likelihood, else 0.

    `items` have `id`, `choices` and `answer` (an index); `asked` has a prompt an item for each metric. A mark is
    missing where there is no prompt, or where any option has no finite score.
    """
    questions = [
        (prompt, item["choices"]) for prompts in asked.values() for prompt, item in zip(prompts, items, strict=True)
    ]
    names = [item["id"] for _ in asked for item in items]
    found = iter(taken(subject, questions, batch_size=batch_size, per=per, names=names))

    def mark(metric: str, item: Mapping[str, Any]) -> Mark:
        chance, choice = 1 / len(item["choices"]), next(found)
        if isinstance(choice, str):
            return Mark(item["id"], metric, None, chance, choice)
        return Mark(item["id"], metric, float(choice == item["answer"]), chance)

    return marks(mark(metric, item) for metric in asked for item in items)


def taken(
    subject: Subject,
    questions: Sequence[tuple[str | None, Sequence[str]]],
    *,
    batch_size: int,
    per: Per = "token",
    names: Sequence[str] | None = None,
) -> list[int | str]:
    """Of each prompt's options the likeliest, the first of equal ones; or the cause why there is none.

    An option follows its prompt after a space, which `per` does not count. `names` are what messages call the
    questions.
    """
    called = [
        name
        for (prompt, options), name in zip(questions, names or [""] * len(questions), strict=True)
        if prompt is not None
        for _ in options
    ]
    pairs = [(prompt, f" {option}") for prompt, options in questions if prompt is not None for option in options]
    scored = iter(completions(subject, pairs, batch_size=batch_size, names=called if names else None))
    found: list[int | str] = []
    for prompt, options in questions:
        if prompt is None:
            found.append(NO_PROMPT)
            continue
        scores = [_score(next(scored), option, per) for option in options]
        known = [score for score in scores if score is not None]
        found.append(known.index(max(known)) if len(known) == len(scores) else NO_SCORE)
    return found


def _score(scored: Completion, option: str, per: Per) -> float | None:
    """An option's log-likelihood, divided as `per` says."""
    if scored.nats is None or per == "token":
        return scored.nats_per_token
    length = {"character": len(option), "byte": len(option.encode()), "none": 1}[per]
    return scored.nats / max(length, 1)
