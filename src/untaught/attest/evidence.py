"""What a run says of one model's weights: its part of a statement, from `results.jsonl`, `records/` and `marks/`.

The model is found by its weights: the arm and seed whose unattacked rows have that digest. All rows of that arm are
taken, whatever their seed: a policy that asks for three seeds is answered by the models that were made in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from ..core import Record, UserError, suggest
from . import digest
from .manifest import fault
from .merkle import merkle
from .predicate import Attack, Estimate, Filter, Made, Point, Predicate, Reference, Result, Spent, Study, worst

AGAIN = "Give the folder that `untaught filter --out` wrote, or run it again: what is decided is not decided twice."
MEND = "Give the folder that `untaught run --out` wrote, or run the study again: finished steps are not repeated."
REFERENCES = ("untouched", "unfiltered")
"""Names of arms that nothing was removed from; where a study has neither, its first arm counts as such."""
MADE = ("training", "unlearning")
"""Kinds of step that a model is made by."""
Table = dict[str, Any]
NULL, NUMBER = type(None), (int, float, type(None))
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("arm", "evaluation", "items", "metric", "role", "weights"), str),
    **dict.fromkeys(("value", "low", "high", "chance"), NUMBER),
    **dict.fromkeys(("n", "missing", "seed"), int),
    "attack": (str, NULL),
}
"""What a statement takes from a row of results, and of what kind that is."""
WORDS = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    NULL: "null",
    list: "a list",
    dict: "a table",
}
"""Kinds of values, as messages call them."""


@dataclass(frozen=True)
class Place:
    """Which model of a run is meant."""

    arm: str
    seed: int


@dataclass(frozen=True)
class Run:
    """A run folder, read once."""

    folder: Path
    study: Table
    rows: tuple[Table, ...]
    records: tuple[Record, ...]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The folder, or a `UserError` that says what it lacks."""
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. {MEND}")
        text = _text(folder / "study.yaml")
        try:
            study = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{folder / 'study.yaml'} is not YAML. {MEND}") from None
        if not isinstance(study, dict):
            raise UserError(f"{folder / 'study.yaml'} is not a table of settings. {MEND}")
        lines = [line for line in _text(folder / "results.jsonl").splitlines() if line.strip()]
        rows = [_row(line, f"{folder / 'results.jsonl'} row {at}") for at, line in enumerate(lines, start=1)]
        if not rows:
            raise UserError(f"{folder / 'results.jsonl'} has no rows: nothing was evaluated. {MEND}")
        return cls(folder, cast(Table, study), tuple(rows), tuple(_records(folder)))

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """As the study has them."""
        found = self.study.get("arms")
        named = [str(arm) for arm in cast(Table, found)] if isinstance(found, dict) else []
        return tuple(dict.fromkeys([*named, *(row["arm"] for row in self.rows)]))

    @cached_property
    def _by_identity(self) -> dict[str, Record]:
        return {record.identity: record for record in self.records}

    def place(self, weights: str) -> Place:
        """The arm and seed with these weights, or a `UserError` that says what the run has instead."""
        held = [row for row in self.rows if row["weights"] == weights]
        whole = [row for row in held if row["attack"] is None]
        if whole:
            first = min(whole, key=lambda row: self.arms.index(row["arm"]))
            return Place(first["arm"], first["seed"])
        if held:
            raise UserError(
                f"the weights {weights[:12]} are those of {held[0]['arm']} after the attack {held[0]['attack']}, in"
                f" {self.folder}. A statement is about a model before any attack: give that one."
            )
        known = {f"{row['arm']} seed {row['seed']}: {row['weights'][:12]}" for row in self.rows if not row["attack"]}
        raise UserError(
            f"no arm of {self.folder} has the weights {weights[:12]} of this model. It has {', '.join(sorted(known))}."
            " Give the model that was evaluated, or run the study on this one. If it was made from one of these after"
            " it was measured, say which: --of MODEL --transform KIND."
        )

    # -- parts of a statement ---------------------------------------------------------------------------------------

    def results(self, arm: str) -> tuple[Result, ...]:
        """What an arm scored before any attack, for every seed."""
        rows = [row for row in self.rows if row["arm"] == arm and row["attack"] is None]
        return tuple(Result(**self._result(row)) for row in rows)

    def attacks(self, arm: str) -> tuple[Attack, ...]:
        """Every attack on an arm, with its points in the order of the results."""
        gathered: dict[str, list[Table]] = {}
        for row in self.rows:
            if row["arm"] == arm and row["attack"] is not None:
                gathered.setdefault(digest.of_json([row["attack"], _settings(row)]), []).append(row)
        return tuple(self._attack(rows) for rows in gathered.values())

    def _attack(self, rows: Sequence[Table]) -> Attack:
        settings = _settings(rows[0])
        points = tuple(
            Point(**self._result(row), attack_seed=row.get("attack_seed"), spent=_spent(row.get("budget") or {}))
            for row in rows
        )
        donor = settings.get("donor")
        return Attack(
            attack=rows[0]["attack"],
            settings=settings,
            donor=donor if isinstance(donor, str) else None,
            points=points,
            worst=worst(points),
        )

    def _result(self, row: Table) -> Table:
        names = [name for name in Result.model_fields if name != "task"]
        try:
            told = {name: row[name] for name in names}
        except KeyError as error:
            raise UserError(f"{self.folder / 'results.jsonl'} has a row without {error}. {MEND}") from None
        return told | {"task": self._task(row)}

    def _task(self, row: Table) -> str:
        asked = (row["evaluation"], row["items"], row["seed"])
        if asked not in self._tasks:
            raise UserError(
                f"{self.folder / 'records'} has no record of {asked[0]} of {asked[1]} for seed {asked[2]}. {MEND}"
            )
        return self._tasks[asked]

    @cached_property
    def _tasks(self) -> dict[tuple[str, str, int], str]:
        """By evaluation, items and seed: a digest of everything about a task but the subject that is asked."""
        told: dict[tuple[str, str, int], set[str]] = {}
        seeds = {row["seed"] for row in self.rows}
        for record in self.records:
            if record.kind == "evaluations":
                beside = {role: above for role, above in record.inputs.items() if role != "subject"}
                what = digest.of_json([record.component, record.settings, record.code, beside])
                # what no seed decides is done once, and stands for all
                of = {record.seed} if self._seeded(record) else seeds
                for seed in of:
                    told.setdefault((str(record.component), str(record.settings.get("items")), seed), set()).add(what)
        return {place: _one(found) for place, found in told.items()}

    def _seeded(self, record: Record) -> bool:
        """Whether a subject of this seed alone was asked."""
        weights = self._weights(record.inputs.get("subject"))
        return {row["seed"] for row in self.rows if row["weights"] == weights} <= {record.seed}

    def _weights(self, identity: str | None) -> str | None:
        record = self._by_identity.get(identity or "")
        return record.outputs.get("weights") if record else None

    def references(self, arm: str, named: Sequence[str] = ()) -> tuple[Reference, ...]:
        """The arms that an arm is held against."""
        for name in named:
            if name not in self.arms:
                raise UserError(f"{self.folder} has no arm '{name}'.{suggest(name, self.arms)}")
        chosen = list(named) or [next((name for name in REFERENCES if name in self.arms), self.arms[0])]
        found = [(name, self.results(name)) for name in chosen if name != arm]
        return tuple(Reference(arm=name, results=results) for name, results in found if results)

    def made(self, weights: str, place: Place) -> tuple[Made, ...]:
        """The steps from the first weights to these."""
        return tuple(
            Made(
                kind=record.kind,
                component=record.component,
                settings=record.settings,
                seed=record.seed,
                before=self._weights(record.inputs.get("subject")),
                after=record.outputs["weights"],
                code=record.code,
            )
            for record in self._chain(weights, place)
        )

    def _chain(self, weights: str, place: Place) -> list[Record]:
        """Records of what a model was made by, first to last; the longest way where several lead there."""
        ends = [r for r in self.records if r.kind in MADE and r.outputs.get("weights") == weights]
        own = [record for record in ends if record.seed == place.seed] or ends
        nothing: list[Record] = []
        return max((self._above(record) for record in own), key=len, default=nothing)

    def _above(self, record: Record) -> list[Record]:
        chain = [record]
        while (above := self._by_identity.get(chain[0].inputs.get("subject", ""))) is not None:
            chain.insert(0, above)
        return chain if chain[0].kind in MADE else chain[1:]

    def filters(self, weights: str, place: Place) -> tuple[Filter, ...]:
        """The filters of the text that a model was trained on."""
        texts = (record.inputs.get("text", "") for record in self._chain(weights, place))
        found = (self._by_identity.get(identity) for identity in dict.fromkeys(texts))
        return tuple(_filter(record) for record in found if record is not None)

    def evidence(self, arms: Iterable[str]) -> Study:
        """Digests of the files that all numbers rest on."""
        folder, versions = self.folder, dict[str, str]()
        for record in self.records:
            versions |= record.versions
        marks = {arm: folder / "marks" / f"{arm}.parquet" for arm in arms}
        return Study(
            title=str(self.study.get("title") or "An untitled study"),
            digest=digest.of_file(folder / "study.yaml"),
            results=digest.of_file(folder / "results.jsonl"),
            records=digest.of_path(folder / "records"),
            marks={arm: digest.of_file(path) for arm, path in marks.items() if path.is_file()},
            seeds=tuple(sorted({row["seed"] for row in self.rows})),
            attack_seeds=tuple(sorted({s for row in self.rows if (s := row.get("attack_seed")) is not None})),
            versions=dict(sorted(versions.items())),
        )


