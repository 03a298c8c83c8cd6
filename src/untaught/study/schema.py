"""A study file: which arms are compared, under which attacks, on which evaluations, for which seeds.

Read top to bottom it is the experiment. `load` checks all of it before anything is spent: names of components,
settings, arms, donors and item sets.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from .. import assets
from ..core import Budget, Compute, Role, Settings, Stop, UserError, Wrap, suggest
from ..core.files import change, read_yaml
from ..core.shelves import Use, component_of
from ..corpus import pools
from ..lab.start import StartingModel
from .files import Rows, brings, located
from .ranges import Range

WORLDS = ("compounds", "manners")
SIDES = ("hazard", "benign", "attack_hazard", "attack_benign")
"""The sides of a corpus in files: what models are trained on, and what an attacker has."""
OTHERS = ("donor", "base")
"""Settings of components that name another arm, whose weights they are handed."""
UNTOUCHED = ("untouched", "unfiltered")
"""Names of the reference in the report; where no arm has one of them, it is the first."""


def _name(value: str) -> str:
    if not value or not all(c.isalnum() or c in "-_." for c in value) or value[0] in "-.":
        raise ValueError("must be made of letters, digits, '-', '_' and '.', and start with a letter or digit")
    return value


Name = Annotated[str, AfterValidator(_name)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Budgets(Settings):
    """The budgets of an attack: a number, or a list of them for a curve. At most one of the three is a list."""

    steps: int | tuple[int, ...] | None = None
    tokens: int | tuple[int, ...] | None = None
    examples: int | tuple[int, ...] | None = None

    @field_validator("steps", "tokens", "examples", mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        try:
            return TypeAdapter(int | tuple[int, ...] | None).validate_python(given)
        except ValidationError:
            raise ValueError(f"{given!r} is no whole number, and no list of them such as [0, 20, 40]") from None

    @model_validator(mode="after")
    def _one_list(self) -> Budgets:
        values = [v for v in (self.steps, self.tokens, self.examples) if v is not None]
        if sum(isinstance(v, tuple) for v in values) > 1:
            raise ValueError("at most one of steps, tokens and examples may be a list")
        if any(number < 0 for v in values for number in (v if isinstance(v, tuple) else (v,))):
            raise ValueError("a budget must not be negative")
        if () in values:
            raise ValueError("a list of budgets must not be empty")
        return self

    def points(self) -> list[Budget]:
        """Each budget there is to try, smallest first."""
        given = self.model_dump(exclude_none=True)
        listed = next((name for name, value in given.items() if isinstance(value, tuple)), None)
        if listed is None:
            return [Budget(**given)]
        return [Budget(**{**given, listed: value}) for value in sorted(set(given[listed]))]


class Entry(Use):
    """One component in a study: `{use: NAME, budget: ..., SETTING: VALUE, ...}`."""

    budget: Budgets | None = None
    """For attacks: what the attacker may spend."""

    @property
    def others(self) -> dict[str, Any]:
        """The other models that its settings name, by the setting."""
        return {name: named for name in OTHERS if (named := self.settings.get(name)) is not None}

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        budget = {} if self.budget is None else {"budget": self.budget.model_dump(mode="json", exclude_none=True)}
        return {"use": self.use, **budget, **self.settings}


class Search(Settings):
    """How an attacker looks for the settings that serve him best, where an attack leaves ranges."""

    trials: int = Field(default=24, ge=1)
    """Settings that are tried on each arm and seed."""
    bound: float = Field(default=0.2, ge=0)
    """The most that a trial may cost in utility: what costs more is never better than what does not. Smaller bounds are
    told from the same trials."""


class Attack(Entry):
    """An attack of a study: an entry whose settings may be ranges, `{use: relearn, lr: [1.0e-5, 1.0e-2]}`."""

    search: Search | None = None
    """How ranges are searched; left out, by 24 trials."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        plain = super().plain()
        search = {} if self.search is None else {"search": self.search.changed()}
        return {"use": plain.pop("use"), **search, **plain}

    def ranges(self, where: str) -> dict[str, Range]:
        """The settings that are left open, by name."""
        found = self.kind("attacks", where)
        return {
            name: Range.of(name, value, f"{where} ({self.use})")
            for name, value in self.settings.items()
            if isinstance(value, list | tuple) and not _takes_a_list(found, name)
        }

    def closed(self, values: Mapping[str, Any]) -> Attack:
        """The attack with these values in place of its ranges."""
        return self.model_copy(update={"settings": {**self.settings, **values}, "search": None})


