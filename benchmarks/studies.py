"""The studies whose numbers the documentation has: run one, and keep what it came to.

    python benchmarks/studies.py [STUDY ...] [--run DIR] [--set PATH=VALUE ...]

STUDY is a file of studies/. On the lab: `unlearning` (every method at one benign cost; when left out), `resistance`
(doses, and attackers in the loss), `ideas` (our own attempts to get nearer to the filtered arm), `renewal` (what it
costs to be as durable), `objectives-knowledge` and `objectives-behaviour` (two objectives on two worlds), `attacks`
(every attack, with its controls), `shallow` (attacks on defences that are shallow to them). On a real model, of which
the head of each says what to fetch: `toxicity` and `objectives-elements` (the two objectives again), `lasting` (a
longer dose under more attacks), `taught` (an invented world, told with and without its hazard). With `--run`, a
finished run of the one study named is read. Kept in studies.json, by the study's name:

    lines    of each arm, measure, attack and number of its steps: mean over seeds with the report's 95% interval
    steps    of each step of unlearning: what it spent and what it logged, such as the benign cost that it reached
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from untaught.corpus.writing import write_atomically
from untaught.report import account, read

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).with_suffix(".json")
LOGGED = ("benign_kl", "benign_loss", "good_step")


def told(run: Path) -> dict[str, Any]:
    """What a finished run came to."""
    story = account(read(run))
    lines = []
    for measure in story.grid.measures:
        place = {"items": measure.items, "metric": measure.metric}
        for arm in story.run.arms:
            for attack in (None, *story.grid.attacks):
                for cell in story.grid.points(arm, attack, measure):
                    found, steps = cell.estimate, int(cell.cost.steps)
                    numbers = {side: rounded(getattr(found, side)) for side in ("value", "low", "high")}
                    who = {"arm": arm, "attack": attack.label if attack else None, "steps": steps}
                    lines.append(who | place | numbers | {"n": found.n, "missing": found.missing})
    steps = [
        {"title": one.title, "seed": one.seed, "spent": one.spent, "seconds": round(one.cost.get("seconds", 0), 1)}
        | {name: rounded(one.measured[name]) for name in LOGGED if name in one.measured}
        for one in story.run.records
        if one.kind in ("unlearning", "training")
    ]
    key = sorted(steps, key=lambda step: (step["title"], step["seed"]))
    return {"seeds": list(story.run.seeds), "lines": lines, "steps": key}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def kept(found: dict[str, Any]) -> str:
    """A line of the file for each line of a table."""
    studies = []
    for name, study in found.items():
        parts = [f'  "seeds": {json.dumps(study["seeds"])}']
        for table in ("lines", "steps"):
            rows = ",\n".join(f"   {json.dumps(row)}" for row in study[table])
            parts.append(f'  "{table}": [\n{rows}\n  ]')
        studies.append(f' "{name}": {{\n' + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(studies) + "\n}\n"


def main() -> None:
    """Run or read, and keep."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("studies", nargs="*", default=["unlearning"])
    asked.add_argument("--run", type=Path)
    asked.add_argument("--set", action="append", default=[])
    given = asked.parse_args()
    for study in given.studies:
        run = given.run or ROOT / "runs" / study
        if given.run is None:
            untaught = str(Path(sys.executable).parent / "untaught")
            changes = [word for change in given.set for word in ("--set", change)]
            command = [untaught, "run", f"studies/{study}.yaml", "--out", str(run), *changes]
            subprocess.run(command, check=True, cwd=ROOT)
        found = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        write_atomically(KEPT, kept(found | {study: told(run)}))


if __name__ == "__main__":
    main()
