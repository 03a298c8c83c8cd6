"""Results as lm-evaluation-harness writes them: `results_DATE.json` and `samples_TASK_DATE.jsonl`, a folder a subject.

Source: https://github.com/EleutherAI/lm-evaluation-harness, `lm_eval/result_schema.py` and
`lm_eval/loggers/evaluation_tracker.py`. A metric keeps our name, since ours are not its `acc` (`accuracy` is normalised
by tokens); its standard error is sample deviation / sqrt(n), as there. A value that is missing is "N/A", and in samples
it is left out. Of a sample's document there is only its id; prompts and answers are empty.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .exporting import Results, Test, Tested, higher_is_better, of_metric, read, reported, standard_error

NONE = "N/A"
FILTER = "none"


def write(run: Path, out: Path) -> list[Path]:
    """One folder a subject; returns the files."""
    results = read(run)
    date = results.date.replace(tzinfo=None).isoformat().replace(":", "-")
    written: list[Path] = []
    for tested in results.tested:
        folder = out / tested.name
        folder.mkdir(parents=True)
        samples = {test.task: _samples(test) for test in tested.tests}
        told = _results(tested, results, samples)
        written.append(folder / f"results_{date}.json")
        written[-1].write_text(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        for task, lines in samples.items():
            written.append(folder / f"samples_{task}_{date}.jsonl")
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
            written[-1].write_text(text, encoding="utf-8")
    return written


def _results(tested: Tested, results: Results, samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    tests, row, versions = tested.tests, tested.any_row, reported(results)
    system = row.wrap.get("system")
    return {
        "results": {test.task: _metrics(test) for test in tests},
        "group_subtasks": {test.task: [] for test in tests},
        "configs": {test.task: _config(test) for test in tests},
        "versions": {test.task: versions["untaught"] for test in tests},
        "n-shot": {test.task: int(row.wrap.get("shown") or row.attack_settings.get("shown") or 0) for test in tests},
        "higher_is_better": {test.task: {name: higher_is_better(name) for name in test.rows} for test in tests},
        "n-samples": {test.task: _counts(test) for test in tests},
        "config": {"model": "untaught", "model_args": tested.plain(), "limit": None, "random_seed": row.seed},
        "git_hash": None,
        "date": results.date.timestamp(),
        "transformers_version": versions.get("transformers", NONE),
        "lm_eval_version": None,
        "model_source": "untaught",
        "model_name": tested.name,
        "model_name_sanitized": tested.name,
        "system_instruction": system,
        "system_instruction_sha": _sha(system) if system else None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": results.template,
        "task_hashes": {task: _sha("".join(one["doc_hash"] for one in lines)) for task, lines in samples.items()},
        "untaught": {"versions": versions, "wrap": row.wrap, "missing": _missing(tests)},
    }


def _metrics(test: Test) -> dict[str, Any]:
    found: dict[str, Any] = {"name": test.task, "alias": test.task, "sample_len": len(test.marks)}
    for metric, row in test.rows.items():
        error = standard_error(of_metric(test, metric))
        found[f"{metric},{FILTER}"] = NONE if row.value is None else row.value
        found[f"{metric}_stderr,{FILTER}"] = NONE if error is None else error
    return found | {"sample_count": {f"{metric},{FILTER}": row.n for metric, row in test.rows.items()}}


def _counts(test: Test) -> dict[str, int]:
    """Items, and those of them that every metric scored."""
    whole = sum(all(said.value is not None for said in told.values()) for told in test.marks.values())
    return {"original": len(test.marks), "effective": whole}


def _config(test: Test) -> dict[str, Any]:
    row = test.any_row
    told = {metric: {"low": one.low, "high": one.high, "chance": one.chance} for metric, one in test.rows.items()}
    return {
        "task": test.task,
        "dataset_path": "untaught",
        "dataset_name": row.items,
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": higher_is_better(metric)}
            for metric in test.rows
        ],
        "metadata": {"evaluation": row.evaluation, "role": row.role, "metrics": told},
    }


def _missing(tests: list[Test]) -> dict[str, dict[str, int]]:
    """How many items are missing, by task and metric; those without any are left out."""
    counts = {test.task: {name: row.missing for name, row in test.rows.items() if row.missing} for test in tests}
    return {task: own for task, own in counts.items() if own}


def _samples(test: Test) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, (item, told) in enumerate(test.marks.items()):
        lost = {metric: said.note for metric, said in told.items() if said.value is None}
        scored = {metric: said.value for metric, said in told.items() if said.value is not None}
        doc = {"id": item} | ({"missing": lost} if lost else {})
        lines.append(
            {
                **{"doc_id": number, "doc": doc, "target": "", "arguments": {}, "resps": [], "filtered_resps": []},
                **{"filter": FILTER, "metrics": list(scored), "doc_hash": _sha(item)},
                **{"prompt_hash": "", "target_hash": ""},
                **scored,
            }
        )
    return lines


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
