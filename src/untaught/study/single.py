"""One component on one model, without a study: what `untaught unlearn`, `attack` and `evaluate` do."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from .. import assets
from ..attest import digest
from ..core import Budget, Compute, Corpus, Marks, Role, Spent, Stop, Subject, UserError, Wrap, by_metric
from ..core.files import change, check_new, home, read_yaml, whole
from ..corpus.world import from_files, read_any_items, split, subjects_of
from ..corpus.writing import write_atomically, write_documents
from ..engine.rig import Progress, Rig
from .files import brings, brought, located, named
from .provenance import versions
from .schema import SIDES, Entry, Files


class Job(Entry):
    """A component with what a study would have given it: text, a budget, a seed. Paths start at the file's folder."""

    corpus: Files | None = None
    """Text for training, unlearning and attacks; a side that the component does without may be left out."""
    spend: Budget = Budget()
    """The most it may spend."""
    stop: Stop | None = None
    """For unlearning: the most it may cost on benign text."""
    seed: int = 0
    wrap: Wrap = Wrap()
    """What stands around every prompt, as in a study."""
    compute: Compute = Compute()
    """Device, precision and threads."""
    where: str = "the job"
    """What messages call the place it was read from."""


WRAP = "wrap.json"
"""In a model folder: what an attack has put around every prompt."""
ASKED = "evaluation.yaml"
"""In an evaluation's folder: what was asked, with every default; as `--config` it asks the same again."""
OWN = ("use", "corpus", "budget", "stop", "seed", "wrap", "compute")


def read_job(config: Path | None, changes: Mapping[str, Any]) -> tuple[Job, Path]:
    """A job from its file and changes to it, and the folder its paths start from."""
    table, where, folder = _table(config, changes)
    return _job(table, where, has_file=config is not None), folder


def read_jobs(config: Path | None, changes: Mapping[str, Any]) -> tuple[list[Job], Path]:
    """As `read_job`, but the file may have a list `evaluations`, as a study has; what stands beside it is for all."""
    table, where, folder = _table(config, changes)
    if "evaluations" not in table:
        return [_job(table, where, has_file=config is not None)], folder
    listed = table.pop("evaluations")
    if not (isinstance(listed, list) and listed and all(isinstance(one, dict) for one in listed)):
        raise UserError(f"{where}: evaluations should be a list, such as [{{use: multiple_choice, items: FILE}}].")
    if "use" in table:
        raise UserError(f"{where} has both 'use' and 'evaluations'. Put the one into the list, or leave the list out.")
    jobs = [
        _job({**table, **one}, f"{where}, evaluations.{number}", has_file=True) for number, one in enumerate(listed)
    ]
    seen: dict[tuple[str, str], str] = {}
    for job in jobs:
        key = job.use, str(job.settings.get("items"))
        if key in seen:
            raise UserError(f"{seen[key]} and {job.where} both ask {job.use} of {key[1]}. Ask them one by one.")
        seen[key] = job.where
    return jobs, folder


def _table(config: Path | None, changes: Mapping[str, Any]) -> tuple[dict[str, Any], str, Path]:
    """What a file and the changes to it say, what messages call that, and where its paths start."""
    table = {} if config is None else read_yaml(config)
    for path, value in changes.items():
        change(table, path, value)
    return table, config.name if config else "--set", config.parent if config else Path()


def _job(table: dict[str, Any], where: str, *, has_file: bool) -> Job:
    if not isinstance(table.get("use"), str):
        place = (
            f"{where} names no component. Add 'use: NAME'" if has_file else "no component is named. Add --set use=NAME"
        )
        raise UserError(f"{place}; `untaught list` shows the names.")
    job = {name: table[name] for name in OWN if name in table and name != "budget"}
    if not isinstance(budget := table.get("budget") or {}, dict):
        raise UserError(f"{where}: budget is {budget!r} and should be a table, such as {{steps: 20}}.")
    job["spend"] = Budget.settle(budget, f"{where}, budget")
    settings = {name: value for name, value in table.items() if name not in OWN}
    return Job.settle({**job, "settings": settings, "where": where}, where)


