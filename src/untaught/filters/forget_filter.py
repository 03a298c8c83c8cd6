"""ForgetFilter: suspect is what a model that has learned the pool forgets when it is then taught safe answers.

    M1      the model that is about to be fine-tuned, tuned on the whole pool for `noisy_steps`
    M2      M1, tuned on the safe examples for `steps`
    score   s(M1) - s(M2): what was forgotten of the example's answer                  dropped: score >= threshold

    measure rouge        s = ROUGE-1 F1, stemmed, of what the model writes for the answer; as published, with a
                         threshold (phi) of 0.1. The likeliest token each time, the first line that is not empty, lower
                         case, no punctuation; of several answers in an example the last
    measure likelihood   s = log p(answer | prompt) per token; ours: no text is written, and it ranks better

What is harmful is forgotten fast where the safe examples are of the same kinds as the harm: answers to risky prompts as
they should be. The score says how unlike the safe examples an answer is, and it is harm only with such ones: with other
ones, refusals are forgotten as well. Whether it is more than that is logged, where `safe` names examples that are not
the labelled ones: `slice_auroc` on labelled examples, `slice_hazard` and `slice_benign`, the means of their scores; the
same as `control_...`, of M1 tuned on `generic` examples in place of the safe ones; and `baseline_auroc`, of the nats
per token under M1 alone. A score that does not beat the last two is not worth its price. `noisy_rounds` is how often M1
has seen the pool: what it has not learned, it cannot forget.

Source: Zhao, Deng, Madras, Zou and Ren 2023, "Learning and Forgetting Unsafe Examples in Large Language Models", arXiv
2312.12736. There: r > phi is dropped, where here the threshold itself goes (of phi 0, give 1e-9); LoRA of rank 8 on
query and value projections, where here it is the last blocks whole, or with `rank` adapters on all of their linear
layers; 1,000 steps of 32 at 2e-4 on pools of 5,000, and 500 tokens to write. It was shown on models of 774M and more,
and is absent there in one of 334M.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings, Subject, UserError
from ..core.ranking import auroc
from ..corpus.hub import PREFIX
from ..corpus.writing import write_atomically
from ._examples import ASSISTANT, below, different, ordered, settled, told
from ._known import known
from ._rouge import rouge_1

LEARNED = "forget_filter.safetensors"
LEAST = 3
"""Labelled examples of each kind below which nothing is said of them."""
ENDLESS = 10**9
PARTS = ("noisy/", "safe/")
"""The two tunings, as what they moved is called in the file."""


class ForgetFilter(Settings):
    """Rank a pool by what is forgotten of it under safety tuning."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    """It needs safe examples, and none that are known to be harmful."""
    asks_model: ClassVar[bool] = True

    measure: Literal["likelihood", "rouge"] = "likelihood"
    """What of an example is forgotten: how likely its answer is (ours), or words of it (published)."""
    safe: str | None = None
    """File, folder or `hub:OWNER/NAME` of safe examples of the pool's kinds of harm. None: those that are known to be
    clean."""
    generic: str | None = None
    """File or folder of ordinary examples: with labelled examples, a control is run on them, and logged."""
    noisy_steps: int | None = Field(default=40, ge=0)
    """Steps on the pool. None: two rounds of it."""
    steps: int = Field(default=40, ge=0)
    """Steps on the safe examples."""
    lr: float = Field(default=3e-4, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Examples a step."""
    lowest: int | float | None = 0.8
    """The lowest block that is tuned, an index or a fraction of the depth. None tunes all weights."""
    rank: int | None = Field(default=None, ge=1)
    """Rank of LoRA adapters. None tunes the blocks' own weights."""
    length: int | None = Field(default=256, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""
    tokens: int = Field(default=64, ge=1)
    """Most tokens that are written for an answer (`rouge`)."""
    threshold: float | None = None
    """Score from which an example is dropped; published for `rouge`: 0.1."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    fitted: str | None = None
    """File with what was learned; it needs no pool."""

    def resolved(self, folder: Path) -> ForgetFilter:
        """With all places made whole."""
        given = {name: getattr(self, name) for name in ("safe", "generic", "fitted")}
        paths = {name: place for name, place in given.items() if place is not None and not place.startswith(PREFIX)}
        return self.model_copy(update={name: os.path.abspath(folder / place) for name, place in paths.items()})

    def fit(self, pool: Corpus, rig: Rig) -> ForgetScorer:
        subject = rig.subject()
        if self.fitted is not None:
            return self._scorer(subject, *_load(subject, self.fitted))
        docs = different(pool.unlabelled, 2, "the pool")
        sets = [docs, self._safe(pool)]
        measured = self.safe is not None and min(pool.hazard.num_rows, pool.benign.num_rows) >= LEAST
        if measured and self.generic is not None:
            sets.append(ordered(known(self.generic, "forget_filter.generic")))
        for some, what in zip(sets, ("the pool", "the safe examples", "the generic examples"), strict=False):
            self._need(subject, some, what)
        steps = self._steps(docs, len(sets), rig)
        before = self._tuned(subject, docs, steps[0], rig)
        after = self._tuned(before, sets[1], steps[1], rig)
        rig.log(noisy_rounds=steps[0] * self.batch_size / docs.num_rows)
        scorer = self._scorer(subject, before, after)
        if measured:
            control = self._tuned(before, sets[2], steps[2], rig) if len(sets) > 2 else None
            self._log(scorer, control, pool, rig)
        return settled(scorer, docs, self.removed)

    def frozen(self, scorer: ForgetScorer, folder: Path) -> ForgetFilter:
        """These settings with what the two tunings moved, in a file."""
        _save(folder / LEARNED, scorer)
        changes = {"fitted": LEARNED, "threshold": scorer.threshold, "removed": None, "safe": None, "generic": None}
        return self.model_copy(update=changes)

    def _scorer(self, origin: Subject, before: Subject, after: Subject) -> ForgetScorer:
        return ForgetScorer(origin, before, after, self.measure, self.tokens, self.length, self.threshold)

    def _safe(self, pool: Corpus) -> Documents:
        """The safe examples, in the order of their content."""
        if self.safe is not None:
            return ordered(known(self.safe, "forget_filter.safe"))
        if not pool.benign.num_rows:
            raise UserError(
                "forget_filter has no safe examples: answers as they should be, to prompts of the kinds of harm that"
                " the pool may hold. Name a file of them with 'safe', or clean ones in 'corpus.benign'."
            )
        return ordered(pool.benign)

    def _need(self, subject: Subject, docs: Documents, what: str) -> None:
        """A `UserError` unless something can be learned from these."""
        from ..engine import examples

        causes = [one for one in examples.read(subject, docs, self.length or ENDLESS) if isinstance(one, str)]
        if len(causes) == docs.num_rows:
            cause = Counter(causes).most_common(1)[0][0]
            raise UserError(
                f"forget_filter can learn nothing from {what}: none of the {docs.num_rows} can be read, most for this"
                f" cause: {cause}. Give others, or raise 'length'."
            )

    def _steps(self, docs: Documents, tunings: int, rig: Rig) -> list[int]:
        """Steps of each tuning. Where the budget allows fewer in all, each gets its share."""
        noisy = -(-2 * docs.num_rows // self.batch_size) if self.noisy_steps is None else self.noisy_steps
        wanted = [noisy] + [self.steps] * (tunings - 1)
        whole, bound = sum(wanted), rig.budget.steps
        if bound is None or bound - rig.spent.steps >= whole:
            return wanted
        left = max(bound - rig.spent.steps, 0)
        ends = [done * left // whole for done in accumulate(wanted, initial=0)]
        return [end - start for start, end in pairwise(ends)]

    def _tuned(self, subject: Subject, docs: Documents, steps: int, rig: Rig) -> Subject:
        from ..engine.tuning import tune_on_text

        return tune_on_text(
            subject, docs, rig, steps=steps, lr=self.lr, batch_size=self.batch_size, length=self.length or ENDLESS,
            lowest=self.lowest, rank=self.rank,
        )  # fmt: skip

    def _log(self, scorer: ForgetScorer, control: Subject | None, pool: Corpus, rig: Rig) -> None:
        """How well the score, the control's and plain likelihood tell the labelled examples apart."""
        sides = [ordered(side) for side in (pool.hazard, pool.benign)]
        had = [scorer.recall(scorer.before, side)[0] for side in sides]
        for name, model in (("slice", scorer.after), ("control", control)):
            if model is not None:
                lost = [_finite(own - scorer.recall(model, side)[0]) for own, side in zip(had, sides, strict=True)]
                if all(map(len, lost)):
                    hazard, benign = (float(np.mean(scores)) for scores in lost)
                    rig.log(**{f"{name}_auroc": auroc(*lost), f"{name}_hazard": hazard, f"{name}_benign": benign})
        plain = had if self.measure == "likelihood" else [nats(scorer.before, side, self.length)[0] for side in sides]
        unlikely = [_finite(-values) for values in plain]
        if all(map(len, unlikely)):
            rig.log(baseline_auroc=auroc(*unlikely))


@dataclass(frozen=True, eq=False)
class ForgetScorer:
    """The two models, and how they are asked. What neither tuning moved is shared with the model they began with."""

    origin: Subject
    """The model that is about to be fine-tuned, as it was."""
    before: Subject
    """Tuned on the pool."""
    after: Subject
    """And then on safe examples."""
    kind: Literal["likelihood", "rouge"]
    tokens: int
    length: int | None
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        had, first = self.recall(self.before, batch)
        has, second = self.recall(self.after, batch)
        of = "nats a token" if self.kind == "likelihood" else "ROUGE-1 F1"
        return told(had - has, [a or b for a, b in zip(first, second, strict=True)], f"forgot {{:.3f}} {of}")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)

    def recall(self, subject: Subject, docs: Documents) -> tuple[np.ndarray, Sequence[str | None]]:
        """How much of each answer a model has, not a number where there is a cause; and the causes."""
        if self.kind == "likelihood":
            return nats(subject, docs, self.length)
        from ..engine.generation import answered

        said, causes = answered(subject, docs, tokens=self.tokens, length=self.length)
        found = [
            np.nan if cause else rouge_1(gold, first_line(text))
            for gold, text, cause in zip(answers(docs), said, causes, strict=True)
        ]
        return np.array(found, float), causes