def _takes_a_list(component: type[Settings], name: str) -> bool:
    """Whether a setting may be a list itself, and so is none of ranges."""
    field = component.model_fields.get(name)
    return field is None or "tuple" in str(field.annotation)


class Stage(Entry):
    """A filter of an arm: an entry, and what becomes of what it flags."""

    escalate: bool = False
    """What it flags goes on to the next stage, and what it does not flag is kept. The last stage's flags remove."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        plain = super().plain()
        return {"use": plain.pop("use"), **({"escalate": True} if self.escalate else {}), **plain}


class Lesson(Entry):
    """A training of an arm: an entry, and what it trains on where that is not the arm's own text."""

    text: str | None = None
    """Name of an item set of texts or examples that it trains on, such as `safe`."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        plain = super().plain()
        return {"use": plain.pop("use"), **({"text": self.text} if self.text else {}), **plain}


class Unlearning(Entry):
    """An unlearning method of an arm: an entry, and what it may cost."""

    stop: Stop | None = None
    """`{kl: 0.05}`: the method is ended before it costs more on benign text, and its last good weights are kept."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        plain = super().plain()
        stop = {} if self.stop is None else {"stop": self.stop.changed()}
        return {"use": plain.pop("use"), **stop, **plain}


class Drawn(pools.Pool):
    """A pool of fine-tuning data, drawn anew for each seed.

    Arms whose pools differ in nothing but what is labelled or known have the same examples.
    """

    known: pools.Known | None = None
    """Examples beside the pool that filters are told: `{hazard: 20, clean: 100}`."""

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        return self.model_dump(mode="json")


class Effect(Settings):
    """What filters achieve of what could be achieved: (reference - arm) / (reference - oracle), in the report."""

    reference: str = "unfiltered"
    """The arm that was trained on the pool as it is."""
    oracle: str = "oracle"
    """The arm that was trained on the pool without its hazard."""
    arms: tuple[str, ...] = ()
    """The arms that are compared; all others when left out."""


class Controls(Settings):
    """Arms that show what an attack's result is worth. They change what the report says, and nothing that is run."""

    shallow: tuple[str, ...] = ()
    """Arms with a deliberately shallow defence, such as `rmu` with few steps. An attack that brings back half of the
    gap on none of them is not shown to work: that it brought nothing back elsewhere says nothing."""
    never: str | None = None
    """An arm that never learned the hazard, such as one that was filtered by `oracle`. An attack that brings half of
    the gap to it as well teaches: what it brings back elsewhere is set apart."""

    @model_validator(mode="after")
    def _some(self) -> Controls:
        if not self.shallow and self.never is None:
            raise ValueError("names no arm: give 'shallow', 'never' or both")
        if self.never in self.shallow:
            raise ValueError(f"'{self.never}' is in 'shallow' and is 'never'. Give two arms: one hides, one never knew")
        return self


class Price(Settings):
    """The reader's rate: what attacks would have cost him. It changes no result but the money told beside it."""

    per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of the machine, however many processes use it: money = seconds / 3600 x `per_hour`."""
    per_exaflop: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of 10^18 floating-point operations: money = flops / 10^18 x `per_exaflop`."""
    currency: str = Field(min_length=1, max_length=12)
    """What the rate is in, such as `USD`: told, never converted."""

    @model_validator(mode="after")
    def _one_rate(self) -> Price:
        if (self.per_hour is None) == (self.per_exaflop is None):
            raise ValueError("give either 'per_hour' or 'per_exaflop', one of the two")
        return self

    def of(self, seconds: float, flops: float) -> float:
        """What an attack cost that took so long, or so many operations."""
        return seconds / 3600 * self.per_hour if self.per_hour is not None else flops / 1e18 * (self.per_exaflop or 0.0)


