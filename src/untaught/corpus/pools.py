"""Pools: fine-tuning data with a known share of hazard, drawn from labelled examples so that length tells nothing.

    easy            the rest is ordinary questions with ordinary answers (kind `benign`)
    hard            the rest is harmless answers to risky prompts (kind `safe`): only the answer differs
    mixed           half and half, which is closest to data that people collect
    genre:NAME      the rest is ordinary and of one source: a control that flatters, never a test by itself

Hazard is drawn by chance. The rest is drawn so that its counts on a grid of prompt length by answer length, in words,
are those of the hazard; a cell that has too few is filled from the nearest that has some. What the match cannot mend,
`confounds` says.

The same documents, settings and generator state give the same pool, whatever order the documents come in.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from ..core import MESSAGES, Documents, Settings, UserError, require
from ..core.ranking import auroc

ASSISTANT = "assistant"
COLUMNS = ("id", "text", "messages", "hazard", "labelled", "kind", "source", "category", "prompt")
"""Columns of a pool; `category` where the documents have it."""
NEEDED = ("id", "messages", "hazard", "kind", "source", "prompt")
"""Columns of what it is drawn from. `prompt` is equal where the prompts are."""
PRESETS = {"easy": {"benign": 1.0}, "hard": {"safe": 1.0}, "mixed": {"safe": 0.5, "benign": 0.5}}
GENRE = "genre:"
LEAST = 6
"""Words of an answer below which an example is left out."""
GRID = (5, 4)
"""Cells by length of the prompt and of the answer: quantiles of all that could be drawn."""


class Pool(Settings):
    """A pool to be drawn."""

    size: int = Field(320, ge=2)
    """Examples."""
    contamination: float = Field(0.1, gt=0, lt=1)
    """Share of them that is hazard."""
    clean: str | dict[str, float] = "mixed"
    """What the rest is: easy, mixed, hard, genre:NAME, or a table of kinds and genres to shares that add up to 1."""
    matched: bool = True
    """Whether the rest has the hazard's lengths."""
    words: int | None = Field(32, ge=LEAST)
    """Words at which answers are cut (null: not at all)."""
    prompt_words: int | None = Field(64, ge=1)
    """Words of a prompt above which an example is left out (null: none is)."""
    part: str | None = "pool"
    """Only documents whose column `part` says so, where there is one (null: of any part)."""
    labelled: int = Field(0, ge=0)
    """Examples of the pool whose label a filter may see, by chance."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        named = self.clean if isinstance(self.clean, str) else "easy"
        if named not in PRESETS and (not named.startswith(GENRE) or named == GENRE):
            raise ValueError(f"'clean' is '{named}' and should be {', '.join(PRESETS)}, genre:NAME or a table")
        shares = self.shares.values()
        if min(shares, default=-1) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError("the shares in 'clean' should be above 0 and add up to 1")
        if not 0 < self.hazards < self.size:
            raise ValueError(f"{self.size} examples at a contamination of {self.contamination} leave one side empty")
        if self.labelled > self.size:
            raise ValueError(f"{self.labelled} labelled examples are more than the {self.size} of the pool")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Kinds of the clean part, with their shares."""
        if isinstance(self.clean, dict):
            return self.clean
        return PRESETS.get(self.clean, {self.clean: 1.0})

    @property
    def hazards(self) -> int:
        """How many examples are hazard."""
        return round(self.size * self.contamination)


def draw(settings: Pool, docs: Documents, rng: np.random.Generator) -> Documents:
    """A pool, in an order of chance. Columns are `COLUMNS`; answers are cut."""
    docs = eligible(settings, docs)
    taken = _chosen(settings, docs, settings.hazards, settings.size - settings.hazards, rng)
    pool = docs.take(pa.array(rng.permutation(taken)))
    seen = np.isin(np.arange(settings.size), rng.permutation(settings.size)[: settings.labelled])
    if "labelled" in pool.column_names:
        pool = pool.drop_columns(["labelled"])
    pool = pool.append_column("labelled", pa.array(seen))
    return pool.select([name for name in COLUMNS if name in pool.column_names]).combine_chunks()


