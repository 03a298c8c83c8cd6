"""The scanner's inner loops, compiled: UTF-8 bytes in, places of terms out, no Python object a document.

`_scanner.py` says how a term is found. Positions are counted from the start of the text that is scanned. Every text
that is scanned can be read 64 bytes beyond its end; what stands there is masked off.
"""

# pyright: basic, reportCallIssue=false, reportReturnType=false, reportArgumentType=false
# What is compiled has numba's types, and an intrinsic is called without the typing context that it is written with.

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

JOINING, CHANGED, SPACE, ALNUM = 1, 2, 4, 8
"""What a code point is: bits of `Letters.kind`."""
RAW, JOINED, SPELLED = 0, 1, 2
"""What Python has done to the texts that `scan` is given."""
BEYOND = 64
"""Bytes that can be read beyond the end of a text."""

native: Any = numba.njit(nogil=True, cache=True, _nrt=False)
within: Any = numba.njit(nogil=True, cache=True, _nrt=False, forceinline=True)
"""Without numba's run time: nothing is allocated here, and counting references to arrays would cost a fifth."""
U = np.uint64
ONE, EIGHT, ONES, HIGH, LOWER = U(1), U(8), U(2**64 - 1), U(0x8080808080808080), U(0x2020202020202020)
FIRST, LAST, SPREAD, CHAIN = U(0x9E3779B97F4A7C15), U(0xC2B2AE3D27D4EB4F), U(0xD6E8FEB86659FD93), U(0xA0761D6478BD642F)
"""Odd constants with their bits well mixed."""


class Letters(NamedTuple):
    """What code points are and become: for each its kind, and where its spelling starts and ends in `spelling`."""

    kind: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    spelling: np.ndarray


class Terms(NamedTuple):
    """Terms as bytes, and how to get from a key in the text to those worth comparing there.

    bitmap        one bit a hashed key: the filter that nearly every word of a text ends at
    keys, group   open addressing: a key to its first and last member (0: the slot is empty)
    term, inside  members: number of the term, and where in it the key stands
    text, edge    all terms one behind the other, and where each starts
    words         whether keys are words and pairs of words (1), or there are only windows (0)
    widths        bytes of the windows that are keys
    literal       1: white space stands for itself, and an edge needs no neighbour
    """

    bitmap: np.ndarray
    keys: np.ndarray
    group: np.ndarray
    term: np.ndarray
    inside: np.ndarray
    text: np.ndarray
    edge: np.ndarray
    widths: np.ndarray
    bits: int
    slots: int
    words: int
    literal: int


class Work(NamedTuple):
    """Room to work in. `origin` is for each byte of `text` the number of the character it came from.

    `counts` holds how many hits and how many `left` there are: documents that only Python can spell; and of a document
    that did not fit, how many hits it has, 0 when its spelling was too long.
    """

    text: np.ndarray
    origin: np.ndarray
    edges: np.ndarray
    candidates: np.ndarray
    hits: np.ndarray
    left: np.ndarray
    counts: np.ndarray


def _vector(context: Any, builder: Any, array: Any, kind: Any, at: Any, lanes: int) -> Any:
    """Bytes of an array from `at` on."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.bitcast(builder.gep(data, [at]), ir.VectorType(ir.IntType(8), lanes).as_pointer())
    loaded = builder.load(place)
    loaded.align = 1
    return loaded


@intrinsic
def eight(typing: Any, array: Any, at: Any) -> Any:
    """The 8 bytes from `at` on, as one number."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _vector(context, builder, arguments[0], signature.args[0], arguments[1], 8)
        return builder.bitcast(loaded, ir.IntType(64))

    return types.uint64(array, types.int64), code


@intrinsic
def beyond_ascii(typing: Any, array: Any, at: Any) -> Any:
    """Which of the 64 bytes from `at` on have the high bit, lowest bit first."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _vector(context, builder, arguments[0], signature.args[0], arguments[1], 64)
        zero = ir.Constant(loaded.type, [0] * 64)
        return builder.bitcast(builder.icmp_signed("<", loaded, zero), ir.IntType(64))

    return types.uint64(array, types.int64), code


@intrinsic
def going_on(typing: Any, array: Any, at: Any) -> Any:
    """Which of the 64 bytes from `at` on do not start a character, lowest bit first."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _vector(context, builder, arguments[0], signature.args[0], arguments[1], 64)
        least = ir.Constant(loaded.type, [-64] * 64)
        return builder.bitcast(builder.icmp_signed("<", loaded, least), ir.IntType(64))

    return types.uint64(array, types.int64), code


