"""Choosing a threshold, and measuring what a stage reaches with it, on documents that nothing was learned from.

A document is *flagged* by the policy up to a stage when that stage flags it or one before removed it. With t the
threshold (a stage flags what scores t or more), n the documents of a group and f(t) those flagged:

    recall r            the highest t with f(t) >= r * n over hazard
    false_positives p   the lowest t with f(t) <= p * n over benign
    removed p           the same over a sample of the corpus that is filtered
    f1                  the t with the highest 2 f_hazard(t) / (f_hazard(t) + f_benign(t) + n_hazard)

Where a filter offers several models (the blocklist: lists from short to long), each gets its own t. Of those that
reach what is wanted the best is taken: for `recall` the one with the fewest benign flagged, for `f1` the one with the
highest, else the one with the most hazard flagged.

A threshold is chosen on one half of the held-out documents and measured on the other, so that the choice cannot
flatter the measurement. Intervals are exact ones of 95% (Clopper and Pearson 1934). A document that a stage cannot
measure is not flagged; it is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import Documents, Scorer, UserError
from ..core.statistics import exact_interval
from ..corpus.deciding import measured
from ..corpus.policy import Choose

HERE, KEPT, REMOVED, QUARANTINED = range(4)
"""What became of a document so far. What an `escalate` stage does not flag is kept."""


@dataclass
class Group:
    """Documents that a policy is tried on, stage by stage."""

    documents: Documents
    fate: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))

    def __post_init__(self) -> None:
        if len(self.fate) != self.documents.num_rows:
            self.fate = np.zeros(self.documents.num_rows, np.int8)

    def __len__(self) -> int:
        return self.documents.num_rows

    @property
    def here(self) -> np.ndarray:
        """Places of the documents that reach the stage."""
        return np.flatnonzero(self.fate == HERE)

    @property
    def gone(self) -> int:
        """Documents that stages before have removed."""
        return int((self.fate == REMOVED).sum())

    def scored(self, scorer: Scorer) -> Scored:
        """The stage's findings of what reaches it."""
        here = self.here
        table = measured(scorer, self.documents.select(["id", "text"]).take(pa.array(here)))
        return Scored(len(self), self.gone, table["score"].to_numpy(), table)

    def decide(self, scorer: Scorer, scored: Scored, *, escalate: bool) -> int:
        """Let the stage decide what reaches it. Returns how many are flagged by the policy so far."""
        here, valid = self.here, ~np.isnan(scored.scores)
        flagged = np.zeros(len(here), bool)
        flagged[valid] = ~scorer.keep(scored.table.filter(pa.array(valid)))
        self.fate[here[~valid]] = QUARANTINED
        self.fate[here[valid & ~flagged]] = KEPT if escalate else HERE
        self.fate[here[flagged]] = HERE if escalate else REMOVED
        return scored.gone + int(flagged.sum())


@dataclass(frozen=True)
class Scored:
    """How a group scores at a stage."""

    total: int
    gone: int
    scores: np.ndarray
    """Of the documents that reach the stage; not a number where one could not be measured."""
    table: pa.Table

    def flagged(self, threshold: float) -> int:
        """Documents flagged by the policy so far."""
        return self.gone + int((self.scores >= threshold).sum())


@dataclass(frozen=True)
class Chosen:
    """A threshold, and what it comes to where it was chosen."""

    threshold: float
    hazard: int
    benign: int
    """Flagged; of a `removed` policy without a labelled corpus, 0."""


@dataclass(frozen=True)
class Setting:
    """The setting that is a stage's threshold: what values it takes."""

    name: str
    whole: bool
    """Only whole numbers from 1 on, as the blocklist's `distinct`; else numbers from 0 to 1."""

    def above(self, score: float) -> float:
        """The lowest threshold that does not flag a score."""
        return score + 1 if self.whole else float(np.nextafter(score, math.inf))

    def allowed(self, threshold: float) -> bool:
        """Whether the setting takes this value."""
        return threshold >= 1 if self.whole else 0 <= threshold <= 1


