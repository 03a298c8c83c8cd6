"""One component on one model, without a study: what `untaught unlearn`, `attack` and `evaluate` do."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import assets
from ..attest import digest
from ..core import Budget, Compute, Corpus, Role, Stop, Subject, UserError, Wrap, by_metric
from ..core.files import change, read_yaml
from ..corpus.world import from_files, read_any_items, split
from ..engine.rig import Progress, Rig
from .files import located
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
    donor_folder: str | None = None
    """For components with a `donor`: the other model's folder."""
    wrap: Wrap = Wrap()
    """What stands around every prompt, as in a study."""
    compute: Compute = Compute()
    """Device, precision and threads."""
    where: str = "the job"
    """What messages call the place it was read from."""


WRAP = "wrap.json"
"""In a model folder: what an attack has put around every prompt."""
OWN = ("use", "corpus", "budget", "stop", "seed", "wrap", "compute")


def read_job(config: Path | None, changes: Mapping[str, Any]) -> tuple[Job, Path]:
    """A job from its file and changes to it, and the folder its paths start from."""
    table = {} if config is None else read_yaml(config)
    for path, value in changes.items():
        change(table, path, value)
    where = config.name if config else "--set"
    if not isinstance(table.get("use"), str):
        place = (
            f"{where} names no component. Add 'use: NAME'" if config else "no component is named. Add --set use=NAME"
        )
        raise UserError(f"{place}; `untaught list` shows the names.")
    job = {name: table[name] for name in OWN if name in table and name != "budget"}
    if not isinstance(budget := table.get("budget") or {}, dict):
        raise UserError(f"{where}: budget is {budget!r} and should be a table, such as {{steps: 20}}.")
    job["spend"] = Budget.settle(budget, f"{where}, budget")
    settings = {name: value for name, value in table.items() if name not in OWN}
    if isinstance(settings.get("donor"), str):
        job["donor_folder"] = settings["donor"]
    return Job.settle({**job, "settings": settings, "where": where}, where), config.parent if config else Path()


def intervene(shelf: str, model: Path, job: Job, folder: Path, out: Path, progress: Progress | None) -> dict[str, Any]:
    """Apply an unlearning method or an attack to a model folder; write the new model folder whole or not at all."""
    component = job.component(shelf, job.where).resolved(folder)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is a file or a folder that is not empty. Give another with --out.")
    above = next(path for path in out.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"the folder {out} cannot be written: {above} does not let it. Give another with --out.")
    from ..engine import models
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat
    from ..engine.watch import Watch

    if job.stop is not None and shelf != "unlearning":
        raise UserError(f"{job.where} ({shelf}.{job.use}) has a stop; only unlearning has one. Set its budget.")
    check_folder(model)
    check_chat(model, job.wrap)
    corpus = _corpus(shelf, job, folder)
    donor = None if job.donor_folder is None else (lambda: models.load(assets.path(str(job.donor_folder), folder)))
    rig = Rig(job.seed, f"{shelf}/{job.use}", budget=job.spend, donor=donor, progress=progress)
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

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"the folder {out} cannot be written: {error.strerror}. Give another with --out.") from None
    try:
        models.save(subject, made)
        if subject.wrap != given:
            (made / WRAP).write_text(subject.wrap.model_dump_json(), encoding="utf-8")
        made.chmod(0o755)
        if out.exists():
            out.rmdir()
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return digest.of_weights(out)


def evaluate(model: Path, job: Job, folder: Path) -> list[dict[str, Any]]:
    """Grade a model folder on a file of items: one row a metric."""
    component = job.component("evaluations", job.where).resolved(folder)
    component = located(component, lambda given: str(assets.path(given, folder)))
    if (reader := getattr(component, "reader", None)) is not None:
        component = component.model_copy(update={"reader": str(assets.path(reader, folder))})
    from ..engine import models
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat

    check_folder(model)
    wrap = _attacked(model, job)
    check_chat(model, wrap)
    items = read_any_items(assets.path(component.items, folder), where=f"{job.where}, items")
    role: Role | None = component.role or (items["role"][0].as_py() if "role" in items.column_names else None)
    place = {"evaluation": job.use, "role": role, "items": component.items}
    place |= {} if wrap == Wrap() else {"wrap": wrap.changed()}
    weights = {"weights": digest.of_weights(model)}
    return [place | summary | weights for summary in by_metric(component.grade(models.load(model, wrap), items))]


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
