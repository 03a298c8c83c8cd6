"""The page of a filter folder: what was removed and why, and what labels say of it. No text of the corpus by default.

    update(folder)              draws `report.html`, unless it is there and nothing changed
    redraw(folder, texts)       draws it anyway, with pieces of the texts of its examples when they are given
    examples(folder)            the documents that it shows, for whoever looks their texts up

The same folder gives the same bytes: the page has no times and no paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from markupsafe import Markup

from . import filter_curve, histogram, words
from .figures import BROAD, PHONE, Figure
from .filter_reading import DECISIONS, Example, Examples, Filtered, Scores, Stage, read
from .page import HERE, put, template

Key: TypeAlias = tuple[str, int]
FILE = "report.html"
MARK = "untaught-drawn-from"
"""Name of the tag that says what a page was drawn from."""
SOURCES, TERMS = 30, 40
"""Lines of the tables."""
AROUND = 80
"""Characters shown on either side of a term, with `--show-text`."""
PIECES, MARKED = 2, 6
"""Pieces of an example's text, and places marked in each."""
MENDS = (
    ("no text", "Name the column that holds the text with --set text_column=NAME, or fill it in."),
    ("text that is not UTF-8", "Save the source as UTF-8."),
    ("a line that is not JSON", "Mend the lines: each must be one JSON object."),
    ("a text that is not a string", "Name the column that holds the text with --set text_column=NAME."),
    ("MemoryError", "Part these documents into shorter ones, or decide them where there is more memory."),
    ("text with NUL", "Take the NUL characters out of these documents."),
    ("an empty answer", "Give the examples an answer, or leave them out: nothing can be learned from them."),
    ("no turn of", "Give the conversation an answer of the assistant, or leave it out."),
    ("a turn of someone", "Name who speaks: system, user, assistant or tool."),
    ("a turn that", "Give the turn its content as text."),
    ("a row of another", "Part the file by shape: all rows of a file are read in one."),
    ("no messages", "Fill in the list of turns."),
    ("", "See whether the filter can be made to read them, by the cause."),
)
"""What mends a quarantined document, by how its cause begins."""


@dataclass(frozen=True)
class Line:
    """A row of a table with a bar."""

    name: str
    counts: tuple[int, ...]
    share: float | None
    """What the bar shows; None where there is nothing to take a share of."""


@dataclass(frozen=True)
class Influence:
    """A term's part in what was removed."""

    term: str
    held: int
    decisive: int | None
    """None where it is not known what the score would be without it."""


@dataclass(frozen=True)
class Terms:
    """The terms of a stage, the most influential first."""

    stage: Stage
    lines: tuple[Influence, ...]
    more: int


@dataclass(frozen=True)
class Shown:
    """An example as a row of a table."""

    example: Example
    terms: str
    pieces: tuple[Markup, ...]


def update(folder: Path) -> Path:
    """The page, drawn when it is not there or was drawn from something else."""
    page = folder / FILE
    if page.is_file():
        with page.open("rb") as file:
            if f'name="{MARK}" content="{_mark(folder, open_=False)}"'.encode() in file.read(2**10):
                return page
    return redraw(folder)


def examples(folder: Path) -> list[Key]:
    """The documents whose texts the page would show: those that were decided."""
    groups = [group for group in read(folder).examples if group.stage is not None]
    return sorted({(row.source, row.row) for group in groups for row in group.rows})


def redraw(folder: Path, texts: Mapping[Key, str] | None = None) -> Path:
    """Draw the page, and return where it is."""
    return put(
        render(read(folder, spans=texts is not None), _mark(folder, open_=texts is not None), texts), folder / FILE
    )


def _mark(folder: Path, *, open_: bool) -> str:
    """Digest of all that a page is drawn from. The summary holds the root of all receipts."""
    whole = hashlib.sha256(b"open" if open_ else b"closed")
    names = ("filter_page.py", "filter_page.html.j2", "filter_reading.py", "filter_curve.py", "histogram.py")
    ours = (*names, "page.css", "drawing.py")
    for path in (*(folder / name for name in ("summary.json", "policy.yaml", "audit.json")), *(HERE / n for n in ours)):
        content = path.read_bytes() if path.is_file() else b""
        whole.update(len(content).to_bytes(8, "little") + content)
    return whole.hexdigest()


def render(found: Filtered, mark: str = "", texts: Mapping[Key, str] | None = None) -> str:
    """The page as text."""
    summary = found.summary
    return template("filter_page.html.j2").render(
        mark=(MARK, mark),
        open=texts is not None,
        summary=summary,
        stages=found.stages,
        words=words,
        logarithmic=histogram.logarithmic,
        bytes=sum(summary["text_bytes"].values()),
        quarantined=quarantined(summary),
        audit=found.audit,
        gate=summary.get("gate"),
        read_as=sorted((summary.get("shapes") or {}).get("counts", {}).items()),
        curve=summary.get("curve"),
        budget=_budget(summary),
        by_stage=_by_stage(found),
        reasons=_reasons(summary),
        sources=_sources(summary),
        rest=max(0, len(summary["sources"]) - SOURCES),
        figures=[_figure(stage, scores) for stage, scores in zip(found.stages, found.scores, strict=True)],
        terms=[_terms(stage, scores) for stage, scores in zip(found.stages, found.scores, strict=True) if stage.terms],
        examples=[(group, [_shown(row, group, texts) for row in group.rows]) for group in found.examples],
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )


def quarantined(summary: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Causes, how many documents have them, and what mends them; the most frequent first."""
    causes = summary["reasons"].get("quarantined", {})
    mends = (
        (cause, count, next(m for start, m in MENDS if cause.startswith(start))) for cause, count in causes.items()
    )
    return sorted(mends, key=lambda line: (-line[1], line[0]))


def _budget(summary: Mapping[str, Any]) -> tuple[Figure | None, list[Mapping[str, Any]]]:
    """The budget curve of fine-tuning data, and some of its points."""
    curve = summary.get("curve")
    if not curve:
        return None, []
    share = summary["removed"] / summary["read"] if summary["read"] else None
    return filter_curve.figure(curve, share), filter_curve.rows(curve)


def _by_stage(found: Filtered) -> list[Line]:
    """What each stage decided, in the policy's order; the bar is its part of what was removed."""
    total, counts = found.summary["removed"], found.summary["stages"]
    names = [name for name in [*(stage.name for stage in found.stages), "read"] if name in counts]
    rows = [(name, tuple(counts[name].get(decision, 0) for decision in DECISIONS)) for name in names]
    return [Line(name, own, own[1] / total if total else None) for name, own in rows]


def _reasons(summary: Mapping[str, Any]) -> list[Line]:
    removed, total = summary["reasons"].get("removed", {}), summary["removed"]
    return [
        Line(reason, (n,), n / total) for reason, n in sorted(removed.items(), key=lambda item: (-item[1], item[0]))
    ]


def _sources(summary: Mapping[str, Any]) -> list[Line]:
    """Sources, those of which most was removed first, and all others as one line."""
    named = [
        (name, tuple(own[count] for count in ("read", "removed", "quarantined")))
        for name, own in summary["sources"].items()
        if name not in summary["damaged"]
    ]
    named.sort(key=lambda line: (-line[1][1], line[0]))
    rest = tuple(map(sum, zip(*(counts for _, counts in named[SOURCES:]), strict=True)))
    shown = named[:SOURCES] + ([(f"{len(named) - SOURCES} more sources", rest)] if rest else [])
    return [Line(name, counts, counts[1] / counts[0] if counts[0] else None) for name, counts in shown]


def _figure(stage: Stage, scores: Scores) -> tuple[Stage, Figure | None, histogram.Chart]:
    """A stage's scores. The threshold is its setting, or the lowest score that was flagged where it has none."""
    least, most = min(scores.flagged, default=None), max(scores.clear, default=None)
    wanted = stage.threshold
    if wanted is None or (least is not None and wanted > least) or (most is not None and wanted < most):
        wanted = least
    made = histogram.chart(f"Scores of {stage.name}", scores.clear, scores.flagged, wanted)
    if not made.bars:
        return stage, None, made
    figure = Figure(made.title, histogram.draw(made, BROAD, 300), histogram.draw(made, PHONE, 260), broad=True)
    return stage, figure, made


def _terms(stage: Stage, scores: Scores) -> Terms:
    """Terms by how many documents went only because of them, then by how many that went hold them."""
    known = scores.counted and stage.threshold is not None
    lines = [Influence(t, held, scores.decisive.get(t, 0) if known else None) for t, held in scores.held.items()]
    lines.sort(key=lambda line: (-(line.decisive or 0), -line.held, line.term))
    return Terms(stage, tuple(lines[:TERMS]), max(0, len(lines) - TERMS))


def _shown(row: Example, group: Examples, texts: Mapping[Key, str] | None) -> Shown:
    """An example. Terms that the policy does not say are pieces of the text, and shown only with it."""
    listed = group.stage.terms if group.stage else frozenset()
    terms = [term for term in row.terms if texts is not None or term in listed]
    told = ", ".join(terms[:8]) + (f" and {len(terms) - 8} more" if len(terms) > 8 else "")
    if not terms and row.terms:
        told = f"{len(row.terms)}, not shown"
    text = (texts or {}).get((row.source, row.row))
    return Shown(row, told, () if text is None else tuple(pieces(text, row.spans)))


def pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[Markup]:
    """A few places of a text around what was found in it, that marked; its beginning when nothing was."""
    groups: list[list[tuple[int, int]]] = []
    for start, stop in sorted(spans):
        if not 0 <= start < stop <= len(text) or (groups and start < groups[-1][-1][1]):
            continue
        if groups and start - groups[-1][-1][1] <= AROUND:
            groups[-1].append((start, stop))
        else:
            groups.append([(start, stop)])
    found = []
    for group in groups[:PIECES]:
        at, last = max(0, group[0][0] - AROUND), min(len(text), group[-1][1] + AROUND)
        piece = Markup("…" if at else "")
        for start, stop in group[:MARKED]:
            piece, at = piece + text[at:start] + Markup("<mark>{}</mark>").format(text[start:stop]), stop
        last = min(last, at + AROUND)
        found.append(piece + text[at:last] + ("…" if last < len(text) else ""))
    return found or [Markup("{}{}").format(text[: 2 * AROUND], "…" if len(text) > 2 * AROUND else "")]