def nats(subject: Subject, docs: Documents, length: int | None) -> tuple[np.ndarray, Sequence[str | None]]:
    """Log-probability of each answer per token, and the causes of those that have none."""
    from ..engine import features

    found = features.answers(subject, docs, length)
    return -found.nats_per_token, found.causes


def answers(docs: Documents) -> list[str]:
    """The last answer of each example, or its text where it has no messages."""
    texts: list[str] = docs["text"].to_pylist()
    conversations = docs["messages"].to_pylist() if "messages" in docs.column_names else [None] * len(texts)
    return [text if turns is None else last(turns) for text, turns in zip(texts, conversations, strict=True)]


def last(turns: Sequence[dict[str, str]]) -> str:
    """What the assistant said last."""
    said = [turn["content"] for turn in turns if turn["role"] == ASSISTANT and (turn["content"] or "").strip()]
    return said[-1] if said else ""


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return next((line for line in text.splitlines() if line.strip()), "")


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


# -- what was learned --------------------------------------------------------------------------------------------------


def _save(path: Path, scorer: ForgetScorer) -> None:
    """Write what both models have of their own. It is the same bytes for the same scorer."""
    from safetensors.torch import save

    from ..engine.moved import known_by, moved

    weights = {
        f"{part}{name}": weight.cpu().contiguous()
        for part, subject in zip(PARTS, (scorer.before, scorer.after), strict=True)
        for name, weight in moved(scorer.origin, subject).items()
    }
    write_atomically(path, save(weights, {"model": known_by(scorer.origin)}))


def _load(subject: Subject, path: str) -> tuple[Subject, Subject]:
    """Both models, from the one that they began with and what `_save` wrote."""
    from safetensors import SafetensorError, safe_open

    from ..engine.moved import known_by, with_moved

    try:
        with safe_open(path, "pt", device=str(subject.model.device)) as file:
            model = (file.metadata() or {}).get("model")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except OSError as error:
        raise UserError(
            f"what the filter learned, {path}, cannot be read: {error.strerror or error}. Fit it again."
        ) from None
    except SafetensorError:
        raise UserError(f"{path} is not what a filter learned. Fit it again.") from None
    if model != known_by(subject):
        raise UserError(f"{path} was learned on another model, or in another precision. Name that model, or fit again.")
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise UserError(f"{path} holds weights that are not finite numbers. Fit it again.")
    noisy, safe = (
        {name.removeprefix(part): weight for name, weight in weights.items() if name.startswith(part)} for part in PARTS
    )
    return with_moved(subject, noisy), with_moved(subject, safe)
