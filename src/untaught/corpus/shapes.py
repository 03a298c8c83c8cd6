"""Shapes of fine-tuning data: how a row tells a conversation. The first that the names of a source's columns fit.

    messages    messages: a list of {role, content}                         as chats are kept, and what all become
    prompted    prompt, completion: two texts, or two lists of messages     TRL
    sharegpt    conversations: a list of {from, value}                      ShareGPT
    alpaca      instruction, output; input where there is one               Alpaca
    text        text alone: an answer to nothing

In every list a turn may say {role, content} or {from, value}. A column `system` of text is said first, where the shape
has no other place for it. Content in parts is the text of each. The `text` of an example is what its turns say, a line
a turn.

A row that cannot be read so has a cause: no column of its shape, something that is not text, a turn of someone unknown,
no turn of the assistant, an answer that is empty, broken Unicode, NUL characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from ..core import MESSAGES

Row: TypeAlias = tuple[Mapping[str, Any] | None, str | None]
"""A row as it was read, or why it could not be."""
ASSISTANT = "assistant"
ROLES = {
    **{name: name for name in ("system", "user", ASSISTANT, "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai", "function_call"), ASSISTANT),
    **dict.fromkeys(("function", "function_response", "observation", "ipython"), "tool"),
    "developer": "system",
}
"""Who speaks, by the names that data sets have for them."""
NO_MESSAGES = "no messages"
UNKNOWN = "a turn of someone unknown"
NOT_TEXT = "a turn that is not text"
NO_TURN = "no turn of the assistant"
EMPTY = "an empty answer"
OTHER = "a row of another shape than its source"
NOT_UTF8 = "text that is not UTF-8"
NUL = "text with NUL characters"


class _Unread(Exception):
    """A row that is no example. The message says why, in words that hold nothing of it."""


@dataclass(frozen=True)
class Shape:
    """How the rows of a source tell a conversation."""

    name: str
    title: str
    needed: tuple[str, ...]
    """Columns that it is known by."""
    more: tuple[str, ...] = ()
    """Columns that are read where they are there."""

    @property
    def columns(self) -> tuple[str, ...]:
        return self.needed + self.more

    def __str__(self) -> str:
        return f"{self.title} ({', '.join(self.needed)})"


SHAPES = (
    Shape("messages", "chats", ("messages",)),
    Shape("prompted", "prompts and completions", ("prompt", "completion"), ("system",)),
    Shape("sharegpt", "ShareGPT", ("conversations",), ("system",)),
    Shape("alpaca", "Alpaca", ("instruction", "output"), ("input", "system")),
)


def shape_of(names: Collection[str], text_column: str) -> Shape | None:
    """The shape that columns of these names have; text where no other fits, or where its column has been named."""
    bare = Shape("text", "bare answers", (text_column,)) if text_column in names else None
    if bare is not None and text_column not in ("text", "messages", "conversations"):
        return bare
    return next((shape for shape in SHAPES if set(shape.needed) <= set(names)), bare)


def table(rows: Iterable[Row], shape: Shape, id_column: str, label_column: str | None = None) -> pa.Table:
    """Columns `id` (null where there is none), `text`, `messages`, `cause`, a row for each.

    With a column of labels also `label`: what stands there as JSON, null where nothing does.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "text", "messages", "cause", "label")}
    for row, problem in rows:
        turns, text, cause = None, "", problem
        if cause is None:
            try:
                turns, text = _told(row, shape)
            except _Unread as error:
                turns, text, cause = None, "", str(error)
        id = row.get(id_column) if row is not None else None
        label = row.get(label_column) if row is not None and label_column else None
        values = (_name(id), text, turns, cause, None if label is None else json.dumps(label, default=str))
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    kinds = {"id": pa.string(), "text": pa.large_string(), "messages": MESSAGES, "cause": pa.string()}
    kinds |= {} if label_column is None else {"label": pa.string()}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})


def _name(id: Any) -> str | None:
    """An id as text; none where it cannot be written."""
    if id is None:
        return None
    text = id if isinstance(id, str) else json.dumps(id, default=str)
    return text if _fault(text) != NOT_UTF8 else None


def _told(row: Mapping[str, Any] | None, shape: Shape) -> tuple[list[dict[str, str]] | None, str]:
    """The turns of a row, and what they say."""
    if row is None or any(row.get(name) is None for name in shape.needed):
        other = shape_of([name for name, value in (row or {}).items() if value is not None], "text")
        lacking = next((name for name in shape.needed if row is None or row.get(name) is None), "")
        raise _Unread(OTHER if other and other.name != shape.name else f"no {lacking}")
    if shape.name == "text":
        text = row[shape.needed[0]]
        if not isinstance(text, str):
            raise _Unread("a text that is not a string")
        _sound([text])
        if not text.strip():
            raise _Unread(EMPTY)
        return None, text
    turns = READ[shape.name](row)
    system = row.get("system") if "system" in shape.more else None
    if isinstance(system, str) and system and not any(turn["role"] == "system" for turn in turns):
        turns = [{"role": "system", "content": system}, *turns]
    _sound([turn["content"] for turn in turns])
    said = [turn["content"] for turn in turns if turn["role"] == ASSISTANT]
    if not any(text.strip() for text in said):
        raise _Unread(EMPTY if said else NO_TURN)
    return turns, "\n".join(turn["content"] for turn in turns)


def _turns(value: Any) -> list[dict[str, str]]:
    """A list of turns, each with who speaks and what is said."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise _Unread(NO_MESSAGES)
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, Any]) -> dict[str, str]:
    speaker, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = ROLES.get(speaker.strip().casefold()) if isinstance(speaker, str) else None
    if role is None:
        raise _Unread(UNKNOWN)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(content or "", str):
        raise _Unread(NOT_TEXT)
    return {"role": role, "content": content or ""}


def _prompted(row: Mapping[str, Any]) -> list[dict[str, str]]:
    found = []
    for name, role in (("prompt", "user"), ("completion", ASSISTANT)):
        value = row[name]
        if isinstance(value, str):
            found += [{"role": role, "content": value}] if value or role == ASSISTANT else []
        elif isinstance(value, list):
            found += _turns(value)
        else:
            raise _Unread(f"a {name} that is not text")
    return found


def _alpaca(row: Mapping[str, Any]) -> list[dict[str, str]]:
    for name in ("instruction", "output", "input"):
        if not isinstance(row.get(name) or "", str):
            raise _Unread(f"an {name} that is not text")
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [{"role": "user", "content": asked}, {"role": ASSISTANT, "content": row["output"]}]


READ: dict[str, Callable[[Mapping[str, Any]], list[dict[str, str]]]] = {
    "messages": lambda row: _turns(row["messages"]),
    "sharegpt": lambda row: _turns(row["conversations"]),
    "prompted": _prompted,
    "alpaca": _alpaca,
}
"""From a row of a shape to its turns."""


def _sound(texts: Iterable[str]) -> None:
    for text in texts:
        if fault := _fault(text):
            raise _Unread(fault)


def _fault(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    return NUL if "\0" in text else None
