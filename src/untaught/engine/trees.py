"""Texts that begin alike as one sequence, in which what they share stands once.

The sequence is a tree of tokens, written down with every token after its parent. A token attends to those on its way
from the root and to itself, and its position is its depth:

    mask[i, j] = j is i, or an ancestor of i            position[i] = number of ancestors of i

so that to the model each way from the root is that text alone. Four options of one question cost their own tokens and
the question once. The mask is that of SpecInfer (Miao et al. 2023, arXiv 2305.09781), which checks drafts with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compute import device

WIDTH = 256
"""Tokens of a tree, unless one of its texts is longer than half of that: attention pays for width, and nothing else."""


@dataclass
class Tree:
    """A tree of tokens, and the ways through it."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Place of the token before each; -1 at the root."""
    ways: dict[int, list[int]] = field(default_factory=dict)
    """A text's number to the places of its tokens, in order."""

    def shares(self, text: Sequence[int]) -> list[int]:
        """Places of the tokens that a text has in common with the one that was added last."""
        way = next(reversed(self.ways.values()), [])
        same = 0
        while same < min(len(way), len(text)) and self.tokens[way[same]] == text[same]:
            same += 1
        return way[:same]

    def add(self, number: int, text: Sequence[int]) -> None:
        """Branch off where a text parts from the one that was added last."""
        way = self.shares(text)
        for token in text[len(way) :]:
            self.parents.append(way[-1] if way else -1)
            way = [*way, len(self.tokens)]
            self.tokens.append(token)
        self.ways[number] = way

    @property
    def straight(self) -> bool:
        """Whether it is one text: the longest of its texts holds the others."""
        return all(parent == place - 1 for place, parent in enumerate(self.parents))

    def seen(self) -> np.ndarray:
        """For each token which it attends to: (width, width)."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


def grown(texts: Sequence[Sequence[int]], *, most: int, widest: int) -> list[Tree]:
    """Trees of at most `most` texts each that hold every text once, numbered as given.

    Texts are taken in the order of a dictionary: each meets first what it shares most with. It joins when a quarter of
    it is there already. A tree wider than `widest` does not branch.
    """
    trees: list[Tree] = []
    for number in sorted(range(len(texts)), key=lambda i: list(texts[i])):
        text, last = texts[number], trees[-1] if trees else Tree()
        same = len(last.shares(text))
        longer = same in (len(text), len(last.tokens))  # all of one is in the other: no new branch
        width = len(last.tokens) + len(text) - same
        fits = 4 * same >= len(text) and width <= min(widest, max(WIDTH, 2 * len(text)))
        if not trees or len(last.ways) == most or not (longer or fits):
            trees.append(Tree())
        trees[-1].add(number, text)
    return trees


def asked(model: Any, trees: Sequence[Tree], filler: int) -> dict[str, Tensor]:
    """What to call a model with for a batch of trees. Where none of them branches, an ordinary batch."""
    width = max(len(tree.tokens) for tree in trees)
    ids = torch.full((len(trees), width), filler, dtype=torch.long)
    for row, tree in zip(ids, trees, strict=True):
        row[: len(tree.tokens)] = torch.tensor(tree.tokens)
    if all(tree.straight for tree in trees):
        real = torch.tensor([[1] * len(tree.tokens) + [0] * (width - len(tree.tokens)) for tree in trees])
        return {"input_ids": ids.to(device()), "attention_mask": real.to(device())}
    seen = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()  # padding sees itself
    for mask, tree in zip(seen, trees, strict=True):
        mask[: len(tree.tokens), : len(tree.tokens)] = tree.seen()
    return {
        "input_ids": ids.to(device()),
        "attention_mask": _as_attention_takes_it(model, torch.from_numpy(seen)[:, None]).to(device()),
        "position_ids": torch.from_numpy(seen.sum(-1) - 1).to(device()),
    }


def widest(model: Any) -> int:
    """Tokens of the widest tree that may branch for a family, as far as its configuration tells; 0 where none may.

    None may where positions come from elsewhere than `position_ids` (ALiBi), where layers hand a state from one token
    to the next, or where attention takes no mask of ours. A window of attention that a tree fits into changes nothing.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if (
        "position_ids" not in accepted(model)
        or getattr(config, "alibi", False)
        or getattr(model, "_is_stateful", False)
        or kinds - {"full_attention", "sliding_attention", "chunked_attention"}
        or config._attn_implementation not in ("sdpa", "eager")
    ):
        return 0
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min([int(window) for window in windows if window], default=2**31)


def accepted(model: Any) -> set[str]:
    """Names of the arguments that a model, or the one inside its adapters, can be called with."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(plain.forward).parameters)


def _as_attention_takes_it(model: Any, seen: Tensor) -> Tensor:
    """True and false where attention is torch's own; elsewhere what is to be added to its scores."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(model.dtype).min)
