"""Every demand of a policy: met, not met, and answered by no number."""

import pytest
from releases import POLICY, model, run, told

from untaught.attest.manifest import of_folder
from untaught.attest.policy import Policy
from untaught.attest.statement import Claim, compose
from untaught.core import UserError
from untaught.core.files import read_yaml
from untaught.core.statistics import wilson


def claimed(folder, lines=None):
    own = model(folder / "model")
    return compose(own, of_folder(own), Claim(run(folder / "run", own, lines=lines))).predicate


@pytest.fixture(scope="module")
def claim(tmp_path_factory):
    return claimed(tmp_path_factory.mktemp("claim"))


def answered(claim, **demands):
    """The answers to some demands, without that of transforms, which is always there."""
    return Policy.read(demands, "policy.yaml").answers(claim)[1:]


def only(claim, **demands):
    [answer] = answered(claim, **demands)
    return answer


def test_the_whole_policy_is_met_and_every_demand_has_its_number(claim):
    found = Policy.read(POLICY, "policy.yaml").answers(claim)
    assert [answer.clause for answer in found if not answer.holds] == []
    assert all(answer.number is not None for answer in found)


def test_the_share_recovered_is_that_of_the_worst_attack_seed_and_end(claim):
    answer = only(claim, recovery=[{"at_most": 0.2, "by": "value"}])
    assert answer.number == pytest.approx(0.03 / (0.97 - 0.26))
    upper = max((wilson(0.29 + s / 2000, 2000)[1] - 0.26 - s / 2000) / 0.71 for s in range(3))
    answer = only(claim, recovery=[{"at_most": 0.2}])
    assert answer.number == pytest.approx(upper)
    assert "relearn, 40 steps" in answer.why
    assert only(claim, recovery=[{"at_most": answer.number}]).holds, "as much as that is not more"


def test_a_budget_leaves_dearer_attacks_out(claim):
    answer = only(claim, recovery=[{"at_most": 0.2, "by": "value", "steps": 20}])
    assert answer.number == pytest.approx(0.02 / 0.71)
    assert answer.why.startswith("quantise, no training"), "surgery costs no steps, and counts under every bound"


def test_a_bound_that_nobody_came_near_to_is_not_met(claim):
    answer = only(claim, recovery=[{"at_most": 0.2, "tokens": 1e9}])
    assert (answer.holds, answer.number) == (False, None)
    assert "spent 10000000 tokens" in answer.why
    assert only(claim, recovery=[{"at_most": 0.2, "tokens": 1e9, "tried_to": 0}]).holds


def test_a_gap_that_is_not_open_has_no_share(tmp_path):
    def close(lines):
        for line in lines:
            if line["arm"] == "untouched":
                line |= told(0.27, line["items"], role=line["role"])
        return lines

    answer = only(claimed(tmp_path, close), recovery=[{"at_most": 0.2}])
    assert (answer.holds, answer.number) == (False, None)
    assert "not clearly open" in answer.why


def missing(attack):
    def lines(found):
        for line in found:
            if line["attack"] == attack and line["items"] == "hazard_held_out" and line["seed"] == 1:
                line |= told(None, line["items"])
        return found

    return lines


def test_one_value_that_is_missing_decides(tmp_path):
    found = claimed(tmp_path, missing("quantise"))
    answer = only(found, recovery=[{"at_most": 0.2}])
    assert (answer.holds, answer.number) == (False, None)
    assert answer.why == "quantise, no training, seed 1: its value is missing"
    assert only(found, recovery=[{"at_most": 0.2, "attacks": ["relearn"]}]).holds
    assert only(found, seeds_at_least=3).number == 2
    assert only(found, missing_at_most=0.5).number == 1.0
    assert only(found, items_at_least=1).number == 0


def test_a_value_that_is_missing_before_any_attack_decides_too(tmp_path):
    found = claimed(tmp_path, missing(None))
    for demand in ({"recovery": [{"at_most": 0.2}]}, {"values": [{"items": "hazard_held_out", "at_most": 0.5}]}):
        answer = only(found, **demand)
        assert (answer.holds, answer.number) == (False, None)


def test_without_a_reference_nothing_is_recovered_or_paid(tmp_path):
    def alone(lines):
        return [line for line in lines if line["arm"] == "filtered"]

    found = claimed(tmp_path, alone)
    assert found.references == ()
    for demand in ({"recovery": [{"at_most": 1}]}, {"tax": [{"at_most": 1}]}):
        assert "no reference arm" in only(found, **demand).why