def differences(folder: Path, study: Study) -> list[str]:
    """What of a run folder is not what a statement rests on: one line a file."""
    parts = {"study.yaml": study.digest, "results.jsonl": study.results, "records": study.records}
    parts |= {f"marks/{arm}.parquet": known for arm, known in study.marks.items()}
    found: list[str] = []
    for name, known in parts.items():
        path = folder / name
        if not path.exists():
            found.append(f"missing: {name}")
        elif digest.of_path(path) != known:
            found.append(f"changed: {name}")
    return found


def contradictions(folder: Path, claim: Predicate) -> list[str]:
    """Which parts of a claim are not what its run folder gives, whose files were found to be those of the claim."""
    run, place = Run.read(folder), Place(claim.model.arm, claim.model.seed)
    weights, named = claim.model.measured, [reference.arm for reference in claim.references]
    try:
        anew: Table = {
            "evaluations": run.results(place.arm),
            "attacks": run.attacks(place.arm),
            "references": run.references(place.arm, named) if named else (),
            "made": run.made(weights, place),
            "filters": run.filters(weights, place),
            "title": run.evidence([]).title,
        }
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not as a run is left: {type(error).__name__} {error}. {MEND}") from None
    told: Table = {name: getattr(claim, name) for name in anew if name != "title"}
    told |= {"filters": tuple(one for one in claim.filters if one.source == "study"), "title": claim.study.title}
    return [name for name in anew if anew[name] != told[name]]


