"""Asking a model: log-probabilities of tokens, of completions, of whole texts.

Every component asks through here, so that whatever wraps the prompt stays in force.

The last bits of a number depend on its company: on the tree that its text is part of and on the shape of the batch. So
which texts share a tree and which trees a batch follows from the set of texts alone. Neither their order nor the batch
size that a caller names changes a bit, and a batch that a killed process has left, made again, is the same numbers.
Asked of another set, the same text differs by what float32 rounds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn

from ..core import Subject, UserError
from .batches import Batch, encode, pad_id
from .compute import autocast, device, now
from .prompts import continued, encoded, wrapped
from .remembering import notes
from .states import Activations
from .trees import Tree, accepted, asked, grown, widest

TOKENS = 4096
"""Tokens of a batch, padding and all, at most."""
ROOM = {"cpu": 1024, "cuda": TOKENS}
"""Tokens of a batch that is scored, by the kind of device: more would be no faster, and a kill would lose more."""
BEGUN = 32
"""Tokens that could be read in the time that a batch costs whatever is in it, about: measured on one thread."""
LOGITS = 2**27
"""Numbers that the head gives for a batch: a big vocabulary makes batches small."""


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

    Of a batch that says which tokens count, over those; 0 when none does. Elsewhere the head gives no numbers then.
    """
    if batch.counted is None or not _selects(model):
        return batch.mean(token_logprobs(model, batch, below))
    batch = batch.to(device())
    wanted = batch.weight > 0
    places = nn.functional.pad(wanted, (0, 1))
    with nullcontext() if below is None else below.standing_in(model, batch), autocast():
        found = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=places)
    logits = found.logits.float()
    picked = logits.gather(-1, batch.ids[:, 1:][wanted][:, None]).squeeze(-1) - logits.logsumexp(-1)
    return batch.mean(picked.new_zeros(wanted.shape).masked_scatter(wanted, picked))


def divergence(given: nn.Module, model: nn.Module, batch: Batch, temperature: float = 1.0) -> Tensor:
    """KL(given || model) of the next token in nats, for each token but the first: (batch, time - 1), 0 on padding.

    At another temperature T, T^2 times that of both distributions with their logits divided by T.
    """
    batch = batch.to(device())
    with torch.no_grad():
        before = _at(temperature, distributions(given, batch))
    now = _at(temperature, distributions(model, batch))
    return temperature**2 * (before.exp() * (before - now)).sum(-1) * batch.mask[:, 1:]


def _at(temperature: float, logprobs: Tensor) -> Tensor:
    """Distributions at another temperature, from their logarithms."""
    return logprobs if temperature == 1 else (logprobs / temperature).log_softmax(-1)


