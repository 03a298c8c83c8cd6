"""Items with choices: checked, dealt to folds by chance of their names, and told apart by lines.

A line is a ridge regression, right = 1 and wrong = 0, on standardised rows. `Lines.asked` answers every fold by lines
that the other folds taught: the view (a block, say) and the strength are those that do best where each of the other
folds is left out in turn. What a fold left out gets needs no new fit:

    left out = Y_B - (1 - H_BB)^-1 (Y_B - (H Y)_B)        H = K (K + strength)^-1, K = rows rows^T

(the block form of leave-one-out, Golub, Heath and Wahba 1979).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ..core import UserError, require
from ..corpus.world import problem_of

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
Row: TypeAlias = Mapping[str, Any]


def of_choices(items: pa.Table, name: str) -> list[dict[str, Any]]:
    """Rows of items with choices, or a `UserError` that names the first that cannot be asked."""
    rows = require(items, ["id", "question", "choices", "answer"], f"the items '{name}'").to_pylist()
    seen: set[Any] = set()
    for row in rows:
        problem = "shares its id with another. Ids must differ" if row["id"] in seen else problem_of(row)
        if problem:
            raise UserError(f"the items '{name}': item '{row['id']}' {problem}.")
        seen.add(row["id"])
    return rows


def answer_of(row: Row, name: str) -> str:
    """The right answer's text."""
    answer, choices = row["answer"], row.get("choices")
    if isinstance(answer, int) and choices and 0 <= answer < len(choices):
        answer = choices[answer]
    if not (isinstance(answer, str) and answer.strip()):
        raise UserError(
            f"the items '{name}': item '{row['id']}' has the answer {row['answer']!r}. Give a text, or the index of"
            " one in a column 'choices'."
        )
    return answer


def dealt(names: Sequence[str]) -> np.ndarray:
    """A fold for each name, the same for the same names, whatever stands beside them in whatever order."""
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    place = {name: turn % FOLDS for turn, name in enumerate(order)}
    return np.array([place[name] for name in names], int)


def luck(row: Row, purpose: str) -> random.Random:
    """Chance that an item's id and choices alone decide, the same for every model."""
    told = "\0".join([purpose, str(row["id"]), *row["choices"]])
    return random.Random(hashlib.sha256(told.encode()).hexdigest())


@dataclass(frozen=True, eq=False)
class Lines:
    """How lines are asked which option of each fact is right, and where they write what they find."""

    facts: np.ndarray
    """The fact of each row, (rows,)."""
    places: np.ndarray
    """Where the score of a fact's option stands, (facts, most options, 2): row and column; -1 where there is none."""
    folds: np.ndarray
    """(facts,)."""
    sound: np.ndarray
    """Facts that may be asked, and may teach, (facts,)."""

    @classmethod
    def of_options(cls, rows: Sequence[Row], sound: np.ndarray) -> Lines:
        """A row an option, and one column."""
        counts, places = [len(row["choices"]) for row in rows], _places(rows)
        there, first = places[..., 1] >= 0, np.cumsum([0, *counts[:-1]])
        places = np.stack([np.where(there, first[:, None] + places[..., 1], -1), np.where(there, 0, -1)], -1)
        return cls(np.repeat(np.arange(len(rows)), counts), places, _folds(rows), sound)

    @classmethod
    def of_answers(cls, rows: Sequence[Row], sound: np.ndarray) -> Lines:
        """A row a fact, and a column for each text that is an option."""
        columns = {text: place for place, text in enumerate(sorted({one for row in rows for one in row["choices"]}))}
        places = _places(rows)
        for fact, row in enumerate(rows):
            places[fact, : len(row["choices"]), 1] = [columns[one] for one in row["choices"]]
        return cls(np.arange(len(rows)), places, _folds(rows), sound)

    def asked(self, views: Sequence[np.ndarray], *answers: np.ndarray) -> list[np.ndarray]:
        """For each array of right options, (facts,), whether lines that were taught it find them: 1 or 0 for each fact,
        a share where some options are equal, NaN where too few others could teach.
        """
        found = [np.full(len(self.folds), np.nan) for _ in answers]
        whole = np.concatenate([self._targets(rights) for rights in answers], 1)
        width = whole.shape[1] // len(answers)
        for fold in range(FOLDS):
            inside, outside = self.sound & (self.folds != fold), self.sound & (self.folds == fold)
            if inside.sum() < FOLDS or len(set(self.folds[inside].tolist())) < 2 or not outside.any():
                continue
            rows, asked = inside[self.facts], outside[self.facts]
            tried = [one for view in views for one in _fitted(view, whole, rows, asked, self.folds[self.facts])]
            for place, rights in enumerate(answers):
                own = slice(place * width, (place + 1) * width)
                inner = [float(self._right(scores[:, own], rights)[inside].mean()) for scores, _ in tried]
                best = inner.index(max(inner))
                found[place][outside] = self._right(tried[best][1][:, own], rights)[outside]
        return found

    def _targets(self, rights: np.ndarray) -> np.ndarray:
        """What each row should give, (rows, columns); the rows of a fact that has several sum to 0."""
        found = np.zeros((len(self.facts), int(self.places[..., 1].max()) + 1))
        if len(self.facts) > len(rights):
            found[:, 0] = -1 / (self.places[..., 1] >= 0).sum(1)[self.facts]
        row, column = self.places[np.arange(len(rights)), rights].T
        found[row, column] += 1
        return found

    def _right(self, scores: np.ndarray, rights: np.ndarray) -> np.ndarray:
        """Whether each fact's right option has its highest score, from scores (rows, columns)."""
        taken = np.where(self.places[..., 1] >= 0, scores[self.places[..., 0], self.places[..., 1]], -np.inf)
        top = taken >= taken.max(1, keepdims=True)
        return top[np.arange(len(top)), rights] / top.sum(1)