def differences_of_filtered(folder: Path, told: Iterable[Filter]) -> list[str]:
    """What of a filter folder is not what a statement says of one: its rules, its receipts, the files they name."""
    found = of_filtered(folder)
    alike = [one for one in told if one.source == "folder" and (one.policy, one.root) == (found.policy, found.root)]
    if not alike:
        return [f"no filter of the statement has the policy {found.policy[:16]} and the receipts {found.root[:16]}"]
    wrong = [
        f"changed: {name}"
        for name in Filter.model_fields
        if getattr(found, name) is not None and all(getattr(one, name) != getattr(found, name) for one in alike)
    ]
    for receipt in _receipts(folder):
        for name, known in _json(_text(receipt, AGAIN), str(receipt), AGAIN)["outputs"].items():
            if fault(name) or not (folder / name).is_file():
                wrong.append(f"missing: {name}")
            elif digest.of_file(folder / name) != known["sha256"]:
                wrong.append(f"changed: {name}")
    return wrong


def _receipts(folder: Path) -> list[Path]:
    """A filter folder's receipts in the order that their root is over."""
    paths = (folder / "receipts").rglob("*.json")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def of_filtered(folder: Path) -> Filter:
    """A filter folder that `untaught filter` wrote, once its receipts were found to have the root it says."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. {AGAIN}")
    try:
        return _filtered(folder)
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not as a filter leaves it: {type(error).__name__} {error}. {AGAIN}") from None


def kept_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that a filter folder kept, once they were written out: their bytes and digests by name."""
    kept: dict[str, dict[str, Any]] = {}
    for path in (path for path in _receipts(folder) if path.is_relative_to(folder / "receipts" / "applied")):
        outputs = cast("dict[str, Any]", _json(_text(path, AGAIN), str(path), AGAIN).get("outputs") or {})
        kept |= {name: known for name, known in outputs.items() if name.startswith("kept/")}
    return kept


