"""The downstream study of filters for fine-tuning data: run it, and keep what it came to.

    untaught fetch smollm2 answers
    python benchmarks/fine_tuning_study.py [STUDY] [--run DIR] [--set PATH=VALUE ...]

STUDY is a file of studies/ (fine-tuning-25 when left out; manners is the lab's). With `--run`, a run folder that is
finished is read and nothing is run. Kept in fine_tuning_study.json, by the study's name:

    judge      how well the judge agrees with people on prompts that it did not learn from
    arms       of each arm, mean over seeds with a 95% interval: harm, refusals, nats a token of held-out answers
    effects    the share of the oracle's effect and the relative fall, before and after the attack
    filters    of each arm that filters: what it removed, recall, precision, and AUROC of its ranking by seed
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from untaught.core import Record
from untaught.corpus.writing import write_atomically
from untaught.report import account, effects, judges, read
from untaught.report.verdicts import Account

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).with_suffix(".json")


def told(run: Path) -> dict[str, Any]:
    """What a finished run came to."""
    story = account(read(run))
    return {
        "seeds": list(story.run.seeds),
        "judge": [judge(one) for one in judges.judges(story.run) if one.told.get("agreement") is not None],
        "arms": [arm(story, name) for name in story.run.arms],
        "effects": [compared(one) for one in effects.comparisons(story)],
        "filters": filters(story.run.records, story.run.arms),
        "seconds_of_steps": round(math.fsum(record.cost.get("seconds", 0.0) for record in story.run.records)),
    }


def judge(found: judges.Judge) -> dict[str, Any]:
    """How well a judge agrees with people."""
    auroc = {end: found.told[f"agreement{name}"] for end, name in (("value", ""), ("low", "_low"), ("high", "_high"))}
    counts = {name: int(found.told[f"rated_{name}"]) for name in ("harmful", "harmless")}
    return {"component": found.component, "auroc": auroc, **counts}


def arm(story: Account, name: str) -> dict[str, Any]:
    """An arm before any attack, on every measure."""
    found: dict[str, Any] = {"arm": name}
    for measure in story.grid.measures:
        estimate = story.grid.unattacked(name, measure)
        if estimate is not None:
            place = f"{measure.items}/{measure.evaluation}/{measure.metric}"
            found[place] = {side: rounded(getattr(estimate, side)) for side in ("value", "low", "high")}
            found[place] |= {"missing": estimate.missing} if estimate.missing else {}
    return found


def compared(one: effects.Comparison) -> dict[str, Any]:
    """A comparison as plain numbers."""
    lines = [rounded(asdict(effect)) for effect in one.effects]
    place = {"attack": one.attack, "reference": one.reference, "oracle": one.oracle}
    place |= {"measure": f"{one.measure.items}/{one.measure.evaluation}/{one.measure.metric}"}
    numbers = {"unfiltered": rounded(one.unfiltered), "possible": rounded(asdict(one.possible))}
    return place | numbers | {"estimable": one.estimable, "arms": lines}


def filters(records: Iterable[Record], arms: Sequence[str]) -> list[dict[str, Any]]:
    """What each arm's filter did, summed over its seeds, in the order of the arms."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.kind == "filters":
            by_arm.setdefault(str(record.measured["arm"]), []).append(dict(record.measured))
    found = []
    for name in (arm for arm in arms if arm in by_arm):
        runs = by_arm[name]
        count = {what: sum(run[what] for run in runs) for what in ("read", "removed", "hazard", "hazard_removed")}
        found.append({"arm": name, **count, "auroc": [rounded(run.get("auroc")) for run in runs]})
    return found


def rounded(value: Any) -> Any:
    """Numbers with four digits after the point, wherever they stand."""
    if isinstance(value, dict):
        return {name: rounded(own) for name, own in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Run, read, keep."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("study", nargs="?", default="fine-tuning-25")
    asked.add_argument("--run", type=Path)
    asked.add_argument("--set", action="append", default=[])
    given = asked.parse_args()
    began, out = time.perf_counter(), given.run or ROOT / "runs" / given.study
    if given.run is None:
        untaught = str(Path(sys.executable).parent / "untaught")
        changes = [word for change in given.set for word in ("--set", change)]
        command = [untaught, "run", f"studies/{given.study}.yaml", "--out", str(out), *changes]
        subprocess.run(command, check=True, cwd=ROOT)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    found = told(out) | {"machine": machine}
    found |= {"seconds": round(time.perf_counter() - began, 1)} if given.run is None else {}
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    kept[given.study] = found
    write_atomically(KEPT, json.dumps(kept, indent=1) + "\n")
    print(json.dumps(found["effects"], indent=1))


if __name__ == "__main__":
    main()
