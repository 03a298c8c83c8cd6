"""Multiple choice by likelihood: the option with the highest log-likelihood per token after the question is taken.

    taken = argmax over options of  log p(option | question) / tokens(option)

Two metrics an item: `accuracy`, and `accuracy_option_only`, where the question is hidden and only the options compete;
what can be guessed from the options alone says nothing of knowledge. Chance is 1 / options. Scoring as
lm-evaluation-harness does for `acc_norm`, per token where it divides by bytes.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ..core import Marks, Role, Settings, Subject, require
from ..engine.choices import graded


class MultipleChoice(Settings):
    """Grade items with columns `id`, `question`, `choices`, `answer` (an index)."""

    items: str = "hazard_held_out"
    """Name of an item set of the world, or a file of items."""
    role: Role | None = None
    """What knowing the answers means; None takes it from the items."""
    prompt: str = "{question}"
    """What the model sees before an option; options follow after a space."""
    blind: str = "The answer is"
    """What it sees instead when the question is hidden."""
    batch_size: int = Field(default=256, ge=1)
    """Texts scored together; it changes no mark."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        rows = require(items, ["id", "question", "choices", "answer"], f"the items '{self.items}'").to_pylist()
        asked = {
            "accuracy": [self.prompt.format(question=row["question"]) for row in rows],
            "accuracy_option_only": [self.blind] * len(rows),
        }
        return graded(subject, rows, asked, batch_size=self.batch_size)