@intrinsic
def alphanumeric(typing: Any, array: Any, at: Any) -> Any:
    """Which of the 64 bytes from `at` on are ASCII letters or digits, lowest bit first."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = _vector(context, builder, arguments[0], signature.args[0], arguments[1], 64)

        def all_of(value: int) -> Any:
            return ir.Constant(loaded.type, [value] * 64)

        letter = builder.sub(builder.or_(loaded, all_of(0x20)), all_of(ord("a")))
        digit = builder.sub(loaded, all_of(ord("0")))
        either = builder.or_(
            builder.icmp_unsigned("<", letter, all_of(26)), builder.icmp_unsigned("<", digit, all_of(10))
        )
        return builder.bitcast(either, ir.IntType(64))

    return types.uint64(array, types.int64), code


def _all_of(builder: Any, value: Any, lanes: int) -> Any:
    """A vector with one value in every lane."""
    kind = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def copied(typing: Any, array: Any, at: Any, text: Any, origin: Any, n: Any, count: Any, fold: Any) -> Any:  # noqa: PLR0913, PLR0917
    """Put the 64 bytes from `at` on into `text` at `n`, capitals folded by the bit `fold`, and number them."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, at, text, origin, n, count, fold = arguments
        loaded = _vector(context, builder, source, signature.args[0], at, 64)
        capital = builder.sub(loaded, ir.Constant(loaded.type, [ord("A")] * 64))
        capital = builder.sext(builder.icmp_unsigned("<", capital, ir.Constant(loaded.type, [26] * 64)), loaded.type)
        spelled = builder.or_(loaded, builder.and_(capital, _all_of(builder, fold, 64)))
        numbers = ir.Constant(ir.VectorType(ir.IntType(32), 64), list(range(64)))
        numbers = builder.add(_all_of(builder, builder.trunc(count, ir.IntType(32)), 64), numbers)
        for kind, into, vector in ((signature.args[2], text, spelled), (signature.args[3], origin, numbers)):
            data = context.make_array(kind)(context, builder, into).data
            place = builder.bitcast(builder.gep(data, [n]), vector.type.as_pointer())
            builder.store(vector, place).align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, text, origin, types.int64, types.int64, types.uint8), code


