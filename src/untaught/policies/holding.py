"""Holding out: which documents of a labelled corpus nothing learns from.

Told by digests, so neither the order of files nor chance has a say, and copies (the same words, whatever the case and
the white space between) stay on one side: a text that was learned must not be what measures the learning.

    learn    what filters are made from
    choose   half of what is held out: thresholds are chosen on it
    check    the other half: what is reached is measured on it. Where nothing is chosen, all of what is held out
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..core import Corpus, Documents, UserError


@dataclass(frozen=True)
class Parts:
    """A labelled corpus in three."""

    learn: Corpus
    choose: Corpus
    check: Corpus


def parted(pool: Corpus, held_out: float, seed: int, *, choosing: bool) -> Parts:
    """Part both sides. At least one different text of each side is left to learn from, unless all are held out."""
    sides = [_side(pool.hazard, held_out, seed, choosing), _side(pool.benign, held_out, seed, choosing)]
    return Parts(*(Corpus(hazard, benign) for hazard, benign in zip(*sides, strict=True)))


def _side(table: Documents, held_out: float, seed: int, choosing: bool) -> list[Documents]:
    names = [_digest(text, seed) for text in table["text"].to_pylist()]
    ranked = sorted(set(names))
    held = ranked[: len(ranked) if held_out >= 1 else max(min(math.ceil(held_out * len(ranked)), len(ranked) - 1), 0)]
    if choosing and len(held) < 2:
        raise UserError(
            f"a threshold is chosen on half of the documents held out and measured on the other, and {len(held)}"
            f" of {len(ranked)} different texts of a side are held out. Label more, or raise 'held_out'."
        )
    half = set(held[: len(held) // 2]) if choosing else set()
    rest = set(held) - half
    part = np.array([1 if name in half else 2 if name in rest else 0 for name in names], np.int8)
    return [table.filter(pa.array(part == which)) for which in range(3)]


def _digest(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{' '.join(text.split()).casefold()}".encode()).digest()
