"""Do knowledge and behaviour want different objectives? Two objectives on two worlds of the lab, at one benign cost.

    python benchmarks/objectives.py [RUN_OF_KNOWLEDGE RUN_OF_BEHAVIOUR]

Runs studies/objectives-knowledge.yaml and studies/objectives-behaviour.yaml, or reads finished runs of them, and writes
objectives.json beside this script: of each world and arm the hazard measure before and after relearning and the benign
one, means over seeds with the report's 95% intervals.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from untaught.corpus.writing import write_atomically
from untaught.report import account, read

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).with_suffix(".json")
WORLDS = ("knowledge", "behaviour")


def lines(run: Path) -> list[dict[str, Any]]:
    """Of every arm and measure the value at each number of steps of relearning."""
    story, found = account(read(run)), []
    for measure in (m for m in story.grid.measures if m.metric == "accuracy"):
        for arm in story.run.arms:
            for cell in story.grid.points(arm, story.grid.attacks[0], measure):
                e, place = cell.estimate, {"arm": arm, "items": measure.items, "steps": int(cell.cost.steps)}
                found.append(place | {"value": e.value, "low": e.low, "high": e.high, "n": e.n})
    return found


def main() -> None:
    """Run or read both, and keep the table."""
    runs = [Path(given) for given in sys.argv[1:]] or [ROOT / "runs" / f"objectives-{world}" for world in WORLDS]
    table = {}
    for world, run in zip(WORLDS, runs, strict=True):
        if not sys.argv[1:]:
            untaught = str(Path(sys.executable).parent / "untaught")
            command = [untaught, "run", f"studies/objectives-{world}.yaml", "--out", str(run)]
            subprocess.run(command, check=True, cwd=ROOT)
        table[world] = lines(run)
    rows = [f' "{world}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in own) + "\n ]" for world, own in table.items()]
    write_atomically(KEPT, "{\n" + ",\n".join(rows) + "\n}\n")
    for world, own in table.items():
        for row in own:
            print(f"{world:<10} {row['arm']:<10} {row['items']:<16} after {row['steps']:>2} steps  {row['value']:.0%}")


if __name__ == "__main__":
    main()