@intrinsic
def lowest(typing: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set; 64 where none is."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), code


@intrinsic
def population(typing: Any, bits: Any) -> Any:
    """How many bits are set."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), code


@within
def letter_at(text: np.ndarray, at: int, stop: int) -> tuple[int, int]:
    """Code point and length of the character at `at`; length 0 where the bytes are not UTF-8."""
    lead = np.int64(text[at])
    if lead < 0x80:
        return lead, 1
    size, point, least = 2, lead & 0x1F, 0x80
    if lead >= 0xF0:
        size, point, least = 4, lead & 0x07, 0x10000
    elif lead >= 0xE0:
        size, point, least = 3, lead & 0x0F, 0x800
    if lead < 0xC2 or lead > 0xF4 or at + size > stop:
        return 0, 0
    for i in range(at + 1, at + size):
        if text[i] & 0xC0 != 0x80:
            return 0, 0
        point = point << 6 | np.int64(text[i] & 0x3F)
    if point < least or point > 0x10FFFF:
        return 0, 0
    return point, size


@within
def kind_of(text: np.ndarray, at: int, stop: int, letters: Letters) -> tuple[int, int]:
    """Kind and length of the character at `at`; what is not UTF-8 is left to Python, which says so."""
    point, size = letter_at(text, at, stop)
    if size == 0:
        return JOINING, 1
    return np.int64(letters.kind[point]), size


@native
def looked_over(text: np.ndarray, start: int, stop: int, letters: Letters) -> tuple[int, bool]:
    """The kinds of all characters beyond ASCII in one, and whether there are any."""
    kinds, at, some = 0, start, False
    for base in range(start, stop, 64):
        high = beyond_ascii(text, base)
        if stop - base < 64:
            high &= (ONE << U(stop - base)) - ONE
        while high:
            first = base + lowest(high)
            if first >= at:
                kind, size = kind_of(text, first, stop, letters)
                kinds |= kind
                at = first + size
                some = True
            high &= high - ONE
    return kinds, some


@native
def rewritten(text: np.ndarray, start: int, stop: int, terms: Terms, letters: Letters, work: Work) -> int:
    """Spell a text anew in `work.text`: its length there, or -1 when the room does not do."""
    room, at, n, count = len(work.text) - 2 * BEYOND, start, 0, 0
    fold = np.uint8(32 * terms.literal)
    while at < stop:
        if n > room:
            return -1
        if text[at] < 0x80:
            high = beyond_ascii(text, at)
            size = min(lowest(high), stop - at)
            copied(text, at, work.text, work.origin, n, count, fold)
            at, n, count = at + size, n + size, count + size
            continue
        point, size = letter_at(text, at, stop)
        first, last = letters.start[point], letters.stop[point]
        if letters.kind[point] & CHANGED:
            for i in range(first, last):
                work.text[n] = letters.spelling[i]
                work.origin[n] = count
                n += 1
        else:
            for i in range(size):
                work.text[n + i] = text[at + i]
                work.origin[n + i] = count
            n += size
        at, count = at + size, count + 1
    return n


@native
def word_edges(text: np.ndarray, start: int, stop: int, edges: np.ndarray) -> int:
    """Starts and stops of all runs of ASCII letters and digits, in turn: how many."""
    n, inside = 0, U(0)
    for base in range(start, stop, 64):
        bits = alphanumeric(text, base)
        if stop - base < 64:
            bits &= (ONE << U(stop - base)) - ONE
        turns = bits ^ (bits << ONE | inside)
        inside = bits >> U(63)
        after = n + population(turns)
        for first in range(n, after, 8):  # eight at a time, some in vain: fewer branches to guess
            for i in range(8):
                edges[U(first + i)] = base - start + lowest(turns)
                turns &= turns - ONE
        n = after
    if inside:
        edges[n] = stop - start
        n += 1
    return n


@within
def word_key(text: np.ndarray, at: int, size: int) -> int:
    """Key of a word: its first and last 8 letters and its length. Letters and digits are folded by one bit."""
    cut = ONES >> (U(64) - EIGHT * U(min(size, 8)))
    first = (eight(text, at) | LOWER) & cut
    last = (eight(text, at + max(size - 8, 0)) | LOWER) & cut
    return first * FIRST + (last + U(size)) * LAST


@within
def pair_key(one: int, other: int) -> int:
    """Key of two neighbouring words, made of theirs."""
    return one * CHAIN + other


@within
def window_key(text: np.ndarray, at: int, width: int) -> int:
    """Key of the 1 to 8 bytes from `at` on."""
    cut = ONES >> (U(64) - EIGHT * U(width))
    return ((eight(text, at) & cut) + U(width)) * FIRST


@within
def passes(terms: Terms, key: int) -> int:
    """1 where the bitmap has the key."""
    place = key >> U(64 - terms.bits)
    return np.int64(terms.bitmap[place >> U(6)] >> (place & U(63)) & ONE)


@native
def filled(keys: np.ndarray, firsts: np.ndarray, terms: Terms) -> None:
    """Put distinct keys, whose members start at `firsts`, into the bitmap and the slots."""
    for i in range(len(keys)):
        place = keys[i] >> U(64 - terms.bits)
        terms.bitmap[place >> U(6)] |= ONE << (place & U(63))
        slot = keys[i] >> U(64 - terms.slots)
        while terms.keys[slot]:
            slot = (slot + ONE) & U(len(terms.keys) - 1)
        terms.keys[slot] = keys[i] | ONE
        terms.group[slot, 0], terms.group[slot, 1] = firsts[i], firsts[i + 1]


@within
def ahead(text: np.ndarray, at: int, stop: int, place: int, end: int, terms: Terms, letters: Letters) -> int:
    """Where a term ends that runs from its byte `place` to `end` in a text from `at` on, or -1."""
    while place < end:
        wanted = terms.text[place]
        place += 1
        if wanted == 32 and not terms.literal:
            before = at
            while at < stop:
                kind, size = kind_of(text, at, stop, letters)
                if not kind & SPACE:
                    break
                at += size
            if at == before:
                return -1
            continue
        if at >= stop:
            return -1
        seen = text[at]
        if seen != wanted and not (65 <= seen < 91 and seen + 32 == wanted):
            return -1
        at += 1
    return at


@within
def character_before(text: np.ndarray, at: int) -> int:
    """Where the character that ends at `at` starts."""
    at -= 1
    while text[at] & 0xC0 == 0x80:
        at -= 1
    return at


@within
def behind(text: np.ndarray, start: int, at: int, place: int, begin: int, terms: Terms, letters: Letters) -> int:
    """Where a term starts that runs from its byte `begin` to `place` in a text up to `at`, or -1."""
    while place > begin:
        place -= 1
        wanted = terms.text[place]
        if wanted == 32 and not terms.literal:
            before = at
            while at > start:
                left = character_before(text, at)
                kind, _ = kind_of(text, left, at, letters)
                if not kind & SPACE:
                    break
                at = left
            if at == before:
                return -1
            continue
        if at <= start:
            return -1
        at -= 1
        seen = text[at]
        if seen != wanted and not (65 <= seen < 91 and seen + 32 == wanted):
            return -1
    return at


@within
def parted(text: np.ndarray, start: int, first: int, last: int, stop: int, letters: Letters) -> bool:
    """Whether a match that ends in a word at either edge has no word going on there."""
    kind, _ = kind_of(text, first, stop, letters)
    if kind & ALNUM and first > start:
        kind, _ = kind_of(text, character_before(text, first), stop, letters)
        if kind & ALNUM:
            return False
    kind, _ = kind_of(text, character_before(text, last), stop, letters)
    if kind & ALNUM and last < stop:
        kind, _ = kind_of(text, last, stop, letters)
        return not kind & ALNUM
    return True


@within
def slot_of(terms: Terms, key: int) -> int:
    """Where a key is filed, or -1. No key is 0: that is an empty slot."""
    slot = key >> U(64 - terms.slots)
    while terms.keys[slot]:
        if terms.keys[slot] == key | ONE:
            return np.int64(slot)
        slot = (slot + ONE) & U(len(terms.keys) - 1)
    return -1


@native
def compared(text: np.ndarray, span: tuple[int, int], at: int, slot: int, tables: Any, work: Work) -> None:
    """Keep every term filed there that stands in the text with its key at `at`."""
    start, stop = span
    terms, letters = tables
    for member in range(terms.group[slot, 0], terms.group[slot, 1]):
        term = terms.term[member]
        begin, end = terms.edge[term], terms.edge[term + 1]
        place = begin + terms.inside[member]
        last = ahead(text, at, stop, place, end, terms, letters)
        if last < 0:
            continue
        first = behind(text, start, at, place, begin, terms, letters)
        if first < 0 or not (terms.literal or parted(text, start, first, last, stop, letters)):
            continue
        n = work.counts[0]
        work.counts[0] = n + 1
        if n < len(work.hits):
            work.hits[n, 1], work.hits[n, 2], work.hits[n, 3] = term, first - start, last - start


@native
def by_words(text: np.ndarray, start: int, stop: int, tables: Any, work: Work) -> None:
    """Find the terms that have a word, by their words and pairs of words."""
    terms, edges, candidates = tables[0], work.edges, work.candidates
    n = word_edges(text, start, stop, edges)
    some, before = 0, U(0)
    for i in range(0, n, 2):
        key = word_key(text, start + edges[i], edges[i + 1] - edges[i])
        candidates[U(some)] = i
        some += passes(terms, key) | passes(terms, pair_key(before, key))
        before = key
    for c in range(some):
        i = candidates[c]
        at = start + edges[i]
        key = word_key(text, at, edges[i + 1] - edges[i])
        slot = slot_of(terms, key)
        if slot >= 0:
            compared(text, (start, stop), at, slot, tables, work)
        if i > 0:
            at = start + edges[i - 2]
            slot = slot_of(terms, pair_key(word_key(text, at, edges[i - 1] - edges[i - 2]), key))
            if slot >= 0:
                compared(text, (start, stop), at, slot, tables, work)


@native
def by_windows(text: np.ndarray, start: int, stop: int, tables: Any, work: Work) -> None:
    """Find the terms whose keys are windows of a few bytes: every place of the text is looked at."""
    terms = tables[0]
    for width in terms.widths:
        some = 0
        for at in range(start, stop - width + 1):
            work.candidates[some] = at - start
            some += passes(terms, window_key(text, at, width))
        for c in range(some):
            at = start + work.candidates[c]
            slot = slot_of(terms, window_key(text, at, width))
            if slot >= 0:
                compared(text, (start, stop), at, slot, tables, work)


@native
def characters(text: np.ndarray, first: int, last: int) -> int:
    """Characters between two places."""
    n = last - first
    for base in range(first, last, 64):
        inner = going_on(text, base)
        if last - base < 64:
            inner &= (ONE << U(last - base)) - ONE
        n -= population(inner)
    return n


@native
def counted(text: np.ndarray, start: int, before: int, work: Work) -> None:
    """Turn the places of the last hits from bytes into characters. One hit is near the next: count from there."""
    at, count = start, 0
    for i in range(before, work.counts[0]):
        for side in (2, 3):
            to = start + work.hits[i, side]
            count += characters(text, at, to) if to >= at else -characters(text, to, at)
            at = to
            work.hits[i, side] = count


@native
def traced(before: int, work: Work) -> None:
    """The same for a text that was spelled anew."""
    for i in range(before, work.counts[0]):
        work.hits[i, 2] = work.origin[work.hits[i, 2]]
        work.hits[i, 3] = work.origin[work.hits[i, 3] - 1] + 1


@native
def scanned(text: np.ndarray, start: int, stop: int, tables: Any, work: Work) -> None:
    """All hits of one text, in bytes."""
    if tables[0].words:
        by_words(text, start, stop, tables, work)
    by_windows(text, start, stop, tables, work)


@native
def scan(data: np.ndarray, offsets: np.ndarray, first: int, state: int, tables: Any, work: Work) -> int:
    """Scan documents from `first` on; the number of the first that did not fit in `work`, or of all.

    `state` says what Python has done to the texts: nothing (RAW), spelled joining characters with those before them
    (JOINED), or spelled everything (SPELLED).
    """
    terms, letters = tables
    for doc in range(first, len(offsets) - 1):
        start, stop, before = offsets[doc], offsets[doc + 1], work.counts[0]
        kinds, some = (0, True) if state == SPELLED else looked_over(data, start, stop, letters)
        if kinds & JOINING and state == RAW:
            work.left[work.counts[1]] = doc
            work.counts[1] += 1
            continue
        anew = state != SPELLED and (terms.literal or kinds & CHANGED)
        if anew:
            size = rewritten(data, start, stop, terms, letters, work)
            if size < 0:
                work.counts[2] = 0
                return doc
            scanned(work.text, 0, size, tables, work)
        else:
            scanned(data, start, stop, tables, work)
        if work.counts[0] > len(work.hits):
            work.counts[2] = work.counts[0] - before
            work.counts[0] = before
            return doc
        work.hits[before : work.counts[0], 0] = doc
        if anew:
            traced(before, work)
        elif some:
            counted(data, start, before, work)
    return len(offsets) - 1


@native
def words_of(text: np.ndarray, edge: np.ndarray, edges: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> int:
    """Words of all terms: how many. A row is (term, place in it, length, length of the pair that it ends)."""
    n = 0
    for term in range(len(edge) - 1):
        some, before = word_edges(text, edge[term], edge[term + 1], edges), U(0)
        for i in range(0, some, 2):
            first, size = edges[i], edges[i + 1] - edges[i]
            key = word_key(text, edge[term] + first, size)
            rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3] = term, first, size, 0
            keys[n, 0] = key
            if i > 0:
                rows[n, 3] = size + rows[n - 1, 2]
                keys[n, 1] = pair_key(before, key)
            before = key
            n += 1
    return n


@native
def windows_of(text: np.ndarray, edge: np.ndarray, width: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> int:
    """Windows of terms without a space in them, each term's of its width (0: none): how many. As `words_of`."""
    n = 0
    for term in range(len(edge) - 1):
        for at in range(edge[term], edge[term + 1] - width[term] + 1 if width[term] else 0):
            rows[n, 0], rows[n, 1], rows[n, 2] = term, at - edge[term], width[term]
            keys[n] = window_key(text, at, width[term])
            n += 1
    return n
