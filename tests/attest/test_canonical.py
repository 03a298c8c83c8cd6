"""Canonical JSON: one value has one text, and what two readers would read differently is refused."""

import json
import math
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.attest.canonical import DEEPEST, EXACT, LONGEST, dumps, loads
from untaught.attest.refusals import Tampered
from untaught.core import ExitCode, UserError

DATA = Path(__file__).parent / "data" / "rfc8785"
SAMPLE = {
    "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
    "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
    "literals": [None, True, False],
}
"""RFC 8785, section 3.2.2."""
HEX = (
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e333333333333"
    "332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c"
    "222f227d"
)
"""Section 3.2.4: the canonical text of the sample, in UTF-8."""
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]
"""RFC 8785, appendix B: the bits of a double, and its text."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS_OF_ANY_KIND = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-EXACT, EXACT)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS_OF_ANY_KIND | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=30,
)


def test_the_sample_of_the_rfc_has_the_text_of_the_rfc():
    assert dumps(SAMPLE).hex() == HEX


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_are_written_as_the_rfc_writes_them(bits, text):
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert dumps(value) == text.encode()
    assert loads(text.encode(), "x") == value


@pytest.mark.parametrize("path", sorted((DATA / "input").iterdir()), ids=lambda path: path.stem)
def test_published_files_have_their_published_canonical_text(path):
    value = loads(path.read_bytes(), path.name, exact=False)  # one has a number with more digits than a double keeps
    assert dumps(value) == (DATA / "output" / path.name).read_bytes()


def test_a_text_that_is_made_to_be_slow_is_refused_at_once():
    """A string that is never closed, and a table of many keys of which the last is there twice."""
    keys = ",".join(f'"{number}":1' for number in range(200_000))
    began = time.process_time()
    for text in ('"' + '\\"' * 1_000_000, "{" + keys + ',"199999":1}'):
        with pytest.raises(Tampered):
            loads(text.encode(), "x")
    assert time.process_time() - began < 10  # it was hours


def test_keys_are_sorted_by_their_utf_16_units_as_in_the_rfc():
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    in_order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(dumps(dict.fromkeys(keys, 0)))) == in_order
    assert in_order != sorted(keys)  # Python's own order is another


@settings(deadline=None)
@given(PLAIN)
def test_what_is_written_is_read_again_and_written_the_same(value):
    text = dumps(value)
    assert loads(text, "x") == value
    assert dumps(loads(text, "x")) == text
    assert json.loads(text, parse_int=float) == value  # as readers do that know doubles only


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_comes_back_with_its_bits(value):
    back = float(loads(dumps(value), "x"))
    assert struct.pack("<d", back) == struct.pack("<d", value + 0.0)


@settings(deadline=None)
@given(PLAIN)
def test_spaces_and_the_order_of_keys_change_nothing(value):
    assert dumps(loads(json.dumps(value, indent=3, ensure_ascii=True).encode(), "x")) == dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, EXACT + 1, -EXACT - 1, "\ud800", {"\udfff": 1}])
def test_what_json_cannot_say_is_wrong_input(value):
    with pytest.raises(UserError):
        dumps([value])


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, b"bytes", 1j])
def test_what_is_no_plain_data_is_our_bug(value):
    with pytest.raises(TypeError):
        dumps(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": 1, "a": 1}', "'a' is there twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' is there twice"),
        (b'{"a": 1, "\\u0061": 2}', "'a' is there twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[Infinity]", "Infinity is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is more than"),
        (b"[1e-999]", "1e-999 is more than"),
        (b"[9007199254740993]", "9007199254740993 is more than"),
        (b"[0.1000000000000000000000001]", "is more than a double"),
        (b"[" + b"1" * 10_000 + b"]", "is more than a double"),
        (b"[1e99999999999999999999]", "is more than a double"),
        (b'["\\ud800"]', "half a UTF-16 pair"),
        (b'{"\\udc00": 1}', "half a UTF-16 pair"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "nested more than"),
        (b'{"a":' * 100_000, "nested more than"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[1,]", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"[01]", "is not JSON"),
        (b'"a\nb"', "is not JSON"),
        (b'"a', "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_a_text_that_readers_would_differ_on_is_refused_with_its_place(text, said):
    with pytest.raises(Tampered, match=said) as caught:
        loads(text, "the file it is in")
    assert "the file it is in" in str(caught.value)
    assert caught.value.code == ExitCode.SIGNATURE_FAILED


def test_a_text_that_is_too_long_is_not_even_looked_at():
    with pytest.raises(Tampered, match="at most"):
        loads(b" " * (LONGEST + 1), "x")


def test_brackets_in_strings_are_no_depth():
    text = json.dumps(["[" * 1000, '\\"[[' * 500]).encode()
    assert loads(text, "x") == json.loads(text)
    assert loads(b"[" * DEEPEST + b"]" * DEEPEST, "x")


def test_files_of_others_may_have_numbers_that_everybody_rounds():
    assert loads(b"[0.1000000000000000000000001, Infinity, 1e999]", "x", exact=False) == [0.1, math.inf, math.inf]
    with pytest.raises(Tampered, match="twice"):
        loads(b'{"a": 1, "a": 1}', "x", exact=False)
