"""Ensemble: several filters' scores of a pool, as ranks, averaged.

    score    mean over members of the share of the pool that a member scores lower      dropped: score >= threshold

Ranks are taken because scores of different kinds have nothing else in common (the count of Borda 1781). Each member is
fitted to the same pool, and may be any filter that ranks; its own threshold plays no part. Of a large pool 10,001
scores are kept for each member. An example that a member cannot measure has no score: what is left would be another
ranking.

Members that see the same thing add nothing, and one that ranks at random takes away. Its ranking is made from whatever
the most demanding member's is made from, and it is called so (`supervision`). The combination is ours.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ..core import Corpus, Documents, Findings, Mask, Rig, Scorer, Settings, UserError
from ..core.shelves import Use
from ..corpus.writing import write_atomically
from ._examples import below, different, load, placed, save, threshold, told
from ._states import knots, mean_rank

ROWS = 2048
"""Examples that a member measures together."""
DEMANDS = ("label-free", "label-light", "supervised")


class Member(Use):
    """A filter of the ensemble: `{use: NAME, SETTING: VALUE, ...}`, or its name alone."""

    def __hash__(self) -> int:
        return hash((self.use, json.dumps(self.settings, sort_keys=True, default=str)))

    def made(self) -> Any:
        """The filter."""
        return self.component("filters", "a member of the ensemble")

    def having(self, before: Settings, after: Settings, renamed: dict[str, str] | None = None) -> Member:
        """This one with the settings in which `after` differs from `before`, files by their new names."""
        old, new = before.changed(), after.changed()
        changed = {name: value for name, value in new.items() if value != old.get(name)}
        if renamed:
            changed = {n: renamed.get(v, v) if isinstance(v, str) else v for n, v in changed.items()}
        return self.model_copy(update={"settings": self.settings | changed})


class _OfMembers:
    """What a filter says of itself, where its members decide it; the class itself says what stands for most."""

    def __init__(self, usual: Any, of: Any) -> None:
        self.usual, self.of = usual, of

    def __get__(self, made: Ensemble | None, kind: type) -> Any:
        return self.usual if made is None else self.of([member.made() for member in made.members])


def _supervision(made: Sequence[Any]) -> str:
    """The most that a member needs; one that does not say is counted as supervised."""
    return max((getattr(one, "supervision", None) or DEMANDS[-1] for one in made), key=DEMANDS.index)


class Ensemble(Settings):
    """Rank a pool by the mean of several filters' ranks."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[Any] = _OfMembers(True, lambda made: all(getattr(one, "lock_free", False) for one in made))
    supervision: ClassVar[Any] = _OfMembers("label-light", _supervision)
    asks_model: ClassVar[Any] = _OfMembers(True, lambda made: any(getattr(one, "asks_model", False) for one in made))
    sees_truth: ClassVar[Any] = _OfMembers(False, lambda made: any(getattr(one, "sees_truth", False) for one in made))

    members: tuple[Member, ...] = Field(default=(Member(use="few_shot_ranker"), Member(use="perplexity")), min_length=1)
    """The filters, with their settings."""
    threshold: float | None = None
    """Mean rank, 0 to 1, from which an example is dropped. None: as `removed` says."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    fitted: str | None = None
    """File with the members' scores of the pool; with what the members learned it needs no pool."""

    def resolved(self, folder: Path) -> Ensemble:
        """With the places of what was learned made whole, the members' too."""
        made = [member.made() for member in self.members]
        members = [
            member.having(one, one.resolved(folder)) for member, one in zip(self.members, made, strict=True)
        ]  # fmt: skip
        return placed(self.model_copy(update={"members": tuple(members)}), folder)

    def fit(self, pool: Corpus, rig: Rig) -> Averaged:
        if self.fitted is not None:
            keys = [f"reference_{place}" for place in range(len(self.members))]
            known = load(self.fitted, keys)
            return self._scorer(self._fitted(pool, rig), [known[key] for key in keys], self.threshold)
        docs = different(pool.unlabelled, 2, "the pool")
        scorers = self._fitted(pool, rig)
        found = np.stack([_scores(scorer, docs) for scorer in scorers], -1)
        sound = np.isfinite(found).all(1)
        if sound.sum() < 2:
            blind = [name for name, own in zip(self._names(), found.T, strict=True) if np.isfinite(own).sum() < 2]
            raise UserError(
                f"of {docs.num_rows} examples of the pool {int(sound.sum())} have a score of every member, and at least"
                f" 2 are needed. Leave out {', '.join(blind) or 'a member'}, or mend the data."
            )
        references = [knots(own[np.isfinite(own), None])[0] for own in found.T]
        scores = mean_rank(found[sound], references)
        rig.log(members=float(len(scorers)), unmeasured=float((~sound).sum()), agreement=_agreement(found[sound]))
        return self._scorer(scorers, references, threshold(self.threshold, self.removed, scores))

    def frozen(self, scorer: Averaged, folder: Path) -> Ensemble:
        """These settings with what the members learned, each in files of its own name, and their scores of the pool."""
        members = []
        for name, member, one in zip(self._names(), self.members, scorer.scorers, strict=True):
            made = member.made()
            with tempfile.TemporaryDirectory() as own:
                after = made.frozen(one, Path(own)) if hasattr(made, "frozen") else made
                files = {path.name: f"ensemble-{name}-{path.name}" for path in Path(own).iterdir()}
                for old, new in files.items():
                    write_atomically(folder / new, (Path(own) / old).read_bytes())
            members.append(member.having(made, after, files))
        save(folder / "ensemble.npz", {f"reference_{n}": own for n, own in enumerate(scorer.references)})
        found = {"fitted": "ensemble.npz", "threshold": scorer.threshold, "removed": None}
        return self.model_copy(update={**found, "members": tuple(members)})

    def _names(self) -> list[str]:
        """What the members are called: numbered from the second of a name on."""
        uses = [member.use for member in self.members]
        before = [uses[:place].count(use) for place, use in enumerate(uses)]
        return [f"{use}-{n + 1}" if n else use for use, n in zip(uses, before, strict=True)]

    def _fitted(self, pool: Corpus, rig: Rig) -> list[Scorer]:
        named = zip(self._names(), self.members, strict=True)
        return [member.made().fit(pool, _Named(rig, name)) for name, member in named]

    def _scorer(self, scorers: Sequence[Scorer], references: Sequence[np.ndarray], edge: float | None) -> Averaged:
        return Averaged(tuple(self._names()), tuple(scorers), tuple(references), edge)


