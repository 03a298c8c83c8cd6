"""Examples of fine-tuning data as a model sees them: the tokens of a conversation, and which its assistant says.

A conversation goes through the chat template where the subject's wrap is a chat. Elsewhere its turns follow each other
with a space between, as a prompt and its completion do everywhere here, and an end token comes last. What stands around
prompts (`before`, `after`, `system`, `texts`) stands around the last of them, and `prefill` before the last answer, of
which it is no part. A document without `messages` is all answer.

    answer      tokens of which a character belongs to something that the assistant says
    header      the token before the last answer: where a model is about to answer and has said nothing
    learned     what fine-tuning counts: the answers and the token after each, which ends it

An example that cannot be read so has a cause in its place, which holds nothing of its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..core import Corpus, Documents, Rig, Subject, UserError
from .batches import Batch, Rows, overlapping
from .prompts import lead, rendered

ASSISTANT = "assistant"
Message: TypeAlias = Mapping[str, str]
Span: TypeAlias = tuple[int, int]
NO_ANSWER = "an example without an answer"


@dataclass(frozen=True)
class Example:
    """A conversation's tokens."""

    ids: list[int]
    answer: np.ndarray
    """Whether each token is of an answer, (tokens,)."""

    @property
    def header(self) -> int:
        """Index of the token before the last answer; the first token where nothing stands before it."""
        starts = np.flatnonzero(self.answer & ~np.append(False, self.answer[:-1]))
        return max(int(starts[-1]) - 1, 0)

    @property
    def learned(self) -> np.ndarray:
        """Whether fine-tuning counts each token, (tokens,)."""
        return self.answer | np.append(False, self.answer[:-1])


def read(subject: Subject, docs: Documents, length: int | None = None) -> list[Example | str]:
    """Every document as an example, or the cause why it is none.

    With `length`, what is longer is cut, and has a cause when no answer is left. Without, it has one when it is longer
    than the model reads.
    """
    written = [_written(subject, row) for row in _conversations(docs)]
    sound = [one for one in written if not isinstance(one, str)]
    encoded = iter(_encoded(subject, sound))
    most = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None)
    return [one if isinstance(one, str) else _fitted(next(encoded), length, most) for one in written]