def eligible(settings: Pool, docs: Documents) -> Documents:
    """What a pool may be drawn from, by id: the right part, neither too long nor too short, answers cut."""
    require(docs, NEEDED, "what a pool is drawn from")
    if settings.part is not None and "part" in docs.column_names:
        docs = docs.filter(pa.array([part == settings.part for part in docs["part"].to_pylist()], pa.bool_()))
    docs = docs.take(pa.array(np.argsort(np.array(docs["id"].to_pylist(), dtype=object)), pa.int64()))
    told = [[_cut(turn, settings.words) for turn in turns or ()] for turns in docs["messages"].to_pylist()]
    cut = {
        "messages": pa.array(told, MESSAGES),
        "text": pa.array(["\n".join(turn["content"] for turn in turns) for turns in told], pa.string()),
    }
    for name, column in cut.items():
        place = docs.schema.get_field_index(name)
        docs = docs.append_column(name, column) if place < 0 else docs.set_column(place, name, column)
    asked, answered = _lengths(docs).T
    most = np.inf if settings.prompt_words is None else settings.prompt_words
    return docs.filter(pa.array((asked <= most) & (answered >= LEAST)))


def beside(settings: Pool, docs: Documents, pool: Documents) -> Documents:
    """What could have been drawn and shares no prompt with a pool: known examples, for who may have some."""
    used = set(pool["prompt"].to_pylist())
    docs = eligible(settings, docs)
    return docs.filter(pa.array([prompt not in used for prompt in docs["prompt"].to_pylist()], pa.bool_()))


class Known(Settings):
    """Examples beside a pool that are known for what they are, and share no prompt with it."""

    hazard: int = Field(20, ge=0)
    """Known harmful ones."""
    clean: int = Field(100, ge=0)
    """Known clean ones."""
    of: str | dict[str, float] | None = None
    """Kinds of the clean ones, as in the pool's `clean`. None: the same as there."""


def known(settings: Pool, wanted: Known, docs: Documents, pool: Documents, rng: np.random.Generator) -> Documents:
    """Known examples for a pool, drawn as it was: of its kinds, with lengths matched."""
    rest = beside(settings, docs, pool)
    if wanted.of is not None:
        settings = Pool.settle(settings.model_dump(include={*Pool.model_fields}) | {"clean": wanted.of}, "known")
    chosen = _chosen(settings, rest, wanted.hazard, wanted.clean, rng, "known, beside the pool")
    found = rest.take(pa.array(chosen, pa.int64()))
    return found.select([name for name in COLUMNS if name in found.column_names and name != "labelled"])


def confounds(pool: Documents) -> dict[str, Any]:
    """What tells hazard in a pool without anybody reading an answer.

    answer_words, prompt_words   AUROC of the length alone, more words = hazard (0.5: it says nothing; null: one side)
    repeated_prompts             share of examples whose prompt another one has too
    two_sided_prompts            share of hazard whose prompt has a harmless answer too
    sources                      source to how many examples of hazard and of the rest
    """
    require(pool, NEEDED, "the pool")
    hazard = pool["hazard"].to_numpy(zero_copy_only=False).astype(bool)
    asked, answered = _lengths(pool).T
    prompts, sources = (np.array(pool[name].to_pylist(), dtype=object) for name in ("prompt", "source"))
    times, clean = Counter(prompts), set(prompts[~hazard])
    both = bool(hazard.any() and not hazard.all())
    sides = {source: hazard[sources == source] for source in sorted(set(sources), key=str)}
    return {
        "answer_words": auroc(answered[hazard], answered[~hazard]) if both else None,
        "prompt_words": auroc(asked[hazard], asked[~hazard]) if both else None,
        "repeated_prompts": float(np.mean([times[prompt] > 1 for prompt in prompts])) if len(prompts) else None,
        "two_sided_prompts": float(np.mean([p in clean for p in prompts[hazard]])) if hazard.any() else None,
        "sources": {name: {"hazard": int(side.sum()), "rest": int((~side).sum())} for name, side in sides.items()},
    }


