"""Model folders from elsewhere: which of their files are taken, and whether they can be used without running code."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from ..core import UserError
from ..engine.folders import no_weights

TAKEN = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja", "LICENSE*", "NOTICE*",
)  # fmt: skip
"""Weights, configuration, tokenizer and licence: no code, no pickles."""
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))


def taken(names: Iterable[str]) -> list[str]:
    """Those names that are taken, all at the top of their folder."""
    return sorted(n for n in names if "/" not in n and any(fnmatch(n, pattern) for pattern in TAKEN))


def check_names(names: Iterable[str], where: str) -> None:
    """A `UserError` unless there are a configuration, safetensors weights and a tokenizer among these names."""
    there = {name for name in names if "/" not in name}
    if "config.json" not in there:
        raise UserError(f"{where} has no config.json, so it is no model folder. Give one that `save_pretrained` wrote.")
    if not any(fnmatch(name, "*.safetensors") for name in there):
        raise no_weights(there, where)
    if not any(set(files) <= there for files in TOKENIZERS):
        raise UserError(
            f"{where} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt). Save the"
            " model's beside its weights: tokenizer.save_pretrained(FOLDER)."
        )


def check(folder: Path, where: str) -> None:
    """A `UserError` unless the folder's files are whole and ask for no code."""
    check_names([path.name for path in folder.iterdir()], where)
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in _table(folder / name):
            raise UserError(f"{where}: {name} asks to run code of its own (auto_map). Use a model without it.")
    for path in sorted(folder.glob("*.safetensors")):
        _check_whole(path)
    for index in folder.glob("*.safetensors.index.json"):
        named = set(dict(_table(index).get("weight_map") or {}).values())
        if lacking := sorted(str(name) for name in named if not (folder / str(name)).is_file()):
            raise UserError(f"{where} lacks {', '.join(lacking)}, which {index.name} names. Download it again.")


def _table(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a JSON table. Fetch or save the model again.") from None


def _check_whole(path: Path) -> None:
    """The file is as long as its header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (head,) = struct.unpack("<Q", file.read(8))
            if head > size:
                raise ValueError(f"a header of {head} bytes")
            entries = json.loads(file.read(head))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        wanted = 8 + head + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is cut short or no safetensors file. Download it again.") from None
    if size != wanted:
        raise UserError(f"{path} has {size} bytes and its header speaks of {wanted}. Download it again.")