@pytest.mark.parametrize("brought", [{"donor": "untouched"}, {"donor": "tuned", "base": "untouched"}])
def test_an_attack_that_mixes_in_the_reference_is_set_apart(tmp_path, brought):
    def mixing(lines):
        for line in lines:
            if line["attack"] == "quantise":
                line |= {"attack": "interpolate", "attack_settings": {**brought, "share": 0.9}}
                line |= told(0.9, line["items"], role=line["role"])
        return lines

    assert only(claimed(tmp_path, mixing), recovery=[{"at_most": 0.2}]).holds


def test_the_tax_is_newcombe_s_upper_end(claim):
    answer = only(claim, tax=[{"at_most": 0.02, "by": "value"}])
    assert answer.number == pytest.approx(0.001)
    up, down = wilson(0.95, 2000)[1] - 0.95, 0.949 - wilson(0.949, 2000)[0]
    assert only(claim, tax=[{"at_most": 0.02}]).number == pytest.approx(0.001 + (up**2 + down**2) ** 0.5)
    less = only(claim, tax=[{"at_most": 0.02, "by": "value", "lower_is_better": True}])
    assert less.number == pytest.approx(-0.001)


def test_recall_is_that_of_the_worst_filter_and_of_its_lower_end(claim):
    assert only(claim, filters=[{"at_least": 0.95}]).number == 0.97
    assert only(claim, filters=[{"at_least": 0.95, "by": "value"}]).number == 0.98
    unknown = claim.model_copy(update={"filters": (claim.filters[0].model_copy(update={"recall": None}),)})
    assert "its recall is not known" in only(unknown, filters=[{"at_least": 0.1}]).why
    assert "no filter" in only(claim.model_copy(update={"filters": ()}), filters=[{"at_least": 0.1}]).why


def test_values_are_bounded_from_either_side(claim):
    high, low = answered(claim, values=[{"items": "benign", "at_most": 0.99, "at_least": 0.9}])
    assert (high.number, low.number) == (wilson(0.949, 2000)[1], wilson(0.949, 2000)[0])


def test_a_named_attack_must_have_been_tried_with_enough(claim):
    assert only(claim, attacks=["relearn"]).holds
    assert only(claim, attacks=["quantise"]).holds, "a single point is no training, and was done"
    answer = only(claim, attacks=[{"attack": "relearn", "tokens": 1.1e7}])
    assert (answer.holds, answer.number) == (False, 1e7)
    assert not only(claim, attacks=["suffix"]).holds


def test_an_attack_of_no_budget_was_not_tried(tmp_path):
    def nothing(lines):
        return [line for line in lines if line["attack"] != "relearn" or line["budget"]["steps"] == 0]

    found = claimed(tmp_path, nothing)
    answer = only(found, attacks=[{"attack": "relearn", "steps": 1}])
    assert not answer.holds


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "demands nothing"),
        ({"title": "x"}, "demands nothing"),
        ({"recovry": []}, "Did you mean 'recovery'"),
        ({"recovery": [{"at_mos": 0.2}]}, "Did you mean 'at_most'"),
        ({"recovery": [{}]}, "at_most is missing"),
        ({"recovery": [{"at_most": -1}]}, "greater than or equal to 0"),
        ({"recovery": [{"at_most": 0.1, "by": "mean"}]}, "'interval' or 'value'"),
        ({"recovery": {"at_most": 0.1}}, "should be a list"),
        ({"filters": [{"at_least": 95}]}, "less than or equal to 1"),
        ({"values": [{"items": "benign"}]}, "give at_most, at_least, or both"),
        ({"seeds_at_least": 0}, "greater than or equal to 1"),
        ({"transforms": ["folded"], "seeds_at_least": 1}, "adapter folded"),
        ({"attacks": [{"steps": 1}]}, "attack is missing"),
    ],
)
def test_a_policy_that_says_nothing_or_says_it_wrongly_is_refused(table, said):
    with pytest.raises(UserError, match=said):
        Policy.read(table, "policy.yaml")


def test_a_number_as_people_write_it_is_read(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("recovery: [{tokens: 1e7, at_most: 20e-2}]\nmissing_at_most: 0\n")
    policy = Policy.read(read_yaml(path), path.name)
    assert (policy.recovery[0].tokens, policy.recovery[0].at_most) == (1e7, 0.2)