def chosen(wanted: Choose, hazard: Scored, benign: Scored, sample: Scored | None, setting: Setting) -> Chosen | None:
    """The threshold that is wanted. None when no threshold reaches it."""
    if wanted.recall is not None:
        threshold = _for_recall(wanted.recall, hazard)
    elif wanted.f1 is not None:
        threshold = _for_f1(hazard, benign, setting)
    else:
        group, share = (benign, wanted.false_positives) if sample is None else (sample, wanted.removed)
        threshold = _for_share(float(share or 0), group, setting)
    if threshold is None or not setting.allowed(threshold):
        return None
    return Chosen(threshold, hazard.flagged(threshold), benign.flagged(threshold))


def _ordered(scored: Scored) -> np.ndarray:
    """Scores from high to low."""
    return np.sort(scored.scores[~np.isnan(scored.scores)])[::-1]


def _for_recall(recall: float, hazard: Scored) -> float | None:
    """The highest threshold that flags enough of a group."""
    scores, need = _ordered(hazard), max(math.ceil(recall * hazard.total - 1e-9) - hazard.gone, 1)
    if need > len(scores):
        return None
    return float(scores[need - 1])


def _for_share(share: float, group: Scored, setting: Setting) -> float | None:
    """The lowest threshold that flags no more of a group than a share of it."""
    scores, most = _ordered(group), math.floor(share * group.total + 1e-9) - group.gone
    if most < 0:
        return None
    if most >= len(scores):
        return 1.0 if setting.whole else 0.0
    return max(setting.above(float(scores[most])), 1.0 if setting.whole else 0.0)


def _for_f1(hazard: Scored, benign: Scored, setting: Setting) -> float | None:
    """The threshold of the highest F1: half-way down to the next lower score, where there is one."""
    scores = np.unique(np.concatenate([_ordered(hazard), _ordered(benign)]))
    scores = scores[[setting.allowed(score) for score in scores.tolist()]] if len(scores) else scores
    if not len(scores):
        return None
    true, false = (np.array([group.flagged(t) for t in scores.tolist()]) for group in (hazard, benign))
    best = int(np.argmax(2 * true / (true + false + hazard.total)))
    if setting.whole or best == 0:
        return float(scores[best])
    return float((scores[best - 1] + scores[best]) / 2)


def best(wanted: Choose, found: Sequence[Chosen | None], hazard: int) -> int | None:
    """Which of several models reaches best what is wanted; the first of equals. None when none reaches it."""

    def worth(one: Chosen) -> float:
        if wanted.recall is not None:
            return -one.benign
        if wanted.f1 is not None:
            return 2 * one.hazard / max(one.hazard + one.benign + hazard, 1)
        return one.hazard

    reached = {index: worth(one) for index, one in enumerate(found) if one is not None}
    return max(reached, key=lambda index: reached[index], default=None)


def unreachable(wanted: Choose, every: Sequence[tuple[Scored, Scored]], where: str, setting: Setting) -> UserError:
    """Says what is reached at most."""
    (name, value), = wanted.wanted().items()  # fmt: skip
    least = 1.0 if setting.whole else 0.0
    if name == "recall" and every:
        total = every[0][0].total
        most = max(hazard.flagged(least) for hazard, _ in every)
        return UserError(
            f"{where}: choose.recall is {value}, and at most {most} of {total} held-out hazard documents can be"
            " flagged: the stages before keep the others, or they share no term with the list. Ask for less, label"
            " more, or loosen what comes before or how the list is made ('documents', 'share', 'lift')."
        )
    return UserError(
        f"{where}: choose.{name} is {value}, and no threshold reaches it: the stages before already remove more. Ask"
        " for more, or make the stages before stricter."
    )


def share(hits: int, of: int) -> dict[str, Any]:
    """A share with its exact interval, as plain numbers; of nothing, no share.

    >>> share(9, 10)
    {'flagged': 9, 'of': 10, 'share': 0.9, 'low': 0.555, 'high': 0.9975}
    """
    if not of:
        return {"flagged": 0, "of": 0, "share": None, "low": None, "high": None}
    low, high = exact_interval(hits, of)
    return {"flagged": hits, "of": of, "share": round(hits / of, 4), "low": round(low, 4), "high": round(high, 4)}
