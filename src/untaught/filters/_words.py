"""Words as the filters on this shelf see them: one normalisation, one meaning of *word*.

Normalised text is text in which two spellings that look alike are the same string:

    1. invisible characters (Unicode's default ignorables: zero-width space and joiners, soft hyphen, ...) are dropped
    2. NFKC, case-folded, NFKC again (full-width letters, ligatures, no-break spaces, capitals)
    3. every stretch of white space, line breaks included, becomes one space; none is left at either end

A word is a longest run of alphanumeric characters (`str.isalnum`), in any script.
"""

from __future__ import annotations

import re
import unicodedata

from ..core import Documents, UserError, require

WORD = re.compile(r"[^\W_]+")
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def normalise(text: str) -> str:
    r"""The text in its one spelling.

    >>> normalise("AMINO\u00a0\n  a\u200bcid")
    'amino acid'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).casefold()
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def texts(batch: Documents) -> list[str]:
    """The texts of a batch, or a `UserError` that names a document without one."""
    column = require(batch, ["text"], "the batch of documents")["text"].to_pylist()
    if None in column:
        row = column.index(None)
        name = f"document '{batch['id'][row]}'" if "id" in batch.column_names else f"row {row} of the batch"
        raise UserError(f"{name} has no text (null). Give it a text, or take it out.")
    return column