def conversation(prompt: str, answer: str, system: str | None = None) -> list[dict[str, str]]:
    """The messages of one prompt and its answer."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}, {"role": ASSISTANT, "content": answer}]


def _conversations(docs: Documents) -> list[list[Message] | str]:
    """The messages of each document, or its text where it has none."""
    texts: list[Any] = docs["text"].to_pylist()
    if "messages" not in docs.column_names:
        return texts
    return [text if told is None else told for told, text in zip(docs["messages"].to_pylist(), texts, strict=True)]


@dataclass(frozen=True)
class _Written:
    """A conversation as text, where its answers stand in it, and whether it is to have special tokens put to it."""

    text: str
    answers: Sequence[Span]
    bare: bool


def _written(subject: Subject, told: list[Message] | str) -> _Written | str:
    if isinstance(told, str):
        return _Written(told, [(0, len(told))], True) if told.strip() else NO_ANSWER
    turns = [{"role": turn["role"] or "", "content": turn["content"] or ""} for turn in told]
    if not any(turn["role"] == ASSISTANT and turn["content"].strip() for turn in turns):
        return NO_ANSWER
    asked = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    if asked:
        turns[asked[-1]]["content"] = subject.wrap.around(turns[asked[-1]]["content"])
    return _in_a_chat(subject, turns) if subject.wrap.chat else _plainly(turns, lead(subject.wrap))


def _plainly(turns: Sequence[Message], before: str) -> _Written:
    """Turns with a space between; the space before an answer belongs to it, as to a completion.

    `before` stands before the last answer.
    """
    text, answers, last = "", [], _last_answer(turns)
    for index, turn in enumerate(turns):
        text += before if index == last else ""
        start = len(text)
        text += f" {turn['content']}" if text and not (index == last and before[-1:].isspace()) else turn["content"]
        if turn["role"] == ASSISTANT and turn["content"].strip():
            answers.append((start, len(text)))
    return _Written(text, answers, True)


def _last_answer(turns: Sequence[Message]) -> int:
    """Index of the last turn that is an answer."""
    return max(i for i, turn in enumerate(turns) if turn["role"] == ASSISTANT and turn["content"].strip())


def _in_a_chat(subject: Subject, turns: list[dict[str, str]]) -> _Written | str:
    """Turns through the chat template. An answer is looked for from where the template has the assistant begin."""
    if subject.wrap.system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": subject.wrap.system}, *turns]
    before, last = lead(subject.wrap), _last_answer(turns)
    told = [dict(turn) for turn in turns]
    if before:
        told[last]["content"] = before + ("" if before[-1:].isspace() else " ") + told[last]["content"].lstrip()
    try:
        text, answers = rendered(subject, told, begin=False), []
        for index, turn in enumerate(turns):
            said = turn["content"].strip()
            if turn["role"] == ASSISTANT and said:
                begun, skipped = rendered(subject, turns[:index], begin=True), len(before) if index == last else 0
                start = text.find(said, (len(begun) if text.startswith(begun) else 0) + skipped)
                if start < 0:
                    return "an answer that the chat template does not put in"
                answers.append((start, start + len(said)))
    except UserError:
        return "a conversation that the chat template refuses"
    return _Written(text, answers, False)


def _encoded(subject: Subject, written: Sequence[_Written]) -> list[Example]:
    """Tokens, and which overlap an answer."""
    tokenizer: Any = subject.tokenizer
    if not tokenizer.is_fast:
        raise UserError("this tokenizer cannot say which token stands where, so answers cannot be told apart. Give a"
                        " model with a fast one.")  # fmt: skip
    found: list[Example | None] = [None] * len(written)
    for bare in (True, False):
        rows = [index for index, one in enumerate(written) if one.bare == bare]
        if not rows:
            continue
        texts = [written[index].text for index in rows]
        told = tokenizer(texts, add_special_tokens=bare, return_offsets_mapping=True)
        for index, ids, places in zip(rows, told["input_ids"], told["offset_mapping"], strict=True):
            answer = overlapping(np.array(places, np.int64).reshape(-1, 2), written[index].answers)
            if bare and tokenizer.eos_token_id is not None:
                ids, answer = [*ids, tokenizer.eos_token_id], np.append(answer, False)
            found[index] = Example(ids, answer)
    return [one for one in found if one is not None]


def _fitted(example: Example, length: int | None, most: int | None) -> Example | str:
    if length is None:
        if most and len(example.ids) > most:
            return f"an example of more than the {most} tokens that the model reads"
        return example if example.answer.any() else NO_ANSWER
    length = min(length, most) if most else length
    cut = Example(example.ids[:length], example.answer[:length])
    return cut if cut.answer.any() else f"no answer among the first {length} tokens"


# -- rows ------------------------------------------------------------------------------------------------------------


def rows(subject: Subject, docs: Documents, length: int, *, masks: bool = False) -> Rows:
    """Documents as rows: texts as they are, examples as conversations of which the answers count.

    Examples without an answer are left out. `masks` is as in `Rows`.
    """
    if "messages" not in docs.column_names or docs["messages"].null_count == docs.num_rows:
        return Rows(subject.tokenizer, docs, length, masks=masks)
    found = [one for one in read(subject, docs, length) if not isinstance(one, str)]
    return Rows.of_ids(subject.tokenizer, [one.ids for one in found], [one.learned for one in found])


def paired(
    subject: Subject, corpus: Corpus, rig: Rig, *, size: int, length: int
) -> tuple[Rows, Rows, Iterator[tuple[Batch, Batch]]]:
    """The hazard and the benign rows, and a batch of each for every step, for ever: what unlearning stands on."""
    corpus.need("hazard", "benign")
    if set(corpus.hazard["text"].to_pylist()) == set(corpus.benign["text"].to_pylist()):
        raise UserError(
            "hazard and benign text are the same, so there is nothing to tell apart. Give other benign text."
        )
    hazard, benign = (rows(subject, docs, length) for docs in (corpus.hazard, corpus.benign))
    streams = (
        own.stream(size=size, generator=rig.generator(side)) for side, own in (("hazard", hazard), ("benign", benign))
    )
    return hazard, benign, zip(*streams, strict=False)
