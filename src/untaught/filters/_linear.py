"""The n-grams of a whole batch and what they weigh, read from Arrow's bytes by compiled code that holds no lock.

Nothing here decides what a word is: words are those of `_words.py`. For a character alone, its normalised form is

    form(c) = casefold(NFKC(casefold(NFKC(c))))          normalise(text) = form(c1) form(c2) ...

and the second line holds for every text in which no character touches the one before it in a normal form: where every
character, before and after folding, decomposed and composed, begins with a starter that is never the second half of a
composition (Unicode Standard Annex 15, 9.1). So a table of forms does for most texts. One with another character (an
accent of its own, a virama, single Korean letters, forms more than twice as long, all above U+1FFFF) goes the slow way:
Python normalises it, and the same code reads its words from that. The words are the same either way, but only the
first way knows where in the text they stand.

An n-gram's bucket comes from the CRC-32 of its words, the same on every machine, chained modulo 2^64:

    roll(w1) = crc(w1)          roll(w1 .. wn) = roll(w1 .. wn-1) * ROLL + crc(wn)
    bucket   = floor((roll * SPREAD modulo 2^64) / 2^32) modulo buckets
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from ..core import FINDINGS
from ._words import INVISIBLE, normalise
from ._words import WORD as WORDS

ROLL, SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
"""Odd constants: one chains the words of an n-gram, the other spreads the result over the buckets."""
TOP = 5
"""N-grams that a finding names."""
GAP, WORD, NOTHING, MEETS = 0, 1, 2, 3
"""Kinds of characters: no part of a word; its form has some of a word; invisible; only for the slow way."""
SLOW = -1
"""In place of a number of words: not for the table of forms, or not UTF-8."""
KNOWN = 0x20000
"""Code points below this are in the table."""
LONGEST = 2
"""Bytes of a form for each byte of its character, at most."""
ONES, BYTE, TINY = np.uint32(0xFFFFFFFF), np.uint32(8), np.float32(1e-45)
"""Where a CRC starts; bits of a byte; the least float32 above 0."""


class Alphabet(NamedTuple):
    """What each character becomes. A form is UTF-8, with a space in place of every character of no word."""

    ascii: np.ndarray
    """Of every byte: the letter that it becomes, 0 when it is not ASCII or of no word."""
    kind: np.ndarray
    first: np.ndarray
    """Where the form of each code point starts in `forms`; it stops where the next starts."""
    forms: np.ndarray
    crc: np.ndarray
    """The table of CRC-32."""


class Texts(NamedTuple):
    """Texts one after the other, as Arrow keeps them."""

    data: np.ndarray
    offsets: np.ndarray
    spelt: bool
    """Whether they are words already, one space between two."""


class Model(NamedTuple):
    """Logistic regression on buckets."""

    weights: np.ndarray
    bias: float
    ngrams: int


class Desk(NamedTuple):
    """Room for the words and n-grams of one document at a time."""

    letters: np.ndarray
    """The words, one space between two."""
    words: np.ndarray
    """Of each word: start and stop in `letters`; start and stop in the text as it came, in characters."""
    crcs: np.ndarray
    rolls: np.ndarray
    buckets: np.ndarray
    """The bucket of every n-gram: all single words in order, then all pairs, and so on."""
    firsts: np.ndarray
    """Of every distinct bucket, the first n-gram in it."""
    slots: np.ndarray
    """A hash set of the distinct buckets; -1 is empty."""
    top: np.ndarray
    """The n-grams that speak most for hazard."""


# -------------------------------------------------------------------------------------------------------- the tables


@functools.cache
def alphabet() -> Alphabet:
    """The forms of all characters below `KNOWN`."""
    kind, forms = np.full(KNOWN, MEETS, np.uint8), [b""] * KNOWN
    halves = second_halves()
    for start in range(0, KNOWN, 256):
        block = [chr(code) for code in range(start, start + 256) if not 0xD800 <= code < 0xE000]
        whole = "".join(block)
        plain = whole.casefold() == whole and unicodedata.is_normalized("NFKD", whole)
        for code, character in ((ord(character), character) for character in block):
            if INVISIBLE.match(character):
                kind[code] = NOTHING
            elif form := form_of(character, halves, plain):
                forms[code] = "".join(c if c.isalnum() else " " for c in form).encode()
                kind[code] = WORD if forms[code].strip() else GAP
    letters = [forms[code][0] if code < 128 and kind[code] == WORD else 0 for code in range(256)]
    first = np.concatenate([[0], np.cumsum([len(form) for form in forms])]).astype(np.int32)
    spelt = np.frombuffer(b"".join(forms), np.uint8).copy()
    return Alphabet(np.array(letters, np.uint8), kind, first, spelt, crc_table())


def form_of(character: str, halves: set[str], plain: bool) -> str:
    """The normalised form of a character alone; empty when it meets what stands before it, or is long.

    `plain` says that the character is known to be its own form.
    """
    if plain:
        return "" if character in halves or unicodedata.combining(character) else character
    once = unicodedata.normalize("NFKC", character)
    folded = once.casefold()
    form = unicodedata.normalize("NFKC", folded).casefold()
    begins = {character[0], once[0], folded[0]}
    begins |= {unicodedata.normalize("NFKD", text)[0] for text in (character, folded)}
    meets = any(c in halves or unicodedata.combining(c) for c in begins)
    return "" if meets or len(form.encode()) > LONGEST * len(character.encode()) else form


def second_halves() -> set[str]:
    """Every character that some canonical composition has in a place other than the first."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Korean: composed by arithmetic
    for code in range(KNOWN):  # none above is composed
        parts = unicodedata.decomposition(chr(code))
        if parts and not parts.startswith("<"):
            found.update(chr(int(part, 16)) for part in parts.split()[1:])
    return found


