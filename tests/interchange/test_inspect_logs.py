"""What other tools make of our exports: inspect-ai opens the logs, lm-evaluation-harness prints the results."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from marked_run import small_run

REASON = "{} is not installed: pip install 'untaught[evals]'"


@pytest.fixture
def finished(tmp_path):
    return small_run(tmp_path / "run")


@pytest.fixture
def logs(desk, finished, tmp_path):
    pytest.importorskip("inspect_ai", reason=REASON.format("inspect-ai"))
    answer = desk("report", finished, "--export", "inspect", "--out", tmp_path / "logs", "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["files"]


def test_inspect_reads_every_log_with_equal_numbers(logs, finished):
    from inspect_ai.log import read_eval_log

    rows = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    unseen = {(r["arm"], r["attack"], r["budget"]["steps"], r["items"], r["metric"]): r for r in rows}
    for path in logs:
        log = read_eval_log(path)
        told = log.eval.metadata
        for score in log.results.scores:
            place = (told["arm"], told["attack"], told["budget"]["steps"], log.eval.dataset.name, score.name)
            row = unseen.pop(place)
            assert (score.scored_samples, score.unscored_samples) == (row["n"], row["missing"])
            values = [sample.scores[score.name].value for sample in log.samples]
            scored = [value for value in values if not math.isnan(value)]
            assert len(scored) == row["n"]
            if row["value"] is None:
                assert score.metrics == {}
            else:
                assert score.metrics["mean"].value == row["value"] == pytest.approx(sum(scored) / len(scored))
                assert score.metrics["low"].value == row["low"]
    assert not unseen


def test_inspects_own_metrics_agree_with_ours(logs):
    from inspect_ai.log import read_eval_log
    from inspect_ai.scorer import SampleScore, mean, stderr

    log = read_eval_log(next(path for path in logs if "untouched-seed-0_multiple" in path))
    for score in log.results.scores:
        found = [SampleScore(score=one.scores[score.name]) for one in log.samples]
        found = [one for one in found if not math.isnan(one.score.as_float())]
        assert mean()(found) == pytest.approx(score.metrics["mean"].value)
        assert stderr()(found) == pytest.approx(score.metrics["stderr"].value)


def test_a_missing_item_is_unscored_with_its_cause_and_no_text_is_in_a_log(logs):
    from inspect_ai.log import read_eval_log, read_eval_log_sample

    path = next(path for path in logs if "rmu-seed-0_multiple" in path)
    sample = read_eval_log_sample(path, id="q3", epoch=1)
    assert math.isnan(sample.scores["accuracy_option_only"].value)
    assert sample.scores["accuracy_option_only"].explanation == "no finite score"
    assert sample.scores["accuracy"].value == 0.0
    log = read_eval_log(path, header_only=True)
    assert log.eval.metadata["chat_template_sha256"] == "ab" * 32
    assert all((one.input, one.target, one.messages) == ("", "", []) for one in read_eval_log(path).samples)
    assert zipfile.ZipFile(path).testzip() is None


def test_the_command_inspect_log_opens_them(logs, tmp_path):
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "INSPECT_LOG_DIR": str(tmp_path / "logs")}
    command = [sys.executable, "-m", "inspect_ai._cli.main"]
    listed = subprocess.run(
        [*command, "log", "list", "--json", "--log-dir", tmp_path / "logs"],
        capture_output=True, text=True, env=home, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)) == len(logs)
    dumped = subprocess.run(
        [*command, "log", "dump", logs[0]], capture_output=True, text=True, env=home, check=False
    )  # fmt: skip
    assert dumped.returncode == 0, dumped.stderr
    assert json.loads(dumped.stdout)["status"] == "success"


def test_lm_eval_prints_our_results(desk, finished, tmp_path):
    utils = pytest.importorskip("lm_eval.utils", reason=REASON.format("lm-eval"))
    answer = desk("report", finished, "--export", "lm-eval", "--out", tmp_path / "out", "--json")
    files = json.loads(answer.out)["files"]
    (results,) = [file for file in utils.get_results_filenames(files) if "/rmu-seed-0/" in file]
    samples = [file for file in utils.get_sample_results_filenames(files) if "/rmu-seed-0/" in file]
    told = json.loads(Path(results).read_text())
    assert sorted(utils.get_file_task_name(Path(file).name) for file in samples) == sorted(told["results"])
    table = utils.make_table(told)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    printed = {line[4]: (line[6], line[8]) for line in lines[2:]}
    assert printed["accuracy"] == ("0.2500", "0.2500")
    assert printed["judged"] == ("N/A", "N/A")
    assert printed["nats_per_token"] == (f"{5.5 / 3:.4f}", f"{math.sqrt(7 / 144):.4f}")


def test_the_hub_reads_our_cards(desk, finished, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface-hub is not installed: pip install 'untaught[hub]'")
    desk("report", finished, "--export", "card", "--out", tmp_path / "out")
    card = hub.ModelCard.load(tmp_path / "out" / "rmu-seed-0.md")
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found["hazard_held_out", "accuracy"] == 0.25
    assert len(found) == 3
