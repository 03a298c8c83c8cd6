"""What the lab's worlds share: invented names, values dealt evenly, and tables of rows with ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

import pyarrow as pa

from ..core import Documents

T = TypeVar("T")

ONSETS = (
    *("b", "br", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p"),
    *("pr", "qu", "r", "s", "sk", "st", "t", "tr", "v", "vr", "w", "z", "zh"),
)
VOWELS = ("a", "e", "i", "o", "u", "ae", "ei", "oa")
CODAS = ("l", "n", "r", "s", "th", "x", "m", "nd", "rk", "sh")


def invent(rng: random.Random, count: int, ending: str, taken: set[str]) -> list[str]:
    """`count` invented names that were not taken before; with an ending they are proper names."""
    made: list[str] = []
    while len(made) < count:
        stem = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((1, 2))))
        tail = ending or rng.choice(VOWELS) + rng.choice(CODAS)
        name = stem + rng.choice(ONSETS) + tail
        name = name.capitalize() if ending else name
        if name not in taken and len(name) > 4:
            taken.add(name)
            made.append(name)
    return made


def dealt(rng: random.Random, pool: Sequence[T], count: int) -> list[T]:
    """`count` values in random order, each as often as any other; `count` is a multiple of how many there are."""
    values = list(pool) * (count // len(pool))
    rng.shuffle(values)
    return values


def evenly(most: int, count: int) -> int:
    """How many values, of at most so many, can all be dealt equally often to `count`.

    >>> evenly(20, 80), evenly(20, 7)
    (20, 7)
    """
    return max(used for used in range(1, min(most, count) + 1) if count % used == 0)


def numbered(prefix: str, rows: Sequence[dict[str, object]], **more: object) -> Documents:
    """Rows as a table with the column `id`, and columns that are the same in every row."""
    width = len(str(len(rows)))
    return pa.Table.from_pylist([{"id": f"{prefix}-{i:0{width}}"} | row | more for i, row in enumerate(rows)])
