"""Words as the filters on this shelf see them: one normalisation, one meaning of *word*.

Normalised text is text in which two spellings that look alike are the same string:

    1. invisible characters (Unicode's default ignorables: zero-width space and joiners, soft hyphen, ...) are dropped
    2. NFKC, case-folded, NFKC again (full-width letters, ligatures, no-break spaces, capitals)
    3. every stretch of white space, line breaks included, becomes one space; none is left at either end

A word is a longest run of alphanumeric characters (`str.isalnum`), in any script.

Step 2 sees a character together with those that may compose with it. Such a *cluster* is a character and all *joining*
ones behind it, whatever is invisible between them; clusters do not change each other. A normalised character comes
from the whole of its cluster, a space from its whole stretch: `placed` says from where to where.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator

from ..core import Documents, UserError, require

WORD = re.compile(r"[^\W_]+")
DROPPED = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
INVISIBLE = re.compile(f"[{DROPPED}]")
BLOCK = 128
PLANES = (0, 1, 2, 3, 14)


def normalise(text: str) -> str:
    r"""The text in its one spelling.

    >>> normalise("AMINO\u00a0\n  a\u200bcid")
    'amino acid'
    """
    return " ".join(folded(text).split())


def folded(text: str) -> str:
    """Steps 1 and 2."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).casefold()
        text = unicodedata.normalize("NFKC", text)
    return text.casefold()


def placed(text: str) -> tuple[str, list[int], list[int]]:
    r"""The normalised text, and for each of its characters where in the text it starts and stops.

    >>> placed("\u200bﬁ\n ne")
    ('fi ne', [1, 1, 2, 4, 5], [2, 2, 4, 5, 6])
    """
    letters: list[str] = []
    starts: list[int] = []
    stops: list[int] = []
    for cluster in _cluster().finditer(text):
        if cluster.lastgroup == "plain":
            letters.extend(cluster[0].lower())
            starts.extend(range(cluster.start(), cluster.end()))
            stops.extend(range(cluster.start() + 1, cluster.end() + 1))
            continue
        for letter in _of_cluster(cluster[0]):
            if not letter.isspace():
                letters.append(letter)
            elif not letters:
                continue
            elif letters[-1] == " ":
                stops[-1] = cluster.end()
                continue
            else:
                letters.append(" ")
            starts.append(cluster.start())
            stops.append(cluster.end())
    end = len(letters) - (letters[-1:] == [" "])
    return "".join(letters[:end]), starts[:end], stops[:end]


def lowered(text: str) -> tuple[str, list[int], list[int]]:
    r"""The same for the text in lower case, which makes two characters of one: \u0130."""
    starts = [at for at, letter in enumerate(text) for _ in letter.lower()]
    return text.lower(), starts, [at + 1 for at in starts]


_of_cluster = functools.lru_cache(maxsize=4096)(folded)


@functools.cache
def _cluster() -> re.Pattern[str]:
    """A cluster, from its first to its last visible character; words of plain ASCII letters at once."""
    plain = f"(?P<plain>[!-~]+(?: [!-~]+)*(?![{DROPPED}{_joins()}]))"
    return re.compile(f"{plain}|{_whole_cluster().pattern}", re.DOTALL)


@functools.cache
def _whole_cluster() -> re.Pattern[str]:
    return re.compile(f"[^{DROPPED}](?:[{DROPPED}]*[{_joins()}])*", re.DOTALL)


def _joins() -> str:
    return "".join(f"{first}-{last}" for first, last in _runs(joining()))


def cluster_at(text: str, at: int) -> re.Match[str]:
    """The cluster that a joining character belongs to."""
    first = at
    while first > 0 and (text[first] in joining() or INVISIBLE.match(text[first])):
        first -= 1
    while INVISIBLE.match(text[first]):
        first += 1
    found = _whole_cluster().match(text, first)
    if found is None:
        raise ValueError(f"no cluster at {at}")
    return found


@functools.cache
def joining() -> frozenset[str]:
    """Characters that may compose, or change places, with one before them.

    These are the ones whose compatibility decomposition, before or after case folding, starts with a mark that can be
    moved (combining class above 0), or with a character that stands behind another in some canonical decomposition.
    """
    behind: set[str] = set()
    suspects: list[str] = []
    for block in _blocks():
        row = "\n".join(block)
        if (parts := unicodedata.normalize("NFD", row)) != row:
            behind.update(*(part[1:] for part in parts.split("\n")))
        if unicodedata.normalize("NFKD", row.casefold()) != row or any(map(unicodedata.combining, block)):
            suspects.extend(block)

    def joins(c: str) -> bool:
        firsts = [unicodedata.normalize("NFKD", part)[0] for part in (c, unicodedata.normalize("NFKC", c).casefold())]
        return any(unicodedata.combining(first) or first in behind for first in firsts)

    return frozenset(behind.union(filter(joins, suspects)))


def changed() -> dict[str, str]:
    """Every character beyond ASCII that step 2 alters by itself, with what it becomes."""
    found: dict[str, str] = {}
    for block in _blocks():
        row = "\n".join(block)
        if (parts := folded(row)) != row:
            found |= {c: part for c, part in zip(block, parts.split("\n"), strict=True) if c != part}
    return found


def characters() -> Iterator[str]:
    """All characters there are, by code point. Planes 4 to 13 are empty; 15 and 16 are private, and no letters."""
    for plane in PLANES:
        yield from map(chr, range(plane << 16, (plane + 1) << 16))


def _blocks() -> Iterator[list[str]]:
    """All characters beyond ASCII, some at a time: most blocks can be dismissed as a whole."""
    every = characters()
    while block := list(itertools.islice(every, BLOCK)):
        if not block[0].isascii():
            yield block


def _runs(letters: frozenset[str]) -> Iterator[tuple[str, str]]:
    """First and last of every run of neighbouring code points."""
    points = sorted(map(ord, letters))
    firsts = [point for point in points if chr(point - 1) not in letters]
    lasts = [point for point in points if chr(point + 1) not in letters]
    yield from zip(map(chr, firsts), map(chr, lasts), strict=True)


def texts(batch: Documents) -> list[str]:
    """The texts of a batch, or a `UserError` that names a document without one."""
    column = require(batch, ["text"], "the batch of documents")["text"].to_pylist()
    if None in column:
        row = column.index(None)
        name = f"document '{batch['id'][row]}'" if "id" in batch.column_names else f"row {row} of the batch"
        raise UserError(f"{name} has no text (null). Give it a text, or take it out.")
    return column
