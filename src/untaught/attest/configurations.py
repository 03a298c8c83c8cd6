"""What a model folder's configurations ask for: code of the folder or of a hub, weights elsewhere, chat templates.

Only JSON and Jinja files are read, up to a bound, and nothing is rendered. A chat template is a program in a sandbox;
what reaches from a value to Python's insides is on the way out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any, cast

from .canonical import LONGEST, loads
from .contents import Seen
from .manifest import fault
from .refusals import Tampered

ASKS = {
    "auto_map": "names code for transformers to run",
    "custom_pipelines": "names code for a pipeline to run",
    "trust_remote_code": "asks that code which comes with a model be run",
}
"""Keys of a configuration that ask for code."""
KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
"""Keys whose value is code of a hub if it has a `/`."""
PLACES = ("tokenizer_file", "vocab_file", "merges_file", "spm_file", "added_tokens_file", "base_model_name_or_path")
"""Keys that name something beside the folder. Tokenizers leave the place there where they were made."""
TEMPLATE = re.compile(r"__\w+__|\bmro\b|\|\s*attr\b|\bimport\s+os\b|\bpopen\b")
"""What no honest chat template needs."""
UNREAD = re.compile(r"(.*/)?(tokenizer|vocab|added_tokens)\.json")
"""Long files of words, in which nothing can be asked for."""


def of_file(path: str, file: IO[bytes], size: int) -> Iterator[Seen]:
    """All that a configuration asks for; nothing if the file is none."""
    if path.endswith((".jinja", ".jinja2", ".j2")):
        file.seek(0)
        yield _template(path, file.read(LONGEST).decode("utf-8", "replace"))
    if not path.endswith(".json") or UNREAD.fullmatch(path):
        return
    if size > LONGEST:
        yield Seen(path, "json", "refuse", f"has {size} bytes of JSON, and at most {LONGEST} are read")
        return
    file.seek(0)
    try:
        told = loads(file.read(), path, exact=False)
    except Tampered as error:
        said = str(error).removeprefix(path).lstrip(",: ").rstrip(".")
        yield Seen(path, "json", "refuse", f"is not to be trusted as JSON: {said}")
        return
    for table in _tables(told):
        for key, value in table.items():
            yield from _asked(path, key, value)
            yield from _templates(path, key, value, table)


def _tables(told: Any) -> Iterator[dict[str, Any]]:
    """Every table, at any depth."""
    if isinstance(told, dict):
        table = cast("dict[str, Any]", told)
        yield table
        told = list(table.values())
    if isinstance(told, list):
        for one in cast("list[Any]", told):
            yield from _tables(one)


def _asked(path: str, key: str, value: Any) -> Iterator[Seen]:
    """What one line of a configuration asks for."""
    if key in ASKS and value:
        yield Seen(path, key, "refuse", ASKS[key])
    elif key == "weight_map" and isinstance(value, dict):
        for name in sorted({str(one) for one in cast("dict[str, Any]", value).values()}):
            if wrong := fault(name):
                yield Seen(path, "outside path", "refuse", f"names weights in {name[:100]!r}, which {wrong}")
    elif not isinstance(value, str) or not value:
        return
    elif key in KERNELS and "/" in value:
        yield Seen(path, "hub code", "refuse", f"asks for code of a hub: {value[:100]!r}")
    elif key == "type" and re.search(r"(^|/)modules\.json$", path) and not value.startswith("sentence_transformers."):
        yield Seen(path, "hub code", "refuse", f"names a class to be imported: {value[:100]!r}")
    elif key in PLACES and ("/" in value or "\\" in value):
        yield Seen(path, "outside path", "note", f"names something outside of the folder: {value[:100]!r}")


def _templates(path: str, key: str, value: Any, table: dict[str, Any]) -> Iterator[Seen]:
    """One chat template, or several by their names."""
    if isinstance(value, str) and (key == "chat_template" or (key == "template" and "name" in table)):
        yield _template(path, value)
    elif key == "chat_template" and isinstance(value, dict):
        for one in cast("dict[str, Any]", value).values():
            if isinstance(one, str):
                yield _template(path, one)


def _template(path: str, text: str) -> Seen:
    if found := TEMPLATE.search(text):
        return Seen(path, "chat template", "refuse", f"has a chat template that reaches into Python: {found.group()!r}")
    return Seen(path, "chat template", "note", f"has a chat template of {len(text)} characters, a program for prompts")
