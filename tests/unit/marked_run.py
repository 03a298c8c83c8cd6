"""A small finished run with a mark behind every number, invented: for exporting it, and for other tools to read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from report_fixture import row, step, write_run

from untaught.core import by_metric

PLACE = ("arm", "attack", "attack_settings", "budget", "evaluation", "items", "seed", "attack_seed")
QUESTIONS = {"accuracy": 0.25, "accuracy_option_only": 0.25}


def marked(arm, values, *, items="hazard_held_out", evaluation="multiple_choice", role="hazard", attack=None, **at):
    """Rows and marks of one evaluation of one subject. `values`: metric to what each item got; None is missing."""
    settings, steps, seed = at.get("settings", {}), at.get("steps", 0), at.get("seed", 0)
    told = {
        "arm": arm,
        "attack": attack,
        "attack_settings": json.dumps(settings, sort_keys=True),
        "budget": json.dumps({"steps": steps} if attack else {}),
        "evaluation": evaluation,
        "items": items,
        "seed": seed,
        "attack_seed": 0 if attack else None,
    }
    marks = [
        {"item": f"q{number}", "metric": metric, "value": value, "chance": QUESTIONS.get(metric),
         "note": "no finite score" if value is None else None, **told}
        for metric, own in values.items() for number, value in enumerate(own)
    ]  # fmt: skip
    rows = [
        row(arm, 0.0, attack=attack, settings=settings, steps=steps, seed=seed, items=items)
        | {"evaluation": evaluation, "role": role, "attack_seed": told["attack_seed"]}
        | summary
        for summary in by_metric(pa.Table.from_pylist(marks))
    ]
    return rows, marks


def small_run(folder):
    """Two arms, one attack at two budgets, three evaluations; a question is missing, and all of one metric are."""
    right, wrong = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    found = []
    for arm, values in (("untouched", right), ("rmu", wrong)):
        asked = {"accuracy": values, "accuracy_option_only": [0.0, 1.0, 0.0, None]}
        found.append(marked(arm, asked))
        nats = {"nats_per_token": [1.5, 2.25, 1.75]}
        found.append(marked(arm, nats, items="benign_text", evaluation="perplexity", role="benign"))
        found.append(marked(arm, {"judged": [None, None]}, items="prompts", evaluation="judged", role="benign"))
        for steps, after in ((5, wrong), (20, right)):
            at = {"attack": "relearn", "settings": {"lr": 0.001}, "steps": steps}
            found.append(marked(arm, {"accuracy": after}, **at))
    rows = [one for rows, _ in found for one in rows]
    record = step("evaluated", "evaluations", "multiple_choice", measured={"role": "hazard", "template": "ab" * 32})
    write_run(folder, rows, records=[record])
    (folder / "marks").mkdir()
    for arm in ("untouched", "rmu"):
        own = [mark for _, marks in found for mark in marks if mark["arm"] == arm]
        schema = pa.schema([(name, pa.int64() if name.endswith("seed") else pa.string()) for name in PLACE])
        told = pa.schema([("item", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
                          ("chance", pa.float64()), ("note", pa.string())])  # fmt: skip
        table = pa.Table.from_pylist(own, schema=pa.unify_schemas([told, schema]))
        pq.write_table(table, folder / "marks" / f"{arm}.parquet")
    return folder
