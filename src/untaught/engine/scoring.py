"""Asking a model: log-probabilities of tokens, of completions, of whole texts; hidden states of one block.

Every component asks through here, so that whatever wraps the prompt stays in force.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import Subject
from .batches import Batch, encode, pad, pad_id
from .models import blocks


def token_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability (nats) of each token given those before it: (batch, time - 1), 0 on padding."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits[:, :-1].float()
    chosen = batch.ids[:, 1:]
    picked = logits.gather(-1, chosen[..., None]).squeeze(-1) - logits.logsumexp(-1)
    return picked * batch.mask[:, 1:]


def mean_logprob(model: nn.Module, batch: Batch) -> Tensor:
    """Mean log-probability in nats per token over a batch; its negative is the usual training loss.

    Of a batch that says which tokens count, over those; 0 when none does.
    """
    logprobs = token_logprobs(model, batch)
    if batch.counted is None:
        return logprobs.sum() / batch.mask[:, 1:].sum()
    counted = batch.counted[:, 1:]
    return logprobs.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


class _Enough(Exception):
    """Raised inside a forward pass once the block that was asked for has run."""


@contextmanager
def _stop_after(block: nn.Module, found: list[Tensor]) -> Iterator[None]:
    def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])
        raise _Enough

    handle = block.register_forward_hook(keep)
    try:
        yield
    except _Enough:
        pass
    finally:
        handle.remove()


def hidden(model: nn.Module, batch: Batch, layer: int) -> Tensor:
    """Output of block `layer`: (batch, time, width). The blocks above it are not run."""
    found: list[Tensor] = []
    with _stop_after(blocks(model)[layer], found):
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return found[0]


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
