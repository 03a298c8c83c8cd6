"""What a search costs beside the same trials one by one.

    python benchmarks/searching.py [--trials N] [--sample N]

The lab's default world, one seed, three arms that are made beforehand and not timed. One core, one thread, wall time:

    searched    `untaught run` of a study that searches `relearn` (rate and rank, 40 steps) on each arm, 8 trials each,
                with two sets of questions for every trial; all of it, the process's start and the report included
    plain       the same trials by the verbs, a process each: `untaught attack` with the trial's settings and steps, and
                `untaught evaluate` for each set of questions. `--sample` trials of each arm are timed, spread evenly,
                and the mean is taken for all

Both must come to the same accuracies. Writes searching.json beside this script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from untaught.corpus.world import World, split
from untaught.corpus.writing import write_atomically
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.store import Store

KEPT = Path(__file__).with_suffix(".json")
ITEMS = ("hazard_held_out", "benign")
STUDY: dict[str, Any] = {
    "title": "A search",
    "seeds": [0],
    "world": "lab:compounds",
    "workers": 1,
    "arms": {
        "untouched": {"training": [{"use": "pretrain"}]},
        "filtered": {"filters": [{"use": "oracle"}], "training": [{"use": "pretrain"}]},
        "rmu": {"from": "untouched", "unlearning": [{"use": "rmu"}]},
    },
    "evaluations": [{"use": "multiple_choice", "items": items} for items in ITEMS],
}


def untaught(*words: object, home: Path) -> str:
    """The command line as a process of its own, on one thread."""
    command = [str(Path(sys.executable).parent / "untaught"), *map(str, words)]
    environment = os.environ | {"UNTAUGHT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def searched(folder: Path, home: Path, trials: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the search, and its trials: arm, settings, steps, accuracies."""
    (folder / "arms.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    untaught("run", folder / "arms.yaml", "--out", folder / "arms", "--executor", "local", home=home)
    attack = {"use": "relearn", "lr": [1e-4, 1e-2], "rank": [None, 8], "budget": {"steps": 40}}
    study = STUDY | {"attacks": [attack | {"search": {"trials": trials}}]}
    (folder / "search.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    began = time.perf_counter()
    untaught("run", folder / "search.yaml", "--out", folder / "out", "--executor", "local", home=home)
    seconds = time.perf_counter() - began
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in (folder / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("search") and row["metric"] == "accuracy":
            one = found.setdefault((row["arm"], row["search"]["trial"]), {"arm": row["arm"], "values": {}})
            one |= {"settings": row["attack_settings"], "steps": row["budget"]["steps"]}
            one["values"][row["items"]] = row["value"]
    return seconds, list(found.values())


def laid_out(folder: Path, home: Path) -> dict[str, Path]:
    """The arms' model folders, and the attacker's text and the questions as files."""
    store, steps = Store(home), plan(load(folder / "arms.yaml")).steps
    world = World.load(store.folder(next(step for step in steps if step.kind == "world").identity))
    sides = split(world.attack)
    for side in ("hazard", "benign"):
        pq.write_table(getattr(sides, side).select(["id", "text"]), folder / f"text_{side}.parquet")
    for items in ITEMS:
        pq.write_table(pa.table(world.items[items]), folder / f"{items}.parquet")
    made = {step.title.rsplit(" ", 1)[1]: step for step in steps if step.kind in ("training", "unlearning")}
    return {arm: store.folder(made[arm].identity) / "model" for arm in STUDY["arms"]}


def plainly(trial: dict[str, Any], model: Path, folder: Path, home: Path) -> tuple[float, dict[str, float]]:
    """Seconds of one trial by the verbs, and its accuracies."""
    job = {
        "use": "relearn",
        "corpus": {"hazard": "text_hazard.parquet", "benign": "text_benign.parquet"},
        **trial["settings"],
    }
    job["budget"] = {"steps": trial["steps"]}
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    out = Path(tempfile.mkdtemp(dir=folder)) / "model"
    began, values = time.perf_counter(), {}
    untaught("attack", model, "--config", folder / "job.yaml", "--out", out, "--json", home=home)
    for items in ITEMS:
        asked = ("--set", "use=multiple_choice", "--set", f"items={folder / items}.parquet", "--json")
        rows = json.loads(untaught("evaluate", out, *asked, home=home))
        values[items] = next(row["value"] for row in rows if row["metric"] == "accuracy")
    return time.perf_counter() - began, values


def main() -> None:
    """Search, do a sample of the trials one by one, and keep the ratio."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trials", type=int, default=8)
    asked.add_argument("--sample", type=int, default=2)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        seconds, trials = searched(folder, home, given.trials)
        models, taken, apart = laid_out(folder, home), [], 0.0
        for arm, model in models.items():
            own = [trial for trial in trials if trial["arm"] == arm]
            for trial in own[:: max(1, len(own) // given.sample)][: given.sample]:
                spent, values = plainly(trial, model, folder, home)
                taken.append(spent)
                apart = max(apart, *(abs(values[items] - trial["values"][items]) for items in ITEMS))
    plain = sum(taken) / len(taken) * len(trials)
    found = {
        "trials": len(trials),
        "ended_early": sum(trial["steps"] < 40 for trial in trials),
        "searched_seconds": round(seconds, 1),
        "plain_seconds": round(plain, 1),
        "ratio": round(seconds / plain, 3),
        "largest_difference_in_accuracy": apart,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }
    write_atomically(KEPT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
