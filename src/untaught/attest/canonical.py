"""Canonical JSON: one value has one text, byte for byte, and a text has one reading.

Written as RFC 8785 (JSON Canonicalization Scheme) says: no spaces, keys in the order of their UTF-16 units, numbers as
ECMAScript writes doubles, nothing escaped that need not be. Read more strictly than JSON demands: a key that is there
twice, a number that a double cannot keep, a lone surrogate or a text that is too deep or too long is refused, since
two readers would differ on it or one would run out of memory.

Differs from RFC 8785: integers beyond 2^53 are refused where they would be rounded; a double of that size is written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from json.encoder import encode_basestring  # pyright: ignore[reportUnknownVariableType]
from typing import Any, cast

from ..core import UserError
from .refusals import Tampered

EXACT = 2**53
"""Up to here a double keeps every integer."""
DEEPEST = 64
LONGEST = 64 * 2**20
"""Bytes of a text, at most."""
NUMERAL = 400
"""Characters of a number, at most: the longest that a double is written with needs fewer."""
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.S)
"""A string, closed or not; it never steps back, so that no text makes it slow."""
BRACKET = re.compile(rb"[\[\]{}]")


def dumps(value: Any) -> bytes:
    """The canonical text of plain data: None, bool, int, float, str, list, tuple, dict with text keys."""
    return "".join(_written(value, 0)).encode()


def loads(data: bytes, where: str, *, exact: bool = True) -> Any:
    """What a JSON text says. `where` names it in an error: a file, or a part of one. Without `exact`, numbers are
    rounded as everybody rounds them, and NaN and infinities are read: for files of others that are not signed.
    """
    if len(data) > LONGEST:
        raise Tampered(f"{where} has {len(data)} bytes of JSON, and at most {LONGEST} are read.")
    _check_depth(data, where)
    reader = _Reader(where, exact)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=reader.table,
            parse_int=reader.number,
            parse_float=reader.number,
            parse_constant=reader.constant,
        )
    except UnicodeDecodeError as error:
        raise Tampered(f"{where} is not UTF-8 text at byte {error.start}, so it is not JSON.") from None
    except json.JSONDecodeError as error:
        raise Tampered(f"{where}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}.") from None
    reader.check_text(value)
    return value


def _written(value: Any, depth: int) -> Iterable[str]:
    """The text of a value, in parts."""
    if depth > DEEPEST:
        raise UserError(f"data is nested more than {DEEPEST} deep, which canonical JSON here does not hold.")
    if isinstance(value, list | tuple):
        yield "["
        for place, one in enumerate(cast("list[Any]", value)):
            yield "," if place else ""
            yield from _written(one, depth + 1)
        yield "]"
    elif isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        yield "{"
        for place, key in enumerate(sorted(table, key=_units)):
            yield f"{',' if place else ''}{_quoted(key)}:"
            yield from _written(table[key], depth + 1)
        yield "}"
    else:
        yield _single(value)


def _single(value: Any) -> str:
    """The text of a value that holds no others."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float):
        return number_text(value)
    if not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} is no plain data")
    if abs(value) > EXACT:
        raise UserError(f"{value} is beyond 2^53, where JSON readers round integers. Give it as text.")
    return str(int(value))


def _units(key: Any) -> bytes:
    """The order of keys: by their UTF-16 code units."""
    if not isinstance(key, str):
        raise TypeError(f"a key is text, not {type(key).__name__}")
    return key.encode("utf-16-be", "surrogatepass")


def _quoted(text: str) -> str:
    if not _sound(text):
        raise UserError("a text holds half a UTF-16 pair, which is no character, so it cannot be written as UTF-8.")
    return encode_basestring(text)


def _sound(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text) if not text.isascii() else True


def number_text(value: float) -> str:
    """A double as ECMAScript's Number::toString writes it: the fewest digits that give it back.

    >>> number_text(1e21), number_text(333333333.33333329), number_text(1e-7), number_text(-0.0)
    ('1e+21', '333333333.3333333', '1e-7', '0')
    """
    if not math.isfinite(value):
        raise UserError(f"{value} is no number that JSON knows. Leave out what is missing, or give null.")
    if value == 0:
        return "0"
    sign, parts, power = Decimal(repr(float(value))).normalize().as_tuple()
    digits, minus = "".join(map(str, parts)), "-" if sign else ""
    count, point = len(digits), len(digits) + int(power)
    if count <= point <= 21:
        return minus + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{minus}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{minus}{digits[0]}{tail}e{point - 1:+d}"


def _check_depth(data: bytes, where: str) -> None:
    """Brackets outside of strings are counted before anything is built."""
    depth = 0
    for bracket in BRACKET.finditer(STRING.sub(b"", data)):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > DEEPEST:
            raise Tampered(f"{where} is nested more than {DEEPEST} deep, which no honest writer does.")


class _Reader:
    """What is refused while a text is read."""

    def __init__(self, where: str, exact: bool) -> None:
        self.where = where
        self.exact = exact

    def table(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise Tampered(f"{self.where}: the key {twice[:100]!r} is there twice in a table: readers would differ.")
        return made

    def number(self, text: str) -> int | float:
        """An integer or a double that says what its text says, all of it."""
        if len(text) <= NUMERAL:
            whole = text.lstrip("-").isdigit()
            if whole and abs(int(text)) <= EXACT:
                return int(text)
            value = float(text)
            if not self.exact or (math.isfinite(value) and Decimal(text) == Decimal(repr(value))):
                return value
        raise Tampered(f"{self.where}: the number {text[:40]} is more than a double can keep: readers would differ.")

    def constant(self, text: str) -> float:
        if not self.exact:
            return float(text)
        raise Tampered(f"{self.where}: {text} is no number that JSON knows.")

    def check_text(self, value: Any) -> None:
        """No half of a UTF-16 pair anywhere."""
        if isinstance(value, str) and not _sound(value):
            raise Tampered(f"{self.where}: a text holds half a UTF-16 pair, which is no character.")
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            value = [*table.keys(), *table.values()]
        if isinstance(value, list):
            for one in cast("list[Any]", value):
                self.check_text(one)
