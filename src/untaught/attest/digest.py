"""Digests: SHA-256 of settings, files, code and weights. A weights digest needs no torch to be checked.

weights   SHA-256 over every tensor in the order of names: name, dtype, shape, bytes
json      SHA-256 of Python's own text of it: sorted keys, no spaces (not RFC 8785, which is for what is signed)
code      SHA-256 over the syntax trees without docstrings, so that a comment changes nothing
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core import UserError
from . import weights


def of_json(value: Any) -> str:
    """Digest of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_path(path: Path) -> str:
    """Digest of a file's bytes, or of the names and bytes of all files below a folder."""
    if not path.is_dir():
        return of_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return of_json([[p.relative_to(path).as_posix(), of_file(p)] for p in files])


def of_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]) -> str:
    """Digest of tensors given as name, dtype (safetensors' word), shape and little-endian bytes."""
    whole = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        whole.update(weights.front(name, dtype, shape, len(data)))
        whole.update(data)
    return whole.hexdigest()


def of_weights(folder: Path) -> str:
    """Digest of a model folder's safetensors, whatever its sharding. Needs no torch, and little memory."""
    with contextlib.ExitStack() as held:
        shards: list[weights.Shard] = []
        for path in sorted(folder.glob("*.safetensors")):
            file = held.enter_context(path.open("rb"))
            try:
                shards.append(weights.shard(file, path.stat().st_size))
            except weights.Malformed as error:
                raise UserError(f"{path} {error}, so it is no safetensors file. Fetch or save it again.") from None
        return weights.digests(shards, of_files=False)[0]


@functools.cache
def of_code(*paths: Path) -> str:
    """Digest of Python files and of all Python files below folders, comments and docstrings left out."""
    files = {f for path in paths for f in (path.rglob("*.py") if path.is_dir() else [path])}
    return of_json(sorted([f.parent.name, f.name, ast.dump(_without_docstrings(f))] for f in files))


def _without_docstrings(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return tree


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