def centred(values: np.ndarray, facts: np.ndarray) -> np.ndarray:
    """Rows less the mean of their fact's rows: what the options of a question share is gone."""
    sums, counts = np.zeros((int(facts.max()) + 1, values.shape[1])), np.bincount(facts)
    np.add.at(sums, facts, values)
    return values - (sums / counts[:, None])[facts]


def rights_of(rows: Sequence[Row]) -> np.ndarray:
    """The right option of each fact."""
    return np.array([row["answer"] for row in rows], int)


def by_lot(rows: Sequence[Row], draw: int) -> np.ndarray:
    """An option of each fact, drawn by lot: the right ones of a control task."""
    return np.array([luck(row, f"lot {draw}").randrange(len(row["choices"])) for row in rows], int)


def _fitted(
    view: np.ndarray, targets: np.ndarray, rows: np.ndarray, asked: np.ndarray, folds: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each strength two tables of scores: of `rows` where their fold is left out, and of those that are asked.

    Each column weighs the same, so that an option which is right more often is not taken for that.
    """
    mean, spread = view[rows].mean(0), view[rows].std(0)
    plain = (view - mean) / np.maximum(spread, 1e-6) / np.sqrt(view.shape[1])
    left, values, right = np.linalg.svd(plain[rows], full_matrices=False)
    own, groups = targets[rows] / np.maximum(np.maximum(targets[rows], 0).sum(0), 1), folds[rows]
    told, found = left.T @ own, []
    for strength in STRENGTHS:
        shrunk = values**2 / (values**2 + strength)
        fit, out = left @ (shrunk[:, None] * told), np.empty_like(own)
        for fold in np.unique(groups):
            block = groups == fold
            hat = (left[block] * shrunk) @ left[block].T
            out[block] = own[block] - np.linalg.solve(np.eye(len(hat)) - hat, own[block] - fit[block])
        inner, outer = np.zeros_like(targets), np.zeros_like(targets)
        inner[rows] = out
        outer[asked] = plain[asked] @ (right.T @ ((values / (values**2 + strength))[:, None] * told))
        found.append((inner, outer))
    return found


def _places(rows: Sequence[Row]) -> np.ndarray:
    """A place for every option: its fact, and its number; -1 where a fact has fewer options than another."""
    found = np.full((len(rows), max((len(row["choices"]) for row in rows), default=0), 2), -1)
    for fact, row in enumerate(rows):
        count = len(row["choices"])
        found[fact, :count, 0], found[fact, :count, 1] = fact, np.arange(count)
    return found


def _folds(rows: Sequence[Row]) -> np.ndarray:
    """Items that ask the same fact lie in one fold."""
    return dealt([" ".join(str(row.get("fact") or row["question"]).casefold().split()) for row in rows])
