"""Hand the results of a run, or of `untaught evaluate --out`, on to other tools: what all formats share.

    lm-eval         results and samples as lm-evaluation-harness writes them (`lm_eval_results`)
    inspect         logs that Inspect opens (`inspect_logs`)
    card            a model card with results in its front matter, for the Hub (`card_results`)
    lm-eval-tasks   the items as tasks that lm-evaluation-harness runs (`study.tasks`)

Results and marks are held against each other before anything is written: for every row, n, missing and the mean of its
marks must be what the row says. What is missing stays missing in every format. No prompt and no answer is handed on,
since a run folder has none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from ..core import Role, Settings, UserError, suggest
from ..core.files import check_new, whole
from .reading import MEND, Cost, marks_of, records_of, results_of

FORMATS = ("lm-eval", "inspect", "card", "lm-eval-tasks")
RESULTS, ASKED = "results.jsonl", "evaluation.yaml"


class Result(Settings):
    """A row of results, of a run or of a single evaluation, which knows a little less."""

    model_config = ConfigDict(extra="ignore")
    arm: str
    attack: str | None = None
    attack_settings: dict[str, Any] = {}
    budget: Cost = Cost()
    evaluation: str
    role: Role | None = None
    items: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    missing: int
    chance: float | None = None
    seed: int
    attack_seed: int | None = None
    weights: str = ""
    wrap: dict[str, Any] = {}
    """What stood around the prompts; a single evaluation alone says so here."""
    chat: dict[str, str] = {}
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Said:
    """What an item got: None where it is missing, and why."""

    value: float | None
    note: str | None


@dataclass
class Test:
    """One evaluation of one subject: a row for each metric, and every item's marks by metric."""

    task: str
    """A name for its evaluation and items that no other has."""
    rows: dict[str, Result] = field(default_factory=dict)
    marks: dict[str, dict[str, Said]] = field(default_factory=dict)

    @property
    def any_row(self) -> Result:
        return next(iter(self.rows.values()))


@dataclass
class Tested:
    """One subject, an arm as it is or after an attack, and all that was asked of it."""

    name: str
    """For a file; no other has it."""
    tests: list[Test]

    @property
    def any_row(self) -> Result:
        return self.tests[0].any_row

    def plain(self) -> dict[str, Any]:
        """Who it is, for other formats."""
        row = self.any_row
        own = ("arm", "attack", "attack_settings", "seed", "attack_seed", "weights")
        return {name: getattr(row, name) for name in own} | {"budget": row.budget.model_dump(exclude_none=True)}


@dataclass(frozen=True)
class Results:
    """All of a folder."""

    tested: list[Tested]
    date: datetime
    """When the results were written."""
    versions: dict[str, str]
    """Of the libraries that could change a number; empty where the folder does not say."""
    template: str | None
    """Digest of the chat template that prompts went through, if they did."""


def check(given: str, out: Path | None) -> Path:
    """Where to write to; a `UserError` unless the format is known and nothing is there yet."""
    if given not in FORMATS:
        raise UserError(f"--export {given} is no format.{suggest(given, FORMATS)}")
    if out is None:
        raise UserError(f"--export {given} needs a place to write to. Add --out PLACE, a new folder.")
    check_new(out)
    return out


def export(run: Path, out: Path, make: Callable[[Path, Path], list[Path]]) -> list[Path]:
    """Let `make` write a run's export into a folder, which becomes `out` when it is whole. Returns the files."""
    if not (run / RESULTS).is_file():
        raise UserError(f"{run} has no {RESULTS}. {MEND}")
    with whole(out) as made:
        written = [path.relative_to(made) for path in make(run, made)]
    return [out / path for path in written]


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of `results.jsonl`."""
    return [table for _, table in results_of(run)]


def read(run: Path, *, with_marks: bool = True) -> Results:
    """All results of a folder, by subject, with the marks behind them."""
    where = run / RESULTS
    found = [Result.settle(table, place) for place, table in results_of(run)]
    tests = _tests(found)
    if with_marks:
        for arm in dict.fromkeys(row.arm for row in found):
            _fill(run, arm, [one for one in tests if one.any_row.arm == arm])
    measured, versions = _recorded(run)
    chats = [row.chat["template"] for row in found if "template" in row.chat]
    return Results(
        _by_subject(tests),
        datetime.fromtimestamp(where.stat().st_mtime, UTC).replace(microsecond=0),
        found[0].versions or versions,
        next(iter(chats), None) or measured.get("template") or (measured.get("chat") or {}).get("template"),
    )


def reported(results: Results) -> dict[str, str]:
    """Versions, never none at all: some formats demand them."""
    return results.versions or {"untaught": "unknown"}


def _recorded(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run's records say of the chat template, and of versions."""
    told: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for record in records_of(run) if (run / "records").is_dir() else ():
        told |= {name: record.measured[name] for name in ("chat", "template") if name in record.measured}
        versions = record.versions or versions
    return told, versions


# -- which rows and marks belong together ------------------------------------------------------------------------------


