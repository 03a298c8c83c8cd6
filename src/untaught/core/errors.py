"""Two kinds of error: the input is wrong (`UserError`), or it is our bug (anything else).

A message says what is wrong, with the value - where - what would be right - what mends it. It never quotes
text from a corpus: an id and a digest instead.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """What the command line's exit status means. Outside programs rely on these numbers."""

    DONE = 0
    BUG = 1
    WRONG_INPUT = 2
    SIGNATURE_FAILED = 3
    BYTES_DIFFER = 4
    CLAIM_FAILED = 5
    INCOMPLETE = 6


class UserError(Exception):
    """The input is wrong. The command line prints the message, without a traceback, and exits with 2."""


class Inapplicable(UserError):
    """A method cannot be applied to this kind of model; others can. In a study what needed it is missing."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'steer'?"` for the nearest known word, or the known words when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""
