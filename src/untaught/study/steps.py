"""Doing a step: from its inputs in the store to its outputs in the store.

Where a launcher started several processes, all of them train; the rest is the first one's, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .. import assets
from ..attest import digest
from ..core import (
    MASKED,
    Budget,
    Corpus,
    Inapplicable,
    Record,
    Scorer,
    Spent,
    Stop,
    Subject,
    UserError,
    Wrap,
    by_metric,
    marks,
    require,
)
from ..core.ranking import auroc
from ..core.statistics import wilson
from ..corpus import pools
from ..corpus.deciding import decisions
from ..corpus.masking import Part, masks
from ..corpus.policy import Fitted, names_of
from ..corpus.world import World, from_files, role_of, split, subjects_of
from ..corpus.writing import write_documents
from ..engine import memory, parallel
from ..engine.rig import Progress, Rig
from . import files
from .provenance import code, uses, versions
from .schema import OTHERS, Drawn, Stage, Study
from .store import Store

if TYPE_CHECKING:
    from ..engine.watch import Watch
    from .plan import Cell, Step

MODEL = "model"
"""Folder of a step's weights, in the step's folder."""


BARRED = "inapplicable"
"""In a record's measurements: why the step's method cannot be applied to this kind of model."""
SHOWN = ("id", "text", "messages", "source")
"""What a filter is shown of a pool. `source` is for what it says of itself, such as how much of what varies it is."""


@dataclass(frozen=True)
class Done:
    """What came of a step, before it is a record."""

    outputs: dict[str, str]
    spent: Spent
    measured: Mapping[str, Any]
    cost: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """Where steps are done: a study, a store, and how to say how far one is."""

    def __init__(self, study: Study, store: Store, say: Callable[[str, int, int], None] | None = None) -> None:
        self.study, self.store, self.say = study, store, say
        self._kept: dict[str, Subject] = {}

    def do(self, group: Sequence[Step]) -> None:
        """Do the steps of a group that are not done. Another run that shares the store and a step waits its turn."""
        with contextlib.ExitStack() as held:
            for step in sorted((s for s in group if s.kind != "evaluations"), key=lambda s: s.identity):
                if parallel.rank() == 0:
                    held.enter_context(self.store.alone(step.identity))
            self._do(group)

    def _do(self, group: Sequence[Step]) -> None:
        """Attacks that differ in budget only are one run with stops."""
        attacks = [step for step in group if step.kind == "attacks"]
        graded = [step for step in group if step.kind == "evaluations"]
        for step in group:
            if step.kind in ("world", "pool", "filters", "preparation") and not self.done(step):
                with self._barring(step):
                    self._unbarred(step)
                    self._write(step, getattr(self, f"_{step.kind}"))
            if step.kind in ("training", "unlearning") and not self.done(step):
                with self._barring(step):
                    self._intervene(step)
            if step.kind == "search" and not self.done(step):
                self._search(step)
        wanted = [a for a in attacks if any(not self.done(g) for g in graded if g.inputs["subject"] == a)]
        wanted += [a for a in attacks if not self.done(a) and a not in wanted]
        missing = [a for a in wanted if not (self.done(a) and self._has_model(a))]
        if missing:
            with self._barring(*missing):
                self._attack(missing)
        for step in graded:
            if not self.done(step):
                self._write(step, self._evaluations)
        for step in attacks if parallel.rank() == 0 else ():
            self.store.drop(step.identity, MODEL)

    def done(self, step: Step) -> bool:
        """Whether the step's record is there."""
        return bool(parallel.first(lambda: self.store.record(step.identity) is not None))

    # -- kinds of step --------------------------------------------------------------------------------------------

    def _world(self, step: Step, folder: Path) -> Done:
        study = self.study
        if study.corpus is None:
            world = study.world_settings().build(step.seed)
        else:
            corpus, at = study.corpus, study.folder
            world = from_files(
                corpus.paths("hazard", at),
                corpus.paths("benign", at),
                {},
                attack_hazard=corpus.paths("attack_hazard", at),
                attack_benign=corpus.paths("attack_benign", at),
                attack_part=corpus.attack_part,
                text_column=corpus.text_column,
            )
        if study.base is None:
            start = replace(study.start.build(world.documents["text"].to_pylist(), step.seed), wrap=study.wrap)
        else:
            from ..engine import models

            start = models.load(assets.path(study.base, study.folder), study.wrap)
        outputs = self._save(start, folder)
        world.save(folder)
        truth = split(world.documents)
        outputs |= {name: digest.of_file(folder / name) for name in ("documents.parquet", "attack.parquet")}
        measured = {"hazard": truth.hazard.num_rows, "benign": truth.benign.num_rows, **_chat(start)}
        return Done(outputs, Spent(), measured)

    def _pool(self, step: Step, folder: Path) -> Done:
        """A pool, and the examples beside it that are known. Both are drawn alike whatever of them is labelled."""
        settings, candidates = Drawn.settle(step.settings["pool"], "a pool"), self._text(step).candidates
        rig = Rig(step.seed, "pool")
        tables = {"pool.parquet": pools.draw(settings, candidates, rig.random("draw"))}
        drawn = tables["pool.parquet"]
        if settings.known is not None:
            known = pools.known(settings, settings.known, candidates, drawn, rig.random("known"))
            tables["known.parquet"] = known
        for name, table in tables.items():
            write_documents(table, folder / name)
        truth = split(drawn)
        told = {"hazard": truth.hazard.num_rows, "benign": truth.benign.num_rows, **pools.confounds(drawn)}
        return Done({name: digest.of_file(folder / name) for name in tables}, Spent(), told)

    def _filters(self, step: Step, folder: Path) -> Done:
        """What the stages remove is dropped or masked; what one of them cannot measure is as if it were removed."""
        documents, masking = self._documents(step), step.settings["masking"]
        stages = [Stage.settle(plain, "a filter") for plain in step.settings["filters"]]
        rigs = [self._filter_rig(stage, step) for stage in stages]
        fitted = [
            Fitted(name, stage.escalate, self._scorer(stage, step, documents, rig), True)
            for name, stage, rig in zip(names_of(stages), stages, rigs, strict=True)
        ]
        decided = decisions(fitted, documents)
        left = decided["decision"].to_numpy() == "kept"
        flagged = decided.filter(pa.array(~left))
        kept, extent = documents.filter(pa.array(left)), {}
        if masking != "document":
            kept, extent = _masked(documents, flagged, masking)
        write_documents(kept, folder / "kept.parquet")
        write_documents(flagged.drop_columns(["bytes"]), folder / "decisions.parquet")
        outputs = {name: digest.of_file(folder / name) for name in ("kept.parquet", "decisions.parquet")}
        told = {"arm": step.settings["arm"], **_truth(documents, left), **_ranking(documents, decided), **extent}
        parts = _by_stage(fitted, flagged, documents)
        logged = [{"measured": _finite(rig.measured)} if rig.measured else {} for rig in rigs]
        return Done(outputs, Spent(), {**told, "stages": [a | b for a, b in zip(parts, logged, strict=True)]})

    def _scorer(self, stage: Stage, step: Step, documents: pa.Table, rig: Rig) -> Scorer:
        """A filter fitted to the documents and to what of them, or beside them, it may know."""
        component = files.placed(stage, self.study.folder).component("filters", stage.use)
        truth = documents if getattr(component, "sees_truth", False) else self._labelled(step, documents)
        known = split(truth)
        sides = (table.select([n for n in SHOWN if n in table.column_names]) for table in (known.hazard, known.benign))
        shown = documents.select([name for name in SHOWN if name in documents.column_names])
        return component.fit(Corpus(*sides, unlabelled=shown), rig)

    def _labelled(self, step: Step, documents: pa.Table) -> pa.Table:
        """The documents whose label a filter may see, and the known examples beside a pool."""
        if "labelled" in documents.column_names:
            documents = documents.filter(documents["labelled"])
        pool = step.inputs.get("pool")
        beside = None if pool is None else self.store.folder(pool.identity) / "known.parquet"
        if beside is None or not beside.is_file():
            return documents
        return pa.concat_tables([pq.read_table(beside), documents], promote_options="default")

    def _filter_rig(self, stage: Stage, step: Step) -> Rig:
        asked = step.inputs.get("subject")
        subject = None if asked is None else lambda: self._subject(asked)
        return Rig(step.seed, f"filters/{stage.use}", subject=subject)

    def _preparation(self, step: Step, folder: Path) -> Done:
        """What an evaluation learns once for all subjects."""
        measured = self._evaluation(step).prepare(folder)
        outputs = {path.name: digest.of_file(path) for path in sorted(folder.iterdir())}
        return Done(outputs, Spent(), _finite(measured))

    def _search(self, step: Step) -> None:
        """Trials of an attack's settings, each a step of its own: a search that was killed finds them done."""
        from . import searching

        before = self._summaries([above for role, above in step.inputs.items() if role.startswith("before ")])
        seed = Rig(step.seed, f"{step.title}/{step.settings.get('attack_seed', 0)}").number("proposals")
        trials = [] if self._barred(step) else searching.trials(step, before, self._tried, seed)
        self._write(step, lambda _, folder: Done({}, Spent(), {"trials": trials}))

    def _tried(self, cells: Sequence[Cell]) -> list[list[dict[str, Any]]]:
        """Cells of one attack on one arm, made and asked: for each, the summaries of its evaluations' marks."""
        attacks = [cell.subject for cell in cells if cell.subject.kind == "attacks"]
        self.do([*attacks, *(step for cell in cells for _, step in cell.evaluations)])
        return [self._summaries([step for _, step in cell.evaluations]) for cell in cells]

    def _summaries(self, graded: Sequence[Step]) -> list[dict[str, Any]]:
        """What evaluations came to."""
        found = []
        for step in graded:
            record = self.store.record(step.identity)
            rows = by_metric(pq.read_table(self.store.folder(step.identity) / "marks.parquet"))
            place = {"role": record.measured["role"] if record else None, "items": step.settings.get("items")}
            found.append(place | {"metrics": {row["metric"]: row["value"] for row in rows}})
        return found

    def _documents(self, step: Step) -> pa.Table:
        """What a step filters or trains on: another text, what a filter left, a pool, or the world's documents."""
        if (name := step.settings.get("text")) is not None:
            items = self._items(step, name)
            items = items if "hazard" in items.column_names else items.append_column(
                "hazard", pa.array([False] * items.num_rows)
            )  # fmt: skip
            return require(items, ["id", "text"], f"the text '{name}'")
        for role, file in (("text", "kept.parquet"), ("pool", "pool.parquet")):
            if role in step.inputs:
                return pq.read_table(self.store.folder(step.inputs[role].identity) / file)
        return self._text(step).documents

    def _intervene(self, step: Step) -> None:
        """Training and unlearning."""
        self._unbarred(step)
        rig, corpus = self._rig(step), split(self._documents(step))
        with _named(step):
            rig.watch = self._watch(step, corpus)
            subject = self._applied(step, corpus, rig)
        rig.spent.seconds = rig.elapsed
        self._write(step, lambda _, folder: Done(self._save(subject, folder), rig.spent, rig.measured, rig.cost))

    def _attack(self, steps: Sequence[Step]) -> None:
        """One run with the largest budget; the smaller ones are stops on the way, or runs of their own."""
        ordered = sorted(steps, key=lambda s: s.budget.steps if s.budget and s.budget.steps is not None else 10**18)
        largest = ordered[-1]
        stops = [s.budget.steps for s in ordered[:-1] if s.budget and s.budget.steps is not None]
        rig = self._rig(largest, stops)
        corpus = split(self._text(largest).attack)
        with _named(largest), memory.metered(rig.cost):
            subject = self._applied(largest, corpus, rig)
        rig.spent.seconds = rig.elapsed
        for step in ordered[:-1]:
            budget = step.budget or Budget()
            point = rig.snapshots.get(budget.steps) if budget.steps is not None else None
            if point is None or not point[1].allows(budget):
                self._attack([step])
                continue
            model, spent = point
            self._finish_attack(step, replace(subject, model=model), spent, {}, rig.cost)
        self._finish_attack(largest, subject, rig.spent, rig.measured, rig.cost)

    def _finish_attack(
        self, step: Step, subject: Subject, spent: Spent, measured: Mapping[str, Any], cost: Mapping[str, float]
    ) -> None:
        """A new record; or, where the weights of a finished attack were dropped and made again, those same weights."""
        if self.done(step):
            parallel.first(lambda: self._restore(step, subject))
        else:
            self._write(step, lambda _, folder: Done(self._save(subject, folder), spent, measured, cost))

    def _restore(self, step: Step, subject: Subject) -> None:
        before = self.store.record(step.identity)
        with self.store.writing(step.identity) as folder:
            weights = self._save(subject, folder)["weights"]
            if before is not None and weights != before.outputs["weights"]:
                raise UserError(
                    f"{step.label}, gave other weights than before: {weights[:12]}, not"
                    f" {before.outputs['weights'][:12]}. The machine or its libraries changed; use a new UNTAUGHT_HOME."
                )
            self.store.restore(folder, step.identity, MODEL)

    def _evaluations(self, step: Step, folder: Path) -> Done:
        """Marks; none at all of a subject that could not be made."""
        component, barred = self._evaluation(step), self._barred(step)
        own = files.brought(component)
        items = self._items(step, component.items) if own is None else own
        subject = None if barred else self._subject(step.inputs["subject"])
        graded = marks([]) if subject is None else self._graded(step, component, subject, items)
        write_documents(graded, folder / "marks.parquet")
        role = component.role or role_of(items, component.items)
        measured = {"role": role} | ({BARRED: barred} if barred else {})
        measured |= {"subjects": told} if (told := subjects_of(items)) else {}
        if subject is not None and subject.wrap.chat:
            measured["template"] = _chat(subject)["chat"]["template"]
        return Done({"marks.parquet": digest.of_file(folder / "marks.parquet")}, Spent(), measured)

    def _graded(self, step: Step, component: Any, subject: Subject, items: pa.Table) -> pa.Table:
        """Marks. What the subject says is kept until the step is finished: after a kill only the rest is asked."""
        from ..engine.remembering import kept

        record = self.store.record(step.inputs["subject"].identity)
        weights = record.outputs.get("weights") if record is not None else None
        if weights is None:
            return component.grade(subject, items)
        with kept(self.store.unfinished(step.identity), subject.model, weights=weights):
            return component.grade(subject, items)

    # -- what the kinds share -------------------------------------------------------------------------------------

    def _applied(self, step: Step, corpus: Corpus, rig: Rig) -> Subject:
        """What a step's component makes of its subject. An `Inapplicable` where that could not be made itself."""
        self._unbarred(step)
        return self._component(step).apply(self._subject(step.inputs["subject"]), corpus, rig)

    def _unbarred(self, step: Step) -> None:
        if barred := self._barred(step):
            raise Inapplicable(barred)

    def _barred(self, step: Step) -> str | None:
        """Why a subject that a step stands on could not be made, if it could not."""
        return parallel.first(lambda: self._why_barred(step))

    def _why_barred(self, step: Step) -> str | None:
        above = (step.inputs[role] for role in ("subject", *OTHERS, "prepared") if role in step.inputs)
        records = (self.store.record(one.identity) for one in above)
        return next((str(r.measured[BARRED]) for r in records if r is not None and BARRED in r.measured), None)

    @contextlib.contextmanager
    def _barring(self, *steps: Step) -> Iterator[None]:
        """A method that cannot be applied to this kind of model leaves a record that says why; the others go on."""
        try:
            yield
        except Inapplicable as error:
            told = {BARRED: str(error)}
            for step in steps:
                if not self.done(step):
                    self._write(step, lambda _, folder: Done({}, Spent(), told))

    def _rig(self, step: Step, stops: Sequence[int] = ()) -> Rig:
        from ..engine.checkpoints import Checkpoints

        others: dict[str, Any] = {
            n: functools.partial(self._subject, step.inputs[n]) for n in OTHERS if n in step.inputs
        }
        attempt = f"/{seed}" if (seed := step.settings.get("attack_seed")) else ""
        attempt += f"/turn-{turn}" if (turn := step.settings.get("turn")) else ""
        progress: Progress | None = None
        if self.say is not None:
            progress = functools.partial(self.say, step.identity)
        return Rig(
            step.seed,
            f"{step.kind}/{step.entry.use if step.entry else ''}{attempt}",
            budget=step.budget,
            stops=stops,
            progress=progress,
            checkpoints=Checkpoints(
                self.store.unfinished(step.identity), step.identity, self.study.compute.checkpoint_seconds
            ),
            **others,
        )

    def _watch(self, step: Step, corpus: Corpus) -> Watch | None:
        """What ends an unlearning that costs too much on benign text, where the study says how much that is."""
        if (stop := step.settings.get("stop")) is None:
            return None
        from ..engine.watch import Watch

        return Watch(Stop(**stop), self._subject(step.inputs["subject"]), corpus.benign)

    def _component(self, step: Step) -> Any:
        if step.entry is None:
            raise ValueError(f"{step.label} has no component")
        return step.entry.component(step.kind, step.label)

    def _evaluation(self, step: Step) -> Any:
        """An evaluation that knows where its files are, the model that reads for it, and what it learned."""
        if step.entry is None:
            raise ValueError(f"{step.label} has no component")
        component = step.entry.component("evaluations", step.label)
        prepared = step.inputs.get("prepared", step if step.kind == "preparation" else None)
        if prepared is None:
            return component
        component = files.located(component, lambda given: str(assets.path(given, self.study.folder)))
        own: dict[str, Any] = {"reader": str(self._model(prepared.inputs["subject"]))}
        if prepared is not step:
            own["fitted"] = str(self.store.folder(prepared.identity))
        return component.model_copy(update=own)

    def _model(self, step: Step) -> Path:
        return self.store.folder(step.identity) / MODEL

    def _has_model(self, step: Step) -> bool:
        return bool(parallel.first(lambda: self._model(step).is_dir()))

    def _subject(self, step: Step) -> Subject:
        """A step's subject. The last one is kept, since a group asks the same one many things."""
        from ..engine import models

        if step.identity not in self._kept:
            wrap = json.loads((self._model(step) / "wrap.json").read_text(encoding="utf-8"))
            self._kept = {step.identity: models.load(self._model(step), Wrap(**wrap))}
        return self._kept[step.identity]

    def _text(self, step: Step) -> World:
        return World.load(self.store.folder(step.inputs["world"].identity))

    def _items(self, step: Step, name: str) -> pa.Table:
        """The items an evaluation asks: the world's, or those of the study's file."""
        if self.study.corpus is None:
            return self._text(step).items[name]
        return files.items(self.study.items[name], self.study.folder, f"items.{name}")

    def _save(self, subject: Subject, folder: Path) -> dict[str, str]:
        from ..engine import models

        models.save(subject, folder / MODEL)
        (folder / MODEL / "wrap.json").write_text(subject.wrap.model_dump_json(), encoding="utf-8")
        return {"weights": digest.of_weights(folder / MODEL)}

    def _write(self, step: Step, work: Callable[[Step, Path], Done]) -> None:
        """Do the work in a folder of its own, and make it the step's with the record written last."""
        parallel.first(lambda: self._record(step, work))

    def _record(self, step: Step, work: Callable[[Step, Path], Done]) -> None:
        from ..engine.compute import decisive

        began = time.perf_counter()
        with self.store.writing(step.identity) as folder:
            with _named(step):
                done = work(step, folder)
            spent = {name: value for name, value in done.spent.plain().items() if name != "seconds"}
            seconds = done.spent.seconds or time.perf_counter() - began
            self.store.finish(
                folder,
                Record(
                    identity=step.identity,
                    kind=step.kind,
                    title=step.label,
                    component=step.entry.use if step.entry else None,
                    settings=dict(step.settings),
                    seed=step.seed,
                    inputs={role: above.identity for role, above in step.inputs.items()},
                    outputs=done.outputs,
                    measured=dict(done.measured),
                    spent=spent,
                    cost={"seconds": round(seconds, 3), "peak_bytes": memory.most(), **done.cost},
                    compute=decisive(self.study.compute),
                    code=code(step.kind, uses(step.kind, step.settings)),
                    versions=versions(),
                ),
            )