def distributions(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of every token of the vocabulary after each token but the last: (batch, time - 1, vocabulary)."""
    batch = batch.to(device())
    with autocast():
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    return logits[:, :-1].float().log_softmax(-1)


def row_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probability of each row of a batch, of the tokens that a loss counts, in nats: (batch,)."""
    batch = batch.to(device())
    return (token_logprobs(model, batch) * batch.weight).sum(1)


@dataclass(frozen=True)
class Completion:
    """How likely a completion is after its prompt. `nats` is None when the model gave no finite number."""

    nats: float | None
    tokens: int
    greedy: bool = False
    """Each token was the likeliest one: decoding without chance would have written it."""

    @property
    def nats_per_token(self) -> float | None:
        """Length-normalised log-likelihood."""
        return None if self.nats is None else self.nats / self.tokens


@dataclass(frozen=True)
class _Row:
    """Ids of a prompt and its completion together."""

    ids: list[int]
    start: int
    """Where the completion starts; 0 where nothing stands before it, and then it has no score."""

    @property
    def read(self) -> list[int]:
        """What the model reads: all but the last, after which nothing is asked."""
        return self.ids[:-1]


@torch.inference_mode()
def completions(
    subject: Subject, pairs: Sequence[tuple[str, str]], *, batch_size: int = 256, names: Sequence[str] | None = None
) -> list[Completion]:
    """Log-likelihood of each completion after its (wrapped) prompt.

    A pair that is asked twice is scored once, and what pairs begin with alike is read once where the model's family can
    be asked by trees. `batch_size` changes nothing: batches are cut by their tokens, whatever they hold. `names` are
    the items that the pairs belong to, for messages.
    """
    unique = list(dict.fromkeys(pairs))
    rows = _split(subject, unique)
    check_vocabulary(subject.model, [row.ids for row in rows])
    check_length(subject.model, [row.read for row in rows], first_named(unique, pairs, names))
    found = _scores(subject, rows, _widest(subject))
    # What is no number spreads over the tree it arose in: only what has no number by itself is missing.
    lost = [index for index, one in enumerate(found) if one.nats is None and rows[index].start > 0]
    for index, alone in zip(lost, _scores(subject, [rows[i] for i in lost], 0, most=1), strict=True):
        found[index] = alone
    by_pair = dict(zip(unique, found, strict=True))
    return [by_pair[pair] for pair in pairs]


def _split(subject: Subject, pairs: Sequence[tuple[str, str]]) -> list[_Row]:
    """Ids of prompt and completion together, and where the completion starts (as lm-evaluation-harness splits)."""
    prompts = {prompt: wrapped(subject, prompt) for prompt, _ in pairs}
    heads = dict(zip(prompts, encoded(subject, list(prompts.values())), strict=True))
    ends = continued(subject, [completion for _, completion in pairs])
    whole = encoded(subject, [prompts[prompt] + end for (prompt, _), end in zip(pairs, ends, strict=True)])
    return [
        _Row(ids, min(max(len(heads[prompt]), 1), len(ids) - 1)) for (prompt, _), ids in zip(pairs, whole, strict=True)
    ]


def first_named(unique: Sequence[Any], asked: Sequence[Any], names: Sequence[str] | None) -> list[str] | None:
    """For each distinct question the first of the items that ask it; None where the items have no names."""
    if names is None:
        return None
    named = dict(zip(reversed(asked), reversed(names), strict=True))
    return [named[one] for one in unique]


def check_vocabulary(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """A `UserError` where a text has tokens that the model has no embedding for: the tokenizer is another model's."""
    known = model.get_input_embeddings().weight.shape[0]
    highest = max((max(row) for row in rows if row), default=0)
    if highest >= known:
        raise UserError(
            f"the tokenizer gives a token the number {highest:,}, and the model knows those below {known:,}: they do"
            " not belong together. Put the model's own tokenizer into its folder."
        )


def check_length(model: Any, rows: Sequence[Sequence[int]], names: Sequence[str] | None = None) -> None:
    """A `UserError` when a text is longer than the model was made for: its numbers would mean nothing."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not most or not rows:
        return
    place = max(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[place]) > most:
        whose = (
            f"a text to be scored, number {place + 1} of {len(rows)}," if names is None else f"item '{names[place]}'"
        )
        raise UserError(
            f"{whose} is {len(rows[place])} tokens long, and the model reads at most {most}. Shorten the items or"
            " what stands around them, or set a smaller 'length' where there is one."
        )


def _scores(subject: Subject, rows: Sequence[_Row], width: int, *, most: int | None = None) -> list[Completion]:
    """Each row's score, from trees of at most `most` rows that are no wider than `width` if they branch."""
    found = [Completion(None, max(1, len(row.ids))) for row in rows]
    asked_for = [index for index, row in enumerate(rows) if row.start > 0]
    trees = grown([rows[i].read for i in asked_for], most=most or len(rows), widest=width)
    for tree in trees:
        tree.ways = {asked_for[number]: way for number, way in tree.ways.items()}
    for batch in _batches(subject.model, trees, rows):
        for index, one in _batch_scores(subject, batch, rows):
            found[index] = one
    return found


def _batches(model: Any, trees: Sequence[Tree], rows: Sequence[_Row]) -> Iterator[list[Tree]]:
    """Trees of like width together, those that branch apart from those that do not, within the room there is.

    Of all ways to cut the trees, sorted by width, into batches the one that is read fastest: the least sum of the
    batches' tokens, padding and all, and of `BEGUN` for each.
    """
    room = min(TOKENS, ROOM.get(device().type, TOKENS))
    for straight in (False, True):
        line = [tree for tree in trees if tree.straight == straight]
        line.sort(key=lambda tree: (-len(tree.tokens), tree.tokens, sorted(rows[i].ids for i in tree.ways)))
        heads = [len(_places(tree, rows)) if _selects(model) else len(tree.tokens) for tree in line]
        best, cut = [0.0] + [math.inf] * len(line), [0] * (len(line) + 1)
        for stop in range(1, len(line) + 1):
            kept = 0
            for first in range(stop - 1, -1, -1):
                kept += heads[first]
                size = (stop - first) * len(line[first].tokens)
                if stop - first > 1 and (size > room or kept * _vocabulary(model) > LOGITS):
                    break
                if best[first] + size + BEGUN < best[stop]:
                    best[stop], cut[stop] = best[first] + size + BEGUN, first
        stops, stop = [], len(line)
        while stop:
            stops.append((cut[stop], stop))
            stop = cut[stop]
        yield from (line[first:stop] for first, stop in reversed(stops))


def _places(tree: Tree, rows: Sequence[_Row]) -> set[int]:
    """Tokens of a tree after which one is scored."""
    return {place for index, way in tree.ways.items() for place in way[rows[index].start - 1 :]}


def _batch_scores(subject: Subject, trees: Sequence[Tree], rows: Sequence[_Row]) -> Iterator[tuple[int, Completion]]:
    """The scores of one batch, from the notes of what was asked before where they have it."""
    order = [
        (tree, index) for tree in trees for index in sorted(tree.ways, key=lambda i: (tree.ways[i], rows[i].start))
    ]
    if (kept := notes(subject.model)) is None:
        yield from _asked(subject, trees, rows)
        return
    content = _content(subject, trees, rows, order)
    if (known := kept.find(content)) is None:
        scored = dict(_asked(subject, trees, rows))
        told = [(math.nan if (one := scored[i]).nats is None else one.nats, one.greedy) for _, i in order]
        kept.keep(content, known := b"".join(struct.pack("<d?", *one) for one in told))
    for (_, index), (nats, greedy) in zip(order, struct.iter_unpack("<d?", known), strict=True):
        count = len(rows[index].ids) - rows[index].start
        yield index, Completion(nats if math.isfinite(nats) else None, count, greedy)


def _content(
    subject: Subject, trees: Sequence[Tree], rows: Sequence[_Row], order: Sequence[tuple[Tree, int]]
) -> list[Any]:
    """All that a batch's numbers depend on besides the model: what it reads, and which tokens are asked for."""
    read = [(tree.tokens, tree.parents) for tree in trees]
    wanted = [(tree.ways[index], rows[index].start, rows[index].ids[rows[index].start :]) for tree, index in order]
    return ["scores", pad_id(subject.tokenizer), read, wanted]


def _asked(subject: Subject, trees: Sequence[Tree], rows: Sequence[_Row]) -> Iterator[tuple[int, Completion]]:
    """The model's own numbers for one batch, from the head where they are needed and nowhere else."""
    model, inputs = subject.model, asked(subject.model, trees, pad_id(subject.tokenizer))
    needed = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for line, tree in zip(needed, trees, strict=True):
        line[list(_places(tree, rows))] = True
    with autocast():
        if _selects(model):
            logits = model(**inputs, use_cache=False, logits_to_keep=needed.to(device())).logits.float()
        else:
            logits = model(**inputs, use_cache=False).logits[needed].float()
    turn = needed.flatten().cumsum(0).reshape(needed.shape) - 1
    ways = [(line, index, way) for line, tree in zip(turn, trees, strict=True) for index, way in tree.ways.items()]
    at = torch.cat([line[way[rows[index].start - 1 :]] for line, index, way in ways]).to(device())
    wanted = torch.tensor([token for _, index, _ in ways for token in rows[index].ids[rows[index].start :]])
    chosen = logits[at, wanted.to(device())]
    nats = iter((chosen - logits.logsumexp(-1)[at]).tolist())
    first = iter((chosen >= logits.amax(-1)[at]).tolist())
    for _, index, _ in ways:
        count = len(rows[index].ids) - rows[index].start
        total, greedy = math.fsum(next(nats) for _ in range(count)), all([next(first) for _ in range(count)])
        yield index, Completion(total if math.isfinite(total) else None, count, greedy)


def _vocabulary(model: Any) -> int:
    return model.config.get_text_config().vocab_size


def _selects(model: Any) -> bool:
    """Whether the head can be kept to chosen places of each text: by all families of a library that is new enough."""
    return "logits_to_keep" in accepted(model) and hasattr(transformers.modeling_utils, "slice_logits_to_keep")


_widest_of: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Model to the widest tree it may be asked by, found once."""


def _widest(subject: Subject) -> int:
    """The widest tree that a model may be asked by, 0 for none: as its family tells, and as a small trial proves."""
    model = subject.model
    if model not in _widest_of:
        width = widest(model)
        _widest_of[model] = width if width and _branches(subject, width) else 0
    return _widest_of[model]


def _branches(subject: Subject, width: int) -> bool:
    """Whether texts that branch score in one tree as they do alone. Never where the model gives no numbers."""
    texts = ([1, 2, 3, 4], [1, 2, 5, 6], [1, 7, 8])
    rows = [_Row([token * 977 % _vocabulary(subject.model) for token in text], 1) for text in texts]
    try:
        apart, together = _scores(subject, rows, 0, most=1), _scores(subject, rows, width)
    except (IndexError, RuntimeError, TypeError, ValueError):  # a family that cannot read such a mask
        return False
    rough = subject.model.dtype != torch.float32 or now().dtype != "float32"
    return all(
        one.nats is not None and other.nats is not None and abs(one.nats - other.nats) < (0.3 if rough else 1e-3)
        for one, other in zip(apart, together, strict=True)
    )


@torch.inference_mode()
def text_nats(
    subject: Subject,
    texts: Sequence[str],
    *,
    length: int = 512,
    batch_size: int = 16,
    names: Sequence[str] | None = None,
) -> list[Completion]:
    """Log-likelihood of whole texts, cut at `length` tokens. `batch_size` changes nothing, as in `completions`.

    What the wrap puts before a text is given, not scored; so is a first token that nothing stands before. `chat` and
    `system` are of prompts: a text is no message, and is scored bare.
    """
    before = subject.wrap.before
    rows = encode(subject.tokenizer, [before + text for text in texts], length)
    check_vocabulary(subject.model, rows)
    check_length(subject.model, rows, names)
    given = max(1, len(subject.tokenizer(before)["input_ids"]))
    found = [Completion(None, 1)] * len(rows)
    told = [index for index, row in enumerate(rows) if len(row) > given]
    scored = _scores(subject, [_Row(rows[index], given) for index in told], 0, most=1)
    for index, one in zip(told, scored, strict=True):
        found[index] = one
    return found
