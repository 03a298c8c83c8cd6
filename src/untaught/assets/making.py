"""From members of wheels to what is kept: one conversion for each word that `make` may be in the catalogue."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import tables
from .catalogue import Asset


def make(asset: Asset, members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write an asset's files, its licences and attribution. Returns what the conversion says of itself."""
    about = _converted(asset.make, {n: p for n, p in members.items() if not _is_licence(n)}, folder)
    for name, path in members.items():
        if _is_licence(name):
            package = name.split("/")[0].split("-")[0]
            shutil.copyfile(path, folder / f"{Path(name).stem}-{package}")
    (folder / "ATTRIBUTION.txt").write_text(
        f"{asset.what}\n\nSource: {asset.source}\nLicence: {asset.licence}\n\nConverted by untaught; provenance.json"
        " beside this file has the digest of everything.\n",
        encoding="utf-8",
    )
    return about


def _is_licence(name: str) -> bool:
    return Path(name).name.startswith(("LICENSE", "NOTICE"))


def _converted(way: str, members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """What is more than a table has a module of its own."""
    from . import answers, elements, gguf_files, glassllm, profanity_model, toxicity

    if way == "gguf":
        (file,) = members.values()
        return gguf_files.convert(file, folder)
    modules = {
        "glassllm": glassllm, "elements": elements, "answers": answers, "toxicity": toxicity,
        "profanity_model": profanity_model,
    }  # fmt: skip
    if way in modules:
        return modules[way].convert(members, folder)
    getattr(tables, way)(members, folder)
    return {}
