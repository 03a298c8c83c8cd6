"""An attacker who searches: settings left open, trials that are steps like any other, and the worst case of them."""

import os
import re

import pytest
from studies import TINY, changed, put, records_of, rows_of, run, timeless, untaught

from untaught.core import UserError
from untaught.report import account, read
from untaught.report.page import render
from untaught.report.pooling import worst
from untaught.report.searches import BOUNDS, searches
from untaught.study.plan import plan
from untaught.study.ranges import Range
from untaught.study.schema import load

TRIALS = 8
OPEN = {"use": "relearn", "batch_size": 2, "lr": [1e-4, 3e-2], "rank": [None, 4], "budget": {"steps": 4}}
STUDY = changed(TINY, attacks=[OPEN | {"search": {"trials": TRIALS}}, {"use": "quantise", "bits": 4}]) | {
    "arms": {name: TINY["arms"][name] for name in ("untouched", "rmu")},
    "evaluations": [{"use": "multiple_choice", "items": items} for items in ("hazard_held_out", "benign")],
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    _, rows = run(put(folder / "study.yaml", STUDY), folder / "home", folder / "out")
    return folder, rows


def trials_of(rows, arm):
    return [row for row in rows if row.get("search") and (row["arm"], row["items"], row["metric"]) == (
        arm, "hazard_held_out", "accuracy")]  # fmt: skip


def test_a_search_tries_as_many_settings_as_it_was_told_to_within_the_ranges(searched):
    for arm in STUDY["arms"]:
        found = trials_of(searched[1], arm)
        assert [row["search"]["trial"] for row in found] == list(range(TRIALS))
        assert all(1e-4 <= row["attack_settings"]["lr"] <= 3e-2 for row in found)
        assert {row["attack_settings"]["rank"] for row in found} == {None, 4}
        assert len({row["attack_settings"]["lr"] for row in found}) == TRIALS
        assert all(row["search"]["ranges"] == {"lr": [1e-4, 3e-2], "rank": [None, 4]} for row in found)


def test_every_trial_is_evaluated_on_hazard_and_on_utility(searched):
    rows = searched[1]
    for arm in STUDY["arms"]:
        [before] = [row["value"] for row in rows if (row["arm"], row["attack"], row["items"], row["metric"]) == (
            arm, None, "benign", "accuracy")]  # fmt: skip
        after = {row["search"]["trial"]: row["value"] for row in rows if row.get("search") and (
            row["arm"], row["items"], row["metric"]) == (arm, "benign", "accuracy")}  # fmt: skip
        for row in trials_of(rows, arm):
            told = row["search"]
            assert told["hazard"] == row["value"]
            assert told["cost"] == pytest.approx(max(0.0, before - after[told["trial"]]))
            assert row["budget"]["steps"] == (1 if told["ended_early"] else 4)


def test_only_trials_after_the_free_ones_are_ended_early(searched):
    early = [row["search"]["trial"] for arm in STUDY["arms"] for row in trials_of(searched[1], arm)
             if row["search"]["ended_early"]]  # fmt: skip
    assert all(trial >= 6 for trial in early)


def test_the_same_search_again_does_nothing_and_a_killed_one_comes_to_the_same_trials(searched, tmp_path):
    folder, rows = searched
    before = records_of(folder / "home")
    done, again = run(folder / "study.yaml", folder / "home", tmp_path / "out")
    assert done == 0
    assert again == rows
    assert records_of(folder / "home") == before
    for path in (folder / "home" / "steps").glob("*/*/record.json"):  # as if it had been killed after its trials
        if '"kind": "search"' in path.read_text(encoding="utf-8"):
            os.remove(path)
    run(folder / "study.yaml", folder / "home", tmp_path / "later")
    assert timeless(rows_of(tmp_path / "later")) == timeless(rows)


def test_a_trial_is_the_attack_with_those_settings(searched, tmp_path):
    folder, rows = searched
    chosen = next(row for row in trials_of(rows, "rmu") if not row["search"]["ended_early"])
    closed = changed(STUDY, attacks=[OPEN | {k: chosen["attack_settings"][k] for k in ("lr", "rank")}])
    _, plain = run(put(tmp_path / "study.yaml", closed), folder / "home", tmp_path / "out")
    alike = [row for row in plain if (row["arm"], row["attack"], row["items"], row["metric"]) == (
        "rmu", "relearn", "hazard_held_out", "accuracy")]  # fmt: skip
    assert [(row["weights"], row["value"]) for row in alike] == [(chosen["weights"], chosen["value"])]


def test_the_report_shows_the_worst_case_at_every_bound(searched):
    story = account(read(searched[0] / "out"))
    [found] = searches(story)
    assert found.trials == TRIALS
    assert found.attack.label == f"relearn, worst of {TRIALS} trials"
    assert [line.arm for line in found.table.lines] == list(STUDY["arms"])
    assert len(found.table.headings) == len(BOUNDS) + 2
    page = render(story)
    assert "What an attacker finds who searches" in page
    assert re.search(r"relearn, trial 1 of 8 \(lr [\d.e-]+, rank ", page)


def test_the_worst_case_is_the_highest_that_costs_no_more_than_the_bound(searched):
    rows = [row for row in read(searched[0] / "out").rows if row.items == "hazard_held_out"]
    rows = [row for row in rows if row.metric == "accuracy"]
    for bound in BOUNDS:
        for arm in STUDY["arms"]:
            own = [row for row in rows if row.arm == arm and row.search is not None]
            allowed = [row.value for row in own if row.search.cost <= bound]
            assert [row.value for row in worst(own, bound)] == ([max(allowed)] if allowed else [])
    assert [row for row in rows if row.search is None] == [row for row in worst(rows, 0.1) if row.search is None]


def test_a_larger_bound_never_lowers_the_worst_case(searched):
    rows = [row for row in read(searched[0] / "out").rows if row.search and row.items == "hazard_held_out"]
    for arm in STUDY["arms"]:
        own = [row for row in rows if row.arm == arm and row.metric == "accuracy"]
        values = [row.value for bound in BOUNDS for row in worst(own, bound)]
        assert values == sorted(values)


# ------------------------------------------------------------------------------------------------------------ ranges


@pytest.mark.parametrize(
    ("given", "among"),
    [([1e-6, 1e-3], False), ([4, 64], False), ([8, 16, 32], True), (["constant", "cosine"], True), ([None, 8], True),
     ([True, False], True)],
)  # fmt: skip
def test_two_numbers_are_a_range_and_all_else_is_a_choice(given, among):
    assert Range.of("x", given, "here").among is among


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": [1e-2, 1e-5]}, "lr goes from 0.01 to 1e-05. Give the lower end first"),
        ({"lr": [1e-2]}, r"lr is \[0.01\]: give \[lowest, highest\]"),
        ({"lr": [8, 8, 8]}, "values that differ"),
        ({"lr": [-1.0, 1e-2]}, "lr is -1.0: input should be greater than 0"),
        ({"rank": [None, 0]}, "rank is 0: input should be greater than or equal to 1"),
        ({"search": {"trials": 0}}, "search.trials is 0"),
        ({"lr": 1e-3, "rank": None, "search": {"trials": 4}}, "has a search and no range"),
        ({"lrr": [1e-5, 1e-2]}, "has no setting 'lrr'. Did you mean 'lr'"),
    ],
)
def test_a_range_that_cannot_be_searched_is_told_when_the_study_is_read(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        load(put(tmp_path / "study.yaml", changed(STUDY, attacks=[OPEN | change])))


def test_a_resolved_study_keeps_its_ranges(searched, tmp_path):
    [attack, _] = load(searched[0] / "out" / "study.yaml").attacks
    assert {name: range_.plain() for name, range_ in attack.ranges("attacks.0").items()} == {
        "lr": [1e-4, 3e-2], "rank": [None, 4]
    }  # fmt: skip
    before = {step.label: step.identity for step in plan(load(searched[0] / "study.yaml")).steps}
    after = {step.label: step.identity for step in plan(load(searched[0] / "out" / "study.yaml")).steps}
    assert before == after


def test_without_optuna_a_study_with_ranges_says_what_to_install(tmp_path, monkeypatch):
    from importlib import metadata

    def missing(name):
        if name == "optuna":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    real = metadata.version
    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install 'untaught\[sweep\]'"):
        plan(load(put(tmp_path / "study.yaml", STUDY)))


def test_the_plan_counts_searches_beside_the_other_steps(searched):
    done = untaught("plan", searched[0] / "study.yaml", home=searched[0] / "home")
    assert done.returncode == 0
    assert re.search(r"search\s+│ 2\s+│ 2", done.stdout)
