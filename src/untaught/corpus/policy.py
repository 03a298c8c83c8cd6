"""A policy: what is filtered out of a corpus. One YAML file, read top to bottom.

    text_column: text
    filters:
      - {use: blocklist, terms: terms.txt, distinct: 2, escalate: true}
      - {use: classifier, model: classifier.npz, threshold: 0.5}
    workers: 2

Stages stand in order, cheap to dear; each sees what the one before hands on. A stage flags a document or does not:

    escalate: false (default)   flagged: removed           not flagged: on to the next stage, and kept after the last
    escalate: true              flagged: on to the next    not flagged: kept

The published cascade (O'Brien et al. 2025, arXiv 2508.06601) is a blocklist with `escalate: true` and a classifier.
A document that a stage cannot measure is quarantined there. Nothing is removed or kept by an exception.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from .. import __version__
from ..attest import digest
from ..core import Scorer, Settings
from ..core.shelves import ROOT, Use, source
from .shards import Reading


class Stage(Use):
    """A filter in a policy."""

    escalate: bool = False
    """What it flags goes on to the next stage, and what it does not flag is kept. The last stage's flags remove."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a policy file."""
        return {"use": self.use, **({"escalate": True} if self.escalate else {}), **self.settings}


class Labelled(Settings):
    """A labelled corpus in files, to learn from: paths of files or folders, from the policy file's own folder."""

    hazard: tuple[str, ...] | str
    benign: tuple[str, ...] | str
    text_column: str = "text"


class Policy(Settings):
    """What is filtered out of a corpus, and how its documents are read."""

    text_column: str = "text"
    """The column with the text. A corpus without it that has `messages` is read as conversations."""
    id_column: str = "id"
    """The column with the id. A document without one is called FILE:ROW."""
    filters: tuple[Stage, ...] = Field(min_length=1)
    """Stages, cheap to dear."""
    corpus: Labelled | None = None
    """What stages learn from that name no terms or model."""
    workers: int | None = Field(default=None, ge=1)
    """Shards decided at once; None: one a processor core. Results do not depend on it."""
    quarantined: float = Field(default=0.0, ge=0, le=1)
    """Share of documents that may be quarantined before the exit code says so."""
    unique_ids: bool = True
    """Documents that share an id are told by the exit code. Decisions are by row, so none of them is mixed up."""

    @property
    def reading(self) -> Reading:
        """Which columns are read."""
        return Reading(self.text_column, self.id_column)

    def plain(self) -> dict[str, Any]:
        """As it stands in a policy file, whole."""
        table = self.model_dump(mode="json", exclude={"filters"}, exclude_none=True)
        return {**table, "filters": [stage.plain() for stage in self.filters]}


@dataclass(frozen=True)
class Fitted:
    """A stage that is ready to measure."""

    name: str
    """What decisions call it: the component's name, numbered from the second of that name on."""
    escalate: bool
    scorer: Scorer
    measures: str
    """Identity of what `measure` gives: settings without thresholds, code, and the model's bytes."""
    lock_free: bool
    """Whether threads measure side by side."""
    decides: str
    """Identity of what the stage decides: the same with thresholds."""


@dataclass(frozen=True)
class Rules:
    """A policy that is ready to decide: what every shard is handed, on whatever machine."""

    reading: Reading
    stages: tuple[Fitted, ...]
    digest: str
    """Identity of every decision that these rules make on a given text."""


def rules(policy: Policy, components: Sequence[Any], scorers: Sequence[Scorer], folder: Path) -> Rules:
    """The rules of a policy whose components are resolved and fitted. Model paths start at `folder`."""
    stages: list[Fitted] = []
    for stage, component, scorer in zip(policy.filters, components, scorers, strict=True):
        before = sum(other.name.split("#")[0] == stage.use for other in stages)
        name = f"{stage.use}#{before + 1}" if before else stage.use
        settings = component.changed()
        if isinstance(settings.get("model"), str):
            settings["model"] = digest.of_path(folder / settings["model"])
        apart = {name: settings.pop(name) for name in getattr(component, "thresholds", ())}
        read = dataclasses.asdict(policy.reading)
        measures = digest.of_json({"use": stage.use, "settings": settings, "reading": read, **_code(stage.use)})
        decides = digest.of_json({"measures": measures, "thresholds": apart, "escalate": stage.escalate})
        free = bool(getattr(component, "lock_free", False))
        stages.append(Fitted(name, stage.escalate, scorer, measures, free, decides))
    return Rules(policy.reading, tuple(stages), digest.of_json([stage.decides for stage in stages]))


def _code(use: str) -> dict[str, Any]:
    """What else than settings a finding depends on."""
    helpers = sorted((ROOT / "filters").glob("_*.py"))
    code = digest.of_code(
        ROOT / "corpus" / "shards.py", ROOT / "corpus" / "deciding.py", *helpers, source("filters", use)
    )
    return {"code": code, "version": __version__, "unicode": unicodedata.unidata_version}
