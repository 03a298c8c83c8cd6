"""Rows of an embedding that are trained alone: virtual tokens before a prompt.

A copy of the tokenizer gets new special tokens, and a copy of the model a row for each in its embedding: rows that
no token had, where the embedding is larger than the vocabulary, else new ones. All else is the same numbers. New rows
begin as the mean of all, so that none stands out; in a head of its own they stay so, and then a new token is never
likelier than tokens are on average: exp(mean of logits) <= mean of exp(logits), and n of them take log(1 + n / V) nats
from an answer's token at most, V the size of the vocabulary (a head that squashes its logits bends this a little).
Where embedding and head are the same matrix, the rows that are trained are in the head too, and so in the softmax of
the loss that they are trained with: what a token loses to them is part of what is descended.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core import Inapplicable, Subject
from ..engine.anatomy import names_of
from ..engine.compute import seeded
from ..engine.models import fresh


class Soft(nn.Module):
    """A model in which `rows` stand in place of the embedding's rows of some tokens. Nothing else of it is trained."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        (self.name,) = names_of(model, [model.get_input_embeddings().weight])
        weight = model.get_parameter(self.name)
        self.ids = torch.tensor(ids, device=weight.device)
        self.rows = nn.Parameter(weight.detach()[self.ids].float())

    @property
    def config(self) -> Any:
        return self.model.config

    def get_base_model(self) -> Any:
        return self.model

    def forward(self, **inputs: Any) -> Any:
        weight = self.model.get_parameter(self.name)
        grown = weight.index_copy(0, self.ids, self.rows.to(weight.dtype))
        return functional_call(self.model, {self.name: grown}, args=(), kwargs=inputs)

    def merge_and_unload(self) -> Any:
        """The ordinary model, with the rows in it."""
        with torch.no_grad():
            weight = self.model.get_parameter(self.name)
            weight.index_copy_(0, self.ids, self.rows.to(weight.dtype))
        return self.model


def widened(subject: Subject, tokens: int) -> tuple[Subject, list[str], list[int]]:
    """A copy that knows this many new tokens, what they are called, and their ids."""
    from tokenizers import AddedToken

    tokenizer: Any = copy.deepcopy(subject.tokenizer)
    known = tokenizer.get_vocab()
    names = list(islice((name for i in count() if (name := f"<|soft-{i}|>") not in known), tokens))
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(names)
    if max(tokenizer(names[0], add_special_tokens=False)["input_ids"]) != ids[0]:
        raise Inapplicable("this tokenizer takes no new special tokens, so virtual tokens have no place in a prompt.")
    given: Any = subject.model
    (name,) = names_of(given, [given.get_input_embeddings().weight])
    model: Any = fresh(given, {name})
    before = given.get_input_embeddings().num_embeddings
    if max(ids) >= before:
        _grow(model, max(ids) + 1, before)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[ids] = _mean(weight[:before])
    return replace(subject, model=model.eval(), tokenizer=tokenizer), names, ids


def _grow(model: Any, rows: int, before: int) -> None:
    """More rows for the embedding, and for the head, whose new ones are the mean of those before."""
    try:
        with seeded(0):  # the new rows are drawn at random before they are set
            model.resize_token_embeddings(rows, mean_resizing=False)
    except (NotImplementedError, AttributeError, TypeError) as error:
        raise Inapplicable(
            f"the embedding of a {type(model).__name__} takes no new rows ({type(error).__name__}), so virtual tokens"
            " have no place in it. The attacks by plain text can be applied."
        ) from None
    head = model.get_output_embeddings()
    with torch.no_grad():
        for part in () if head is None else head.parameters():
            part[before:] = _mean(part[:before])


def _mean(rows: Tensor) -> Tensor:
    return rows.float().mean(0).to(rows.dtype)


def placed(tokenizer: Any, names: Sequence[str], text: str) -> str:
    """The tokens as text, with the space behind them in tokenizers that need one.

    There it leaves the tokens of a text that follows as they are when it stands alone.
    """
    told = "".join(names)
    alone = tokenizer(text, add_special_tokens=False)["input_ids"]
    for gap in ("", " "):
        if tokenizer(told + gap + text, add_special_tokens=False)["input_ids"][len(names) :] == alone:
            return told + gap
    return told
