"""How many multiple-choice items a second are asked, beside lm-evaluation-harness, and whether both find the same.

    python benchmarks/lm_eval.py [--rounds N] [--every N]

Needs the extra `evals`, and `untaught fetch` of smollm2, elements and mmlu-dev. Both are given the same task files, the
same loaded model and float32, one thread, one process, in turn. Lm-eval runs with its own wrapper (HFLM) and with each
batch size, of which the two that were fastest go on to the other rounds; we run `LmEval`, reading of the file included.

    elements    held-out facts of elements, whole options, on SmolLM2 135M (pinned): the task that speed is told of
    mmlu        every tenth question of MMLU's development set, letters after the options, on the same
    mmlu whole  the same, whole options after the question
    compounds   held-out facts of a lab world, on a lab model that was not trained

For each item `acc` and `acc_norm` must be equal. Letters are where lm-eval is at its best: where a continuation is one
token it asks the options of an item at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml

from untaught import assets
from untaught.core import Compute, Subject
from untaught.corpus.reading import read_items
from untaught.engine import compute, models
from untaught.evaluations.lm_eval import LmEval
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel

KEPT = Path(__file__).with_suffix(".json")
SIZES = (1, 8, 16, 32, 64, "auto")
WHOLE = {"doc_to_text": "question", "doc_to_choice": "choices", "doc_to_target": "answer"}
LETTERS = {
    "doc_to_text": (
        "Question: {{question}}\n{% for one in choices %}{{'ABCD'[loop.index0]}}. {{one}}\n{% endfor %}Answer:"
    ),
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
}
Scores = dict[str, tuple[float, float]]

sys.path = [place for place in sys.path if not place.endswith("benchmarks")]  # this file bears their package's name


def written(folder: Path, name: str, rows: list[dict], form: dict) -> Path:
    """A task file and its data."""
    docs = [{key: row[key] for key in ("question", "choices", "answer")} for row in rows]
    data, file = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs), encoding="utf-8")
    plain = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    plain |= {"test_split": "test", "output_type": "multiple_choice", **form}
    metrics = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in ("acc", "acc_norm")]
    file.write_text(yaml.safe_dump(plain | {"metric_list": metrics}), encoding="utf-8")
    return file


def ours(subject: Subject, file: Path) -> Scores:
    task = LmEval(task=str(file))
    rows = task.grade(subject, task.brought()).to_pylist()
    by_metric = {m: {r["item"]: r["value"] for r in rows if r["metric"] == m} for m in ("acc", "acc_norm")}
    return {item: (value, by_metric["acc_norm"][item]) for item, value in by_metric["acc"].items()}


def theirs(subject: Subject, tasks: dict, size: int | str) -> Scores:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=size, max_batch_size=64)
    found = evaluate(model, tasks, bootstrap_iters=0, log_samples=True)
    return {
        f"{name}/{one['doc_id']}#{one['doc_hash'][:8]}": (float(one["acc"]), float(one["acc_norm"]))
        for name, samples in found["samples"].items()
        for one in samples
    }


def compared(subject: Subject, file: Path, rounds: int, sizes: tuple) -> dict:
    """One task, both ways in turn: items a second of processor time and of the clock, and whether marks are equal."""
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(file.parent), include_defaults=False).load(file.stem)
    ways = {"ours": lambda: ours(subject, file)}
    ways |= {f"lm-eval {size}": (lambda size=size: theirs(subject, tasks, size)) for size in sizes}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    scores: dict[str, Scores] = {}
    for turn in range(rounds):
        fastest = sorted(taken, key=lambda name: taken[name] and min(taken[name]) or (0.0, 0.0))
        again = {"ours", *[name for name in fastest if name != "ours"][:2]}  # the others have had their chance
        for name, way in ways.items():
            if turn and name not in again:
                continue
            began = time.process_time(), time.perf_counter()
            scores[name] = way()
            taken[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    count = len(scores["ours"])
    unequal = {n: sum(scores["ours"][item] != one for item, one in found.items()) for n, found in scores.items()}
    assert all(found.keys() == scores["ours"].keys() for found in scores.values()), "other items"
    cpu, clock = (
        {name: round(count / float(np.median([one[side] for one in seconds])), 2) for name, seconds in taken.items()}
        for side in (0, 1)
    )
    best = max(speed for name, speed in cpu.items() if name != "ours")
    right = [round(float(np.mean([one[side] for one in scores["ours"].values()])), 4) for side in (0, 1)]
    return {
        "items": count,
        "rounds": rounds,
        "acc": right[0],
        "acc_norm": right[1],
        "items_whose_marks_differ": unequal,
        "items_per_cpu_second": cpu,
        "items_per_second": clock,
        "times_the_best_of_lm_eval": round(cpu["ours"] / best, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of elements; the others have one")
    parser.add_argument("--every", type=int, default=10, help="of MMLU's questions")
    asked = parser.parse_args()
    compute.begin(Compute(device="cpu", dtype="float32", threads=1))
    here = Path()
    subject = models.load(assets.path("asset:smollm2", here))
    elements = read_items(assets.path("asset:elements/items/hazard_held_out.parquet", here)).to_pylist()
    mmlu = read_items(assets.path("asset:mmlu-dev/items.parquet", here)).to_pylist()[:: asked.every]
    world = Compounds(substances=32).build(0)
    small = StartingModel().build(world.documents["text"].to_pylist(), 0)
    plan = {
        "elements": (subject, elements, WHOLE, asked.rounds, SIZES),
        "mmlu": (subject, mmlu, LETTERS, 1, (1, 4, 8)),
        "mmlu_whole": (subject, mmlu, WHOLE, 1, (1, 4, 8)),
        "compounds": (small, world.items["hazard_held_out"].to_pylist(), WHOLE, 3, SIZES),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, rows, form, rounds, sizes) in plan.items():
            found[name] = compared(model, written(Path(folder), name, rows, form), rounds, sizes)
            print(name, json.dumps(found[name], indent=1), flush=True)
    kept = {
        "unit": "items a second of processor time, one thread, float32; the median of some rounds",
        "tasks": found,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("lm-eval", "torch", "transformers")},
        "model": assets.path("asset:smollm2", here).name,
    }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    assert not any(sum(one["items_whose_marks_differ"].values()) for one in found.values()), "marks differ"


if __name__ == "__main__":
    main()