class Files(Settings):
    """A corpus in files: paths of files or folders, from the study file's own folder, or `asset:NAME/PATH`."""

    hazard: tuple[str, ...] | str = ()
    benign: tuple[str, ...] | str = ()
    attack_hazard: tuple[str, ...] | str = ()
    """What the attacker has; the corpus itself when left out."""
    attack_benign: tuple[str, ...] | str = ()
    attack_part: str | None = None
    """Only what the column `part` says this of is the attacker's: his examples share no prompt with those of a pool."""
    text_column: str = "text"

    def paths(self, side: str, folder: Path) -> list[Path]:
        """The paths of one side."""
        return [assets.path(one, folder) for one in self._given(side)]

    def resolved(self, folder: Path) -> Files:
        """With whole paths, which mean the same from anywhere."""
        return self.model_copy(update={s: tuple(assets.whole(one, folder) for one in self._given(s)) for s in SIDES})

    def _given(self, side: str) -> tuple[str, ...]:
        given = getattr(self, side)
        return (given,) if isinstance(given, str) else given


class Arm(Settings):
    """A subject made in one way: start from another arm or the base, filter, train, unlearn."""

    start: str | None = Field(default=None, alias="from")
    """Another arm to start from; None is the base."""
    pool: Drawn | None = None
    """Fine-tuning data drawn from the corpus, or from the world's own: `{size: 320, contamination: 0.25}`. What the arm
    filters and trains on in place of the corpus."""
    filters: tuple[Stage, ...] = ()
    """Stages, cheap to dear. Each removes what it flags and hands on the rest; with `escalate` it keeps the rest and
    hands on what it flags."""
    masking: Literal["document", "sentence", "term"] = "document"
    """What becomes of a flagged document. `document`: it is dropped. `sentence`: it stays, and training leaves out of
    its loss every sentence in which the filter found something. `term`: only the words that the filter names are left
    out. A document of which the filter cannot say where the hazard stands is left out whole."""
    training: tuple[Lesson, ...] = ()
    """One after another; with `text` on something else, so that `[{use: finetune}, {use: finetune, text: safe}]` is
    safety tuning afterwards. The same training again goes on with other draws."""
    unlearning: tuple[Unlearning, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        start = {} if self.start is None else {"from": self.start}
        start |= {} if self.pool is None else {"pool": self.pool.plain()}
        parts = {
            part: [entry.plain() for entry in getattr(self, part)] for part in ("filters", "training", "unlearning")
        }
        masking = {"filters": parts.pop("filters"), "masking": self.masking} if self.filters else {}
        return start | masking | {part: entries for part, entries in parts.items() if entries}


class Study(Settings):
    """A whole study."""

    title: str = "A study"
    seeds: tuple[Seed, ...] = (0,)
    """Every arm, attack and evaluation is repeated for each. World, weights and order of texts all follow the seed."""
    attack_seeds: tuple[Seed, ...] = (0,)
    """Every attack that draws at random is repeated with each, on the same arms: what arms are made with follows
    `seeds` alone."""
    world: Entry | None = None
    """A world of the lab, such as `lab:compounds` or `{use: compounds, substances: 64}`."""
    start: StartingModel = StartingModel()
    """Shape of the lab's starting model."""
    corpus: Files | None = None
    """In place of a world: a corpus in files."""
    base: str | None = None
    """The folder of the model that the arms start from, or `asset:NAME`: with `corpus`, or with a world in place of the
    lab's starting model. A world is invented, so that no model in existence knows anything of it."""
    items: dict[Name, str | Rows] = {}
    """With `corpus`: item sets by name, as files or `asset:NAME/PATH`, or as some rows of one."""
    arms: dict[Name, Arm] = Field(min_length=1)
    attacks: tuple[Attack, ...] = ()
    evaluations: tuple[Entry, ...] = Field(min_length=1)
    effects: tuple[Effect, ...] = ()
    """Which arms are held against which when the share of the oracle's effect is told. Without it, arms named
    `unfiltered` and `oracle` are, with those that have the same ending: `unfiltered-25`, `oracle-25`, `saft-25`."""
    controls: Controls | None = None
    """Which arms show that attacks work, and that they do not teach: `{shallow: [rmu-quick], never: filtered}`."""
    price: Price | None = None
    """The rate at which the money of attacks is told: `{per_hour: 2.5, currency: USD}`."""
    missing: float = Field(default=0.0, ge=0, le=1)
    """Share of all marks that may be missing before the run ends with exit code 6."""
    wrap: Wrap = Wrap()
    """What stands around every prompt, in every arm: `{chat: true, system: TEXT}` asks a chat model as a chat."""
    compute: Compute = Compute()
    """Device, precision and threads. Part of what fixes the last bit of every number."""
    workers: int | None = Field(default=None, ge=1)
    """Steps run side by side; None is as many as the processors allow. It changes no result."""
    gpus_per_step: float | None = Field(default=None, ge=0)
    """With `--executor ray`: GPUs that a step asks for, such as 0.5 for two steps on each; None is 1 where steps
    compute on CUDA, else 0. It changes no result."""

    _folder: Path = PrivateAttr(default_factory=Path)
    """Where the study file is; its paths start there."""

    @property
    def folder(self) -> Path:
        return self._folder

    @model_validator(mode="before")
    @classmethod
    def _lab_prefix(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and isinstance(table.get("world"), str):
            return {**table, "world": {"use": table["world"].removeprefix("lab:")}}
        return table

    @field_validator("gpus_per_step")
    @classmethod
    def _whole_gpus(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError("more than one GPU is asked for in whole numbers")
        return gpus

    @model_validator(mode="after")
    def _one_source(self) -> Study:
        if (self.world is None) == (self.corpus is None):
            raise ValueError("give either 'world' or 'corpus', one of the two")
        if self.corpus is not None and (self.base is None or not self.items):
            raise ValueError("'corpus' needs 'base' (a model folder) and 'items' (files of questions) beside it")
        if self.corpus is not None and not (self.corpus.hazard and self.corpus.benign):
            lacking = " and ".join(side for side in ("hazard", "benign") if not getattr(self.corpus, side))
            raise ValueError(f"'corpus' names no {lacking} text. Add 'corpus: {{hazard: PATHS, benign: PATHS}}'")
        if self.base is not None and self.start != StartingModel():
            raise ValueError("'start' is the shape of the lab's starting model, and 'base' is another. Remove one")
        if self.base is None and self.wrap.chat:
            raise ValueError("'wrap.chat' needs a model with a chat template: give it as 'base', or remove 'wrap.chat'")
        for name in ("seeds", "attack_seeds"):
            given = getattr(self, name)
            if len(set(given)) != len(given) or not given:
                raise ValueError(f"'{name}' must be a list of different numbers")
        return self

    def world_settings(self, where: str = "world") -> Any:
        """The lab world's settings."""
        if self.world is None:
            raise ValueError("this study has files, not a world")
        if self.world.use not in WORLDS:
            raise UserError(f"{where}: there is no lab world '{self.world.use}'.{suggest(self.world.use, WORLDS)}")
        module = importlib.import_module(f"untaught.lab.{self.world.use}")
        return component_of(module, "lab", self.world.use, "build").settle(
            self.world.settings, f"{where} ({self.world.use})"
        )

    def roles(self) -> dict[str, Role | None]:
        """Item sets by name, with the role each has; None where only its file tells."""
        return dict(self.world_settings().ITEMS) if self.corpus is None else dict.fromkeys(self.items)

    def in_order(self) -> Iterator[tuple[str, Arm]]:
        """The arms, each after the one it starts from."""
        done: dict[str, Arm] = {}
        while len(done) < len(self.arms):
            ready = [n for n, a in self.arms.items() if n not in done and (a.start is None or a.start in done)]
            if not ready:
                raise UserError(f"arms start from each other in a circle: {self._circle(done)}. Give one no 'from'.")
            for name in ready:
                done[name] = self.arms[name]
                yield name, self.arms[name]

    def _circle(self, done: Mapping[str, Arm]) -> str:
        """The first circle that keeps an arm from being made."""
        name, seen = next(name for name in self.arms if name not in done), []
        while name not in seen:
            seen.append(name)
            name = str(self.arms[name].start)
        return " from ".join([*seen[seen.index(name) :], name])

    def to_yaml(self) -> str:
        """The resolved study; running it repeats the run."""
        plain = self.model_dump(mode="json", exclude={"arms", "attacks", "evaluations", "world"}, exclude_none=True)
        if self.world is not None:
            first = {name: plain.pop(name) for name in ("title", "seeds", "attack_seeds")}
            plain = {**first, "world": self.world.plain(), **plain}
        plain = {k: v for k, v in plain.items() if v != {} and k not in ("workers", "gpus_per_step")}
        plain["arms"] = {name: arm.plain() for name, arm in self.arms.items()}
        plain["attacks"] = [entry.plain() for entry in self.attacks]
        plain["evaluations"] = [entry.plain() for entry in self.evaluations]
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def load(path: Path | None, changes: Mapping[str, Any] | None = None) -> Study:
    """A study from its file (None: the default study), with settings changed by path, checked and resolved."""
    file = path or Path(__file__).parent / "default.yaml"
    table = _unshared(read_yaml(file))
    arms = table.get("arms")
    for where, value in (changes or {}).items():
        first, *rest = where.split(".")
        if first == "arms" and len(rest) > 1 and isinstance(arms, dict) and rest[0] not in arms:
            raise UserError(f"--set {where}: there is no arm '{rest[0]}'.{suggest(rest[0], map(str, arms))}")
        change(table, where, value)
    study = Study.settle(table, file.name)
    return resolved(study, file)


def _unshared(table: Any) -> Any:
    """A table in which nothing stands in two places, as aliases of YAML do: a change of one changes no other."""
    if isinstance(table, dict):
        return {name: _unshared(value) for name, value in table.items()}
    return [_unshared(value) for value in table] if isinstance(table, list) else table


def resolved(study: Study, file: Path) -> Study:
    """The study with every default filled in, after every name in it was checked."""
    folder = file.parent

    def fill(entry: Any, shelf: str, where: str) -> Any:
        ranges = entry.ranges(where) if shelf == "attacks" else {}
        if ranges:
            return _open(entry, ranges, where)
        if shelf == "attacks" and entry.search is not None:
            raise UserError(f"{where} ({entry.use}) has a search and no range. Give a setting as [lowest, highest].")
        _refuse_ranges(entry, shelf, where)
        component = entry.component(shelf, where).resolved(folder)
        component = located(component, lambda given: assets.whole(given, folder))
        if entry.budget is not None and shelf != "attacks":
            raise UserError(f"{where} ({shelf}.{entry.use}) has a budget; only attacks have one. Set its 'steps'.")
        return entry.model_copy(update={"settings": component.changed()})

    arms = {
        name: arm.model_copy(
            update={
                part: tuple(
                    fill(e, part, f"{file.name}, arms.{name}.{part}.{i}") for i, e in enumerate(getattr(arm, part))
                )
                for part in ("filters", "training", "unlearning")
            }
        )
        for name, arm in study.arms.items()
    }
    attacks = tuple(fill(e, "attacks", f"{file.name}, attacks.{i}") for i, e in enumerate(study.attacks))
    evaluations = tuple(
        fill(e, "evaluations", f"{file.name}, evaluations.{i}") for i, e in enumerate(study.evaluations)
    )
    done = study.model_copy(update={"arms": arms, "attacks": attacks, "evaluations": evaluations})
    if done.world is not None:
        settings = done.world_settings(f"{file.name}, world").changed()
        done = done.model_copy(update={"world": done.world.model_copy(update={"settings": settings})})
    if done.corpus is not None:
        items = {name: _whole(given, folder) for name, given in done.items.items()}
        done = done.model_copy(update={"corpus": done.corpus.resolved(folder), "items": items})
    if done.base is not None:
        done = done.model_copy(update={"base": assets.whole(done.base, folder)})
    done._folder = folder
    _check_names(done, file.name)
    return done


def _open(entry: Attack, ranges: Mapping[str, Range], where: str) -> Attack:
    """An attack whose ranges are to be searched, with its other settings filled in. Each end and choice is tried, and
    is kept as the attack takes it: what YAML reads as text, such as `1e-4`, is a number for a setting that is one.
    """
    for name in OTHERS:
        if name in ranges:
            raise UserError(
                f"{where} ({entry.use}) has {name}s {', '.join(map(str, ranges[name].ends))}, and a {name} is not"
                " searched. Name one, and give each other an attack of its own."
            )
    first = entry.closed({name: range_.ends[0] for name, range_ in ranges.items()})
    settings = first.component("attacks", where).changed()
    for name, range_ in ranges.items():
        ends = [first.closed({name: end}).component("attacks", where) for end in range_.ends]
        settings[name] = [end.changed()[name] for end in ends]
    opened = entry.model_copy(update={"settings": settings, "search": entry.search or Search()})
    opened.ranges(where)
    return opened


def _refuse_ranges(entry: Entry, shelf: str, where: str) -> None:
    """A `UserError` where something else than an attack has a range."""
    found = entry.kind(shelf, where)
    for name, value in entry.settings.items():
        plain = isinstance(value, list) and len(value) > 1 and all(isinstance(one, int | float | str) for one in value)
        if plain and name in found.model_fields and not _takes_a_list(found, name):
            raise UserError(
                f"{where} ({shelf}.{entry.use}), {name} is {value}: only settings of attacks are searched. Give one"
                " value, and compare others as arms or evaluations of their own."
            )


def _whole(given: str | Rows, folder: Path) -> str | Rows:
    """An item set with a whole path, which means the same from anywhere."""
    if isinstance(given, str):
        return assets.whole(given, folder)
    return given.model_copy(update={"path": assets.whole(given.path, folder)})


def _check_masking(name: str, arm: Arm, file: str) -> None:
    """What masks has filters that find something, and trains with what heeds a mask."""
    if arm.masking == "document":
        return
    if not arm.filters:
        raise UserError(f"{file}, arms.{name} has masking '{arm.masking}' and no filters. Add 'filters', or remove it.")
    for index, entry in enumerate(arm.training):
        where = f"{file}, arms.{name}.training.{index}"
        if not getattr(entry.component("training", where), "masks", False):
            raise UserError(
                f"{where} ({entry.use}) would learn masked text: it does not heed masks. Use pretrain or finetune, or"
                f" set arms.{name}.masking to 'document'."
            )


def _check_names(study: Study, file: str) -> None:
    """Arms, donors and item sets that are mentioned exist."""
    for name, arm in study.arms.items():
        if arm.start is not None and arm.start not in study.arms:
            raise UserError(
                f"{file}, arms.{name}.from is '{arm.start}', which is no arm.{suggest(arm.start, study.arms)}"
            )
        for part in ("filters", "pool"):
            if getattr(arm, part) and all(lesson.text is not None for lesson in arm.training):
                what = "filters text but" if part == "filters" else "has a pool and"
                raise UserError(f"{file}, arms.{name} {what} trains on none. Add 'training', or remove '{part}'.")
        _check_masking(name, arm, file)
    try:
        list(study.in_order())
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    mentioned = [(f"attacks.{i}", e) for i, e in enumerate(study.attacks)]
    mentioned += [
        (f"arms.{name}.{part}.{i}", e)
        for name, arm in study.arms.items()
        for part in ("training", "unlearning")
        for i, e in enumerate(getattr(arm, part))
    ]
    for where, entry in mentioned:
        for setting, named in entry.others.items():
            if named not in study.arms:
                raise UserError(
                    f"{file}, {where} ({entry.use}) has {setting} '{named}', which is no arm."
                    + suggest(named, study.arms)
                )
    _check_effects(study, file)
    _check_controls(study, file)
    _check_items(study, file)
    _check_searches(study, file)


def _check_effects(study: Study, file: str) -> None:
    """Arms that effects and readers mention exist."""
    mentioned = [
        (f"effects.{index}", arm)
        for index, effect in enumerate(study.effects)
        for arm in (effect.reference, effect.oracle, *effect.arms)
    ]
    mentioned += [
        (f"evaluations.{index} ({entry.use})", str(entry.settings["reader"]))
        for index, entry in enumerate(study.evaluations)
        if entry.settings.get("reader") is not None
    ]
    for where, arm in mentioned:
        if arm not in study.arms:
            raise UserError(f"{file}, {where} names '{arm}', which is no arm.{suggest(arm, study.arms)}")


def _check_controls(study: Study, file: str) -> None:
    """Arms that are controls exist, and none is the reference."""
    if study.controls is None:
        return
    named = [(f"controls.shallow.{index}", arm) for index, arm in enumerate(study.controls.shallow)]
    named += [("controls.never", study.controls.never)] if study.controls.never is not None else []
    reference = next((arm for arm in UNTOUCHED if arm in study.arms), next(iter(study.arms)))
    for where, arm in named:
        if arm not in study.arms:
            raise UserError(f"{file}, {where} is '{arm}', which is no arm.{suggest(arm, study.arms)}")
        if arm == reference:
            defended = "an arm that defends itself a little" if "shallow" in where else "an arm that never learned it"
            raise UserError(
                f"{file}, {where} is '{arm}', the reference, which learned the hazard and keeps it. Name {defended}."
            )


def _check_items(study: Study, file: str) -> None:
    """Item sets that are trained on and asked exist."""
    known = study.roles()
    for name, arm in study.arms.items():
        for index, lesson in enumerate(arm.training):
            if lesson.text is not None and lesson.text not in known:
                raise UserError(
                    f"{file}, arms.{name}.training.{index} ({lesson.use}) has the text '{lesson.text}', which is no"
                    f" item set of the study.{suggest(lesson.text, known)}"
                )
    for index, entry in enumerate(study.evaluations):
        items = entry.settings.get("items")
        if items is not None and items not in known and not brings(entry):
            raise UserError(
                f"{file}, evaluations.{index} ({entry.use}) has items '{items}', which is no item set of the study."
                f"{suggest(items, known)}"
            )


def _check_searches(study: Study, file: str) -> None:
    """What is searched is asked both kinds of items, as far as is known before their files are read."""
    known = study.roles()
    roles = [entry.settings.get("role") or known.get(str(entry.settings.get("items"))) for entry in study.evaluations]
    for index, attack in enumerate(study.attacks):
        if attack.search is not None and None not in roles:
            check_judged(f"{file}, attacks.{index} ({attack.use})", roles)


def check_judged(where: str, roles: Iterable[str | None]) -> None:
    """A `UserError` unless a search is judged by what it brings back and by what that costs."""
    if lacking := [role for role in ("hazard", "benign") if role not in set(roles)]:
        raise UserError(
            f"{where} is searched for what brings back most and costs least, and no evaluation asks"
            f" {lacking[0]} items. Add one that does, or give each of its settings one value."
        )
