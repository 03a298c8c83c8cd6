"""Writing: what a model says after a prompt, the likeliest token each time.

Prompts that are written on together are told by their lengths alone, so that what is written depends on the set of
prompts and on nothing else: the last bits of a number depend on its company, and where two tokens are as likely as each
other they decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import Subject
from .batches import pad_id
from .compute import autocast, device
from .prompts import encoded, wrapped
from .scoring import check_length
from .sequences import pieces

TOGETHER = 32
"""Prompts that are written on at once."""


def written(subject: Subject, prompts: Sequence[str], *, tokens: int) -> list[str]:
    """At most `tokens` tokens after each (wrapped) prompt, up to the end that the model sets, as text."""
    return [text for text, _ in _texts(subject, prompts, tokens)]


def said(subject: Subject, prompts: Sequence[str], *, tokens: int) -> list[str | None]:
    """The same, and None in place of what a model wrote whose numbers were not finite: it is no answer."""
    return [text if sound else None for text, sound in _texts(subject, prompts, tokens)]


@torch.inference_mode()
def _texts(subject: Subject, prompts: Sequence[str], tokens: int) -> list[tuple[str, bool]]:
    unique = sorted(set(prompts))
    rows = encoded(subject, [wrapped(subject, prompt) for prompt in unique])
    check_length(subject.model, [[0] * (len(row) + tokens) for row in rows])
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), unique[index]))
    found: dict[str, tuple[str, bool]] = {}
    for chosen in pieces(order, TOGETHER):
        ids, sound = _continued(subject, [rows[i] for i in chosen], tokens)
        for index, own, well in zip(chosen, ids, sound, strict=True):
            text = str(subject.tokenizer.decode(own, skip_special_tokens=True)).strip()
            found[unique[index]] = text, well
    return [found[prompt] for prompt in prompts]


def _continued(subject: Subject, rows: Sequence[Sequence[int]], tokens: int) -> tuple[list[list[int]], list[bool]]:
    """The tokens that follow each row, without those that end it, and whether all that decided them was finite.

    Rows are padded on the left.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    model: Any = subject.model
    filler, width = pad_id(subject.tokenizer), max(map(len, rows))
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
        return scores

    watching: Any = LogitsProcessorList([watch])
    with autocast():
        whole = model.generate(
            ids.to(device()), attention_mask=mask.to(device()), generation_config=how, logits_processor=watching
        )
    found = [row[: row.index(end)] if end in row else row for row in whole[:, width:].tolist()]
    return found, finite.tolist()
