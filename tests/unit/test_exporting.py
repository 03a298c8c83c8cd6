"""Results in the formats of other tools, and an evaluation on its own that leaves them."""

import json
import math
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from marked_run import small_run

from untaught.core import by_metric
from untaught.report import exporting


@pytest.fixture
def finished(tmp_path):
    return small_run(tmp_path / "run")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def lm_eval(place, subject):
    """The results of a subject, and its samples by task."""
    (results,) = (place / subject).glob("results_*.json")
    told = json.loads(results.read_text(encoding="utf-8"))
    samples = {task: lines(next((place / subject).glob(f"samples_{task}_*.jsonl"))) for task in told["results"]}
    return told, samples


def front(card):
    """The front matter of a card."""
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


# ---------------------------------------------------------------------------------------------------------- lm-eval


def test_lm_eval_results_have_the_numbers_of_the_rows(desk, finished, tmp_path):
    answer = desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["format"] == "lm-eval"
    assert len(told["files"]) == 2 * (1 + 3) + 4 * (1 + 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{arm}{rest}-seed-0{seed}" for arm in ("rmu", "untouched")
        for rest, seed in (("", ""), ("-relearn-5", "-attack-seed-0"), ("-relearn-20", "-attack-seed-0"))
    )  # fmt: skip
    results, samples = lm_eval(tmp_path / "out", "untouched-seed-0")
    task = "multiple_choice_hazard_held_out"
    own = results["results"][task]
    assert own["accuracy,none"] == 0.75
    assert own["accuracy_stderr,none"] == pytest.approx(math.sqrt(0.25 * 0.75 / 3))  # the sample's: n - 1
    assert results["higher_is_better"][task] == {"accuracy": True, "accuracy_option_only": True}
    assert results["higher_is_better"]["perplexity_benign_text"] == {"nats_per_token": False}
    assert results["n-samples"][task] == {"original": 4, "effective": 3}
    assert results["chat_template_sha"] == "ab" * 32
    assert [one["accuracy"] for one in samples[task]] == [1.0, 0.0, 1.0, 1.0]


def test_what_is_missing_is_no_number_in_lm_eval(desk, finished, tmp_path):
    desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out")
    results, samples = lm_eval(tmp_path / "out", "rmu-seed-0")
    assert results["results"]["judged_prompts"]["judged,none"] == "N/A"
    assert results["results"]["judged_prompts"]["judged_stderr,none"] == "N/A"
    assert results["untaught"]["missing"]["judged_prompts"] == {"judged": 2}
    *_, last = samples["multiple_choice_hazard_held_out"]
    assert (last["metrics"], "accuracy_option_only" in last) == (["accuracy"], False)
    assert last["doc"] == {"id": "q3", "missing": {"accuracy_option_only": "no finite score"}}


def test_each_budget_point_of_an_attack_has_its_own_marks(desk, finished, tmp_path):
    desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out")
    for steps, value in ((5, 0.25), (20, 0.75)):
        results, samples = lm_eval(tmp_path / "out", f"rmu-relearn-{steps}-seed-0-attack-seed-0")
        (own,) = results["results"].values()
        assert own["accuracy,none"] == value
        assert results["config"]["model_args"]["budget"]["steps"] == steps
        assert sum(one["accuracy"] for one in next(iter(samples.values()))) == 4 * value


# ------------------------------------------------------------------------------------------------------------- card


def test_a_card_has_an_arms_own_results_and_what_attacks_bring_back(desk, finished, tmp_path):
    answer = desk("report", finished, "--export", "card", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rmu-seed-0.md", "untouched-seed-0.md"]
    card = tmp_path / "out" / "rmu-seed-0.md"
    (index,) = front(card)["model-index"]
    told = [(one["dataset"]["name"], *one["metrics"]) for one in index["results"]]
    found = {(items, metric["type"]): metric["value"] for items, metric in told}
    assert found == {
        ("hazard_held_out", "accuracy"): 0.25,
        ("hazard_held_out", "accuracy_option_only"): pytest.approx(1 / 3),
        ("benign_text", "nats_per_token"): pytest.approx(5.5 / 3),
    }
    text = card.read_text(encoding="utf-8")
    assert "| judged | prompts | judged | missing | 0 of 2 |" in text
    assert "| relearn | multiple_choice | hazard_held_out | accuracy | 0.75 (" in text


# ----------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--export", "lmeval", "--out", "new"), "--export lmeval is no format. Did you mean 'lm-eval'?"),
        (("--export", "card"), "--export card needs a place to write to"),
        (("--out", "new"), "--out is for --export"),
        (("--export", "card", "--out", "run"), "is not empty"),
        (("--export", "card", "--out", "run/study.yaml"), "is a file"),
        (("--export", "card", "--out", "run/study.yaml/new"), "cannot be written"),
    ],
)
def test_a_wrong_format_or_place_is_told_and_nothing_is_written(desk, finished, tmp_path, words, said):
    answer = desk("report", "run", *words)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["lm-eval", "inspect", "card"])
def test_a_folder_without_results_is_no_run(desk, tmp_path, given):
    (tmp_path / "empty").mkdir()
    answer = desk("report", "empty", "--export", given, "--out", "new")
    assert (answer.code, "has no results.jsonl" in answer.err) == (2, True), answer.err