def intervene(shelf: str, model: Path, job: Job, folder: Path, out: Path, progress: Progress | None) -> dict[str, Any]:
    """Apply an unlearning method or an attack to a model folder; write the new model folder whole or not at all."""
    component = job.component(shelf, job.where).resolved(folder)
    check_new(out)
    from ..engine import models
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat
    from ..engine.watch import Watch

    if job.stop is not None and shelf != "unlearning":
        raise UserError(f"{job.where} ({shelf}.{job.use}) has a stop; only unlearning has one. Set its budget.")
    check_folder(model)
    check_chat(model, job.wrap)
    corpus = _corpus(shelf, job, folder)
    others: dict[str, Any] = {
        name: partial(models.load, assets.path(str(given), folder)) for name, given in job.others.items()
    }
    rig = Rig(job.seed, f"{shelf}/{job.use}", budget=job.spend, progress=progress, **others)
    given = models.load(model, job.wrap)
    try:
        if job.stop is not None:
            rig.watch = Watch(job.stop, given, corpus.benign)
        subject = component.apply(given, corpus, rig)
    except UserError as error:
        mend = "" if job.corpus else " It has no 'corpus: {hazard: PATH, benign: PATH}'."
        raise UserError(f"{job.where} ({shelf}.{job.use}): {error}{mend}") from None
    rig.spent.seconds = rig.elapsed
    weights = _write(subject, out, job.wrap)
    told = {"spent": rig.spent.plain(), "measured": rig.measured, "cost": rig.cost}
    wrap = {} if subject.wrap == job.wrap else {"wrap": str(out / WRAP)}
    return {"model": str(out), "weights": weights, **wrap, **told}


def _corpus(shelf: str, job: Job, folder: Path) -> Corpus:
    """The texts of a job; an attacker's own where it names them."""
    files = job.corpus or Files()
    hazard, benign, theirs, their_benign = (files.paths(side, folder) for side in SIDES)
    world = from_files(
        hazard,
        benign,
        {},
        attack_hazard=theirs,
        attack_benign=their_benign,
        attack_part=files.attack_part,
        text_column=files.text_column,
    )
    return split(world.attack if shelf == "attacks" else world.documents)


def _write(subject: Subject, out: Path, given: Wrap) -> str:
    """Write a model folder. A wrap that is no longer what was given stands beside the weights."""
    from ..engine import models

    with whole(out) as made:
        models.save(subject, made)
        if subject.wrap != given:
            (made / WRAP).write_text(subject.wrap.model_dump_json(), encoding="utf-8")
    return digest.of_weights(out)


@dataclass(frozen=True)
class Graded:
    """What an evaluation of a model came to: one row a metric, the marks behind them, and what was asked."""

    items: str
    """As the job names them."""
    rows: list[dict[str, Any]]
    marks: Marks
    asked: dict[str, Any]


def evaluate(model: Path, job: Job, folder: Path) -> list[dict[str, Any]]:
    """Grade a model folder on a file of items: one row a metric."""
    [graded] = evaluate_all(model, [job], folder)
    return graded.rows


def evaluate_all(model: Path, jobs: Sequence[Job], folder: Path) -> list[Graded]:
    """Grade a model folder, which is loaded once, on the items of each job. What is wrong with any is told first."""
    from ..engine import models
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat

    check_folder(model)
    asked = []
    for job in jobs:
        component, items = _asked(job, folder)
        wrap = _attacked(model, job)
        check_chat(model, wrap)
        asked.append((job, component, items, wrap))
    subject, weights = models.load(model), digest.of_weights(model)
    return [
        _graded(job, component, items, replace(subject, wrap=wrap), weights, folder)
        for job, component, items, wrap in asked
    ]


def _asked(job: Job, folder: Path) -> tuple[Any, pa.Table]:
    """An evaluation that knows where its files are, and the items that it asks."""
    component = job.component("evaluations", job.where).resolved(folder)
    component = located(component, lambda given: str(assets.path(given, folder)))
    if (reader := getattr(component, "reader", None)) is not None:
        component = component.model_copy(update={"reader": str(assets.path(reader, folder))})
    if (own := brought(component)) is not None:
        return component, own
    return component, read_any_items(assets.path(component.items, folder), where=f"{job.where}, items")


