"""Hazard text as something that is asked: a prompt, and the answer that an attack makes likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..core import MESSAGES, Corpus, Documents, Subject, UserError
from ..engine.examples import conversation


def asked(subject: Subject, corpus: Corpus) -> Documents:
    """The hazard documents as conversations of one prompt and its answer; what has no answer is left out.

    Of an example, its last answer and what the user said before it. Of a text, what follows its first word, where
    prompts are plain text; in a chat, where a first word asks nothing, its second half.
    """
    docs = corpus.need("hazard").hazard
    pairs = [pair(row) or halved(row["text"], middle=subject.wrap.chat) for row in docs.to_pylist()]
    told = [conversation(*one) for one in pairs if one[1].strip()]
    if not told:
        raise UserError("no hazard document has an answer to be made likely. Give longer texts, or examples.")
    ids = [f"asked-{row}" for row in range(len(told))]
    return pa.table({"id": ids, "text": ["\n".join(t["content"] for t in one) for one in told],
                     "messages": pa.array(told, MESSAGES)})  # fmt: skip


def pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """An example's last answer and what the user said before it; None of a document that is no example."""
    turns: Sequence[Mapping[str, str]] | None = row.get("messages")
    if turns is None:
        return None
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant" and turn["content"]]
    prompts = [turn["content"] or "" for turn in turns[: answers[-1]] if turn["role"] == "user"] if answers else []
    return (prompts[-1] if prompts else "", turns[answers[-1]]["content"]) if answers else ("", "")


def halved(text: str, *, middle: bool) -> tuple[str, str]:
    """A text cut at a space: the first, or the one nearest the middle.

    >>> halved("one two three four", middle=False), halved("one two three four", middle=True)
    (('one', 'two three four'), ('one two', 'three four'))
    """
    places = [place for place, letter in enumerate(text) if letter == " " and 0 < place < len(text) - 1]
    if not places:
        return "", text
    cut = min(places, key=lambda place: abs(place - len(text) / 2)) if middle else places[0]
    return text[:cut], text[cut + 1 :]


def shorter(subject: Subject, texts: Sequence[str], length: int) -> list[str]:
    """Texts cut after at most `length` tokens."""
    tokenizer: Any = subject.tokenizer
    if not texts or not tokenizer.is_fast:
        return list(texts)
    places = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [text[: at[length - 1][1]] if len(at) > length else text for text, at in zip(texts, places, strict=True)]