def crc_table() -> np.ndarray:
    """What a byte adds to a CRC-32 (zlib's: polynomial 0xEDB88320, bits from the least)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(0xEDB88320), np.uint32(0))
    return table


# ----------------------------------------------------------------------------------------------------- compiled: words


@njit(nogil=True, cache=True)
def follows(data: np.ndarray, at: int) -> bool:
    """Whether a continuation byte of UTF-8 stands there."""
    return at < data.size and (data[at] & 0xC0) == 0x80


@njit(nogil=True, cache=True)
def code_point(data: np.ndarray, at: int) -> tuple[Any, int]:
    """A code point of two to four bytes, and how many; -1 when it is not UTF-8."""
    lead = np.int64(data[at])
    if not (0xC2 <= lead < 0xF5 and follows(data, at + 1)):
        return -1, 1
    code = np.int64(data[at + 1] & 0x3F)
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | code, 2
    if not follows(data, at + 2):
        return -1, 1
    code = code << 6 | np.int64(data[at + 2] & 0x3F)
    if lead < 0xF0:
        code |= (lead & 0x0F) << 12
        return (code, 3) if code >= 0x800 and not 0xD800 <= code < 0xE000 else (-1, 1)
    if not follows(data, at + 3):
        return -1, 1
    code = (lead & 0x07) << 18 | code << 6 | np.int64(data[at + 3] & 0x3F)
    return (code, 4) if 0x10000 <= code < 0x110000 else (-1, 1)


@njit(nogil=True, cache=True)
def close(desk: Desk, count: int, start: int, stop: int, value: Any) -> tuple[int, int, Any]:
    """Note a word, and a space after it. Gives the number of words, where the next starts, and how a CRC starts."""
    desk.words[count, 0], desk.words[count, 1] = start, stop
    desk.crcs[count] = value ^ ONES
    desk.letters[stop] = 32
    return count + 1, stop + 1, ONES


@njit(nogil=True, cache=True)
def split(data: np.ndarray, crc: np.ndarray, desk: Desk) -> int:
    """Words that are parted by spaces: fill `letters`, `words` and `crcs`, and tell how many."""
    count, start, value = 0, 0, ONES
    for at in range(data.size):
        if data[at] == 32:
            count, start, value = close(desk, count, start, at, value)
        else:
            desk.letters[at] = data[at]
            value = crc[np.uint8(value ^ data[at])] ^ (value >> BYTE)
    if data.size:
        count, _, _ = close(desk, count, start, data.size, value)
    return count


@njit(nogil=True, cache=True)
def form_at(data: np.ndarray, at: int, alphabet: Alphabet) -> tuple[np.ndarray, int]:
    """The form of the character of several bytes there, and how many: 0 when the text goes the slow way."""
    code, size = code_point(data, at)
    if code < 0 or code >= KNOWN or alphabet.kind[code] == MEETS:
        return alphabet.forms[:0], 0
    return alphabet.forms[alphabet.first[code] : alphabet.first[code + 1]], size


@njit(nogil=True, cache=True)
def write(form: np.ndarray, place: int, crc: np.ndarray, desk: Desk, state: Any) -> Any:
    """Go on with the form of the character at `place`."""
    count, start, used, last, value = state
    for letter in form:
        if letter != 32:
            if used == start:
                desk.words[count, 2] = place
            desk.letters[used] = letter
            value = crc[np.uint8(value ^ letter)] ^ (value >> BYTE)
            used, last = used + 1, place + 1
        elif used > start:
            desk.words[count, 3] = last
            count, start, value = close(desk, count, start, used, value)
            used = start
    return count, start, used, last, value


@njit(nogil=True, cache=True)
def read(data: np.ndarray, alphabet: Alphabet, desk: Desk) -> int:
    """The words of a text as it came: fill `letters`, `words` and `crcs`, and tell how many, or `SLOW`."""
    count, start, used, last, value = 0, 0, 0, 0, ONES
    at, place = 0, 0
    while at < data.size:
        if data[at] >= 128:
            form, size = form_at(data, at, alphabet)
            if size == 0:
                return SLOW
            count, start, used, last, value = write(form, place, alphabet.crc, desk, (count, start, used, last, value))
            at, place = at + size, place + 1
            continue
        if alphabet.ascii[data[at]] != 0 and used == start:
            desk.words[count, 2] = place
        begun = at
        while at < data.size and alphabet.ascii[data[at]] != 0:
            desk.letters[used] = alphabet.ascii[data[at]]
            value = alphabet.crc[np.uint8(value ^ desk.letters[used])] ^ (value >> BYTE)
            used, at = used + 1, at + 1
        place += at - begun
        if at > begun:
            last = place
        if at < data.size and data[at] < 128:
            if used > start:
                desk.words[count, 3] = last
                count, start, value = close(desk, count, start, used, value)
                used = start
            at, place = at + 1, place + 1
    if used > start:
        desk.words[count, 3] = last
        count, _, _ = close(desk, count, start, used, value)
    return count


# --------------------------------------------------------------------------------------------------- compiled: n-grams


@njit(nogil=True, cache=True)
def hash_ngrams(desk: Desk, count: int, ngrams: int, buckets: int) -> int:
    """Fill `buckets` from the CRCs of `count` words, and tell how many n-grams there are."""
    total, divisor = 0, np.uint32(buckets)
    for length in range(1, ngrams + 1):
        for at in range(count - length + 1):
            roll = np.uint64(desk.crcs[at + length - 1])
            if length > 1:
                roll += desk.rolls[at] * ROLL
            desk.rolls[at] = roll
            desk.buckets[total] = np.uint32(roll * SPREAD >> np.uint64(32)) % divisor
            total += 1
    return total


@njit(nogil=True, cache=True)
def distinct(desk: Desk, total: int) -> int:
    """Fill `firsts` from `buckets`, in the order of the text, and tell how many distinct buckets there are."""
    size = 4
    while size < 2 * total:
        size *= 2
    desk.slots[:size] = -1
    found, mask = 0, np.int64(size - 1)
    for place in range(total):
        bucket = desk.buckets[place]
        slot = np.int64(bucket) & mask
        while desk.slots[slot] != -1 and desk.slots[slot] != bucket:
            slot = (slot + 1) & mask
        if desk.slots[slot] == -1:
            desk.slots[slot] = bucket
            desk.firsts[found] = place
            found += 1
    return found


@njit(nogil=True, cache=True)
def weigh(desk: Desk, found: int, weights: np.ndarray) -> tuple[float, int]:
    """The sum of the weights, in the order of the text; fill `top`, the heaviest first, and tell how many."""
    total, kept, least = 0.0, 0, TINY
    for index in range(found):
        place = desk.firsts[index]
        weight = weights[desk.buckets[place]]
        total += np.float64(weight)
        if weight >= least:
            kept = rank(desk, kept, place, weights)
            least = weights[desk.buckets[desk.top[TOP - 1]]] if kept == TOP else TINY
    return total, kept


@njit(nogil=True, cache=True)
def rank(desk: Desk, kept: int, place: int, weights: np.ndarray) -> int:
    """Put an n-gram among the heaviest; of equal weights, the lower bucket comes first."""
    bucket, at = desk.buckets[place], kept
    while at > 0:
        other = desk.buckets[desk.top[at - 1]]
        if weights[other] > weights[bucket] or (weights[other] == weights[bucket] and other < bucket):
            break
        if at < TOP:
            desk.top[at] = desk.top[at - 1]
        at -= 1
    if at < TOP:
        desk.top[at] = place
    return min(kept + 1, TOP)


# ----------------------------------------------------------------------------------------------------- compiled: terms


@njit(nogil=True, cache=True)
def roomy(array: np.ndarray, wanted: int) -> np.ndarray:
    """The array, or a copy at least twice as large when it is too small."""
    if wanted <= array.size:
        return array
    larger = np.empty(max(wanted, 2 * array.size), array.dtype)
    larger[: array.size] = array
    return larger


@njit(nogil=True, cache=True)
def located(place: int, count: int) -> tuple[int, int, int]:
    """Of an n-gram: its first word, its number of words, and the place of the first n-gram as long."""
    length, base = 1, 0
    while place - base > count - length:
        base += count - length + 1
        length += 1
    return place - base, length, base


@njit(nogil=True, cache=True)
def same(letters: np.ndarray, one: int, other: int, size: int) -> bool:
    for at in range(size):  # noqa: SIM110
        if letters[one + at] != letters[other + at]:
            return False
    return True


@njit(nogil=True, cache=True)
def stands(desk: Desk, count: int, term: int, spans: np.ndarray, used: int) -> tuple[np.ndarray, int]:
    """Add where in the text a term of `top` stands: the same letters, not only the same bucket."""
    first, length, base = located(desk.top[term], count)
    begin, bucket = desk.words[first, 0], desk.buckets[desk.top[term]]
    size = desk.words[first + length - 1, 1] - begin
    for at in range(first, count - length + 1):
        if desk.buckets[base + at] == bucket:
            end = at + length - 1
            if desk.words[end, 1] - desk.words[at, 0] == size and same(desk.letters, begin, desk.words[at, 0], size):
                spans = roomy(spans, used + 3)
                spans[used], spans[used + 1], spans[used + 2] = term, desk.words[at, 2], desk.words[end, 3]
                used += 3
    return spans, used


@njit(nogil=True, cache=True)
def spell(desk: Desk, count: int, term: int, letters: np.ndarray, used: int) -> tuple[np.ndarray, int]:
    """Add the letters of a term of `top`."""
    first, length, _ = located(desk.top[term], count)
    start, stop = desk.words[first, 0], desk.words[first + length - 1, 1]
    letters = roomy(letters, used + stop - start)
    letters[used : used + stop - start] = desk.letters[start:stop]
    return letters, used + stop - start


class Told(NamedTuple):
    """What is told of each document; a number of words below 0 says that nothing was measured."""

    counts: np.ndarray
    scores: np.ndarray
    tops: np.ndarray
    """Terms of each document."""
    spanned: np.ndarray
    """Spans of each document."""
    sizes: np.ndarray
    """Bytes of each term."""


@njit(nogil=True, cache=True)
def weigh_all(texts: Texts, model: Model, alphabet: Alphabet, desk: Desk, told: Told) -> tuple[np.ndarray, np.ndarray]:
    """Fill `told`; give the letters of all terms, and all spans as (term, start, stop)."""
    letters, spans = np.empty(4096, np.uint8), np.empty(4096, np.int32)
    lettered, spanned, terms = 0, 0, 0
    for row in range(told.counts.size):
        data = texts.data[texts.offsets[row] : texts.offsets[row + 1]]
        count = split(data, alphabet.crc, desk) if texts.spelt else read(data, alphabet, desk)
        told.counts[row] = count
        if count < 0:
            continue
        found = distinct(desk, hash_ngrams(desk, count, model.ngrams, model.weights.size))
        total, kept = weigh(desk, found, model.weights)
        logit = total / math.sqrt(max(found, 1)) + model.bias
        small = math.exp(-abs(logit))
        told.scores[row] = 1 / (1 + small) if logit >= 0 else small / (1 + small)
        told.tops[row] = kept
        before = spanned
        for term in range(kept):
            start = lettered
            letters, lettered = spell(desk, count, term, letters, lettered)
            told.sizes[terms] = lettered - start
            terms += 1
            if not texts.spelt:
                spans, spanned = stands(desk, count, term, spans, spanned)
        told.spanned[row] = (spanned - before) // 3
    return letters[:lettered], spans[:spanned]


@njit(nogil=True, cache=True)
def bucket_all(
    texts: Texts, ngrams: int, buckets: int, alphabet: Alphabet, desk: Desk
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct buckets of every document, ascending, and how many each has (`SLOW` for none)."""
    places, used = np.empty(4096, np.int64), 0
    sizes = np.empty(texts.offsets.size - 1, np.int64)
    for row in range(sizes.size):
        data = texts.data[texts.offsets[row] : texts.offsets[row + 1]]
        count = split(data, alphabet.crc, desk) if texts.spelt else read(data, alphabet, desk)
        sizes[row] = count
        if count >= 0:
            found = distinct(desk, hash_ngrams(desk, count, ngrams, buckets))
            places = roomy(places, used + found)
            for index in range(found):
                places[used + index] = desk.buckets[desk.firsts[index]]
            places[used : used + found].sort()
            sizes[row], used = found, used + found
    return places[:used], sizes


