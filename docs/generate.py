"""Make what the documentation takes from the program itself: numbers, the picture, the study schema.

    python docs/generate.py [RUN]        RUN: a finished run of the default study with three seeds (runs/default)

Writes docs/recovery.svg, docs/default-study.json and the README's table from RUN, and docs/study.schema.json from the
code. Without a finished run only the schema is written.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from untaught.core.shelves import SHELVES, find, names
from untaught.corpus.writing import write_atomically
from untaught.report import Account, account, figures, read, words
from untaught.study.schema import Study

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
STEPS = 40


def main() -> None:
    """Write everything there is material for."""
    write_atomically(HERE / "study.schema.json", json.dumps(schema(), indent=1) + "\n")
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/default")
    if not (run / "results.jsonl").is_file():
        print(f"{run} is no finished run: only the schema was written. `untaught run --out {run}` makes one.")
        return
    story = account(read(run))
    numbers = [line(story, arm) for arm in story.run.arms]
    write_atomically(HERE / "recovery.svg", picture(story))
    write_atomically(HERE / "default-study.json", json.dumps(numbers, indent=1) + "\n")
    readme = README.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- numbers -->\n).*?(<!-- /numbers -->)", re.DOTALL)
    write_atomically(README, marked.sub(lambda m: m[1] + table(numbers) + m[2], readme))


def line(story: Account, arm: str) -> dict[str, Any]:
    """One arm's numbers: before, along the first relearning attack, and what it cost."""
    hazard = story.measure
    if hazard is None:
        raise SystemExit("the run has no hazard evaluation")
    relearn = next(a for a in story.grid.attacks if a.component == "relearn")
    points = story.grid.points(arm, relearn, hazard)

    def share(measure: Any) -> dict[str, Any] | None:
        found = story.grid.unattacked(arm, measure)
        return None if found is None else {"value": found.value, "low": found.low, "high": found.high, "n": found.n}

    by_items = {
        m.items: m for m in story.grid.measures if (m.evaluation, m.metric) == (hazard.evaluation, hazard.metric)
    }
    return {
        "arm": arm,
        "seeds": list(story.run.seeds),
        "before": share(hazard),
        "relearn": {
            str(int(p.cost.steps)): {"value": p.estimate.value, "low": p.estimate.low, "high": p.estimate.high}
            for p in points
        },
        "benign": share(by_items["benign"]),
        "neighbour": share(by_items["neighbour"]),
    }


def table(numbers: list[dict[str, Any]]) -> str:
    """The README's table."""
    steps = [s for s in numbers[0]["relearn"] if s != "0"]
    heads = ["arm", "V before", *(f"V after {s} steps" for s in steps), "benign", "neighbour"]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    for row in numbers:
        cells = [row["before"], *(row["relearn"][s] for s in steps), row["benign"], row["neighbour"]]
        lines.append(" | ".join([f"`{row['arm']}`", *map(cell, cells)]))
    return "".join(f"| {text} |\n" for text in lines)


def cell(share: dict[str, Any] | None) -> str:
    """`27% (23-31)`."""
    if share is None or share["value"] is None:
        return "missing"
    low, high = (words.percent(share[side]).removesuffix("%") for side in ("low", "high"))
    return f"{words.percent(share['value'])} ({low}\u2013{high})"


def picture(story: Account) -> str:
    """The report's first recovery curve as a file of its own, with the page's colours, light and dark."""
    drawn = str(figures.recovery(story)[0].desk)
    css = (Path(figures.__file__).parent / "page.css").read_text(encoding="utf-8")
    font = 'svg { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }'
    drawn = (
        drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) if "xmlns=" not in drawn[:200] else drawn
    )
    start = drawn.index(">") + 1
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f"{drawn[:start]}<style>{css}{font}</style>{paper}{drawn[start:]}\n"


def schema() -> dict[str, Any]:
    """JSON Schema of a study file, with every component's settings: for editors."""
    whole = Study.model_json_schema(by_alias=True)
    parts = whole["$defs"]
    del parts["Entry"]
    for shelf in SHELVES:
        options = []
        for name in names(shelf):
            own = find(shelf, name).model_json_schema()
            parts |= own.pop("$defs", {})
            own["properties"] = {"use": {"const": name}, **own.get("properties", {})}
            if shelf == "attacks":
                own["properties"]["budget"] = {"$ref": "#/$defs/Budgets"}
            own["required"] = ["use"]
            options.append(own)
        parts[shelf] = {"anyOf": [*options, {"enum": names(shelf)}]}
    for part in ("filters", "training", "unlearning"):
        parts["Arm"]["properties"][part]["items"] = {"$ref": f"#/$defs/{part}"}
    for part in ("attacks", "evaluations"):
        whole["properties"][part]["items"] = {"$ref": f"#/$defs/{part}"}
    whole["properties"]["world"] = {
        "description": "`lab:NAME`, or a table of `use: NAME` and the world's settings",
        "anyOf": [{"type": "string"}, {"type": "object", "required": ["use"]}],
    }
    return whole


if __name__ == "__main__":
    main()
