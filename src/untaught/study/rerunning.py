"""`untaught verify --rerun N`: ask the weights at hand some of what a run says it asked, and compare the marks.

N items are drawn by chance from all that the statement's model was asked before any attack. They are asked anew, with
the items of the run's own study, and every mark is held against the one in `marks/`. An evaluation whose marks depend
on all of its items, such as a probe that is fitted to them, is asked whole where its part comes out otherwise.

What this shows is that these weights give these answers. It does not repeat training, filters or attacks; it needs the
run folder, whose digests the statement has, and the files that its study names; and where the marks were made on some
other kind of machine, a near tie may come out otherwise. Evaluations that first learn something, such as a judge, are
passed over and named.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..attest.canonical import loads
from ..attest.inspecting import refuse_unsafe
from ..attest.predicate import Predicate
from ..attest.refusals import ClaimFails
from ..core import Subject, UserError, Wrap
from . import files
from .schema import Entry, Study, load
from .single import WRAP

CLOSE = 1e-3
"""Marks may differ by so much, or by this share of themselves: sums are taken in another order elsewhere."""
NAMED = 20
"""Marks that a message names."""
Asked = tuple[str, str]
"""An evaluation's name and its items'."""
Marks = dict[tuple[str, str], float | None]
"""By item and metric."""


@dataclass(frozen=True)
class Differing:
    """A mark that came out otherwise."""

    evaluation: str
    items: str
    item: str
    metric: str
    then: float | None
    now: float | None


@dataclass(frozen=True)
class Rerun:
    """What asking again gave."""

    seed: int
    """What the items were drawn with: given again, it draws the same."""
    asked: int
    differing: tuple[Differing, ...]
    passed_over: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the items asked again of which some mark came out otherwise."""
        return len({(d.evaluation, d.items, d.item) for d in self.differing}) / self.asked

    def problem(self, at_most: float) -> ClaimFails | None:
        """The marks that came out otherwise, if they are of a larger share of the items."""
        if self.share <= at_most:
            return None
        told = "".join(
            f"\n  {one.metric} of {one.item} in {one.items}: {one.then} then, {one.now} now"
            for one in self.differing[:NAMED]
        )
        more = f"\n  and {len(self.differing) - NAMED} more" if len(self.differing) > NAMED else ""
        return ClaimFails(f"{self.words()}{told}{more}")

    def words(self) -> str:
        """`100 items asked again (drawn with 7): 0% came out otherwise`."""
        over = f"; passed over: {', '.join(self.passed_over)}" if self.passed_over else ""
        return f"{self.asked} items asked again (--draw {self.seed}): {self.share:.1%} came out otherwise{over}"

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "share": self.share}


def rerun(model: Path, claim: Predicate, run: Path, count: int, seed: int) -> Rerun:
    """Ask `count` items again, or all where there are fewer. The run folder is one that was verified before."""
    refuse_unsafe(model)
    study = load(run / "study.yaml")
    kept = _kept(run / "marks" / f"{claim.model.arm}.parquet", claim.model.seed)
    entries, passed_over = _askable(study, kept)
    places = [(asked, item) for asked in entries for item in sorted({item for item, _ in kept[asked]})]
    if not places:
        raise UserError(f"no evaluation of {run} can be asked again: {'; '.join(passed_over) or 'it has no marks'}.")
    drawn: dict[Asked, list[str]] = defaultdict(list)
    for asked, item in random.Random(seed).sample(places, min(count, len(places))):
        drawn[asked].append(item)
    items = _Items(study, claim.model.seed)
    subject = _subject(model, study)
    found: list[Differing] = []
    for asked, wanted in drawn.items():
        found += _compared(entries[asked], items, subject, kept[asked], wanted)
    return Rerun(seed, min(count, len(places)), tuple(found), tuple(passed_over))


class _Items:
    """Item sets of a study, as its run had them."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study = study
        self.world = study.world_settings().build(seed).items if study.world is not None else {}

    def __getitem__(self, name: str) -> pa.Table:
        if name in self.world:
            return self.world[name]
        return files.items(self.study.items[name], self.study.folder, f"items.{name}")


def _kept(path: Path, seed: int) -> dict[Asked, Marks]:
    """What the run marked before any attack, by evaluation and items."""
    if not path.is_file():
        raise UserError(f"there is no {path}, so there is nothing to compare with. Give the whole run folder.")
    found: dict[Asked, Marks] = defaultdict(dict)
    for row in pq.read_table(path, filters=[("seed", "=", seed)]).to_pylist():
        if row["attack"] is None:
            found[row["evaluation"], row["items"]][row["item"], row["metric"]] = row["value"]
    return found


def _askable(study: Study, kept: Mapping[Asked, Marks]) -> tuple[dict[Asked, Entry], list[str]]:
    """The evaluations that can be asked again, and why the others cannot."""
    found: dict[Asked, Entry] = {}
    passed_over: list[str] = []
    names = [(entry.use, str(entry.settings.get("items"))) for entry in study.evaluations]
    for entry, asked in zip(study.evaluations, names, strict=True):
        name = f"{asked[0]} of {asked[1]}"
        if names.count(asked) > 1:
            passed_over.append(f"{name} stands twice in the study")
        elif _learns(entry):
            passed_over.append(f"{name} first learns something")
        elif asked not in kept:
            passed_over.append(f"{name} has no marks")
        else:
            found[asked] = entry
    return found, list(dict.fromkeys(passed_over))


def _learns(entry: Entry) -> bool:
    """Whether an evaluation is taught by files before it asks: by those that its settings name, or by its own."""
    component = entry.component("evaluations", "the run's study")
    return any(getattr(component, name, None) for name in getattr(component, "files", ()))


def _subject(model: Path, study: Study) -> Subject:
    from ..engine import models
    from ..engine.compute import begin

    begin(study.compute)
    own = model / WRAP
    wrap = Wrap.settle(loads(own.read_bytes(), str(own)), str(own)) if own.is_file() else study.wrap
    return models.load(model, wrap)


def _compared(entry: Entry, items: _Items, subject: Subject, kept: Marks, wanted: Collection[str]) -> list[Differing]:
    """The marks of some items that come out otherwise, even when all items are asked as they were."""
    component = entry.component("evaluations", "the run's study")
    own = files.brought(component)
    whole = items[str(entry.settings["items"])] if own is None else own
    ids = {str(one) for one in whole["id"].to_pylist()}
    if lacking := sorted({item for item, _ in kept} - ids):
        raise UserError(f"the items '{entry.settings['items']}' lack {lacking[0]}, which the run asked. They changed.")
    some = whole.filter(pa.array([str(one) in wanted for one in whole["id"].to_pylist()]))
    for table in (some, whole):
        try:
            found = _differing(entry, component.grade(subject, table), kept, wanted)
        except UserError:
            if table is whole:
                raise
            continue  # too few of them for it
        if not found:
            return []
    return found


def _differing(entry: Entry, marked: pa.Table, kept: Marks, wanted: Collection[str]) -> list[Differing]:
    now: Marks = {(row["item"], row["metric"]): row["value"] for row in marked.to_pylist()}
    place: dict[str, Any] = {"evaluation": entry.use, "items": str(entry.settings["items"])}
    return [
        Differing(**place, item=item, metric=metric, then=then, now=now.get((item, metric)))
        for (item, metric), then in kept.items()
        if item in wanted and not _close(then, now.get((item, metric)))
    ]


def _close(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    return math.isclose(then, now, rel_tol=CLOSE, abs_tol=CLOSE)