def _tests(found: Iterable[Result]) -> list[Test]:
    """Rows as evaluations of subjects: the next budget point of an attack begins where a metric comes again."""
    names = _tasks(found)
    tests: list[Test] = []
    latest: dict[tuple[Any, ...], Test] = {}
    for row in found:
        key = (row.arm, *_key(row.model_dump()))
        test = latest.get(key)
        if test is None or row.metric in test.rows:
            test = latest[key] = Test(names[row.evaluation, row.items])
            tests.append(test)
        test.rows[row.metric] = row
    return tests


def _key(told: dict[str, Any]) -> tuple[Any, ...]:
    settings = told["attack_settings"]
    plain = settings if isinstance(settings, str) else json.dumps(settings, sort_keys=True)
    return told["attack"], plain, told["evaluation"], told["items"], told["seed"], told["attack_seed"]


def _tasks(found: Iterable[Result]) -> dict[tuple[str, str], str]:
    """A name of letters, digits and `_` for each evaluation of some items."""
    named: dict[tuple[str, str], str] = {}
    for row in found:
        if (key := (row.evaluation, row.items)) not in named:
            name = re.sub(r"\W", "_", f"{row.evaluation}_{short(row.items)}")
            named[key] = _unused(name, set(named.values()), "_")
    return named


def short(items: str) -> str:
    """What an item set is called: its name, or that of its file.

    >>> short("hazard_held_out"), short("asset:elements/items/benign.parquet"), short("/home/me/questions.jsonl.gz")
    ('hazard_held_out', 'benign', 'questions')
    """
    return items.replace("\\", "/").rpartition("/")[2].removeprefix("asset:").partition(".")[0] or items


def _unused(name: str, taken: set[str], joint: str) -> str:
    several = (f"{name}{joint}{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in several if one not in taken)


def _fill(run: Path, arm: str, tests: list[Test]) -> None:
    """Put an arm's marks into its tests, and hold the two against each other."""
    path, marks = run / "marks" / f"{arm}.parquet", marks_of(run, arm)
    if marks is None:
        raise UserError(f"there is no {path}, and this format tells what every item got. {MEND}")
    groups: dict[tuple[Any, ...], list[dict[str, dict[str, Said]]]] = {}
    last: dict[tuple[Any, ...], str] = {}
    for mark in marks.to_pylist():
        key = _key(mark)
        own = groups.setdefault(key, [])
        if not own or last[key] != mark["budget"] or mark["metric"] in own[-1].get(mark["item"], {}):
            own.append({})
        last[key] = mark["budget"]
        own[-1].setdefault(mark["item"], {})[mark["metric"]] = Said(mark["value"], mark["note"])
    waiting = {key: iter(own) for key, own in groups.items()}
    for test in tests:
        test.marks = next(waiting.get(_key(test.any_row.model_dump()), iter(())), {})
        for row in test.rows.values():
            _agree(path, row, [told[row.metric].value for told in test.marks.values() if row.metric in told])


def _agree(path: Path, row: Result, values: list[float | None]) -> None:
    scored = [value for value in values if value is not None]
    mean = math.fsum(scored) / len(scored) if scored else None
    same = mean is None if row.value is None else mean is not None and math.isclose(mean, row.value, rel_tol=1e-9)
    if not same or (len(scored), len(values)) != (row.n, row.n + row.missing):
        raise UserError(
            f"{path} does not fit {RESULTS}: of {row.metric} on {row.items} under {row.attack or 'no attack'}, seed"
            f" {row.seed}, it has {len(scored)} of {len(values)} marks scored with the mean {mean}, and the row says"
            f" {row.n} of {row.n + row.missing} with {row.value}. {MEND}"
        )


def _by_subject(tests: Iterable[Test]) -> list[Tested]:
    """Tests by whom they were of. A budget point is told by its place among those of the same evaluation."""
    found: dict[tuple[Any, ...], Tested] = {}
    times: dict[tuple[Any, ...], int] = {}
    for test in tests:
        row = test.any_row
        own = (row.arm, *_key(row.model_dump()))
        times[own] = times.get(own, -1) + 1
        attack, settings, _, _, seed, attack_seed = _key(row.model_dump())
        subject = (row.arm, attack, settings, seed, attack_seed, times[own])
        if subject not in found:
            name = _unused(_called(row), {one.name for one in found.values()}, "-")
            found[subject] = Tested(name, [])
        found[subject].tests.append(test)
    return list(found.values())


def _called(row: Result) -> str:
    words = [row.arm, *([row.attack] if row.attack else []), *([f"{row.budget.steps:g}"] if row.attack else [])]
    words += [f"seed-{row.seed}", *([] if row.attack_seed is None else [f"attack-seed-{row.attack_seed}"])]
    return re.sub(r"[^\w.-]+", "_", "-".join(words))


def higher_is_better(metric: str) -> bool | None:
    """Of ability; None where that depends on what is asked, or is not known."""
    return True if metric.startswith("accuracy") else False if metric == "nats_per_token" else None


def standard_error(values: Iterable[float | None]) -> float | None:
    """Sample deviation / sqrt(n) of what is scored; None of fewer than two."""
    scored = [value for value in values if value is not None]
    if len(scored) < 2:  # noqa: PLR2004
        return None
    mean = math.fsum(scored) / len(scored)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in scored) / (len(scored) - 1) / len(scored))


def of_metric(test: Test, metric: str) -> Iterator[float | None]:
    """What each item got."""
    return (told[metric].value for told in test.marks.values() if metric in told)
