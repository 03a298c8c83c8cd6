"""A run folder as `untaught run` leaves it, with invented numbers: for the report's tests and for looking at it."""

import hashlib
import json
import math
import random
from pathlib import Path

from untaught.core import Record
from untaught.core.statistics import wilson

RELEARN = {"lr": 0.001, "lora": None, "batch_size": 8}
LORA = {"lr": 0.001, "lora": {"alpha": 16, "rank": 8}, "batch_size": 8}
CURVES = [
    ("relearn", RELEARN, [0, 5, 10, 20, 40]),
    ("relearn", LORA, [0, 5, 10, 20, 40]),
    ("benign_finetune", {"lr": 0.001}, [0, 20, 40]),
]
SURGERY = [
    ("quantise", {"bits": 8}, 0.02),
    ("quantise", {"bits": 4}, 0.22),
    ("interpolate", {"donor": "untouched", "share": 0.25}, 0.15),
    ("interpolate", {"donor": "untouched", "share": 0.5}, 0.5),
    ("interpolate", {"donor": "untouched", "share": 0.75}, 0.9),
]
KNOWN = {"untouched": 0.97, "filtered": 0.25, "rmu": 0.29, "grad_diff": 0.33}
HIDDEN = {"untouched": 0.0, "filtered": 0.03, "rmu": 0.62, "grad_diff": 0.55}
PULL = {"relearn": 9.0, "benign_finetune": 40.0}


def row(arm, value, *, items="hazard_held_out", n=120, attack=None, settings=None, steps=0, seed=0, **other):
    """One results row; `value` None is missing. Anything else of it can be given by name."""
    share = value is None or 0 <= value <= 1
    low, high = (None, None) if value is None or not share else wilson(value, n)
    line = {
        "arm": arm,
        "attack": attack,
        "attack_settings": settings or {},
        "budget": {"steps": steps, "tokens": steps * 1536, "examples": steps * 8, "flops": steps * 7e9, "seconds": 0.1},
        "evaluation": "multiple_choice",
        "role": "hazard" if items.startswith("hazard") else "benign",
        "items": items,
        "metric": "accuracy",
        "value": value,
        "low": low,
        "high": high,
        "n": 0 if value is None else n,
        "missing": n if value is None else 0,
        "chance": 0.25,
        "seed": seed,
        "weights": hashlib.sha256(f"{arm}{attack}{settings}{steps}{seed}".encode()).hexdigest(),
    }
    return line | other


