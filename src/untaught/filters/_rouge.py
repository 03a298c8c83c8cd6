"""ROUGE-1: how many words, by their stems, two texts share.

    words   lower case, ASCII punctuation taken off, split at whatever is neither letter nor digit
    stem    of words of more than three letters, by Porter's algorithm of 1980
    F1      2 c / (a + b): a and b words, of which c are shared, each as often as in the text that has it less often

Sources: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; Porter 1980, "An algorithm for suffix
stripping", Program 14(3). The package rouge-score has a later variant of the stems, which changed the F1 of one pair of
lines in 200. Letters of other scripts are words here, and are left as they are.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

TAKEN_OFF = str.maketrans("", "", string.punctuation)
SHORT = 3
"""Letters of a word that is its own stem."""
Ends = Mapping[str, str]


def rouge_1(one: str, other: str) -> float:
    """F1 of shared stems.

    >>> rouge_1("The cats were running!", "a cat runs")
    0.5714285714285714
    """
    first, second = (Counter(map(stem, words(text))) for text in (one, other))
    both = first.total() + second.total()
    return 2 * (first & second).total() / both if both else 0.0


def words(text: str) -> list[str]:
    """Its words in lower case.

    >>> words("Don't - it's 2 o'clock.")
    ['dont', 'its', '2', 'oclock']
    """
    return re.findall(r"[^\W_]+", text.lower().translate(TAKEN_OFF))


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """A word of lower-case letters without its endings; a short one, or one of other letters, as it is.

    >>> [stem(word) for word in ("caresses", "hopping", "relational", "adjustment", "probate", "was")]
    ['caress', 'hop', 'relat', 'adjust', 'probat', 'was']
    """
    if len(word) <= SHORT or not (word.isascii() and word.isalpha()):
        return word
    word = _first(word)
    for ends, least in ((SECOND, 1), (THIRD, 1), (FOURTH, 2)):
        word = _swapped(word, ends, least)
    return _last(word)


SECOND: Ends = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "abli": "able", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
THIRD: Ends = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
FOURTH: Ends = dict.fromkeys(
    ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion", "tion", "ou", "ism")
    + ("ate", "iti", "ous", "ive", "ize"),
    "",
) | {"sion": "s", "tion": "t"}  # fmt: skip
"""Endings to what stands in their place, of Porter's steps 2, 3 and 4."""


def _first(word: str) -> str:
    """Step 1: plurals, -ed, -ing, and y at the end."""
    for end, place in (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")):
        if word.endswith(end):
            word = word[: -len(end)] + place
            break
    if word.endswith("eed"):
        word = word[:-1] if _measure(word[:-3]) else word
    else:
        end = next((end for end in ("ed", "ing") if word.endswith(end) and _has_vowel(word[: -len(end)])), None)
        word = word if end is None else _mended(word[: -len(end)])
    return word[:-1] + "i" if word.endswith("y") and _has_vowel(word[:-1]) else word


def _mended(word: str) -> str:
    """What is left of a word when -ed or -ing is taken off."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if len(word) > 1 and word[-1] == word[-2] and _letters(word)[-1] == "c":
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _measure(word) == 1 and _is_short(word) else word


def _swapped(word: str, ends: Ends, least: int) -> str:
    """The longest of these endings in exchange for another, where enough stands before it."""
    end = max((end for end in ends if word.endswith(end)), key=len, default=None)
    if end is None:
        return word
    changed = word[: -len(end)] + ends[end]
    return changed if _measure(changed if end in ("sion", "tion") else word[: -len(end)]) >= least else word


def _last(word: str) -> str:
    """Step 5: e at the end, and ll."""
    if word.endswith("e"):
        size = _measure(word[:-1])
        word = word[:-1] if size > 1 or (size == 1 and not _is_short(word[:-1])) else word
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _letters(word: str) -> str:
    """Of each letter c for consonant, v for vowel; y is a vowel after a consonant.

    >>> _letters("syzygy"), _letters("toy")
    ('cvcvcv', 'cvc')
    """
    kinds = ""
    for letter in word:
        kinds += "v" if letter in "aeiou" or (letter == "y" and kinds.endswith("c")) else "c"
    return kinds


def _measure(word: str) -> int:
    """How often vowels are followed by consonants."""
    return len(re.findall("v+c", _letters(word)))


def _has_vowel(word: str) -> bool:
    return "v" in _letters(word)


def _is_short(word: str) -> bool:
    """Whether it ends consonant, vowel, consonant, the last of them not w, x or y."""
    return _letters(word).endswith("cvc") and word[-1] not in "wxy"
