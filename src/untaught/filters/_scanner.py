"""Where listed terms stand in Arrow text, found at native speed with Python's lock released.

A text is read where it lies, as UTF-8, in steps that each see less of it:

    1. Characters. 64 bytes at a time tell whether any is beyond ASCII; such characters are looked up in a table made
       from `unicodedata`. A text with none that its one spelling changes is scanned in place: capitals are folded and
       stretches of white space taken as one space while comparing. With characters that change by themselves it is
       spelled anew into a scratch that knows where every byte came from. Only with a character that may change its
       neighbours (combining marks, Hangul jamo) does Python spell the text.
    2. Words, here runs of ASCII letters and digits: from 64 bytes comes a number with a bit for each that is part of
       one, and its bits are gone through from edge to edge.
    3. Keys. A word's key is made of its first and last 8 letters and its length, a pair's of both words'. A bitmap
       that fits the nearest cache tells which keys may be listed; nearly every word ends here, without a branch.
    4. Terms with the key are compared byte by byte, and their edges looked at.

A term is filed under one key only: a term of one word under the word's, one of several under that pair of neighbouring
words which the fewest other terms have, so that a common word costs nothing. A term's words are words of any text it
stands in, by the rule of the edges. Terms without such a word (`++`, Greek) are filed under a window of their bytes,
1, 2, 4 or 8 wide, and looked for at every place. So are all terms when a term is any substring.

Sources: finding structure in bytes by vector masks and bit scans: Langdale and Lemire 2019, arXiv 1902.08318. Keys of
rare pairs, one spelling while comparing, and the exact equality with the plain reading are ours.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ._kernel import (
    ALNUM,
    BEYOND,
    CHANGED,
    JOINED,
    JOINING,
    RAW,
    SPACE,
    SPELLED,
    Letters,
    Terms,
    Work,
    filled,
    scan,
    windows_of,
    words_of,
)
from ._words import changed, characters, cluster_at, folded, joining

WIDTHS = (8, 4, 2, 1)
POINTS = 0x110000
ROOM = 4096
"""Hits that there is room for at first."""


@dataclass(frozen=True)
class Hits:
    """Places of terms, one row a hit, in the order of documents, then `start`, `stop`, `term`; each only once."""

    document: np.ndarray
    term: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def sorted(cls, rows: np.ndarray) -> Hits:
        """From rows (document, term, start, stop) in any order."""
        rows = rows[np.lexsort((rows[:, 1], rows[:, 3], rows[:, 2], rows[:, 0]))]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        return cls(*rows[new].T)


class Scanner:
    """A list of terms made ready. `terms` are spelled as texts will be, and sorted."""

    def __init__(self, terms: tuple[str, ...], substring: bool = False) -> None:
        self.terms, self.substring = terms, substring
        self.tables = (terms_of(terms, literal=substring), lower_letters() if substring else folded_letters())

    def __reduce__(self) -> tuple[type[Scanner], tuple[tuple[str, ...], bool]]:
        """Sent elsewhere, it is made again there: that is quicker than sending its tables."""
        return Scanner, (self.terms, self.substring)

    def hits(self, texts: pa.ChunkedArray) -> Hits:
        """Every hit in a column of strings without nulls."""
        found, first = [np.empty((0, 4), dtype=np.int64)], 0
        if not pa.types.is_string(texts.type):
            texts = texts.cast(pa.large_string())
        for chunk in texts.chunks:
            rows = self._in_chunk(chunk)
            rows[:, 0] += first
            found.append(rows)
            first += len(chunk)
        return Hits.sorted(np.concatenate(found))

    def _in_chunk(self, chunk: pa.Array) -> np.ndarray:
        data, offsets = buffers(chunk)
        inner = max(int(np.searchsorted(offsets, len(data) - BEYOND, side="right")) - 1, 0)  # documents well inside
        found, left = self._scanned(data, offsets[: inner + 1])
        begin = offsets[inner]
        tail = padded(data[begin : offsets[-1]])
        more, others = self._scanned(tail, offsets[inner:] - begin)
        more[:, 0] += inner
        left = np.concatenate([left, others + inner])
        return np.concatenate([found, more, self._by_python(chunk, left)])

    def _scanned(self, data: np.ndarray, offsets: np.ndarray, state: int = RAW) -> tuple[np.ndarray, np.ndarray]:
        """Hits, and the documents that Python must spell."""
        sizes = np.diff(offsets)
        work, done, found = room(int(sizes.max(initial=0)), len(sizes), ROOM), 0, []
        while (done := scan(data, offsets, done, state, self.tables, work)) < len(sizes):
            found.append(work.hits[: work.counts[0]])
            work.counts[0] = 0
            if work.counts[2]:
                more = max(2 * len(work.hits), int(work.counts[2]))
                work = work._replace(hits=np.empty((more, 4), dtype=np.int64))
            else:
                work = room(2 * len(work.text), 0, len(work.hits))._replace(left=work.left, counts=work.counts)
        found.append(work.hits[: work.counts[0]])
        return np.concatenate(found), work.left[: work.counts[1]]

    def _by_python(self, chunk: pa.Array, left: np.ndarray) -> np.ndarray:
        """Hits in documents with characters that join others: those are spelled here, and hits traced back to them."""
        if not len(left):
            return np.empty((0, 4), dtype=np.int64)
        texts = chunk.take(pa.array(left)).to_pylist()
        made = [_lowered(text) if self.substring else _joined(text, self.tables[1].kind) for text in texts]
        data, offsets = buffers(pa.array([text for text, _ in made], pa.large_string()))
        rows, _ = self._scanned(padded(data), offsets, SPELLED if self.substring else JOINED)
        numbers, firsts = np.unique(rows[:, 0], return_index=True)
        for number, here in zip(numbers, np.split(rows, firsts[1:]), strict=False):
            here[:, 2], here[:, 3] = made[number][1].back(here[:, 2], here[:, 3])
        rows[:, 0] = left[rows[:, 0]]
        return rows


@dataclass(frozen=True)
class Spots:
    """Where a text was spelled otherwise: `start` and `stop` in it, and where each spelling ends in what came of it."""

    start: np.ndarray
    stop: np.ndarray
    end: np.ndarray

    def back(self, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the new text as places of the old: a character of a spelling is all that was spelled so."""
        size = np.diff(self.end, prepend=0) - np.diff(np.concatenate([[0], self.stop])) + (self.stop - self.start)
        begin = self.end - size
        before, after = np.searchsorted(self.end, starts, side="right"), np.searchsorted(begin, stops, side="left")
        shift = np.concatenate([[0], self.stop - self.end])
        edges = [np.append(edge, 2**62) for edge in (begin, self.start)]
        first = np.where(starts >= edges[0][before], edges[1][before], starts + shift[before])
        ends = np.concatenate([[-1], self.end])
        last = np.where(stops <= ends[after], np.concatenate([[0], self.stop])[after], stops + shift[after])
        return first, last


