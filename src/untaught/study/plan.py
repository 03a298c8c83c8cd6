"""A plan: the study as a graph of steps, each with an identity that is known before anything is run.

    identity = digest(kind, component, settings, budget, seed, identities of the inputs, code, versions, compute)

A step is done when the store has a record under its identity. Changing a setting changes the identities of that step
and of all that stand on it, and of nothing else.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import assets
from ..attest import digest
from ..core import Budget, UserError, Wrap
from ..core.shelves import Use
from ..corpus.world import from_files, role_of
from . import files
from .provenance import code, uses, versions
from .schema import SIDES, Arm, Attack, Drawn, Entry, Lesson, Study

if TYPE_CHECKING:
    import pyarrow as pa

    from .store import Store

ASKING = ("preparation", "evaluations")
"""Kinds of step that draw nothing at random."""


@dataclass(frozen=True)
class Step:
    """One thing to do, once."""

    kind: str
    title: str
    identity: str
    seed: int
    inputs: Mapping[str, Step] = field(default_factory=dict)
    entry: Entry | None = None
    """The component and its settings; a filters step has several, in `settings`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the identity tells of the component, and beside it; for an attack also `attack_seed`, unless that is 0."""
    budget: Budget | None = None
    seeded: bool = True
    """Whether it depends on the seed. Files, and what is only asked of them, do not: it is done once for all seeds."""
    trial: Callable[[Mapping[str, Any], Budget], Cell] | None = None
    """Of a search: the cell of a trial with these settings in place of the ranges."""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.title}, seed {self.seed}" if self.seeded else f"{self.title}, every seed"

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and other.identity == self.identity


@dataclass(frozen=True)
class Cell:
    """One arm under one attack (or none) at one budget, for one seed and attack seed: a subject to evaluate."""

    arm: str
    attack: Entry | None
    budget: Budget | None
    seed: int
    attack_seed: int | None
    """None without an attack, and for attacks that draw nothing."""
    subject: Step
    """The step whose subject is evaluated."""
    evaluations: tuple[tuple[Entry, Step], ...]
    search: Mapping[str, Any] | None = None
    """Of a trial: which it was of how many, what its settings were searched in, and what it came to."""


@dataclass(frozen=True)
class Plan:
    """Every step, inputs first, and the grid of what is evaluated. What a search tries is known when it is done."""

    study: Study
    steps: tuple[Step, ...]
    cells: tuple[Cell, ...]


def plan(study: Study) -> Plan:
    """The steps of a study, inputs before what stands on them."""
    from ..engine.compute import decisive

    files, compute = _Files.of(study), decisive(study.compute)
    seeds = [_Seed(study, seed, files, compute) for seed in study.seeds]
    cells = [cell for seed in seeds for cell in seed.cells()]
    return Plan(study, _ordered(cells, [step for seed in seeds for step in seed.searches()]), tuple(cells))


def unfolded(plan: Plan, store: Store) -> Plan:
    """With the cells of every trial that a finished search made, and their steps."""
    trials = []
    for step in plan.steps:
        if step.trial is not None and (record := store.record(step.identity)) is not None:
            for told in record.measured["trials"]:
                cell = step.trial(told["settings"], Budget(**told["budget"]))
                trials.append(replace(cell, search=told["search"]))
    if not trials:
        return plan
    searches = [step for step in plan.steps if step.trial is not None]
    return Plan(plan.study, _ordered([*plan.cells, *trials], searches), (*plan.cells, *trials))


def _ordered(cells: Iterable[Cell], more: Iterable[Step]) -> tuple[Step, ...]:
    steps: dict[str, Step] = {}
    for step in [step for cell in cells for _, step in cell.evaluations] + list(more):
        _collect(step, steps)
    return tuple(steps.values())


def _collect(step: Step, into: dict[str, Step]) -> None:
    if step.identity in into:
        return
    for above in step.inputs.values():
        _collect(above, into)
    into[step.identity] = step


@dataclass(frozen=True)
class _Files:
    """What a study stands on that is in files, by its bytes."""

    world: Mapping[str, Any]
    """The base model, and the corpus; empty where the lab makes both."""
    items: Mapping[str, str]
    """Item sets of a study without a world. They are no part of it: a new one trains nothing anew."""
    learned: Mapping[int, str]
    """By evaluation: what it learns from."""
    brought: Mapping[int, str]
    """By evaluation: items of its own."""

    @classmethod
    def of(cls, study: Study) -> _Files:
        """Digests, after a look, before anything is spent, at whether the base model and the items can be used."""
        learned = {
            index: digest.of_json([files.digest_of(assets.path(given, study.folder)) for given in named])
            for index, entry in enumerate(study.evaluations)
            if (named := files.named(entry.component("evaluations", entry.use)))
        }
        own = {
            index: table
            for index, entry in enumerate(study.evaluations)
            if (table := files.brought(entry.component("evaluations", entry.use))) is not None
        }
        brought = {index: digest.of_json(table.to_pylist()) for index, table in own.items()}
        world: dict[str, Any] = {} if study.base is None else {"base": _base(study, study.base)}
        if study.corpus is None:
            return cls(world, {}, learned, brought)
        tables = {name: files.items(given, study.folder, f"items.{name}") for name, given in study.items.items()}
        asked: dict[str, str] = {}
        for index, entry in enumerate(study.evaluations):
            name = entry.settings.get("items")
            if name in tables and index not in own:
                asked[name] = entry.settings.get("role") or role_of(tables[name], name)
        sides = {side: [files.digest_of(file) for file in study.corpus.paths(side, study.folder)] for side in SIDES}
        _check_attacks(study, {name: tables[name] for name, role in asked.items() if role == "hazard"})
        world |= {"corpus": sides, "text_column": study.corpus.text_column}
        world |= {} if study.corpus.attack_part is None else {"attack_part": study.corpus.attack_part}
        items = {name: files.digest_of_items(given, study.folder) for name, given in study.items.items()}
        return cls(world, items, learned, brought)


def _base(study: Study, base: str) -> str:
    """The digest of the model that arms start from, if it can be used."""
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat

    folder = assets.path(base, study.folder)
    check_folder(folder)
    check_chat(folder, study.wrap)
    return files.digest_of(folder)


def _check_attacks(study: Study, hazard: Mapping[str, pa.Table]) -> None:
    """What an attacker trains on holds none of the hazard items that he is judged by."""
    judged = {n: t for n, t in hazard.items() if not getattr(study.items[n], "seen", False)}
    if not study.attacks or not judged or study.corpus is None:
        return
    corpus, at = study.corpus, study.folder
    own, theirs = corpus.paths("hazard", at), corpus.paths("attack_hazard", at)
    attack = from_files([] if theirs else own, [], {}, attack_hazard=theirs, attack_part=corpus.attack_part,
                        text_column=corpus.text_column).attack  # fmt: skip
    for name, items in judged.items():
        files.check_apart(items, attack, name)


class _Seed:
    """Plans one seed."""

    def __init__(self, study: Study, seed: int, files: _Files, compute: Mapping[str, Any]) -> None:
        self.study, self.seed, self.files, self.compute = study, seed, files, compute
        self.world = self._world()
        self.arms: dict[str, Step] = {}
        for name, arm in study.in_order():
            self.arms[name] = self._arm(name, arm)

    def cells(self) -> Iterable[Cell]:
        for name in self.study.arms:
            yield self._cell(name, None, None, None, self.arms[name])
            for index, attack in enumerate(self.study.attacks):
                if attack.ranges(f"attacks.{index}"):
                    continue
                for seed in self._draws(attack):
                    for budget in attack.budget.points() if attack.budget else [Budget()]:
                        yield self._cell(name, attack, budget, seed, self._attacked(name, attack, budget, seed))

    def searches(self) -> Iterable[Step]:
        """A step for each arm and attack whose settings are to be searched. It tries what it likes when it is done."""
        for index, attack in enumerate(self.study.attacks):
            if not attack.ranges(f"attacks.{index}"):
                continue
            for name in self.study.arms:
                whole = self._cell(name, None, None, None, self.arms[name])
                before = {f"before {place}": step for place, (_, step) in enumerate(whole.evaluations)}
                inputs = {"world": self.world, "subject": self.arms[name], **before, **self._others(attack)}
                for seed in self._draws(attack):
                    own = {"attack_seed": seed} if seed else {}
                    own |= {"search": attack.search.changed() if attack.search else {}, "sampler": _sampler()}
                    for budget in attack.budget.points() if attack.budget else [Budget()]:
                        title = f"search of {attack.use} on {name}"
                        made = self._step("search", title, inputs, entry=attack, settings=own, budget=budget)
                        yield replace(made, trial=partial(self._trial, name, attack, seed))

    def _trial(self, arm: str, attack: Attack, seed: int | None, values: Mapping[str, Any], budget: Budget) -> Cell:
        closed = attack.closed(values)
        return self._cell(arm, closed, budget, seed, self._attacked(arm, closed, budget, seed))

    def _draws(self, attack: Attack) -> Sequence[int | None]:
        """The attack seeds of an attack; one that draws nothing has none."""
        return self.study.attack_seeds if getattr(attack.kind("attacks", attack.use), "random", True) else [None]

    def _world(self) -> Step:
        study = self.study
        wrap = {} if study.wrap == Wrap() else {"wrap": study.wrap.changed()}
        if study.world is not None:
            start = self.files.world or {"start": study.start.changed()}
            settings = {"world": study.world.plain(), **start}
            return self._step("world", f"world {study.world.use}", settings=settings | wrap)
        return self._step("world", "corpus and base model", settings={**self.files.world, **wrap}, seeded=False)

    def _arm(self, name: str, arm: Arm) -> Step:
        subject = self.arms[arm.start] if arm.start else self.world
        text = {} if arm.pool is None else {"pool": self._pool(arm.pool)}
        if arm.filters:
            settings = {"filters": [entry.plain() for entry in arm.filters], "masking": arm.masking, "arm": name}
            settings |= {"files": read} if (read := files.digests_of(arm.filters, self.study.folder)) else {}
            asked = {"subject": subject} if any(map(_asks, arm.filters)) else {}
            inputs = {"world": self.world, **text, **asked}
            text = {"text": self._step("filters", f"filter for {name}", inputs, settings=settings)}
        before: list[tuple[str, str | None]] = []
        for entry in arm.training:
            inputs = {"world": self.world, "subject": subject, **(text if entry.text is None else {})}
            own = self._lesson(entry, before.count((entry.use, entry.text)))
            before.append((entry.use, entry.text))
            title = f"{entry.use} for {name}" + (f", part {len(before)}" if len(arm.training) > 1 else "")
            subject = self._step("training", title, inputs | self._others(entry), entry=entry, settings=own)
        for entry in arm.unlearning:
            inputs = {"world": self.world, "subject": subject} | self._others(entry)
            own = {} if entry.stop is None else {"stop": entry.stop.changed()}
            subject = self._step("unlearning", f"{entry.use} for {name}", inputs, entry=entry, settings=own)
        return subject

    def _pool(self, pool: Drawn) -> Step:
        title = f"pool of {pool.size}, {pool.contamination:.0%} hazard"
        title += f", {pool.labelled} labelled" if pool.labelled else ""
        title += f", {pool.known.hazard} and {pool.known.clean} known" if pool.known else ""
        return self._step("pool", title, {"world": self.world}, settings={"pool": pool.plain()})

    def _lesson(self, entry: Lesson, turn: int) -> dict[str, Any]:
        """What tells a training from the same one on another text, or for the second time."""
        own: dict[str, Any] = {"turn": turn} if turn else {}
        if entry.text is not None:
            own["text"] = entry.text
            if entry.text in self.files.items:
                own["text_digest"] = self.files.items[entry.text]
        return own

    def _attacked(self, name: str, attack: Entry, budget: Budget, seed: int | None) -> Step:
        if budget.empty:
            return self.arms[name]  # no budget, no change: the battery holds every attack to it
        spend = ", ".join(f"{n} {what}" for what, n in budget.model_dump(exclude_none=True).items())
        title = f"{attack.use} on {name}" + (f", {spend}" if spend else "") + (f", attack seed {seed}" if seed else "")
        inputs = {"world": self.world, "subject": self.arms[name]} | self._others(attack)
        own = {"attack_seed": seed} if seed else {}
        return self._step("attacks", title, inputs, entry=attack, settings=own, budget=budget)

    def _cell(
        self, arm: str, attack: Entry | None, budget: Budget | None, attack_seed: int | None, subject: Step
    ) -> Cell:
        evaluations = []
        for index, entry in enumerate(self.study.evaluations):
            items = entry.settings.get("items")
            title = f"{entry.use} of {items}: {subject.title}"
            inputs = {"world": self.world, "subject": subject, **self._prepared(index, entry)}
            found = self.files.brought.get(index) or self.files.items.get(str(items))
            asked = {} if found is None else {"items_digest": found}
            evaluations.append((entry, self._step("evaluations", title, inputs, entry=entry, settings=asked)))
        return Cell(arm, attack, budget, self.seed, attack_seed, subject, tuple(evaluations))

    def _prepared(self, index: int, entry: Entry) -> dict[str, Step]:
        """What an evaluation learns once for all subjects, and the arm that reads for it."""
        if index not in self.files.learned:
            return {}
        reader = entry.settings.get("reader")
        inputs = {"world": self.world, "subject": self.world if reader is None else self.arms[reader]}
        settings = {"files": self.files.learned[index], "items": None}
        return {
            "prepared": self._step("preparation", f"what {entry.use} learns", inputs, entry=entry, settings=settings)
        }

    def _others(self, entry: Entry) -> dict[str, Step]:
        """The other arms that an entry needs, made before it."""
        for setting, named in entry.others.items():
            if named not in self.arms:
                raise UserError(
                    f"{entry.use} has {setting} '{named}', which is made from this arm or after it. Order the arms."
                )
        return {setting: self.arms[named] for setting, named in entry.others.items()}

    def _step(
        self,
        kind: str,
        title: str,
        inputs: Mapping[str, Step] | None = None,
        *,
        entry: Entry | None = None,
        settings: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        seeded: bool = True,
    ) -> Step:
        inputs = inputs or {}
        seeded = any(one.seeded for one in inputs.values()) if kind in ASKING else seeded
        used = ({"use": entry.use, **entry.settings} if entry else {}) | dict(settings or {})
        identity = digest.of_json(
            {
                "kind": kind,
                "settings": {k: v for k, v in used.items() if (kind, k) != ("filters", "arm")},
                "budget": budget.changed() if budget else None,
                "seed": self.seed if seeded else None,
                "inputs": {role: step.identity for role, step in inputs.items()},
                "code": code(kind, uses(kind, used)),
                "versions": versions(),
                "compute": self.compute,
            }
        )
        return Step(kind, title, identity, self.seed, inputs, entry, used, budget, seeded)


def _sampler() -> str:
    """What proposes the settings of a trial, with its version: another may propose others."""
    try:
        return f"optuna {importlib.metadata.version('optuna')}"
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "an attack has ranges, and optuna, which searches them, is not installed. Install it:"
            " pip install 'untaught[sweep]', or give each setting one value."
        ) from None


def _asks(stage: Use) -> bool:
    """Whether a filter asks the model that is about to be fine-tuned."""
    return bool(getattr(stage.component("filters", stage.use), "asks_model", False))