def _chat(start: Subject) -> dict[str, Any]:
    """For the record: the chat template, and what the model is handed for a prompt."""
    if not start.wrap.chat:
        return {}
    from ..engine.prompts import resolved

    return {"chat": resolved(start)}


@contextlib.contextmanager
def _named(step: Step) -> Iterator[None]:
    """Say in which step of a study wrong input was met."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{step.label}: {error}") from None


def _by_stage(fitted: Sequence[Fitted], flagged: pa.Table, documents: pa.Table) -> list[dict[str, Any]]:
    """What each stage removed, and how much of it was hazard."""
    stage = np.array(flagged["stage"].to_pylist(), dtype=object)
    hazard = documents["hazard"].to_numpy(zero_copy_only=False)[flagged["row"].to_numpy()]
    return [
        {
            "use": one.name,
            "removed": int((stage == one.name).sum()),
            "hazard_removed": int(hazard[stage == one.name].sum()),
        }
        for one in fitted
    ]


def _masked(documents: pa.Table, flagged: pa.Table, part: Part) -> tuple[pa.Table, dict[str, Any]]:
    """All documents, with the column `masked` for those that were flagged; and how much of them that is."""
    column: list[Any] = [None] * documents.num_rows
    whole = covered = 0
    taken = documents.take(flagged["row"])
    found = masks(taken, flagged, part).to_pylist()
    for row, text, spans in zip(flagged["row"].to_pylist(), taken["text"].to_pylist(), found, strict=True):
        column[row], size = spans, sum(span["stop"] - span["start"] for span in spans)
        whole, covered = whole + (size == len(text)), covered + size
    extent = {
        "masking": part,
        "masked_documents": sum(spans is not None for spans in column),
        "masked_whole": whole,
        "masked_characters": covered,
        "characters": sum(map(len, documents["text"].to_pylist())),
    }
    return documents.append_column("masked", pa.array(column, MASKED)), extent


def _ranking(documents: pa.Table, decided: pa.Table) -> dict[str, float]:
    """How well the score that decided ranks hazard above the rest: of a single stage, where both sides have some."""
    scores = decided["score"].to_numpy(zero_copy_only=False).astype(float)
    hazard = documents["hazard"].to_numpy(zero_copy_only=False)
    found, stages = np.isfinite(scores), set(decided["stage"].to_pylist())
    if len(stages) != 1 or not (hazard & found).any() or not (~hazard & found).any():
        return {}
    return {"auroc": auroc(scores[hazard & found], scores[~hazard & found])}


def _finite(measured: Mapping[str, float]) -> dict[str, float | None]:
    """What was measured; None for what is no number."""
    return {name: value if np.isfinite(value) else None for name, value in measured.items()}


def _truth(documents: pa.Table, kept: np.ndarray) -> dict[str, Any]:
    """A filter's decisions against what is true: recall and precision of removal, with 95% intervals.

    A document that is masked, in part or whole, counts as removed.
    """
    hazard = documents["hazard"].to_numpy(zero_copy_only=False)
    caught, wrong = int((hazard & ~kept).sum()), int((~hazard & ~kept).sum())
    found: dict[str, Any] = {
        "read": len(kept),
        "kept": int(kept.sum()),
        "removed": caught + wrong,
        "hazard": int(hazard.sum()),
        "benign": int((~hazard).sum()),
        "hazard_removed": caught,
        "benign_removed": wrong,
    }
    for name, of in (("recall", found["hazard"]), ("precision", found["removed"])):
        if of:
            found[name] = caught / of
            found[f"{name}_low"], found[f"{name}_high"] = wilson(caught / of, of)
    if "disguised" in documents.column_names:
        disguised = documents["disguised"].to_numpy(zero_copy_only=False)
        found |= {"disguised": int(disguised.sum()), "disguised_removed": int((disguised & ~kept).sum())}
    return found
