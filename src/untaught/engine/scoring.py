"""Asking a model: log-probabilities of tokens, of completions, of whole texts.

Every component asks through here, so that whatever wraps the prompt stays in force.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import Subject
from .batches import Batch, encode, pad, pad_id
from .compute import autocast, device
from .states import Activations


def token_logprobs(model: nn.Module, batch: Batch, below: Activations | None = None) -> Tensor:
    """Log-probability (nats) of each token given those before it: (batch, time - 1), 0 on padding.

    Blocks that `below` covers are not run: what they make of the batch is known.
    """
    batch = batch.to(device())
    with nullcontext() if below is None else below.standing_in(model, batch), autocast():
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[:, :-1].float()
    chosen = batch.ids[:, 1:]
    picked = logits.gather(-1, chosen[..., None]).squeeze(-1) - logits.logsumexp(-1)
    return picked * batch.mask[:, 1:]


def mean_logprob(model: nn.Module, batch: Batch, below: Activations | None = None) -> Tensor:
    """Mean log-probability in nats per token over a batch; its negative is the usual training loss.

    Of a batch that says which tokens count, over those; 0 when none does.
    """
    return batch.mean(token_logprobs(model, batch, below))


@dataclass(frozen=True)
class Completion:
    """How likely a completion is after its prompt. `nats` is None when the model gave no finite number."""

    nats: float | None
    tokens: int

    @property
    def nats_per_token(self) -> float | None:
        """Length-normalised log-likelihood."""
        return None if self.nats is None else self.nats / self.tokens


@torch.inference_mode()
def completions(subject: Subject, pairs: Sequence[tuple[str, str]], *, batch_size: int = 256) -> list[Completion]:
    """Log-likelihood of each completion after its (wrapped) prompt.

    A pair that is asked twice is scored once; rows of like length share a batch.
    """
    unique = list(dict.fromkeys(pairs))
    rows, starts = _split(subject, unique)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: dict[tuple[str, str], Completion] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        logprobs = token_logprobs(subject.model, pad([rows[i] for i in chosen], pad_id(subject.tokenizer)))
        for line, i in zip(logprobs, chosen, strict=True):
            total = float(line[starts[i] - 1 : len(rows[i]) - 1].sum())
            scored = starts[i] > 0 and math.isfinite(total)  # a first token has nothing before it, and no score
            found[unique[i]] = Completion(total if scored else None, len(rows[i]) - starts[i])
    return [found[pair] for pair in pairs]


def _split(subject: Subject, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], list[int]]:
    """Ids of prompt and completion together, and where the completion starts (as lm-evaluation-harness splits)."""
    if not pairs:
        return [], []
    prompts = [subject.wrap.around(prompt) for prompt, _ in pairs]
    heads = subject.tokenizer(prompts)["input_ids"]
    rows = subject.tokenizer([prompt + pair[1] for prompt, pair in zip(prompts, pairs, strict=True)])["input_ids"]
    return rows, [min(max(len(head), 1), len(row) - 1) for head, row in zip(heads, rows, strict=True)]


@torch.inference_mode()
def text_nats(subject: Subject, texts: Sequence[str], *, length: int = 512, batch_size: int = 16) -> list[Completion]:
    """Log-likelihood of whole texts, cut at `length` tokens.

    What the wrap puts before a text is given, not scored; so is a first token that nothing stands before.
    """
    before = subject.wrap.before
    rows = encode(subject.tokenizer, [before + text for text in texts], length)
    given = max(1, len(subject.tokenizer(before)["input_ids"]))
    found: list[Completion] = []
    for first in range(0, len(rows), batch_size):
        chunk = rows[first : first + batch_size]
        logprobs = token_logprobs(subject.model, pad(chunk, pad_id(subject.tokenizer)))
        for total, scored in zip(
            logprobs[:, given - 1 :].sum(1).tolist(), (len(r) - given for r in chunk), strict=True
        ):
            found.append(Completion(total if scored > 0 and math.isfinite(total) else None, max(1, scored)))
    return found
