"""A study and `untaught evaluate` ask a task file of lm-eval beside item sets."""

import json

STUDY = """
title: A task beside the world's items
world: {use: compounds, substances: 8, towns: 8, values: 8, exposures: 6, attack_exposures: 3}
start: {width: 32, blocks: 2, heads: 2, vocabulary: 400}
arms:
  untouched: {training: [{use: pretrain, epochs: 1}]}
evaluations:
  - {use: lm_eval, task: rivers.yaml, role: benign}
  - {use: lm_eval, items: benign}
"""
TASK = """
task: rivers
dataset_path: json
dataset_kwargs: {data_files: {test: rivers.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: options
doc_to_target: label
"""


def test_a_task_is_asked_and_asked_anew_only_when_it_changes(desk, tmp_path):
    for name, text in (("study.yaml", STUDY), ("rivers.yaml", TASK)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    doc = {"q": "The river of Abburg is", "options": ["Oran", "Sefu"], "label": 1}
    for question, steps in ((doc["q"], 4), (doc["q"], 0), ("The river of Kaburg is", 1)):
        (tmp_path / "rivers.jsonl").write_text(json.dumps(doc | {"q": question}) + "\n", encoding="utf-8")
        told = desk("run", "study.yaml", "--out", "out", "--set", "workers=1")
        assert told.code == 0, told.err
        assert f"{steps} of 4 steps were done now" in told.out + told.err
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {(row["items"], row["metric"]) for row in rows} == {
        (items, metric) for items in ("rivers", "benign") for metric in ("acc", "acc_norm")
    }
