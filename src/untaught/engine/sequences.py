"""Sequence classifiers: a probability for whole texts, however long, from a model that reads a window at a time.

A text is tokenised once, without special tokens, and nothing in it is read as one: `[SEP]` in a text is five letters.
Its n tokens are cut into windows of c = window - special tokens that overlap by o; each gets the special tokens that
the tokenizer itself puts around a text. They are never turned back to text.

    window k holds tokens k (c - o) to k (c - o) + c, for every k with k (c - o) < max(n - o, 1)
    p(window) = softmax(logits)[label]; sigmoid(logit) for a head of one output or of independent labels
    p(text)   = max over its windows

How windows are batched shows in no score. The last bits of a matrix product depend on its shape, so a window is always
run in the shape that its own length gives: `batch_tokens // width` rows of `width`, its length rounded up by at most a
quarter; rows that are left are filled with copies of the first window. When that is one row, the window is run alone,
without padding. On a CPU this gives equal bits in any company (tested); on a GPU it is meant to and was not tested, and
a batch that does not fit in memory is halved, which is another shape. Padding is on the right and masked.

A text that tokenizer or model fails on gets the error and no score, and nobody else's changes: after a failure, windows
are run one by one, in the same shape. A folder that is no sequence classifier is a `UserError` before any text.

Source: windows of Devlin et al. 2019, arXiv 1810.04805 (`doc_stride`), with the maximum for their answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..core import UserError, suggest
from .folders import check_folder

KIND = "ForSequenceClassification"
CHUNK = 256
"""Texts that are tokenised together."""
ENDLESS = 10**9
"""A tokenizer's `model_max_length` above this means that it names none."""
TOGETHER = {"cpu": 256, "cuda": 16_384}
"""Tokens in a run of the model when no setting says: on a CPU, larger runs are no faster."""


class Cut(NamedTuple):
    """How texts are cut and put together; None is the most that fits, and the device's own number."""

    window: int | None = None
    overlap: int = 64
    batch_tokens: int | None = None


class Window(NamedTuple):
    """Tokens of one text with special ones around them."""

    row: int
    ids: np.ndarray
    place: tuple[int, int] | None
    """First character and the one after the last; None when the tokenizer does not know."""


