"""What a user may do wrong that no other test tries: each is told before anything is spent, or does what was meant."""

import pytest
from studies import SMALLEST, TINY, changed, put
from test_wrong_input import told

from untaught.core import UserError
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.searching import trials

OPEN = {"use": "relearn", "lr": [1e-4, 1e-2], "budget": {"steps": 4}}
BOTH = [{"use": "multiple_choice", "items": items} for items in ("hazard_held_out", "benign")]
STUDY = changed(SMALLEST, attacks=[OPEN], evaluations=BOTH)


# ------------------------------------------------------------------------------------------------------------ searches


@pytest.mark.parametrize(
    ("given", "ends", "among"),
    [
        (["1e-4", "1e-2"], [1e-4, 1e-2], False),  # as YAML reads [1e-4, 1e-2]
        ([1, 2], [1.0, 2.0], False),
        (["1e-4", 0.001, "1"], [1e-4, 1e-3, 1.0], True),
    ],
)
def test_a_range_is_of_the_numbers_that_the_setting_takes(tmp_path, given, ends, among):
    study = load(put(tmp_path / "study.yaml", changed(STUDY, attacks=[OPEN | {"lr": given}])))
    found = study.attacks[0].ranges("here")["lr"]
    assert (list(found.ends), found.among) == (ends, among)
    assert all(type(end) is float for end in found.ends)


def test_a_range_written_as_people_write_small_numbers_is_a_range(tmp_path):
    put(tmp_path / "study.yaml", STUDY | {"attacks": []})
    text = (tmp_path / "study.yaml").read_text(encoding="utf-8").replace(
        "attacks: []", "attacks: [{use: relearn, lr: [1e-4, 1e-2]}]")  # fmt: skip
    [attack] = load(put(tmp_path / "study.yaml", text)).attacks
    assert attack.ranges("here")["lr"].ends == (1e-4, 1e-2)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ({"lr": [1e-3, 1e-3]}, ["lr goes from 0.001 to 0.001. Give the lower end first, or one value."]),
        ({"lr": ["1e-2", "1e-4"]}, ["lr goes from 0.01 to 0.0001. Give the lower end first"]),
        ({"lr": [1e-3, -1.0, 1e-2]}, ["lr is -1.0: input should be greater than 0"]),
        ({"use": "interpolate", "donor": ["untouched", "other"]}, ["has donors untouched, other", "Name one"]),
        ({"budget": {"steps": [1.5, "x"]}}, ["budget.steps: [1.5, 'x'] is no whole number, and no list of them"]),
    ],
)
def test_an_attack_that_cannot_be_searched_so(desk, tmp_path, attack, words):
    entry = attack if "use" in attack else OPEN | attack
    put(tmp_path / "study.yaml", changed(STUDY, attacks=[entry]))
    told(desk("plan", "study.yaml"), "study.yaml, attacks.0", *words)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"arms__untouched__training": [{"use": "pretrain", "lr": [1e-4, 1e-2]}]}, "arms.untouched.training.0"),
        ({"arms__untouched__unlearning": [{"use": "rmu", "lr": ["1e-4", "1e-2"]}]}, "arms.untouched.unlearning.0"),
        ({"evaluations": [{"use": "multiple_choice", "items": ["hazard_held_out", "benign"]}]}, "evaluations.0"),
    ],
)
def test_only_attacks_are_searched(desk, tmp_path, change, where):
    put(tmp_path / "study.yaml", changed(STUDY, **change))
    told(desk("plan", "study.yaml"), f"study.yaml, {where} ", "only settings of attacks are searched. Give one value")


@pytest.mark.parametrize(("asked", "lacking"), [(BOTH[:1], "benign"), (BOTH[1:], "hazard")])
def test_a_search_is_judged_by_what_it_brings_back_and_what_it_costs(desk, tmp_path, asked, lacking):
    file = put(tmp_path / "study.yaml", changed(STUDY, evaluations=asked))
    told(desk("plan", "study.yaml"), "study.yaml, attacks.0 (relearn) is searched", f"asks {lacking} items. Add one")
    assert plan(load(file, {"attacks": TINY["attacks"]})).steps
    whole = plan(load(put(file, STUDY)))
    search = next(step for step in whole.steps if step.trial is not None)
    before = [{"role": "benign" if lacking == "hazard" else "hazard", "items": None, "metrics": {"accuracy": 1.0}}]
    with pytest.raises(UserError, match=f"asks {lacking} items"):  # where only files tell roles
        trials(search, before, lambda _: [], 0)