def _graded(job: Job, component: Any, items: pa.Table, subject: Subject, weights: str, folder: Path) -> Graded:
    from ..engine.prompts import resolved
    from ..engine.remembering import kept

    role: Role | None = component.role or (items["role"][0].as_py() if "role" in items.column_names else None)
    place = {"evaluation": job.use, "role": role, "items": component.items}
    place |= {} if subject.wrap == Wrap() else {"wrap": subject.wrap.changed()}
    place |= {"chat": resolved(subject)} if subject.wrap.chat else {}
    place |= {"subjects": told} if (told := subjects_of(items)) else {}
    after = {"weights": weights, "versions": versions()}
    store = kept(home() / "scores", subject.model, weights=weights)
    with _learned(component) as (prepared, judge), store:
        found = prepared.grade(subject, items)
    place |= {} if judge is None else {"judge": judge}
    by_name = component.items.startswith(assets.PREFIX) or brings(job)
    again = component.items if by_name else str(assets.path(component.items, folder).resolve())
    asked = {"use": job.use, **component.changed(), "items": again}
    return Graded(component.items, [place | summary | after for summary in by_metric(found)], found, asked)


@contextlib.contextmanager
def _learned(component: Any) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """An evaluation with what it learns once, and how good that is. `agreement` is None where it is not known."""
    if not hasattr(component, "prepare"):
        yield component, None
        return
    unknown = {"agreement": None} if hasattr(component, "scorer") or hasattr(component, "judge") else None
    if component.fitted is not None or not named(component):
        yield component, unknown
        return
    with tempfile.TemporaryDirectory() as folder:
        told = component.prepare(Path(folder))
        yield component.model_copy(update={"fitted": folder}), None if unknown is None else unknown | told


def write_evaluation(out: Path, model: Path, jobs: Sequence[Job], graded: Sequence[Graded]) -> None:
    """An evaluation's folder, in the shapes of a run folder: `results.jsonl`, `marks/`, and what was asked.

    It is written whole or not at all.
    """
    arm = re.sub(r"[^\w.-]+", "_", model.resolve().name)
    tested = {"arm": arm, "attack": None, "attack_settings": {}, "budget": Spent().plain()}
    rows = [
        tested | row | {"seed": job.seed, "attack_seed": None}
        for job, one in zip(jobs, graded, strict=True)
        for row in one.rows
    ]
    marks = pa.concat_tables(_placed(one, arm, job.seed) for job, one in zip(jobs, graded, strict=True))
    shared = {name: getattr(jobs[0], name).changed() for name in ("wrap", "compute")} | {"seed": jobs[0].seed}
    asked = {name: value for name, value in shared.items() if value} | {"evaluations": [one.asked for one in graded]}
    with whole(out) as folder:
        write_documents(marks, folder / "marks" / f"{arm}.parquet")
        write_atomically(folder / ASKED, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
        write_atomically(folder / "results.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _placed(graded: Graded, arm: str, seed: int) -> pa.Table:
    """Marks with the columns that tell where they belong, as in a run folder."""
    table = graded.marks
    place = {"arm": arm, "attack": None, "attack_settings": "{}", "budget": "{}"}
    place |= {"evaluation": graded.asked["use"], "items": graded.items}
    for name, value in place.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    for name, number in (("seed", seed), ("attack_seed", None)):
        table = table.append_column(name, pa.array([number] * table.num_rows, pa.int64()))
    return table


def _attacked(model: Path, job: Job) -> Wrap:
    """The job's wrap; where it says nothing, the one that an attack has left in the model's folder."""
    if job.wrap != Wrap() or not (model / WRAP).is_file():
        return job.wrap
    try:
        table = json.loads((model / WRAP).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(
            f"{model / WRAP} is not JSON. Remove it to ask without it, or attack the model again."
        ) from None
    return Wrap.settle(table, str(model / WRAP))