def _joined(text: str, kind: np.ndarray) -> tuple[str, Spots]:
    """A text with the one spelling of every cluster of several characters in its place."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    parts, spots, stop = [], [], 0
    for at in np.flatnonzero(kind[points] & JOINING).tolist():
        if at < stop:
            continue
        cluster = cluster_at(text, at)
        parts += [text[stop : cluster.start()], folded(cluster[0])]
        stop = cluster.end()
        spots.append((cluster.start(), stop, sum(map(len, parts[-2:]))))
    parts.append(text[stop:])
    start, end, size = np.array(spots, dtype=np.int64).reshape(-1, 3).T
    return "".join(parts), Spots(start, end, np.cumsum(size))


def _lowered(text: str) -> tuple[str, Spots]:
    """A text in lower case, where one character, U+0130, becomes two."""
    at = np.array([match.start() for match in re.finditer("\u0130", text)], dtype=np.int64)
    return text.lower(), Spots(at, at + 1, at + np.arange(2, len(at) + 2))


def padded(data: np.ndarray) -> np.ndarray:
    """A copy that can be read beyond its end."""
    return kept(np.concatenate([data, np.zeros(BEYOND, dtype=np.uint8)]))


def kept(data: np.ndarray) -> np.ndarray:
    """Read-only, as most of Arrow's bytes are: one compiled scan does for all."""
    data.setflags(write=False)
    return data


