"""Kill filter runs a hundred times, under every executor, and keep what came of it beside this script.

    python benchmarks/killing.py [--kills 25] [--seed 0] [EXECUTOR ...]

Three things are killed with SIGKILL, at random moments of starting, deciding, finishing and writing out:

    run      the process group; what was begun is started again in the same folder
    head     its first process alone: nothing that it started may live on; then it is started again
    worker   one of the processes that do the work; the run must go on by itself

When a run at last ends by itself, its folder is compared, file for file and byte for byte, with that of one that nobody
disturbed; then the next folder is begun. The corpus is that of `tests/corpus/kills.py`: seven sources in all formats,
one of them in three shards, one torn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "killing.json"
sys.path.insert(0, str(ROOT / "tests" / "corpus"))

import corpora  # noqa: E402
import kills  # noqa: E402

EXECUTORS = ("local", "processes", "ray", "datatrove")
NAMES = 60
"""New names in a folder that a kill waits for, at most: about as many as a whole run makes."""


def plan(executor: str, count: int, rng: random.Random) -> list[str]:
    """What is killed, in what order. Threads are no processes of their own: only whole runs there."""
    kinds = ["run"] if executor == "local" else ["run", "worker", "head", "worker", "run"]
    return rng.sample(listed := [kinds[i % len(kinds)] for i in range(count)], len(listed))


def tormented(run: kills.Run, left: list[str], rng: random.Random, told: dict[str, Any]) -> bool:
    """Kill what is next, at random moments. True when the run ended by itself."""
    while left and run.come(*kills.moment(rng, NAMES)):
        kind = left.pop()
        if kind == "worker" and not run.kill_a_worker(rng):
            left.insert(0, kind)  # there is none yet
            continue
        told["kills"][kind] = told["kills"].get(kind, 0) + 1
        if kind != "worker":
            run.kill(alone=kind == "head")
            return False
    return True


def torment(
    executor: str, corpus: tuple[Path, Path], expected: dict[str, bytes], count: int, rng: random.Random, folder: Path
) -> dict[str, Any]:
    """Folder after folder, until so much was killed."""
    left = plan(executor, count, rng)
    told: dict[str, Any] = {"kills": {}, "starts": 0, "folders": 0, "differ": []}
    began = time.perf_counter()
    while left:
        out = folder / f"{executor}-{told['folders']}"
        told["folders"] += 1
        ended = False
        while not ended:
            told["starts"] += 1
            with kills.Run(*corpus, out, executor) as run:
                if ended := tormented(run, left, rng, told):
                    code, said = run.ended()
                    if code != kills.TORN:
                        told["differ"].append(f"exit code {code}: {said[-500:]}")
        told["differ"] += kills.differences(out, expected)
        print(f"{executor:<10} {told['kills']} in {told['starts']} starts, differ: {told['differ']}", flush=True)
    seconds, restarts = round(time.perf_counter() - began), told["starts"] - told["folders"]
    return {"identical": not told["differ"], **told, "restarts": restarts, "seconds": seconds}


def main() -> None:
    """Kill, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executors", nargs="*", default=EXECUTORS, metavar="EXECUTOR")
    parser.add_argument("--kills", type=int, default=25, help="for each executor")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    with tempfile.TemporaryDirectory() as name:
        os.environ["RAY_TMPDIR"] = name
        corpus = kills.corpus(Path(name))
        with kills.Run(*corpus, Path(name) / "expected", "local") as run:
            if run.ended()[0] != kills.TORN:
                raise SystemExit("the undisturbed run failed")
        expected = corpora.contents(Path(name) / "expected")
        for executor in asked.executors:
            rng = random.Random(f"{asked.seed} {executor}")
            kept[executor] = torment(executor, corpus, expected, asked.kills, rng, Path(name)) | {"seed": asked.seed}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
