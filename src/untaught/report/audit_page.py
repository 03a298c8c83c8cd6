"""The page that a sample is labelled on: one document at a time, and nothing of what was decided about it.

It is one file that loads nothing and sends nothing. The documents stand in it as data, which its script puts on the
page as plain text; a rule in the page itself forbids every other script and all traffic (Content-Security-Policy).
Labels stay in the browser until they are saved as `audit.csv`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup

from .page import HERE, put, template

FILE = "audit.html"
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


class Sample(Protocol):
    """What is to be labelled (`corpus/auditing.py`)."""

    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[Mapping[str, str]]:
        """Lines of `audit.csv`."""
        ...

    @property
    def texts(self) -> Sequence[str]:
        """Of the first rows, in order."""
        ...

    @property
    def decisions(self) -> str:
        """Identity of what the sample was drawn from."""
        ...


def write(folder: Path, sample: Sample) -> Path:
    """Write `audit.html` beside `audit.csv`."""
    return put(render(sample), folder / FILE)


def render(sample: Sample) -> str:
    """The page as text."""
    rows = [[row.get(name, "") for name in sample.columns] for row in sample.rows]
    script = (HERE / "audit_page.js").read_text(encoding="utf-8")
    return template("audit_page.html.j2").render(
        count=len(sample.texts),
        data=_inert({"sample": sample.decisions, "columns": list(sample.columns), "rows": rows}),
        texts=_inert(list(sample.texts)),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        script=Markup(script),  # noqa: S704 -- our own file
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _inert(value: Any) -> Markup:
    """JSON in which no tag, entity or line end can be read, whatever is in it."""
    return Markup(json.dumps(value, ensure_ascii=False).translate(ESCAPES))  # noqa: S704 -- escaped here
