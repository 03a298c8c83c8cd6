"""Probe: can the right answer be read from a model's states by a probe that is fitted now, to other facts?

    accuracy          1 where a linear probe that other facts taught finds the right option of this one
    accuracy_words    the same of a probe of the words: what can be told without any model
    accuracy_control  the same of a probe of the states that is taught, and asked, options that were drawn by lot
    selectivity       accuracy - accuracy_control

Two forms, and the items decide which, so that every model is asked alike:

    answer      score(option) = <W[option], state before the answer>             where answers come again
    statement   score(option) = <w, state at the option's end - mean over the question's options>

The facts are dealt to five folds; each is asked by a probe of the others, which also choose its block and strength
(`_items.py`). What a method hid from probes that it knew of, one that is fitted afterwards finds. What was never taught
none can find: no fact follows from another. Marks are of all options of a question, so chance is 1 / options, and the
control shows what it is with so few facts.

Linear probes: Alain and Bengio 2016, arXiv 1610.01644; truth of statements: Azaria and Mitchell 2023, arXiv 2304.13734.
Control tasks and selectivity: Hewitt and Liang 2019, arXiv 1909.03368. There a word has its lot wherever it stands, and
the control tells how much a probe learns by heart; here no fact is asked that taught, and it tells luck and leaks. A
probe that finds nothing proves little: knowledge need not lie along a line, nor at the places that are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import MESSAGES, Mark, Marks, Role, Settings, Subject, UserError, marks
from ._items import FOLDS, Lines, Row, by_lot, centred, of_choices, rights_of
from ._judge import Words

Form: TypeAlias = Literal["answer", "statement"]
AGAIN = 3
"""Facts that share an answer, at least, for it to be learned from others."""
LOTS = 5
"""Draws of the control, whose mark is the mean over them."""
FEW = "too few other facts could be read"


class Probe(Settings):
    """Grade items with columns `id`, `question`, `choices`, `answer` (an index); `fact`, where several ask the same."""

    items: str = "hazard_held_out"
    """Name of an item set of the world, or a file of items."""
    role: Role | None = None
    """What it means that the answers are found; None takes it from the items."""
    form: Form | None = None
    """What a probe is asked. None: `answer` where most items have an answer that three or more have, else
    `statement`."""
    layers: tuple[int | float, ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    """Blocks whose outputs are read: indices, or fractions of the depth."""
    prompt: str = "{question}"
    """What the model sees before an option, which follows after a space."""
    batch_size: int = Field(default=256, ge=1)
    """It changes nothing: which texts share a batch follows from the texts alone."""

    def grade(self, subject: Subject, items: pa.Table) -> Marks:
        rows = of_choices(items, self.items)
        if len(rows) < FOLDS:
            raise UserError(f"a probe is asked on {FOLDS} folds, and '{self.items}' has {len(rows)} items. Give more.")
        form = self.form or _fitting(rows)
        views, causes = self._states(subject, rows, form)
        sound = np.array([cause is None for cause in causes], bool)
        lines = Lines.of_answers(rows, sound) if form == "answer" else Lines.of_options(rows, sound)
        right, lots = rights_of(rows), [by_lot(rows, draw) for draw in range(LOTS)]
        own, *control = lines.asked(views, right, *lots)
        [words] = lines.asked([_words(rows, form, lines)], right)
        found = {"accuracy": own, "accuracy_words": words, "accuracy_control": np.mean(control, 0)}
        found["selectivity"] = found["accuracy"] - found["accuracy_control"]
        return marks(
            Mark(
                row["id"],
                metric,
                None if np.isnan(value) else float(value),
                None if metric == "selectivity" else 1 / len(row["choices"]),
                (cause or FEW) if np.isnan(value) else None,
            )
            for metric, values in found.items()
            for row, value, cause in zip(rows, values, causes, strict=True)
        )

    def _states(self, subject: Subject, rows: Sequence[Row], form: Form) -> tuple[list[np.ndarray], list[str | None]]:
        """What a probe looks at, a table a block; and why some facts cannot be read."""
        from ..engine.features import depths, features
        from ..engine.scoring import completions

        prompts = [self.prompt.format(question=row["question"]) for row in rows]
        pairs = [(prompt, f" {row['choices'][row['answer']]}") for prompt, row in zip(prompts, rows, strict=True)]
        scored = completions(subject, pairs, batch_size=self.batch_size, names=[row["id"] for row in rows])
        causes = [None if one.nats is not None else "no finite score" for one in scored]
        said = [["?"] if form == "answer" else row["choices"] for row in rows]
        facts = np.repeat(np.arange(len(rows)), [len(own) for own in said])
        told = _examples([(prompts[fact], one) for fact, own in enumerate(said) for one in own])
        layers = list(dict.fromkeys(depths(subject, self.layers)))
        read = features(subject, told, layers, "header" if form == "answer" else "last")
        for fact, cause in zip(facts, read.causes, strict=True):
            causes[fact] = causes[fact] or cause
        views = [read.values[:, place].astype(np.float64) for place in range(len(layers))]
        return [view if form == "answer" else centred(view, facts) for view in views], causes


def _fitting(rows: Sequence[Row]) -> Form:
    """The form in which items can be asked."""
    answers = Counter(row["choices"][row["answer"]] for row in rows)
    return "answer" if sum(n for n in answers.values() if n >= AGAIN) > len(rows) / 2 else "statement"


def _words(rows: Sequence[Row], form: Form, lines: Lines) -> np.ndarray:
    """What a probe of the words looks at: those of the question, or of the question with each option."""
    if form == "answer":
        texts = [row["question"] for row in rows]
        return Words.of(texts).rows(texts)
    texts = [f"{row['question']} {option}" for row in rows for option in row["choices"]]
    lengths = np.log([[len(option)] for row in rows for option in row["choices"]])
    return centred(np.concatenate([Words.of(texts).rows(texts), lengths], 1), lines.facts)


def _examples(asked: Sequence[tuple[str, str]]) -> pa.Table:
    """Prompts and answers as examples."""
    from ..engine.examples import conversation

    told: list[Any] = [conversation(prompt, answer) for prompt, answer in asked]
    return pa.table({"text": [answer for _, answer in asked], "messages": pa.array(told, MESSAGES)})
