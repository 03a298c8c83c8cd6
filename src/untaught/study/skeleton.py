"""Skeletons of components: a file to fill in, that already meets its shelf's contract."""

from __future__ import annotations

import re
from pathlib import Path

from ..core import UserError, suggest
from ..core.shelves import ROOT, SHELVES, names
from ..corpus.writing import write_atomically

TEMPLATES = Path(__file__).parent / "skeletons"


def write(shelf: str, name: str, out: Path | None) -> Path:
    """Write `NAME.py` to the shelf (or to `out`, a folder) and return its path."""
    if shelf not in SHELVES:
        raise UserError(f"there is no shelf '{shelf}'.{suggest(shelf, SHELVES)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UserError(f"'{name}' cannot name a component. Use lower case, words joined by '_', such as my_method.")
    path = (out or ROOT / shelf) / f"{name}.py"
    if path.exists() or name in names(shelf):
        raise UserError(f"the shelf {shelf} already has '{name}' ({path}). Choose another name.")
    kind = "intervention" if shelf in ("training", "unlearning", "attacks") else shelf
    body = (TEMPLATES / f"{kind}.py.txt").read_text(encoding="utf-8")
    title = "".join(word.capitalize() for word in name.split("_"))
    try:
        write_atomically(path, body.replace("NAME", title).replace("STEM", name))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give a folder with --out.") from None
    return path