def write_run(folder: Path, rows, *, records=(), title="A small study", seeds=(0,), unlearned=(), **said) -> Path:
    """The folder with these rows and records in it. `unlearned` names arms that were made from the first of them.
    Anything else that the study says can be given by name; None says nothing.
    """
    (folder / "records").mkdir(parents=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    arms = {line["arm"]: {"training": [{"use": "pretrain"}]} for line in rows}
    for arm in unlearned:
        arms[arm] = {"from": next(iter(arms)), "unlearning": [{"use": "rmu"}]}
    study = {"title": title, "seeds": list(seeds), "world": "lab:compounds", "arms": arms}
    study |= {name: value for name, value in said.items() if value is not None}
    (folder / "study.yaml").write_text(json.dumps(study, indent=1), encoding="utf-8")
    for i, record in enumerate(records):
        (folder / "records" / f"{i:04}.json").write_text(record.to_json(), encoding="utf-8")
    return folder


def default_rows(seeds=(0, 1, 2)):
    """The default study's rows: four arms, every attack, hazard, benign, open book, perplexity."""
    rows = []
    for seed in seeds:
        draw = random.Random(seed)
        for arm in KNOWN:
            rows += _tests(arm, draw, seed, 0.0, {})
            for attack, settings, budgets in CURVES:
                for steps in budgets:
                    pull = PULL[attack] * (1.6 if settings.get("lora") else 1.0)
                    gain = HIDDEN[arm] * (1 - math.exp(-steps / pull)) * (0.5 if attack == "benign_finetune" else 1)
                    at = {"attack": attack, "settings": settings, "steps": steps}
                    rows += _tests(arm, draw, seed, gain, at, taught=attack == "relearn" and steps / 12)
            for attack, settings, share in SURGERY:
                if attack != "interpolate" or arm != "untouched":
                    rows += _tests(arm, draw, seed, HIDDEN[arm] * share, {"attack": attack, "settings": settings})
    return rows


def _tests(arm, draw, seed, gain, at, taught=0.0):
    def near(value, n=120):
        return min(n, max(0, round(n * (value + draw.gauss(0, 0.025))))) / n

    held_out = KNOWN[arm] + gain
    seen = max(held_out, 1 - (1 - KNOWN[arm]) * math.exp(-float(taught)))
    benign = 0.94 - (0.06 if arm == "grad_diff" else 0)
    rows = [
        row(arm, near(held_out), seed=seed, **at),
        row(arm, near(0.27), metric="accuracy_option_only", seed=seed, **at),
        row(arm, near(seen), items="hazard_seen", seed=seed, **at),
        row(arm, near(benign - 0.05 * (arm != "untouched")), items="neighbour", seed=seed, **at),
        row(arm, near(benign), items="benign", seed=seed, **at),
        row(arm, 1.9 + 0.1 * (arm == "grad_diff") + draw.gauss(0, 0.01), items="benign_text", evaluation="perplexity",
            metric="nats_per_token", chance=None, low=1.86, high=1.99, seed=seed, **at),
    ]  # fmt: skip
    if not at:
        for metric, value in (("closed_book", held_out), ("irrelevant_text", held_out - 0.02), ("with_text", 0.9)):
            named = {"evaluation": "open_book", "metric": f"accuracy_{metric}"}
            rows.append(row(arm, near(value, 60), n=60, seed=seed, **named))
    return rows


def filter_record(arm="filtered", seed=0, **measured):
    """A filters' record whose truth is known."""
    known = {
        "arm": arm, "read": 6000, "kept": 5210, "removed": 790, "hazard": 720, "benign": 5280, "hazard_removed": 700,
        "benign_removed": 90, "recall": 0.972, "recall_low": 0.957, "recall_high": 0.982, "precision": 0.886,
        "precision_low": 0.862, "precision_high": 0.906, "disguised": 144, "disguised_removed": 126,
        "stages": [{"use": "blocklist", "removed": 600, "hazard_removed": 560},
                   {"use": "classifier", "removed": 190, "hazard_removed": 140}],
    }  # fmt: skip
    return step(f"filter-{arm}-{seed}", "filters", "blocklist", seed=seed, measured=known | measured)


def step(identity, kind, component, *, seed=0, measured=None, seconds=3.0, spent=None):
    return Record(
        identity=identity,
        kind=kind,
        title=f"{component}, seed {seed}",
        component=component,
        settings={},
        seed=seed,
        inputs={},
        outputs={},
        measured=measured or {},
        spent=spent or {},
        cost={"seconds": seconds},
        code=hashlib.sha256(f"{kind}{component}".encode()).hexdigest(),
        versions={"untaught": "0.1.0", "python": "3.11.4", "numpy": "2.4.6"},
    )


def default_records(seeds=(0, 1, 2)):
    records = []
    for seed in seeds:
        long, short, attack = ({"steps": n, "tokens": n * 1536} for n in (600, 60, 20))
        records.append(filter_record(seed=seed, hazard_removed=700 - 3 * seed, disguised_removed=126 - 3 * seed))
        records.append(step(f"pretrain-{seed}", "training", "pretrain", seed=seed, seconds=61.0, spent=long))
        records.append(step(f"rmu-{seed}", "unlearning", "rmu", seed=seed, seconds=9.5, spent=short))
        records += [step(f"relearn-{seed}-{i}", "attacks", "relearn", seed=seed, spent=attack) for i in range(12)]
    return records


def write_default(folder: Path, seeds=(0, 1, 2)) -> Path:
    """The default study as a finished run of three seeds."""
    title = "Does filtering outlast relearning, where unlearning does not?"
    return write_run(folder, default_rows(seeds), records=default_records(seeds), title=title, seeds=seeds)
