"""Why a document could not be measured, in words that hold nothing of its text."""

from __future__ import annotations

import re

LONGEST = 80
"""Characters of a message that are kept."""
RUN = 12
"""Characters in a row that a message may not share with the text."""
QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`")


def cause(error: Exception, text: str) -> str:
    """The error's class and its message, cut short. A message that seems to quote the text is left out.

    It seems to when something in quotes, or a run of 12 characters, stands in the text, whatever the case.

    >>> cause(IndexError("index out of range in self"), "some text")
    'IndexError: index out of range in self'
    >>> cause(KeyError("nerve"), "The Nerve agent")
    'KeyError'
    """
    name, message, text = type(error).__name__, " ".join(str(error).split()), " ".join(text.casefold().split())
    said = message.casefold()
    pieces = {piece for found in QUOTED.findall(said) for piece in found if piece}
    size = min(RUN, len(text))
    pieces |= {said[at : at + size] for at in range(len(said) - size + 1)} if size else set()
    return name if not message or any(piece in text for piece in pieces) else f"{name}: {message[:LONGEST]}"