@dataclass(frozen=True)
class Verdict:
    """A text's probability, the window (from 0) that has it, and where that stands. With an error, there is none."""

    score: float = math.nan
    window: int = 0
    windows: int = 0
    place: tuple[int, int] | None = None
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class Judge:
    """A model, its tokenizer, and all that is settled about how they are asked."""

    model: Any
    tokenizer: Any
    label: int
    """Column of the logits that means hazard."""
    alone: bool
    """Whether that column is a probability of its own (sigmoid), not one share of several (softmax)."""
    window: int
    overlap: int
    batch_tokens: int
    frame: tuple[tuple[int, ...], tuple[int, ...]]
    """Special tokens before and after a text."""
    filler: int | None
    """The token to pad with; None when the model knows none, and every window is run alone."""

    def verdicts(self, texts: Sequence[str | Exception]) -> list[Verdict]:
        """One verdict a text, in order. An exception in place of a text is its verdict."""
        windows: list[Window] = []
        errors: dict[int, Exception] = {}
        for row, tokens in enumerate(self._tokens(texts)):
            cut = tokens if isinstance(tokens, Exception) else attempt(self._windows, row, *tokens)
            if isinstance(cut, Exception):
                errors[row] = cut
            else:
                windows += cut
        scores: list[list[tuple[float, Window]]] = [[] for _ in texts]
        for window, score in zip(windows, self._scores(windows), strict=True):
            if isinstance(score, Exception):
                errors.setdefault(window.row, score)
            else:
                scores[window.row].append((score, window))
        return [
            Verdict(error=errors[row]) if row in errors else highest(scores_of_one)
            for row, scores_of_one in enumerate(scores)
        ]

    def _tokens(self, texts: Sequence[str | Exception]) -> Iterator[Any]:
        """Of each text the tokens and their places, or the error."""
        for first in range(0, len(texts), CHUNK):
            chunk = texts[first : first + CHUNK]
            sound = [text for text in chunk if not isinstance(text, Exception)]
            found = attempt(self._encoded, sound)
            if isinstance(found, Exception):
                found = [one if isinstance(one := attempt(self._encoded, [t]), Exception) else one[0] for t in sound]
            following = iter(found)
            yield from (text if isinstance(text, Exception) else next(following) for text in chunk)

    def _encoded(self, texts: Sequence[str]) -> list[tuple[np.ndarray, Any]]:
        if not texts:
            return []
        fast = self.tokenizer.is_fast
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=fast,
            verbose=False,
        )
        places = found["offset_mapping"] if fast else [None] * len(texts)
        return [(np.array(ids, np.int64), at) for ids, at in zip(found["input_ids"], places, strict=True)]

    def _windows(self, row: int, ids: np.ndarray, places: Any) -> list[Window]:
        """The windows of one text."""
        known = self.model.get_input_embeddings().num_embeddings
        if ids.max(initial=0) >= known:
            raise ValueError(f"the tokenizer gave the token {ids.max()}, and the model has {known}")
        before, after = (np.array(part, np.int64) for part in self.frame)
        content = self.window - len(before) - len(after)
        if not len(before) + len(ids) + len(after):
            raise ValueError("there are no tokens")
        windows = []
        for start in range(0, max(len(ids) - self.overlap, 1), content - self.overlap):
            part = ids[start : start + content]
            place = (places[start][0], places[start + len(part) - 1][1]) if places and len(part) else None
            windows.append(Window(row, np.concatenate([before, part, after]), place))
        return windows

    def _scores(self, windows: Sequence[Window]) -> list[float | Exception]:
        """Of each window its probability, or what went wrong."""
        by_width: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            by_width.setdefault(self._width(len(window.ids)), []).append(index)
        scores: list[float | Exception] = [math.nan] * len(windows)
        for width in sorted(by_width, reverse=True):
            size = self._rows(width)
            for chosen in pieces(by_width[width], size):
                found = self._batch([windows[i] for i in chosen], size, width)
                for index, score in zip(chosen, found, strict=True):
                    scores[index] = score
        return scores

    def _width(self, size: int) -> int:
        """What a window of this size is padded to; its own size when it is run alone."""
        width = rounded(size, self.window)
        return width if self._rows(width) > 1 else size

    def _rows(self, width: int) -> int:
        """Windows in one run of the model."""
        return 1 if self.filler is None else max(1, self.batch_tokens // width)

    def _batch(self, windows: Sequence[Window], size: int, width: int) -> list[float | Exception]:
        """Scores of at most `size` windows. After a failure the others are tried again, one by one."""
        found = attempt(self._run, windows, size, width)
        if not isinstance(found, Exception):
            return found
        if isinstance(found, torch.OutOfMemoryError) and size > 1:
            torch.cuda.empty_cache()
            halves = pieces(windows, size // 2)
            return [score for half in halves for score in self._batch(half, size // 2, width)]
        if len(windows) == 1:
            return [found]
        return [score for window in windows for score in self._batch([window], size, width)]

    @torch.inference_mode()
    def _run(self, windows: Sequence[Window], size: int, width: int) -> list[float | Exception]:
        """Scores of at most `size` windows, in a run of exactly `size` rows of `width`."""
        ids = torch.full((size, width), self.filler or 0, dtype=torch.long)
        mask = torch.zeros((size, width), dtype=torch.long)
        for row in range(size):
            window = windows[row if row < len(windows) else 0].ids
            ids[row, : len(window)] = torch.from_numpy(window)
            mask[row, : len(window)] = 1
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        logits = logits[: len(windows)].double().cpu()
        shares = logits.sigmoid() if self.alone else logits.softmax(-1)
        finite = logits.isfinite().all(-1).tolist()
        unknown = ArithmeticError("the model's score is not a finite number")
        return [p if fine else unknown for p, fine in zip(shares[:, self.label].tolist(), finite, strict=True)]


# ------------------------------------------------------------------------------------------------------------ loading


def load(folder: Path, label: str | int | None = None, cut: Cut | None = None, dtype: str | None = None) -> Judge:
    """A judge from an ordinary sequence-classification folder. Nothing in it is executed."""
    from transformers import AutoConfig, AutoTokenizer

    check_folder(folder, causal=False)
    cut = cut or Cut()
    config = orderly(folder, AutoConfig.from_pretrained, folder, local_files_only=True, trust_remote_code=False)
    kinds = getattr(config, "architectures", None) or []
    if not any(kind.endswith(KIND) for kind in kinds):
        raise UserError(
            f"{folder} holds a model of the kind {', '.join(kinds) or 'that its config.json does not name'}, which"
            f" gives no label to a text. Give one whose kind ends in {KIND}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = getattr(torch, dtype or ("bfloat16" if device == "cuda" else "float32"))
    tokenizer: Any = orderly(
        folder, AutoTokenizer.from_pretrained, folder, local_files_only=True, trust_remote_code=False
    )
    tokenizer.split_special_tokens = True
    number, alone = column(config, label, folder)
    model = loaded(folder, chosen).to(device).eval().requires_grad_(False)
    window, frame = measured(model, tokenizer, cut, folder)
    pad = getattr(config, "pad_token_id", None)
    known = isinstance(pad, int) and 0 <= pad < model.get_input_embeddings().num_embeddings
    together = cut.batch_tokens or TOGETHER[device]
    judge = Judge(model, tokenizer, number, alone, window, cut.overlap, together, frame, pad if known else None)
    return tried(judge, folder)


def loaded(folder: Path, dtype: torch.dtype) -> Any:
    """The model, when all of its weights are there."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):  # what is missing would be drawn at random
        model, found = orderly(
            folder,
            AutoModelForSequenceClassification.from_pretrained,
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
    if lacking := sorted(found["missing_keys"]):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"{folder} has no weights for {lacking[0]}{more}. Give a classifier that was trained.")
    return model


def column(config: Any, label: str | int | None, folder: Path) -> tuple[int, bool]:
    """The column of the logits that means hazard, and whether it stands alone."""
    names = {int(number): str(name) for number, name in config.id2label.items()}
    listed = ", ".join(f"{number} = '{names[number]}'" for number in sorted(names))
    alone = len(names) == 1 or getattr(config, "problem_type", None) == "multi_label_classification"
    if label is None and len(names) > 2:
        raise UserError(f"{folder} has {len(names)} labels: {listed}. Say with 'label' which one means hazard.")
    numbers = [number for number, name in names.items() if label in (None, number, name)]
    if not numbers:
        near = suggest(label, names.values()) if isinstance(label, str) else ""
        raise UserError(f"label is {label!r}, and {folder} has these: {listed}.{near if 'mean' in near else ''}")
    return max(numbers), alone


def measured(model: Any, tokenizer: Any, cut: Cut, folder: Path) -> tuple[int, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens in a window, and the special ones around a text."""
    frame = framed(tokenizer, folder)
    special, most = len(frame[0]) + len(frame[1]), longest(model, tokenizer)
    window = cut.window or most
    if window is None:
        raise UserError(f"{folder} does not say how many tokens it can read at once. Say it with 'window'.")
    if most is not None and window > most:
        raise UserError(f"window is {window}, and {folder} reads at most {most} tokens. Give no more, or leave it out.")
    if window - special <= cut.overlap:
        raise UserError(
            f"window is {window} tokens, {special} of them special, and overlap is {cut.overlap}: no window would reach"
            f" beyond the one before it. Give an overlap below {max(window - special, 1)}, or a larger window."
        )
    return window, frame


def longest(model: nn.Module, tokenizer: Any) -> int | None:
    """Most tokens that model and tokenizer say they take, special ones included.

    RoBERTa and its kin count positions from behind their padding token's number, and so have that many fewer.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    reserved = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None
    ]
    limits = [positions - max(reserved, default=0)] if isinstance(positions, int) and positions > 0 else []
    named = tokenizer.model_max_length
    return min([*limits, *([int(named)] if named and named < ENDLESS else [])], default=None)


def framed(tokenizer: Any, folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a text, seen on the first word that it has."""
    for probe in ("a", *sorted(tokenizer.get_vocab())):
        inner = tokenizer(probe, add_special_tokens=False)["input_ids"]
        whole = tokenizer(probe)["input_ids"]
        for at in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[at : at + len(inner)] == inner:
                return tuple(whole[:at]), tuple(whole[at + len(inner) :])
    raise UserError(f"the tokenizer of {folder} makes no tokens of any word it has. Save the right one with the model.")


def tried(judge: Judge, folder: Path) -> Judge:
    """The judge, when its model can be run and gives as many logits as it has labels."""
    ids = np.array([*judge.frame[0], *judge.frame[1]] or [0], np.int64)
    given = torch.from_numpy(ids)[None].to(judge.model.device)
    outcome = orderly(folder, judge.model, input_ids=given, attention_mask=torch.ones_like(given))
    logits = getattr(outcome, "logits", torch.empty(0))
    if tuple(logits.shape) != (1, judge.model.config.num_labels):
        raise UserError(
            f"{folder} gives numbers of the shape {tuple(logits.shape)} to one text, and has"
            f" {judge.model.config.num_labels} labels. Give a sequence classifier."
        )
    return judge


def orderly(folder: Path, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a call on a model folder gives; what goes wrong in it is the folder's fault."""
    try:
        return call(*given, **named)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be used as a sequence classifier: {type(error).__name__}: {said}. Save model and"
            " tokenizer again with save_pretrained."
        ) from None


# ------------------------------------------------------------------------------------------------------- small things


def attempt(call: Callable[..., Any], *given: Any) -> Any:
    """What a call gives, or the exception it raises. Compiled tokenizers panic with one that is no `Exception`."""
    try:
        return call(*given)
    except Exception as error:
        return error.with_traceback(None)  # which would hold on to the tensors of the call
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return RuntimeError(str(error))


def pieces(things: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [things[first : first + size] for first in range(0, len(things), size)]


def rounded(size: int, most: int) -> int:
    """A size rounded up to one of four in each doubling, at most `most`.

    >>> [rounded(size, 500) for size in (3, 16, 17, 33, 100, 449)]
    [4, 16, 20, 40, 112, 500]
    """
    step = max(4, 1 << max((size - 1).bit_length() - 3, 0))
    return min(most, -(-size // step) * step)


def highest(scores: Sequence[tuple[float, Window]]) -> Verdict:
    """The verdict on a text from the scores of its windows, in order; of equal ones the first."""
    best = max(range(len(scores)), key=lambda index: (scores[index][0], -index))
    score, window = scores[best]
    return Verdict(score, best, len(scores), window.place)
