"""Open book: does the model use knowledge it is handed, even when it was never taught it?

The same multiple-choice items three times: with no text before the question (`accuracy_closed_book`), with a text of
the nearest length that does not hold the answer (`accuracy_irrelevant_text`), and with a text that states the fact
(`accuracy_with_text`). The second tells what text as such does; the third, minus the second, is reading. Filtering
removes the first and keeps the third: Deep Ignorance, arXiv 2508.06601, section on open-book use.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ..core import Marks, Role, Settings, Subject, require
from ..engine.choices import graded


class OpenBook(Settings):
    """Grade items with columns `id`, `question`, `choices`, `answer` and `context` (a text that states the fact)."""

    items: str = "hazard_held_out"
    """Name of an item set of the world, or a file of items."""
    role: Role | None = None
    """What knowing the answers means; None takes it from the items."""
    prompt: str = "{context} {question}"
    """What the model sees before an option when there is a text."""
    batch_size: int = Field(default=256, ge=1)
    """It changes nothing: which texts share a batch follows from the texts alone."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        rows, asked = self.asked(items)
        return graded(subject, rows, asked, batch_size=self.batch_size)

    def asked(self, items: pa.Table) -> tuple[list[dict], dict[str, list[str | None]]]:
        """Items, and for each metric their prompts. Those that begin with the same text are read with it once."""
        columns = ["id", "question", "choices", "answer", "context"]
        rows = require(items, columns, f"the items '{self.items}'").to_pylist()
        others = [
            None if text is None else self._prompt(row, text) for row, text in zip(rows, _others(rows), strict=True)
        ]
        return rows, {
            "accuracy_closed_book": [row["question"] for row in rows],
            "accuracy_irrelevant_text": others,
            "accuracy_with_text": [self._prompt(row, row["context"]) for row in rows],
        }

    def _prompt(self, row: dict, context: str) -> str:
        return self.prompt.format(context=context, question=row["question"])


def _others(rows: list[dict]) -> list[str | None]:
    """For each item, another's text of the nearest length that holds none of its right answer; None if all hold it."""
    found: list[str | None] = []
    for row in rows:
        answer, length = row["choices"][row["answer"]], len(row["context"])
        fitting = [other["context"] for other in rows if answer not in other["context"]]
        found.append(min(fitting, key=lambda text, length=length: (abs(len(text) - length), text), default=None))
    return found
