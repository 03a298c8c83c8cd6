"""Writing: what a model says after a prompt: the likeliest token each time, or, where a draw is asked for, a sample.

A sample is the likeliest token after noise was added: argmax(logit + g), g from a standard Gumbel distribution, follows
the model's own probabilities (Maddison et al. 2014, arXiv 1411.0030). The noise comes from the prompt and the draw's
number alone, so that company does not change it, and two models that are asked the same meet the same luck: what
differs between them is the models.

The last bits of a number depend on its company, and where two tokens are as likely as each other they decide.

    written, said    prompts that are written on together are told by their lengths alone: what is written depends on
                     the set of prompts and on nothing else
    answered         a prompt is written on in the shape that its own length gives (so many rows of one width, rows that
                     are left filled with copies, padding in each): what is written depends on the prompt alone
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Documents, Subject
from . import examples
from .batches import pad_id
from .compute import autocast, device
from .examples import Example
from .features import NOT_FINITE, rounded
from .prompts import encoded, wrapped
from .remembering import notes
from .scoring import check_length, check_vocabulary, first_named
from .sequences import pieces

TOGETHER = 32
"""Prompts that are written on at once."""
ROWS = {"cpu": 8, "cuda": 64}
"""Prompts of like length that are written on at once where company must not show, by the kind of device."""


def written(subject: Subject, prompts: Sequence[str], *, tokens: int) -> list[str]:
    """At most `tokens` tokens after each (wrapped) prompt, up to the end that the model sets, as text."""
    return [text for text, _ in _texts(subject, prompts, tokens)]


def said(
    subject: Subject,
    prompts: Sequence[str],
    *,
    tokens: int,
    draw: int | None = None,
    names: Sequence[str] | None = None,
) -> list[str | None]:
    """The same, and None in place of what a model wrote whose numbers were not finite: it is no answer.

    `draw` is the number of a sample, of which every one is another; None takes the likeliest token. `names` are the
    items that the prompts belong to, for messages.
    """
    return [text if sound else None for text, sound in _texts(subject, prompts, tokens, draw, names)]


def answered(
    subject: Subject, docs: Documents, *, tokens: int, length: int | None = None
) -> tuple[list[str], list[str | None]]:  # fmt: skip
    """What a model says in place of each example's last answer, in at most `tokens` tokens; and why some have none.

    An answer to nothing is written on from its first token. `length` cuts what is longer (see `examples.read`).
    """
    most = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None)
    read = [_prompt(one, tokens, most) for one in examples.read(subject, docs, length)]
    texts, causes = [""] * len(read), [one if isinstance(one, str) else None for one in read]
    by_width: dict[int, list[tuple[int, list[int]]]] = {}
    for place, ids in enumerate(read):
        if not isinstance(ids, str):
            by_width.setdefault(rounded(len(ids) + 1), []).append((place, ids))
    size = ROWS.get(device().type, ROWS["cpu"])
    for width in sorted(by_width, reverse=True):
        for chosen in pieces(by_width[width], size):
            rows = [ids for _, ids in chosen] + [chosen[0][1]] * (size - len(chosen))
            for (place, _), own, well in zip(chosen, *_continued(subject, rows, tokens, width), strict=False):
                texts[place] = str(subject.tokenizer.decode(own, skip_special_tokens=True)).strip()
                causes[place] = None if well else NOT_FINITE
    return texts, causes


def _prompt(example: Example | str, tokens: int, most: int | None) -> list[int] | str:
    """An example up to its last answer, or the cause why nothing can be written there."""
    if isinstance(example, str):
        return example
    ids = example.ids[: example.header + 1]
    if most and len(ids) + tokens > most:
        return f"a prompt that leaves no room for {tokens} of the {most} tokens that the model reads"
    return ids


@torch.inference_mode()
def _texts(
    subject: Subject,
    prompts: Sequence[str],
    tokens: int,
    draw: int | None = None,
    names: Sequence[str] | None = None,
) -> list[tuple[str, bool]]:
    unique = sorted(set(prompts))
    rows = encoded(subject, [wrapped(subject, prompt) for prompt in unique])
    check_vocabulary(subject.model, rows)
    lengths = [[0] * (len(row) + tokens) for row in rows]
    check_length(subject.model, lengths, first_named(unique, prompts, names))
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), unique[index]))
    found: dict[str, tuple[str, bool]] = {}
    for chosen in pieces(order, TOGETHER):
        told = _recalled(subject, [unique[i] for i in chosen], [rows[i] for i in chosen], tokens, draw)
        for index, (own, well) in zip(chosen, told, strict=True):
            text = str(subject.tokenizer.decode(own, skip_special_tokens=True)).strip()
            found[unique[index]] = text, well
    return [found[prompt] for prompt in prompts]


def _recalled(
    subject: Subject, prompts: Sequence[str], rows: Sequence[list[int]], tokens: int, draw: int | None
) -> list[tuple[list[int], bool]]:
    """What follows prompts that are written on together, from the notes of what was asked before where they have it."""
    kept, ends = notes(subject.model), [pad_id(subject.tokenizer), subject.tokenizer.eos_token_id]
    content = ["said", ends, tokens, draw, prompts if draw is not None else None, rows]
    if kept is not None and (known := kept.find(content)) is not None:
        return [(own, well) for own, well in json.loads(known)]
    luck = None if draw is None else [np.random.default_rng([draw, *prompt.encode()]) for prompt in prompts]
    found = list(zip(*_continued(subject, rows, tokens, luck=luck), strict=True))
    if kept is not None:
        kept.keep(content, json.dumps(found).encode())
    return found


@torch.inference_mode()
def _continued(
    subject: Subject,
    rows: Sequence[Sequence[int]],
    tokens: int,
    width: int | None = None,
    luck: Sequence[np.random.Generator] | None = None,
) -> tuple[list[list[int]], list[bool]]:
    """The tokens that follow each row, without those that end it, and whether all that decided them was finite.

    Rows are padded on the left, to `width` where it is given. `luck` is a generator for each row that is sampled.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    model: Any = subject.model
    filler, width = pad_id(subject.tokenizer), width or max(map(len, rows))
    ids = torch.full((len(rows), width), filler, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, width - len(row) :] = torch.tensor(row)
        mask[line, width - len(row) :] = 1
    end = subject.tokenizer.eos_token_id
    how = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, pad_token_id=filler, eos_token_id=end, use_cache=True
    )  # fmt: skip
    finite = torch.ones(len(rows), dtype=torch.bool, device=device())

    def watch(_: Tensor, scores: Tensor) -> Tensor:
        finite.logical_and_(scores.isfinite().all(-1))
        if luck is None:
            return scores
        noise = np.stack([one.gumbel(size=scores.shape[-1]) for one in luck])
        return scores.float() + torch.from_numpy(noise).to(scores.device, torch.float32)

    watching: Any = LogitsProcessorList([watch])
    with autocast():
        whole = model.generate(
            ids.to(device()), attention_mask=mask.to(device()), generation_config=how, logits_processor=watching
        )
    found = [row[: row.index(end)] if end in row else row for row in whole[:, width:].tolist()]
    return found, finite.tolist()