def _chosen(
    settings: Pool, docs: Documents, hazards: int, others: int, rng: np.random.Generator, beside: str | None = None
) -> np.ndarray:
    """Rows of so much hazard by chance, and so many others, of the pool's kinds and with the hazard's lengths."""
    hazard = docs["hazard"].to_numpy(zero_copy_only=False).astype(bool)
    cells = _cells(_lengths(docs))
    inside = _some(np.flatnonzero(hazard), hazards, rng, "hazard", settings, beside)
    taken = [inside]
    left = ~hazard
    for kind, count in zip(settings.shares, _dealt(others, np.array([*settings.shares.values()])), strict=True):
        choice = np.flatnonzero(left & _is_of(kind, docs))
        if settings.matched and len(inside) and count <= len(choice):
            some = choice[_matched(cells[inside], cells[choice], count, rng)]
        else:
            some = _some(choice, count, rng, kind, settings, beside)
        left[some] = False
        taken.append(some)
    return np.concatenate(taken)


def _cut(turn: dict[str, str], words: int | None) -> dict[str, str]:
    """A turn, what the assistant says cut after so many words; the space between them stays as it is."""
    told = turn | {"content": turn["content"] or ""}
    if turn["role"] != ASSISTANT or words is None:
        return told
    start = re.match(rf"\s*(?:\S+\s+){{0,{words - 1}}}\S*", told["content"])
    return told if start is None else told | {"content": start[0].rstrip()}


def _lengths(docs: Documents) -> np.ndarray:
    """Words of the prompt and of the answer, (n, 2)."""
    rows = []
    for turns in docs["messages"].to_pylist():
        words = [(turn["role"] == ASSISTANT, len(turn["content"].split())) for turn in turns]
        rows.append([sum(count for answers, count in words if answers == side) for side in (False, True)])
    return np.array(rows, np.int64).reshape(-1, 2)


def _cells(lengths: np.ndarray) -> np.ndarray:
    """The cell that each lies in, by prompt and answer, (n, 2)."""
    found = np.zeros_like(lengths)
    for side, parts in enumerate(GRID):
        if len(lengths):
            edges = np.unique(np.quantile(lengths[:, side], np.arange(1, parts) / parts))
            found[:, side] = np.digitize(lengths[:, side], edges)
    return found


def _matched(wanted: np.ndarray, there: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of so many of `there`, whose cells are in the shares of `wanted` as far as there are enough."""
    kinds, times = np.unique(wanted, axis=0, return_counts=True)
    free = rng.permutation(len(there))
    taken: list[np.ndarray] = []
    short: list[tuple[np.ndarray, int]] = []
    for cell, quota in zip(kinds, _dealt(count, times), strict=True):
        own = free[(there[free] == cell).all(axis=1)][:quota]
        free = free[~np.isin(free, own)]
        taken.append(own)
        short.append((cell, quota - len(own)))
    for cell, lacking in short:
        far = np.abs(there[free] - cell).sum(axis=1)
        nearest = free[np.argsort(far, kind="stable")[:lacking]]
        free = free[~np.isin(free, nearest)]
        taken.append(nearest)
    return np.concatenate(taken)


def _dealt(count: int, shares: np.ndarray) -> list[int]:
    """A number in whole parts that are nearest to shares (largest remainders; of equal ones the first)."""
    exact = count * shares / shares.sum()
    parts = np.floor(exact + 1e-9).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: count - parts.sum()]] += 1
    return parts.tolist()


def _is_of(kind: str, docs: Documents) -> np.ndarray:
    """Whether each is of a kind, or ordinary and of a genre."""
    column, wanted = ("source", kind.removeprefix(GENRE)) if kind.startswith(GENRE) else ("kind", kind)
    found = np.array([value == wanted for value in docs[column].to_pylist()], bool)
    if column == "source":
        found &= np.array([value == "benign" for value in docs["kind"].to_pylist()], bool)
    return found


def _some(
    choice: np.ndarray, count: int, rng: np.random.Generator, kind: str, settings: Pool, beside: str | None
) -> np.ndarray:
    """So many by chance, or an error that says how many there are."""
    if count > len(choice):
        where = mend = ""
        if settings.part is not None:
            where, mend = f" in the part '{settings.part}'", ", or set 'part' to null"
        prompt = "with a short enough prompt" + (" that the pool does not have" if beside else "")
        lower = "'known', or 'size'" if beside else "'size'"
        raise UserError(
            f"a pool of {settings.size} with a contamination of {settings.contamination} needs {count} examples of"
            f" '{kind}'{f' {beside},' if beside else ','} and there are {len(choice)}{where} {prompt} and at least"
            f" {LEAST} words of answer. Lower {lower}, or change 'contamination' or 'clean'{mend}."
        )
    return rng.permutation(choice)[:count]
