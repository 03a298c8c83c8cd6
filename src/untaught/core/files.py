"""Files of the user: tables in YAML, changes to them by path, new folders, and where what is worth keeping is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds one table."""
    try:
        table = yaml.load(file.read_text(encoding="utf-8"), _Strict)
    except FileNotFoundError:
        raise UserError(f"there is no file {file}. Give the path of a YAML file.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Give the path of a YAML file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text, so it is not a YAML file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{at} is not YAML: {getattr(error, 'problem', None) or 'it cannot be read'}.") from None
    if not isinstance(table, dict):
        held = {type(None): "is empty", list: "holds a list"}.get(type(table), "holds a single value")
        raise UserError(f"{file} {held}, and should hold a table: lines of 'name: value'.")
    return table


class _Strict(yaml.SafeLoader):
    """YAML in which a name that is given twice in one table is an error: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is there twice in a table", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def change(table: dict[str, Any], path: str, value: Any) -> None:
    """Set a value by its path, names and positions in lists parted by dots: `arms.rmu.unlearning.0.steps`."""
    *parents, last = path.split(".")
    place: Any = table
    for part in parents:
        place = _step_into(place, part, path)
    if isinstance(place, list):
        place[_position(place, last, path)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UserError(f"--set {path}: there is nothing to set below a {type(place).__name__}.")


def _step_into(place: Any, part: str, path: str) -> Any:
    """What stands at one part of a path. A component given by its name alone becomes a table, to set things in."""
    if not isinstance(place, list | dict):
        raise UserError(f"--set {path}: there is nothing called '{part}' below a {type(place).__name__}.")
    at: Any = _position(place, part, path) if isinstance(place, list) else part
    if isinstance(place, dict) and place.get(at) is None:
        place[at] = {}
    if isinstance(place[at], str):
        place[at] = {"use": place[at].removeprefix("lab:")}
    return place[at]


def _position(place: list[Any], part: str, path: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        known = f"a position from 0 to {len(place) - 1}" if place else "left out: the list is empty"
        raise UserError(f"--set {path}: '{part}' should be {known}.")
    return int(part)


def check_new(out: Path) -> None:
    """A `UserError` unless a folder can be written there that nothing is in yet."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is a file or a folder that is not empty. Give another with --out.")
    above = next(path for path in out.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"the folder {out} cannot be written: {above} does not let it. Give another with --out.")


@contextlib.contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Lend a folder to write to; it becomes `out` at the end, unless something was raised."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written: {error.strerror}. Give another with --out.") from None
    try:
        yield made
        made.chmod(0o755)
        if out.exists():
            out.rmdir()
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def home() -> Path:
    """Where finished steps and answers are kept: `UNTAUGHT_HOME`, or the user's cache folder."""
    if given := os.environ.get("UNTAUGHT_HOME"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "untaught"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "untaught"
