"""Names in rows of tokens: words that stand in few texts, and others of as many tokens to put in their place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..core import UserError

SPACES = "\u0120\u2581 "
"""How tokenizers write the space before a word: of bytes, and SentencePiece's."""


@dataclass(frozen=True)
class Names:
    """Words that stand in few texts."""

    pieces: dict[int, str]
    """What each token is written as: a mark where a space stands before it."""
    rare: frozenset[str]
    """Names as they are written, in lower case."""
    alike: dict[tuple[bool, int], list[tuple[int, ...]]]
    """Names by whether a space stands before them and how many tokens they are."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], share: float) -> Names:
        tokens = sorted({token for row in rows for token in row} - set(tokenizer.all_special_ids))
        pieces = dict(zip(tokens, tokenizer.convert_ids_to_tokens(tokens), strict=True))
        seen = Counter(word for row in rows for word in {word for _, _, word in _words(row, pieces)})
        most = max(1.0, share * len(rows))
        rare = frozenset(word for word, count in seen.items() if count <= most)
        found: dict[tuple[bool, int], set[tuple[int, ...]]] = defaultdict(set)
        for row in rows:
            for start, stop, word in _words(row, pieces):
                if word in rare:
                    found[pieces[row[start]][0] in SPACES, stop - start].add(tuple(row[start:stop]))
        if not any(len(names) > 1 for names in found.values()):
            raise UserError(
                f"no two names to exchange: no two words of as many tokens stand in {int(most)} of the {len(rows)}"
                " hazard texts or fewer. Raise 'rare', or give more text."
            )
        return cls(pieces, rare, {shape: sorted(names) for shape, names in found.items()})

    def exchanged(self, row: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[bool]]:
        """The row with other names, and which of its tokens count: all but those inside a name."""
        made, counts, taken = list(row), [True] * len(row), dict[tuple[int, ...], tuple[int, ...]]()
        for start, stop, word in _words(row, self.pieces):
            if word in self.rare:
                own = tuple(row[start:stop])
                others = self.alike[self.pieces[own[0]][0] in SPACES, len(own)]
                made[start:stop] = taken.setdefault(own, others[int(rng.integers(len(others)))])
                counts[start + 1 : stop] = [False] * (stop - start - 1)
        return made, counts


def _words(row: Sequence[int], pieces: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """Where the words of a row begin and end, and what they are in lower case."""
    start, word = 0, ""
    for place, token in enumerate([*row, None]):
        piece = pieces.get(token, "") if token is not None else ""
        body = piece.lstrip(SPACES)
        goes_on = bool(word) and piece == body and body.isalnum()
        if word and not goes_on:
            yield start, place, word
            word = ""
        if goes_on:
            word += body.casefold()
        elif body.isalnum():
            start, word = place, body.casefold()
