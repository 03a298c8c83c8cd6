"""Models of the Hugging Face Hub: `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION`.

A branch moves; a commit does not. Whatever revision is asked for, the commit that it stands for is looked up first, its
files are fetched from there, and the commit is recorded. Only weights as safetensors, configuration, tokenizer and
licence are taken.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..core import UserError
from ..corpus.hub import PREFIX, client, first_line
from . import model_folders
from .keeping import Provenance


def default_name(given: str) -> str:
    """The repository's name without its owner."""
    return _parted(given)[0].rsplit("/", 1)[-1]


def _parted(given: str) -> tuple[str, str | None]:
    """Repository and revision."""
    repository, _, revision = given.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"'{given}' names no model. Give {PREFIX}OWNER/NAME, with @REVISION where it must not move.")
    return repository, revision or None


def bring(given: str, name: str, made: Path) -> Provenance:
    """Write the asset's files."""
    hub = client()
    repository, revision = _parted(given)
    try:
        found: Any = hub.HfApi().model_info(repository, revision=revision)
        files = [file.rfilename for file in found.siblings or []]
        model_folders.check_names(files, f"{given} at {found.sha}")
        taken = model_folders.taken(files)
        hub.snapshot_download(repository, revision=found.sha, allow_patterns=taken, local_dir=made)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{given}' cannot be fetched ({error.__class__.__name__}): {first_line(error)}") from None
    shutil.rmtree(made / ".cache", ignore_errors=True)  # notes of the Hub's own
    model_folders.check(made, given)
    licence = next((tag.removeprefix("license:") for tag in found.tags or [] if tag.startswith("license:")), None)
    return Provenance(
        asset=name, given=given, what=f"the model {repository}", licence=licence or "not stated",
        attribution=f"https://huggingface.co/{repository}",
        source={"hub": repository, "commit": found.sha, "asked": revision or "the default branch"},
    )  # fmt: skip