def _filtered(folder: Path) -> Filter:
    summary = _json(_text(folder / "summary.json", AGAIN), str(folder / "summary.json"), AGAIN)
    paths = _receipts(folder)
    receipts = [path.read_bytes() for path in paths]
    if not receipts or merkle(receipts) != summary.get("root"):
        raise UserError(f"the receipts of {folder} are not those of its summary. Run `untaught filter` there again.")
    first = next((path for path in paths if path.is_relative_to(folder / "receipts" / "decided")), paths[0])
    told = _json(_text(first, AGAIN), str(first), AGAIN)
    return Filter(
        source="folder",
        policy=summary["policy"],
        root=summary["root"],
        filters=tuple(str(stage["name"]) for stage in told.get("stages", ())),
        read=summary["read"],
        kept=summary["kept"],
        removed=summary["removed"],
        quarantined=summary["quarantined"],
        recall=_audited(folder, "recall"),
        precision=_audited(folder, "precision"),
    )


def _audited(folder: Path, name: str) -> Estimate | None:
    """What labels of a sample say of a filter, as long as it was drawn from the decisions that stand."""
    path = folder / "audit.json"
    told = _json(_text(path, AGAIN), str(path), AGAIN) if path.is_file() else {}
    found = told["estimates"].get(name) if told.get("stands") and told.get("estimates") else None
    return None if found is None else Estimate(value=found["value"], low=found["low"], high=found["high"])


def _filter(record: Record) -> Filter:
    """A filter of a study. What a stage could not measure is dropped there as if it were removed."""
    told = record.measured
    rules = {name: record.settings[name] for name in ("filters", "masking", "files") if name in record.settings}
    leaves = [f"{name} {sha256}".encode() for name, sha256 in sorted(record.outputs.items())]
    return Filter(
        source="study",
        policy=digest.of_json(rules),
        root=merkle(leaves),
        filters=tuple(str(stage["use"]) for stage in record.settings["filters"]),
        read=told["read"],
        kept=told["kept"],
        removed=told["removed"],
        quarantined=0,
        recall=_estimate(told, "recall"),
        precision=_estimate(told, "precision"),
    )


def _estimate(told: Mapping[str, Any], name: str) -> Estimate | None:
    if told.get(name) is None:
        return None
    return Estimate(value=told[name], low=told.get(f"{name}_low"), high=told.get(f"{name}_high"))


def _one(digests: set[str]) -> str:
    """A task's digest; of several under one name, of all of them."""
    return min(digests) if len(digests) == 1 else digest.of_json(sorted(digests))


def _settings(row: Table) -> Table:
    """The settings of an attack itself."""
    told = cast(Table, row.get("attack_settings") or {})
    return {name: value for name, value in told.items() if name not in ("use", "budget")}


def _spent(budget: Table) -> Spent:
    return Spent(**{name: float(budget.get(name) or 0) for name in Spent.model_fields})


def _text(path: Path, mend: str = MEND) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}. {mend}") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as UTF-8 text. {mend}") from None


def _json(text: str, where: str, mend: str = MEND) -> Table:
    def constant(word: str) -> None:
        raise ValueError(f"{word} is not a number; a value that is missing is null")

    try:
        found = json.loads(text, parse_constant=constant)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}. {mend}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where} should be a table. {mend}")
    return cast(Table, found)


def _row(line: str, where: str) -> Table:
    """A row of results that has all that a statement asks it for, each of its kind. Its values are checked there."""
    row = _json(line, where)
    for name, kind in KINDS.items():
        if name not in row:
            raise UserError(f"{where} is a row without '{name}'. {MEND}")
        _check_kind(f"{where} is not as a run is left: {name}", row[name], kind)
    for name in ("budget", "attack_settings"):
        _check_kind(f"{where} is not as a run is left: {name}", row.get(name), (dict, NULL))
    budget: Table = row.get("budget") or {}
    for name, cost in budget.items():
        _check_kind(f"{where} is not as a run is left: budget.{name}", cost, NUMBER)
    return row


def _check_kind(place: str, value: Any, kind: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(dict.fromkeys(WORDS[one] for one in kinds))
        raise UserError(f"{place} is {_kind(value)}, and {wanted} is wanted. {MEND}")


def _kind(value: Any) -> str:
    return "null" if value is None else WORDS[type(value)]


def _records(folder: Path) -> Iterable[Record]:
    if not (folder / "records").is_dir():
        raise UserError(f"{folder} has no folder records. {MEND}")
    for path in sorted((folder / "records").glob("*.json")):
        table = _json(_text(path), str(path))
        try:
            record = Record(**table)
        except TypeError as error:
            raise UserError(f"{path} is not a step's record: {str(error).split('() ')[-1]}. {MEND}") from None
        for name in ("settings", "inputs", "outputs", "measured", "versions"):
            if not isinstance(value := getattr(record, name), Mapping):
                raise UserError(f"{path} is not a step's record: {name} is {_kind(value)}. {MEND}")
        yield record