def test_a_run_without_marks_has_nothing_to_tell_of_items(desk, finished, tmp_path):
    (finished / "marks" / "rmu.parquet").unlink()
    answer = desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "rmu.parquet, and this format tells what every item got" in answer.err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]  # nor half a folder under a hidden name
    assert desk("report", finished, "--export", "card", "--out", tmp_path / "out").code == 0


def test_marks_that_do_not_come_to_what_the_rows_say_are_refused(desk, finished, tmp_path):
    path = finished / "marks" / "rmu.parquet"
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    values[0] = 1.0 - values[0]
    pq.write_table(table.set_column(table.schema.get_field_index("value"), "value", pa.array(values)), path)
    answer = desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "does not fit results.jsonl: of accuracy on hazard_held_out under no attack, seed 0" in answer.err


def test_without_inspect_its_logs_are_refused_with_what_to_install(desk, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    answer = desk("report", finished, "--export", "inspect", "--out", tmp_path / "out")
    assert (answer.code, "pip install 'untaught[evals]'" in answer.err) == (2, True), answer.err


def test_items_in_files_of_one_name_are_told_apart():
    tests = [
        exporting.Result(arm="a", evaluation="cloze", items=items, metric="accuracy", value=1, n=1, missing=0, seed=0)
        for items in ("one/items.jsonl", "two/items.jsonl")
    ]
    assert list(exporting._tasks(tests).values()) == ["cloze_items", "cloze_items_2"]


# ------------------------------------------------------------------------------------------ an evaluation on its own


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A tiny model and two files of items, with a configuration that asks both."""
    from untaught.engine import models
    from untaught.lab.compounds import Compounds
    from untaught.lab.start import StartingModel

    folder = tmp_path_factory.mktemp("asked")
    world = Compounds(substances=8, towns=8, values=8, exposures=2, attack_exposures=2).build(0)
    texts = world.documents["text"].to_pylist()
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=400).build(texts, 0), folder / "model")
    for name, rows in (
        ("questions", world.items["hazard_held_out"].to_pylist()),
        ("texts", world.items["benign_text"].select(["id", "text", "role"]).to_pylist()),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    listed = [{"use": "multiple_choice", "items": "questions.jsonl"}, {"use": "perplexity", "items": "texts.jsonl"}]
    table = {"wrap": {"before": "Well. "}, "evaluations": listed}
    (folder / "both.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    return folder


def test_evaluate_keeps_rows_and_marks_that_export_like_a_run(desk, asked, tmp_path):
    answer = desk("evaluate", asked / "model", "--config", asked / "both.yaml", "--out", "kept", "--json")
    assert answer.code == 0, answer.err
    printed, rows = json.loads(answer.out), lines(tmp_path / "kept" / "results.jsonl")
    assert [row["metric"] for row in printed] == ["accuracy", "accuracy_option_only", "nats_per_token"]
    assert all(row["versions"]["untaught"] and row["wrap"]["before"] == "Well. " for row in printed)
    assert [{name: row[name] for name in told} for row, told in zip(rows, printed, strict=True)] == printed
    marks = pq.read_table(tmp_path / "kept" / "marks" / "model.parquet")
    of_questions = marks.filter(pa.compute.equal(marks["evaluation"], "multiple_choice"))
    assert by_metric(of_questions)[0]["value"] == printed[0]["value"]
    assert desk("report", "kept", "--export", "lm-eval", "--out", "handed").code == 0
    results, _ = lm_eval(tmp_path / "handed", "model-seed-0")
    assert results["results"]["multiple_choice_questions"]["accuracy,none"] == printed[0]["value"]
    assert desk("report", "kept", "--export", "card", "--out", "cards").code == 0
    assert desk("report", "kept", "--export", "lm-eval-tasks", "--out", "tasks").code == 0
    assert list((tmp_path / "tasks").glob("*.yaml"))
    said = desk("report", "kept")
    assert (said.code, f"{printed[0]['value']:.3f}" in said.out) == (0, True)
    again = desk("evaluate", asked / "model", "--config", "kept/evaluation.yaml", "--json")
    assert [row["value"] for row in json.loads(again.out)] == [row["value"] for row in printed]


def test_evaluate_says_what_stands_around_prompts_and_where_its_results_are(desk, asked):
    answer = desk("evaluate", asked / "model", "--config", asked / "both.yaml", "--out", "kept")
    assert answer.code == 0, answer.err
    assert answer.out.count('Around every prompt: {"before": "Well. "}') == 2
    assert "The results are in kept" in answer.err
    full = desk("evaluate", asked / "model", "--config", asked / "both.yaml", "--out", "kept")
    assert (full.code, "is not empty" in full.err) == (2, True)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"evaluations": []}, "evaluations should be a list"),
        ({"evaluations": {"use": "cloze"}}, "evaluations should be a list"),
        ({"evaluations": [{"items": "questions.jsonl"}]}, "evaluations.0 names no component"),
        ({"use": "cloze", "evaluations": [{"use": "cloze"}]}, "has both 'use' and 'evaluations'"),
        ({"evaluations": [{"use": "cloze", "items": "q"}] * 2}, "both ask cloze of q. Ask them one by one."),
    ],
)
def test_a_wrong_list_of_evaluations_is_told_before_a_model_is_loaded(desk, tmp_path, table, said):
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    answer = desk("evaluate", "nowhere", "--config", "asked.yaml")
    assert (answer.code, said in answer.err) == (2, True), answer.err
