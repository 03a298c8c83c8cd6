"""A subject as a model of lm-evaluation-harness. Imported only where that is installed.

Log-likelihoods go through the scorer that all evaluations share. What is written, and whole texts, go through lm-eval's
own wrapper around the same model, which loads nothing; prompts are wrapped before. What no finite number decided is
missing.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]
from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
from lm_eval.utils import handle_non_serializable, hash_string  # pyright: ignore[reportMissingImports]

from ..core import Inapplicable, Mark, Subject, UserError, Wrap
from ..engine.compute import autocast
from ..engine.prompts import wrapped
from ._likelihoods import likelihoods
from ._task_files import SEED

BROKEN = "no finite score"


class Model(HFLM):
    """The subject, as lm-eval asks it."""

    def __init__(self, subject: Subject, batch_size: int) -> None:
        self.subject, self.scored_together = subject, batch_size
        tokenizer = copy.deepcopy(subject.tokenizer)  # lm-eval gives it a token to pad with
        super().__init__(pretrained=subject.model, tokenizer=tokenizer, backend="causal", batch_size=8)
        self.lost: set[tuple[str, int]] = set()
        """Tasks and documents that have no finite score."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found = likelihoods(self.subject, [request.args for request in requests], self.scored_together)
        self._note(requests, [one.nats for one in found])
        return [(math.nan if one.nats is None else one.nats, one.greedy) for one in found]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        prompts = [request.args[0] for request in requests]
        checked = likelihoods(self.subject, [(prompt, " a") for prompt in prompts], self.scored_together)
        self._note(requests, [one.nats for one in checked])
        asked = [
            _with(request, (wrapped(self.subject, prompt), *request.args[1:]))
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        with autocast():
            return super().generate_until(asked, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        if self.subject.wrap != Wrap():
            raise Inapplicable(
                "a task of lm-eval that scores whole texts knows no prompt, so nothing can stand around one. Ask it"
                " without a wrap, or use perplexity."
            )
        with autocast():
            found = super().loglikelihood_rolling(requests, disable_tqdm=True)
        self._note(requests, found)
        return found

    def _note(self, requests: Sequence[Any], scores: Sequence[float | None]) -> None:
        """Remember which documents a model gave no number for."""
        for request, score in zip(requests, scores, strict=True):
            if score is None or not math.isfinite(score):
                self.lost.add((request.task_name, request.doc_id))


def _with(request: Any, arguments: tuple[Any, ...]) -> Any:
    """A request with other arguments."""
    return replace(request, arguments=arguments)


def documents(task: str, folder: str | None, most: int | None) -> pa.Table:
    """The documents that a task, or each of a group, asks about: how they are called, and what they hang on."""
    from importlib.metadata import version

    rows = []
    for name, one in _loaded(task, folder).items():
        plain = json.dumps(one.dump_config(), sort_keys=True, default=str)
        asked = hash_string(f"{version('lm-eval')} {plain}")
        docs = list(one.eval_docs)[:most]
        rows += [
            {"id": _called(name, n, _hash(doc)), "document": _hash(doc), "asked": asked} for n, doc in enumerate(docs)
        ]
    return pa.Table.from_pylist(rows)


def asked(subject: Subject, task: str, folder: str | None, most: int | None, batch_size: int) -> Iterator[Mark]:
    """Marks of all documents of a task or group, under lm-eval's names of metrics."""
    loaded = _loaded(task, folder)
    with _quiet():
        model = Model(subject, batch_size)
        found: Any = evaluate(model, {"tasks": loaded, "groups": {}}, limit=most, bootstrap_iters=0, log_samples=True)
    for name, samples in found["samples"].items():
        for sample in samples:
            yield from _marks(name, sample, (name, sample["doc_id"]) in model.lost)


def _marks(task: str, sample: Mapping[str, Any], lost: bool) -> Iterator[Mark]:
    """The metrics of one document; a filter other than the usual is part of their names."""
    item = _called(task, sample["doc_id"], sample["doc_hash"])
    for metric in sample["metrics"]:
        value, name = sample[metric], metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
        if lost:
            yield Mark(item, name, None, note=BROKEN)
        elif isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            yield Mark(item, name, None, note="lm-eval gives no number an item of this metric")
        else:
            yield Mark(item, name, float(value))


def _called(task: str, number: int, digest: str) -> str:
    return f"{task}/{number}#{digest[:8]}"


def _hash(doc: Any) -> str:
    """As lm-eval hashes a document."""
    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


@functools.cache
def _manager(folder: str | None, own: bool) -> Any:
    """What knows tasks by name: those of a folder, with lm-eval's own where they are asked for, which takes a while."""
    return TaskManager(include_path=folder, include_defaults=own)


def _loaded(task: str, folder: str | None) -> dict[str, Any]:
    """A task, or all of a group, by name, with data and the seed that examples are drawn with."""
    with _quiet():
        places = [(folder, False)] if folder else []
        managers = (_manager(*place) for place in [*places, (folder, True)])
        manager = next((one for one in managers if task in one.all_tasks), None)
        if manager is None:
            raise UserError(
                f"lm-eval knows no task '{task}'. `lm-eval ls tasks` shows the names; own files go into a 'folder'."
            )
        try:
            found: dict[str, Any] = manager.load(task)["tasks"]
        except Exception as error:  # whatever data sets, the network and functions of others raise
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"the task '{task}' of lm-eval cannot be loaded: {type(error).__name__}: {said}. Most tasks fetch their"
                " data from the network: load it once where there is one (HF_HOME tells where it is kept), or give a"
                " task file with data of your own: task: FILE.yaml."
            ) from None
        for one in found.values():
            one.set_fewshot_seed(seed=SEED)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What lm-eval tells of its progress is not for our users."""
    loud = logging.getLogger("lm_eval")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(level)