# ---------------------------------------------------------------------------------------------------------- in Python


@dataclass(frozen=True)
class Weighed:
    """Of every document: its score (null: none), its terms and where they stand; and errors, by row."""

    scores: pa.Array
    terms: pa.Array
    spans: pa.Array
    errors: dict[int, Exception]


def weighed(texts: Any, model: Model) -> Weighed:
    """Score a column or a list of texts. One that cannot be read is an error of its own; the others are scored."""
    column = whole(texts)
    parts = [_weighed(column, model, spelt=False)]
    slow = np.flatnonzero(parts[0][0] < 0)
    order, errors = np.arange(len(column)), {}
    if slow.size:
        spelt, errors = spelt_out(column, slow)
        parts.append(_weighed(spelt, model, spelt=True))
        order[slow] = len(column) + np.arange(slow.size)
    scores = np.concatenate([part[1] for part in parts])[order]
    unread = np.isin(np.arange(len(column)), list(errors))
    terms, spans = (pa.concat_arrays([part[i] for part in parts]).take(pa.array(order)) for i in (2, 3))
    return Weighed(pa.array(scores, pa.float64(), mask=unread), terms, spans, errors)


def features(texts: Sequence[str], ngrams: int, buckets: int) -> list[np.ndarray]:
    """The distinct buckets of each text, ascending."""
    column = whole(texts)
    places, sizes = bucket_all(_plain(column, False), ngrams, buckets, alphabet(), _desk(column, ngrams))
    found = np.split(places, np.cumsum(np.maximum(sizes, 0)))[:-1]
    if (slow := np.flatnonzero(sizes < 0)).size:
        spelt, errors = spelt_out(column, slow)
        for error in errors.values():
            raise error
        places, sizes = bucket_all(_plain(spelt, True), ngrams, buckets, alphabet(), _desk(spelt, ngrams))
        for row, places_of_one in zip(slow.tolist(), np.split(places, np.cumsum(sizes)), strict=False):
            found[row] = places_of_one
    return found


