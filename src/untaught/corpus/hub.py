"""Datasets of the Hugging Face Hub: `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION`, `hub:OWNER/NAME/FOLDER`.

Files are fetched as they are into the Hub's own cache, and then are sources like any other. What is put there is
private unless the user says that all may see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import UserError

PREFIX = "hub:"


def fetched(given: str, kinds: Sequence[str]) -> Path:
    """The local folder of a dataset, its files of these kinds fetched where they were not."""
    name, _, revision = given.removeprefix(PREFIX).partition("@")
    parts = name.split("/")
    if len(parts) < 2 or not all(parts):
        raise UserError(f"'{given}' names no dataset. Give {PREFIX}OWNER/NAME, with @REVISION where it must not move.")
    below = "/".join([*parts[2:], ""])
    patterns = [f"{below}*{kind}" for kind in kinds]
    with_hub = client()
    try:
        folder = with_hub.snapshot_download(
            "/".join(parts[:2]), repo_type="dataset", revision=revision or None, allow_patterns=patterns
        )
    except Exception as error:
        raise UserError(f"'{given}' cannot be fetched ({error.__class__.__name__}): {first_line(error)}") from None
    return Path(folder) / below


def upload(folder: Path, given: str, *, public: bool) -> str:
    """Put what a filter folder kept, its policy, receipts and summary into a dataset. Private unless `public`."""
    name = given.removeprefix(PREFIX)
    if not (folder / "kept").is_dir():
        raise UserError(f"{folder} holds no kept documents. Write them with --apply first.")
    api: Any = client().HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        if not public and not api.repo_info(name, repo_type="dataset").private:
            raise UserError(f"the dataset {name} is there and public. Say --public, or give the name of another.")
        patterns = ["kept/**", "policy.yaml", "receipts/**", "summary.json"]
        api.upload_folder(folder_path=folder, repo_id=name, repo_type="dataset", allow_patterns=patterns)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{given}' cannot be written ({error.__class__.__name__}): {first_line(error)}") from None
    return f"{PREFIX}{name}"


def client() -> Any:
    """The Hub's own library, or a `UserError` that says how to get it."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError("the Hub needs the extra 'hub': pip install 'untaught[hub]'.") from None
    return huggingface_hub


def first_line(error: Exception) -> str:
    """What an error of the Hub's says, in short."""
    return (str(error).strip().splitlines() or ["no reason was given"])[0][:200]
