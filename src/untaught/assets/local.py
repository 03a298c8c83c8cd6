"""A model folder or a GGUF file of one's own as an asset: checked, copied or converted, and recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..attest import digest
from ..core import UserError
from . import gguf_files, model_folders
from .keeping import Provenance

UNKNOWN = "not stated"


def is_gguf(path: Path) -> bool:
    """By its name, or its first bytes."""
    if path.suffix == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def default_name(path: Path) -> str:
    """What an asset from this path is called unless it is said."""
    whole = path.absolute()
    return whole.stem if whole.is_file() else whole.name


def bring(path: Path, name: str, made: Path) -> Provenance:
    """Write the asset's files."""
    given = str(path.resolve())
    if path.is_dir():
        model_folders.check(path, str(path))
        files = {file: path / file for file in model_folders.taken(p.name for p in path.iterdir() if p.is_file())}
        for file, source in files.items():
            shutil.copyfile(source, made / file)
        about = {}
    elif is_gguf(path):
        files = {path.name: path}
        about = gguf_files.convert(path, made)
    else:
        raise UserError(f"{path} is neither a model folder nor a GGUF file. Give one of them.")
    return Provenance(
        asset=name, given=given, what=f"a model from {path.name}", licence=str(about.get("licence") or UNKNOWN),
        attribution=given, made=about,
        source={"local": given, "files": {file: digest.of_file(source) for file, source in files.items()}},
    )  # fmt: skip
