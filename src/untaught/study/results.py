"""The run folder: results, marks, records, the resolved study and the statement, all drawn from the store."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import __version__
from ..core import Record, Spent, UserError, by_metric
from ..corpus.writing import write_atomically, write_documents
from .plan import Cell, Plan, Step, unfolded
from .schema import Entry, Price
from .steps import BARRED
from .store import Store


@contextlib.contextmanager
def prepared(out: Path) -> Iterator[None]:
    """A `UserError` unless the run folder can be written to. What was made of it is gone when the block fails."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"the run folder {out} cannot be written: {error.strerror}. Give another with --out.") from None
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something was written there meanwhile
            for folder in made:
                folder.rmdir()
        raise


def write(plan: Plan, store: Store, out: Path) -> list[dict[str, Any]]:
    """Write the run folder, each file whole or not at all. Returns the rows."""
    plan = unfolded(plan, store)
    for name in ("marks", "records"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    marks: dict[str, list[pa.Table]] = {}
    for cell in plan.cells:
        for entry, table, found in _graded(cell, plan, store):
            rows += found
            marks.setdefault(cell.arm, []).append(_placed(table, cell, entry))
    for arm, tables in marks.items():
        write_documents(pa.concat_tables(tables), out / "marks" / f"{arm}.parquet")
    for step in plan.steps:
        write_atomically(out / "records" / f"{step.identity[:16]}.json", _told(step, store).to_json())
    _drop_stale(out, {f"{s.identity[:16]}.json" for s in plan.steps}, {f"{arm}.parquet" for arm in marks})
    write_atomically(out / "study.yaml", plan.study.to_yaml())
    write_atomically(out / "results.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    write_atomically(out / "statement.json", json.dumps(_statement(plan, rows), indent=1, allow_nan=False) + "\n")
    return rows


def inapplicable(plan: Plan, store: Store) -> list[str]:
    """What could not be done because a method cannot be applied to this kind of model, each reason once."""
    steps = unfolded(plan, store).steps
    reasons = (_record(store, step.identity).measured.get(BARRED) for step in steps)
    return list(dict.fromkeys(str(reason) for reason in reasons if reason is not None))


def missing_share(rows: list[dict[str, Any]]) -> float:
    """Share of all marks that are missing."""
    asked = sum(row["n"] + row["missing"] for row in rows)
    return sum(row["missing"] for row in rows) / asked if asked else 0.0


def _record(store: Store, identity: str) -> Record:
    record = store.record(identity)
    if record is None:
        raise RuntimeError(f"step {identity} has no record")
    return record


def _told(step: Step, store: Store) -> Record:
    """A step's record in the words of this study: another may have done the step under other names of arms."""
    record = _record(store, step.identity)
    names = {"arm": step.settings["arm"]} if step.kind == "filters" else {}
    return replace(record, title=step.label, settings=record.settings | names, measured=record.measured | names)


def _missing(plan: Plan, store: Store, seed: int, index: int, why: str) -> pa.Table | None:
    """An evaluation's marks, all missing: of the items and metrics that some subject of the seed was graded on.

    None where there is no such subject.
    """
    asked = (cell.evaluations[index][1] for cell in plan.cells if cell.seed == seed)
    graded = next((step for step in asked if BARRED not in _record(store, step.identity).measured), None)
    if graded is None:
        return None
    table = _marks(store, graded)
    lost = {"value": pa.nulls(table.num_rows, pa.float64()), "note": pa.array([why] * table.num_rows, pa.string())}
    for name, column in lost.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _marks(store: Store, step: Step) -> pa.Table:
    return pq.read_table(store.folder(step.identity) / "marks.parquet")


def _graded(cell: Cell, plan: Plan, store: Store) -> Iterator[tuple[Entry, pa.Table, list[dict[str, Any]]]]:
    """One evaluation of a cell after another: its marks, and a row of results for each metric.

    All marks of a subject that could not be made are missing.
    """
    subject = _record(store, cell.subject.identity)
    spent = _spent(cell, subject, plan.study.price)
    for index, (entry, step) in enumerate(cell.evaluations):
        record = _record(store, step.identity)
        table = _marks(store, step)
        if BARRED in record.measured:
            missing = _missing(plan, store, cell.seed, index, record.measured[BARRED])
            table = table if missing is None else missing
        place = {
            "arm": cell.arm,
            "attack": cell.attack.use if cell.attack else None,
            "attack_settings": dict(cell.attack.settings) if cell.attack else {},
            "budget": spent,
            "evaluation": entry.use,
            "role": record.measured["role"],
            "items": entry.settings["items"],
        }
        after = {"seed": cell.seed, "attack_seed": cell.attack_seed, "weights": subject.outputs.get("weights", "")}
        after |= {} if cell.search is None else {"search": dict(cell.search)}
        yield entry, table, [place | summary | after for summary in by_metric(table)]


def _spent(cell: Cell, subject: Record, price: Price | None) -> dict[str, Any]:
    """What the attack took: also the most bytes held, where that was metered, and money where the study has a rate."""
    attacked = cell.subject.kind == "attacks"
    own: dict[str, Any] = subject.spent | {"seconds": subject.cost["seconds"]} if attacked else {}
    spent = Spent(**own) if BARRED not in subject.measured else Spent(steps=(cell.budget and cell.budget.steps) or 0)
    peak = subject.cost.get("memory_peak") if attacked else None
    paid = {} if price is None else {"money": price.of(spent.seconds, spent.flops)}
    return {**spent.plain(), "memory": None if peak is None else int(peak), **paid}


def _placed(table: pa.Table, cell: Cell, entry: Entry) -> pa.Table:
    """Marks with the columns that tell where they belong."""
    place = {
        "arm": cell.arm,
        "attack": cell.attack.use if cell.attack else None,
        "attack_settings": json.dumps(dict(cell.attack.settings) if cell.attack else {}, sort_keys=True),
        "budget": json.dumps(cell.budget.changed() if cell.budget else {}, sort_keys=True),
        "evaluation": entry.use,
        "items": entry.settings["items"],
    }
    for name, value in place.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    for name, seed in (("seed", cell.seed), ("attack_seed", cell.attack_seed)):
        table = table.append_column(name, pa.array([seed] * table.num_rows, pa.int64()))
    return table


def _drop_stale(out: Path, records: set[str], marks: set[str]) -> None:
    """Remove what an earlier study left in the same run folder, and nothing else that is there."""
    for folder, wanted, ours in (("records", records, r"[0-9a-f]{16}\.json"), ("marks", marks, r".*\.parquet")):
        for path in (out / folder).iterdir():
            if path.name not in wanted and re.fullmatch(ours, path.name) and path.is_file():
                path.unlink()


def _statement(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The claim to sign: which weights, made how, scored what, under which attacks with what budgets."""
    study = plan.study
    arms = {
        name: {
            **arm.plain(),
            "weights": {
                str(row["seed"]): row["weights"] for row in rows if row["arm"] == name and row["attack"] is None
            },
        }
        for name, arm in study.arms.items()
    }
    return {
        "statement": "untaught.evaluation",
        "version": 0,
        "tool": f"untaught {__version__}",
        "title": study.title,
        "seeds": list(study.seeds),
        "attack_seeds": list(study.attack_seeds),
        "arms": arms,
        "attacks": [attack.plain() for attack in study.attacks],
        "controls": {} if study.controls is None else study.controls.model_dump(mode="json"),
        "price": {} if study.price is None else study.price.model_dump(mode="json", exclude_none=True),
        "evaluations": [evaluation.plain() for evaluation in study.evaluations],
        "results": rows,
    }
