"""Masking: keep a flagged document, and mark the parts of it that training is to leave out of its loss.

The parts are a list of spans [start, stop) in characters of the text, in a column `masked`; null is nothing masked.
They come from where a filter's findings say the hazard stands:

    term        the findings' own spans, and nothing around them
    sentence    every sentence that one of them touches. A sentence ends after . ! or ? before white space, and at a
                line break

A finding that does not say where the hazard stands (no score, no span, or none within the text) masks the whole
document: what is not known to be harmless is not taught. A sentence is found by its signs alone: "Dr. Who" ends one,
so a mask can be smaller than the sentence a reader sees. Hazard of which a filter names no part is not masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from ..core import MASKED, Documents, Findings

Part: TypeAlias = Literal["sentence", "term"]
"""How much around a span is masked with it."""
Span: TypeAlias = tuple[int, int]

END = re.compile(r"[.!?](?=\s)|[\n\r\v\f\x85\u2028\u2029]")


def masks(flagged: Documents, findings: Findings, part: Part) -> pa.Array:
    """The column `masked` of flagged documents, from their findings (the same rows in the same order)."""
    rows = zip(flagged["text"].to_pylist(), findings.select(["score", "spans"]).to_pylist(), strict=True)
    return pa.array([_plain(mask(text, _known(finding), part)) for text, finding in rows], MASKED)


def mask(text: str, spans: Iterable[Span], part: Part) -> list[Span]:
    """What is masked of one flagged text: apart, in order, never nothing unless the text is empty.

    >>> mask("All is well. To make zorite, take sand. The end.", [(16, 20)], "sentence")
    [(13, 39)]
    >>> mask("All is well.", [], "sentence")
    [(0, 12)]
    """
    within = [(max(start, 0), min(stop, len(text))) for start, stop in spans]
    within = [(start, stop) for start, stop in within if start < stop]
    if not within:
        return merged([(0, len(text))])
    if part == "term":
        return merged(within)
    touched = [s for s in sentences(text) if any(start < s[1] and s[0] < stop for start, stop in within)]
    return merged([*within, *touched])


def sentences(text: str) -> list[Span]:
    r"""Where the sentences stand, without the white space around them.

    >>> sentences("One. Two at 3.5 metres! \n Three")
    [(0, 4), (5, 23), (26, 31)]
    """
    ends = [*(match.end() for match in END.finditer(text)), len(text)]
    found = []
    for start, stop in zip([0, *ends], ends, strict=False):
        own = text[start:stop]
        start += len(own) - len(own.lstrip())
        stop -= len(own) - len(own.rstrip())
        if start < stop:
            found.append((start, stop))
    return found


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same characters as spans that are apart and in order; empty ones are left out.

    >>> merged([(5, 9), (0, 2), (2, 4), (6, 7), (8, 8)])
    [(0, 4), (5, 9)]
    """
    found: list[Span] = []
    for start, stop in sorted(s for s in spans if s[0] < s[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _known(finding: dict[str, Any]) -> list[Span]:
    """A finding's spans; none of one that measured nothing."""
    return [] if finding["score"] is None else [(span["start"], span["stop"]) for span in finding["spans"] or ()]


def _plain(spans: Iterable[Span]) -> list[dict[str, int]]:
    return [{"start": start, "stop": stop} for start, stop in spans]