@dataclass(frozen=True, eq=False)
class Averaged:
    """Several scorers, and the score from which an example is dropped."""

    names: tuple[str, ...]
    scorers: tuple[Scorer, ...]
    references: tuple[np.ndarray, ...]
    """A member's scores of the pool, sorted."""
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        found = [scorer.measure(batch) for scorer in self.scorers]
        causes: list[str | None] = [None] * batch.num_rows
        for name, own in reversed(list(zip(self.names, found, strict=True))):
            for row, (score, reason) in enumerate(
                zip(own["score"].to_pylist(), own["reason"].to_pylist(), strict=True)
            ):
                causes[row] = f"{name}: {reason}" if score is None else causes[row]
        scores = np.stack([_floats(own) for own in found], -1)
        return told(mean_rank(scores, self.references), causes, f"mean rank {{:.4f}} of {', '.join(self.names)}")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)


class _Named:
    """A rig whose log says which member a number is of."""

    def __init__(self, rig: Rig, name: str) -> None:
        self._rig, self._name = rig, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig, name)

    def log(self, **numbers: float) -> None:
        self._rig.log(**{f"{self._name}_{name}": value for name, value in numbers.items()})


def _floats(findings: Findings) -> np.ndarray:
    """Scores, not a number where there is none."""
    return findings["score"].to_numpy().astype(np.float64)


def _scores(scorer: Scorer, docs: Documents) -> np.ndarray:
    """A pool's scores, some examples at a time."""
    parts = [_floats(scorer.measure(docs.slice(first, ROWS))) for first in range(0, docs.num_rows, ROWS)]
    return np.concatenate(parts)


def _agreement(scores: np.ndarray) -> float:
    """Mean correlation of the ranks of two members; 1 of one alone. Of equal scores for all it is 0."""
    ranked = np.stack([mean_rank(own[:, None], [np.sort(own)]) for own in scores.T])
    count = len(ranked)
    if count == 1:
        return 1.0
    apart = ranked - ranked.mean(1, keepdims=True)
    lengths = np.sqrt(np.square(apart).sum(1))
    unit = apart / np.where(lengths > 0, lengths, 1)[:, None]
    alike = unit @ unit.T
    return float((alike.sum() - np.trace(alike)) / (count * (count - 1)))
