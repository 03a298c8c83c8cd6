"""Which texts are most like a prompt: those that share the words with it that few texts have.

    score(text) = sum over words in both of log(texts / texts with this word)

Spärck Jones 1972, "A statistical interpretation of term specificity and its application in retrieval". Differs: how
often a word stands in a text counts nothing, nor does the text's length.
"""

from __future__ import annotations

import functools
import math
import re


def nearest(texts: tuple[str, ...], prompt: str, count: int) -> list[str]:
    """The `count` texts with the highest scores, the best last; among equal ones the first. All of them in their own
    order where `count` is that many; none where the prompt has no words.

    >>> nearest(("the red fox", "the old owl", "the red owl"), "Where is the fox?", 1)
    ['the red fox']
    """
    wanted = _words(prompt)
    if not wanted or count >= len(texts):
        return list(texts) if wanted else []
    index, scores = _index(texts), [0.0] * len(texts)
    for word in sorted(wanted & index.keys()):
        for place in index[word]:
            scores[place] += math.log(len(texts) / len(index[word]))
    best = sorted(range(len(texts)), key=lambda place: -scores[place])[:count]
    return [texts[place] for place in reversed(best)]


@functools.lru_cache(maxsize=4)
def _index(texts: tuple[str, ...]) -> dict[str, list[int]]:
    """Each word's texts."""
    found: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        for word in _words(text):
            found.setdefault(word, []).append(place)
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