def buffers(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of an array of strings, and where each string starts in them."""
    _, edges, data = chunk.buffers()
    offsets, width = np.zeros(1), np.int64 if pa.types.is_large_string(chunk.type) else np.int32
    if len(chunk) and edges is not None:
        offsets = np.frombuffer(edges, dtype=width)[chunk.offset : chunk.offset + len(chunk) + 1]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.empty(0, dtype=np.uint8)
    return kept(text), offsets.astype(np.int64)


def room(longest: int, documents: int, hits: int) -> Work:
    """Room for texts of up to `longest` bytes, half as much again where they are spelled anew."""
    size = longest + longest // 2 + 4 * BEYOND
    return Work(
        text=np.empty(size, dtype=np.uint8),
        origin=np.empty(size, dtype=np.int32),
        edges=np.empty(size, dtype=np.int32),
        candidates=np.empty(size, dtype=np.int32),
        hits=np.empty((hits, 4), dtype=np.int64),
        left=np.empty(documents, dtype=np.int64),
        counts=np.zeros(3, dtype=np.int64),
    )


@functools.cache
def folded_letters() -> Letters:
    """Characters as `normalise` sees them."""
    kind = np.zeros(POINTS, dtype=np.uint8)
    kind[[ord(c) for c in joining()]] = JOINING
    kind[[ord(c) for c in characters() if c.isalnum()]] |= ALNUM
    kind[[ord(c) for c in characters() if c.isspace()]] |= SPACE
    return _letters(kind, {c: spelled for c, spelled in changed().items() if not c.isspace()})


@functools.cache
def lower_letters() -> Letters:
    """Characters as `str.lower` sees them. A capital sigma becomes one of two, as its neighbours have it."""
    kind = np.zeros(POINTS, dtype=np.uint8)
    kind[ord("Σ")] = JOINING
    return _letters(kind, {c: c.lower() for c in characters() if c.lower() != c})


def _letters(kind: np.ndarray, spellings: dict[str, str]) -> Letters:
    kind[0xD800:0xE000] = JOINING  # no characters: Python says so
    start, stop = np.zeros((2, POINTS), dtype=np.int32)
    spelling = bytearray()
    for c, spelled in spellings.items():
        kind[ord(c)] |= CHANGED
        start[ord(c)] = len(spelling)
        spelling += spelled.encode()
        stop[ord(c)] = len(spelling)
    return Letters(kind, start, stop, np.frombuffer(spelling, dtype=np.uint8).copy())


def terms_of(terms: tuple[str, ...], *, literal: bool) -> Terms:
    """Terms filed under their keys."""
    encoded = [term.encode() for term in terms]
    edge = np.concatenate([[0], np.cumsum([len(term) for term in encoded])]).astype(np.int64)
    text = np.frombuffer(b"".join(encoded) + bytes(BEYOND), dtype=np.uint8).copy()
    worded = np.zeros(len(terms), dtype=bool)
    filed = []
    if not literal:
        filed.append(_by_word(text, edge))
        worded[filed[0][0]] = True
    width = np.array([0 if has else _width(term, literal) for has, term in zip(worded, encoded, strict=True)])
    filed.append(_by_window(text, edge, width, literal=literal))
    term, inside, keys = (np.concatenate(parts) for parts in zip(*filed, strict=True))
    order = np.lexsort((term, keys))
    distinct, firsts = np.unique(keys[order], return_index=True)
    bits, slots = min(max(18, (48 * len(terms)).bit_length()), 21), max(4, (2 * len(distinct)).bit_length())
    made = Terms(
        bitmap=np.zeros(2 ** (bits - 6), dtype=np.uint64),
        keys=np.zeros(2**slots, dtype=np.uint64),
        group=np.zeros((2**slots, 2), dtype=np.int32),
        term=term[order].astype(np.int32),
        inside=inside[order].astype(np.int32),
        text=text,
        edge=edge,
        widths=np.unique(width[width > 0]),
        bits=bits,
        slots=slots,
        words=int(worded.any()),
        literal=int(literal),
    )
    filled(distinct, np.append(firsts, len(order)), made)
    return made


def _width(term: bytes, literal: bool) -> int:
    """Of the widest window that a term has, without a space in it unless spaces are letters too."""
    longest = len(term) if literal else max(map(len, term.split(b" ")))
    return next(width for width in WIDTHS if width <= longest)


def _by_word(text: np.ndarray, edge: np.ndarray) -> tuple[np.ndarray, ...]:
    """Term, place and key of the word or pair that every term with a word is filed under."""
    rows, keys = np.zeros((edge[-1], 4), dtype=np.int64), np.zeros((edge[-1], 2), dtype=np.uint64)
    n = words_of(text, edge, np.empty(edge[-1] + BEYOND, dtype=np.int32), rows, keys)
    rows, keys = rows[:n], keys[:n]
    ends = rows[:, 3] > 0
    begins = np.zeros_like(ends)
    begins[:-1] = ends[1:]
    single = ~ends & ~begins
    pair = _rarest(rows[ends, 0], rows[begins, 1], keys[ends, 1], rows[ends, 3])
    alone = rows[single, 0], rows[single, 1], keys[single, 0]
    return tuple(np.concatenate(both) for both in zip(alone, pair, strict=True))


def _by_window(text: np.ndarray, edge: np.ndarray, width: np.ndarray, *, literal: bool) -> tuple[np.ndarray, ...]:
    """The same for windows."""
    rows, keys = np.zeros((edge[-1], 3), dtype=np.int64), np.zeros(edge[-1], dtype=np.uint64)
    n = windows_of(text, edge, width, rows, keys)
    rows, keys = rows[:n], keys[:n]
    if not literal:
        space = np.concatenate([[0], np.cumsum(text == 32)])
        at = edge[rows[:, 0]] + rows[:, 1]
        whole = space[at] == space[at + rows[:, 2]]
        rows, keys = rows[whole], keys[whole]
    return _rarest(rows[:, 0], rows[:, 1], keys, rows[:, 2])


def _rarest(term: np.ndarray, inside: np.ndarray, key: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:
    """For every term the key that the fewest places of the list have, the longest of those."""
    _, which, counts = np.unique(key, return_inverse=True, return_counts=True)
    order = np.lexsort((inside, -size, counts[which], term))
    first = order[np.unique(term[order], return_index=True)[1]]
    return term[first], inside[first], key[first]