def whole(texts: Any) -> pa.LargeStringArray:
    """A column of texts, or a list of them, in one piece."""
    if isinstance(texts, pa.ChunkedArray):
        return pa.concat_arrays([*texts.chunks, pa.array([], pa.large_string())])
    return pa.array(texts, pa.large_string())


def spelt_out(column: pa.Array, rows: np.ndarray) -> tuple[pa.Array, dict[int, Exception]]:
    """The words of single texts, by way of Python; an empty text stands for one that cannot be read."""
    spelt, errors = [], {}
    for row in rows.tolist():
        try:
            spelt.append(" ".join(WORDS.findall(normalise(column[row].as_py()))))
        except Exception as error:  # whatever it is, this document is not decided
            errors[row] = error
            spelt.append("")
    return pa.array(spelt, pa.large_string()), errors


def _weighed(column: pa.Array, model: Model, *, spelt: bool) -> tuple[np.ndarray, np.ndarray, pa.Array, pa.Array]:
    """Numbers of words, scores, terms and spans."""
    rows = len(column)
    counts, tops, spanned = (np.zeros(rows, np.int64) for _ in range(3))
    told = Told(counts, np.zeros(rows), tops, spanned, np.zeros(TOP * rows, np.int64))
    letters, spans = weigh_all(_plain(column, spelt), model, alphabet(), _desk(column, model.ngrams), told)
    ends, fields = _ends(told.sizes[: told.tops.sum()]), list(FINDINGS.field("spans").type.value_type)
    words = pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(letters))
    places = [pa.array(np.ascontiguousarray(spans[first::3])) for first in range(3)]
    standing = pa.StructArray.from_arrays(places, fields=fields)
    return (
        told.counts,
        told.scores,
        pa.ListArray.from_arrays(pa.array(_ends(told.tops)), words),
        pa.ListArray.from_arrays(pa.array(_ends(told.spanned)), standing),
    )


def _ends(sizes: np.ndarray) -> np.ndarray:
    """Arrow's offsets."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def _plain(column: pa.Array, spelt: bool) -> Texts:
    """The bytes of a column without nulls."""
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1] if offsets else None
    starts = np.zeros(1, np.int64) if starts is None or not starts.size else starts
    return Texts(np.frombuffer(data or b"", np.uint8), starts, spelt)


def _desk(column: pa.Array, ngrams: int) -> Desk:
    """Room enough for the longest text of a column. What is not used is never touched, and so takes no memory."""
    longest = int(np.diff(_plain(column, False).offsets).max(initial=0))
    words = longest * LONGEST // 2 + 1
    return Desk(
        letters=np.empty(longest * LONGEST + 1, np.uint8),
        words=np.empty((words, 4), np.int32),
        crcs=np.empty(words, np.uint32),
        rolls=np.empty(words, np.uint64),
        buckets=np.empty(ngrams * words, np.int32),
        firsts=np.empty(ngrams * words, np.int64),
        slots=np.empty(max(4, 1 << (2 * ngrams * words).bit_length()), np.int32),
        top=np.empty(TOP, np.int64),
    )
