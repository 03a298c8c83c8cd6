"""Is a mask as good as dropping the document? Arms that mask flagged documents beside one that drops them.

    python benchmarks/masking.py [SEED ...]     seeds 0 1 2; about 4 minutes each on one core, finished steps are kept

The default study's world, filters, training and relearning attack, with its arm `filtered` and two more:

    sentences   flagged documents stay; every sentence in which a filter found something is left out of the loss
    terms       the same, but only the words that the filter names are left out

The question is whether V stays at chance. Writes masking.json beside this script: a line for each arm, question set and
number of relearning steps, means over seeds with the report's 95% intervals, and what was masked for each seed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from untaught.corpus.writing import write_atomically
from untaught.report import Account, account, read
from untaught.study import results
from untaught.study.plan import plan
from untaught.study.run import run
from untaught.study.schema import load
from untaught.study.store import Store

KEPT = Path(__file__).parent / "masking.json"
ITEMS = ("hazard_held_out", "hazard_seen", "neighbour", "benign")


class Teller:
    """Says which steps are finished."""

    def started(self, steps: Any) -> None:
        pass

    def progress(self, identity: str, done: int, total: int) -> None:
        pass

    def finished(self, steps: Any) -> None:
        for step in steps:
            if step.kind in ("filters", "training"):
                print(step.label, flush=True)


def study(seeds: Sequence[int]) -> Any:
    """The default study with other arms, one attack and four sets of questions."""
    whole = load(None)
    filtered = whole.arms["filtered"]
    arms = {
        "untouched": whole.arms["untouched"],
        "filtered": filtered,
        "sentences": filtered.model_copy(update={"masking": "sentence"}),
        "terms": filtered.model_copy(update={"masking": "term"}),
    }
    changes = {
        "title": "Is a mask as good as dropping the document?",
        "seeds": list(seeds),
        "workers": 1,
        "arms": {name: arm.plain() for name, arm in arms.items()},
        "attacks": [{"use": "relearn", "budget": {"steps": [0, 20]}}],
        "evaluations": [{"use": "multiple_choice", "items": items} for items in ITEMS],
    }
    return load(None, changes)


def lines(story: Account) -> list[dict[str, Any]]:
    """Accuracy of every arm on every question set, before and after relearning."""
    found = []
    for measure in (m for m in story.grid.measures if m.metric == "accuracy"):
        for arm in story.run.arms:
            for cell in story.grid.points(arm, story.grid.attacks[0], measure):
                e = cell.estimate
                row = {"arm": arm, "items": measure.items, "steps": int(cell.cost.steps)}
                found.append(row | {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "missing": e.missing})
    return found


def masked(story: Account) -> list[dict[str, Any]]:
    """What the filters of each arm and seed say of themselves."""
    names = ("arm", "read", "removed", "recall", "masking", "masked_documents", "masked_whole", "masked_characters")
    records = [record for record in story.run.records if record.kind == "filters"]
    kept = [{n: record.measured[n] for n in (*names, "characters") if n in record.measured} for record in records]
    return [{"seed": record.seed} | row for record, row in zip(records, kept, strict=True)]


def main() -> None:
    """Run the study and keep its numbers."""
    what, store = plan(study([int(seed) for seed in sys.argv[1:]] or (0, 1, 2))), Store(None)
    with tempfile.TemporaryDirectory() as folder:
        run(what, store, Teller())
        results.write(what, store, Path(folder))
        story = account(read(Path(folder)))
    parts = {"accuracy": lines(story), "filters": masked(story)}
    rows = [f' "{name}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in part) + "\n ]" for name, part in parts.items()]
    write_atomically(KEPT, "{\n" + ",\n".join(rows) + "\n}\n")
    for row in parts["accuracy"]:
        print(f"{row['arm']:<10} {row['items']:<16} after {row['steps']:>2} steps  {row['value']:.0%}")


if __name__ == "__main__":
    main()
