"""Study files: what is read, what is refused and with which words, and that a resolved study says all of itself."""

import json

import pytest
import yaml
from studies import PRETRAIN, SMALLEST, TINY, changed, identities, put, run

from untaught.core import UserError
from untaught.study.plan import plan
from untaught.study.schema import load


def refused(tmp_path, table, **changes):
    """The message a study is refused with."""
    with pytest.raises(UserError) as caught:
        plan(load(put(tmp_path / "study.yaml", changed(table, **changes))))
    return str(caught.value)


def again(file, folder):
    """The resolved study, written to another folder."""
    return put(folder / "study.yaml", load(file).to_yaml())


def test_the_default_study_resolves_to_one_with_the_same_steps(tmp_path):
    assert identities(again(None, tmp_path / "elsewhere")) == identities(None)


def test_a_resolved_study_resolves_to_itself(tmp_path):
    once = again(put(tmp_path / "a" / "study.yaml", TINY), tmp_path / "b")
    assert load(once).to_yaml() == once.read_text(encoding="utf-8")
    assert identities(once) == identities(tmp_path / "a" / "study.yaml")


def test_a_blocklist_in_a_file_stands_in_the_resolved_study(tmp_path):
    put(tmp_path / "a" / "terms.txt", "precursor\n\nsynthesis\n")
    file = put(tmp_path / "a" / "study.yaml", changed(TINY, arms__filtered__filters__0__terms="terms.txt"))
    steps = identities(file)
    elsewhere = again(file, tmp_path / "b")
    stage = yaml.safe_load(elsewhere.read_text(encoding="utf-8"))["arms"]["filtered"]["filters"][0]
    assert stage["terms"] == ["precursor", "synthesis"]
    (tmp_path / "a" / "terms.txt").unlink()
    assert identities(elsewhere) == steps


def test_settings_are_changed_by_path(tmp_path):
    file = put(tmp_path / "study.yaml", TINY)
    study = load(file, {"seeds": [3], "arms.rmu.unlearning.0.steps": 7, "arms.untouched.training.0.epochs": 2})
    assert study.seeds == (3,)
    assert study.arms["rmu"].unlearning[0].settings["steps"] == 7
    assert study.arms["untouched"].training[0].settings["epochs"] == 2


def test_a_world_given_by_its_name_alone_can_have_its_settings_changed():
    assert load(None, {"world.substances": 8}).world_settings().substances == 8


def test_a_setting_can_be_made_where_the_file_has_none(tmp_path):
    table = {name: value for name, value in TINY.items() if name != "start"}
    assert load(put(tmp_path / "study.yaml", table), {"start.width": 64}).start.width == 64


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("arms.rmuu.unlearning.0.steps", "--set arms.rmuu.unlearning.0.steps: there is no arm 'rmuu'. Did you mean"),
        ("seeds.0.x", "--set seeds.0.x: there is nothing to set below a int."),
        ("attacks.2.lr", "--set attacks.2.lr: '2' should be a position from 0 to 1."),
        ("attacks.first.lr", "--set attacks.first.lr: 'first' should be a position from 0 to 1."),
        ("titel", "study.yaml has no setting 'titel'. Did you mean 'title'?"),
    ],
)
def test_a_change_that_goes_nowhere_is_refused(tmp_path, path, words):
    with pytest.raises(UserError) as caught:
        load(put(tmp_path / "study.yaml", TINY), {path: 1})
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"arms__untouched__from": "rmu"},
            "study.yaml: arms start from each other in a circle: untouched from rmu from untouched.",
        ),
        ({"arms__rmu__from": "rmu"}, "study.yaml: arms start from each other in a circle: rmu from rmu."),
        (
            {"arms__rmu__from": "untuched"},
            "study.yaml, arms.rmu.from is 'untuched', which is no arm. Did you mean 'untouched'?",
        ),
        (
            {"attacks": [{"use": "merge", "way": "ties", "base": "untuched"}]},
            "study.yaml, attacks.0 (merge) has base 'untuched', which is no arm. Did you mean 'untouched'?",
        ),
        (
            {"attacks": [{"use": "interpolate", "donor": "untuched"}]},
            "study.yaml, attacks.0 (interpolate) has donor 'untuched', which is no arm. Did you mean 'untouched'?",
        ),
        (
            {"evaluations__1__items": "benin"},
            "study.yaml, evaluations.1 (perplexity) has items 'benin', which is no item set of the study. Did you mean"
            " 'benign'?",
        ),
        (
            {"evaluations__0__budget": {"steps": 3}},
            "study.yaml, evaluations.0 (evaluations.multiple_choice) has a budget; only attacks have one.",
        ),
        (
            {"arms__rmu__unlearning__0__budget": {"steps": 3}},
            "study.yaml, arms.rmu.unlearning.0 (unlearning.rmu) has a budget; only attacks have one. Set its 'steps'.",
        ),
        (
            {"arms__rmu__unlearning__0__stop": {"kl": 0.1, "evry": 3}},
            "study.yaml.arms.rmu.unlearning.0.stop has no setting 'evry'. Did you mean 'every'?",
        ),
        (
            {"arms__rmu__unlearning__0__stop": {"every": 3}},
            "study.yaml, arms.rmu.unlearning.0.stop: names no bound: give 'kl' or 'loss'.",
        ),
        (
            {"attacks__0__use": "relern"},
            "study.yaml, attacks.0: there is no component 'relern' on the shelf attacks. Did you mean 'relearn'?",
        ),
        (
            {"attacks__0": {"use": "rmu"}},
            "study.yaml, attacks.0: there is no component 'rmu' on the shelf attacks. 'rmu' is on the shelf unlearning",
        ),
        (
            {"arms__rmu__unlearning__0__stepz": 1},
            "study.yaml, arms.rmu.unlearning.0 (unlearning.rmu) has no setting 'stepz'. Did you mean 'steps'?",
        ),
        ({"world__use": "compound"}, "study.yaml, world: there is no lab world 'compound'. Did you mean 'compounds'?"),
        (
            {"world__substancs": 8},
            "study.yaml, world (compounds) has no setting 'substancs'. Did you mean 'substances'?",
        ),
        (
            {"arms__filtered__training": []},
            "study.yaml, arms.filtered filters text but trains on none. Add 'training', or remove 'filters'.",
        ),
        (
            {"controls": {"shallow": ["rmuu"]}},
            "study.yaml, controls.shallow.0 is 'rmuu', which is no arm. Did you mean 'rmu'?",
        ),
        (
            {"controls": {"shallow": ["rmu"], "never": "filterd"}},
            "study.yaml, controls.never is 'filterd', which is no arm. Did you mean 'filtered'?",
        ),
        (
            {"controls": {"shallow": ["rmu", "untouched"]}},
            "study.yaml, controls.shallow.1 is 'untouched', the reference, which learned the hazard and keeps it. Name"
            " an arm that defends itself a little.",
        ),
        (
            {"controls": {"never": "untouched"}},
            "study.yaml, controls.never is 'untouched', the reference, which learned the hazard and keeps it. Name an"
            " arm that never learned it.",
        ),
        (
            {"controls": {"shalow": ["rmu"]}},
            "study.yaml.controls has no setting 'shalow'. Did you mean 'shallow'?",
        ),
    ],
)
def test_names_that_are_not_there_are_told_with_their_place(tmp_path, changes, words):
    assert refused(tmp_path, TINY, **changes).startswith(words)


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"attacks__0__budget__tokens": [5, 6]}, "study.yaml, attacks.0.budget", "at most one of steps, tokens"),
        ({"attacks__0__budget__steps": [3, -1]}, "study.yaml, attacks.0.budget", "must not be negative"),
        ({"attacks__0__budget__steps": -1}, "study.yaml, attacks.0.budget", "must not be negative"),
        ({"attacks__0__budget__steps": []}, "study.yaml, attacks.0.budget", "must not be empty"),
        ({"arms": {}}, "study.yaml, arms", "at least 1"),
        ({"arms": {"a/b": PRETRAIN}}, "study.yaml, arms", "letters"),
        ({"evaluations": []}, "study.yaml, evaluations", "at least 1"),
        ({"controls": {}}, "study.yaml, controls", "names no arm: give 'shallow', 'never' or both"),
        ({"controls": {"shallow": ["a"], "never": "a"}}, "study.yaml, controls", "'a' is in 'shallow' and is 'never'"),
        (
            {"price": {"currency": "USD"}},
            "study.yaml, price",
            "give either 'per_hour' or 'per_exaflop', one of the two",
        ),
        ({"price": {"per_hour": 2, "per_exaflop": 1, "currency": "USD"}}, "study.yaml, price", "one of the two"),
        ({"price": {"per_hour": -2, "currency": "USD"}}, "study.yaml, price.per_hour is -2", "greater than or equal"),
        ({"price": {"per_hour": float("inf"), "currency": "USD"}}, "study.yaml, price.per_hour is inf", "finite"),
        ({"price": {"per_hour": 2}}, "study.yaml, price.currency is missing", ""),
        ({"seeds": [1, 1]}, "study.yaml", "'seeds' must be a list of different numbers"),
        ({"seeds": []}, "study.yaml", "'seeds' must be a list of different numbers"),
        ({"seeds": [-1]}, "study.yaml, seeds.0 is -1", "greater than or equal to 0"),
        ({"workers": 0}, "study.yaml, workers is 0", "greater than or equal to 1"),
        ({"corpus": {"hazard": "h", "benign": "b"}}, "study.yaml", "either 'world' or 'corpus', one of the two"),
        ({"world": None}, "study.yaml", "either 'world' or 'corpus', one of the two"),
        ({"world": None, "corpus": {"hazard": "h", "benign": "b"}}, "study.yaml", "'corpus' needs 'base'"),
        (
            {"world": None, "corpus": {"benign": "b"}, "base": "m", "items": {"x": "y"}},
            "study.yaml",
            "'corpus' names no hazard text",
        ),
    ],
)
def test_values_that_cannot_be_are_told_with_their_place(tmp_path, changes, place, words):
    message = refused(tmp_path, SMALLEST | {"attacks": TINY["attacks"]}, **changes)
    assert message.startswith(place)
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [1\nb: 2", "study.yaml, line 2, column 2 is not YAML: "),
        ("just words", "study.yaml holds a single value, and should hold a table: lines of 'name: value'."),
        ("- a", "study.yaml holds a list, and should hold a table: lines of 'name: value'."),
        ("", "study.yaml is empty, and should hold a table: lines of 'name: value'."),
        (b"\xff\xfe\x00", "study.yaml is not UTF-8 text, so it is not a YAML file."),
        ("title: a\narms: {x: {}, x: {}}", "study.yaml, line 2, column 15 is not YAML: 'x' is there twice in a table."),
        ("title: !!python/object:os.system {}", "study.yaml, line 1, column 8 is not YAML: "),
    ],
)
def test_a_file_that_is_no_study_is_told_with_the_place(tmp_path, content, words):
    file = put(tmp_path / "study.yaml", content)
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{tmp_path}/{words}")


def test_a_study_that_is_not_there_or_is_a_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.yaml\. Give the path of a YAML file\."):
        load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        load(tmp_path)


def test_a_list_of_terms_that_is_not_there_is_told(tmp_path):
    assert "none.txt" in refused(tmp_path, TINY, arms__filtered__filters__0__terms="none.txt")


TOLD = {"controls": {"shallow": ["rmu"], "never": "filtered"}, "price": {"per_hour": 2.5, "currency": "USD"}}


def test_controls_and_prices_change_no_step(tmp_path):
    plain, named = put(tmp_path / "a" / "study.yaml", TINY), put(tmp_path / "b" / "study.yaml", TINY | TOLD)
    assert identities(named) == identities(plain)
    assert not TOLD.keys() & yaml.safe_load(load(plain).to_yaml()).keys()


def test_a_resolved_study_has_its_controls_and_its_price(tmp_path):
    once = again(put(tmp_path / "a" / "study.yaml", TINY | TOLD), tmp_path / "b")
    found = yaml.safe_load(once.read_text(encoding="utf-8"))
    assert {name: found[name] for name in TOLD} == TOLD
    assert load(once).to_yaml() == once.read_text(encoding="utf-8")


def test_the_reference_is_the_first_arm_where_none_has_its_name(tmp_path):
    arms = {"base": PRETRAIN, "rmu": TINY["arms"]["rmu"] | {"from": "base"}}
    said = refused(tmp_path, TINY | {"arms": arms, "controls": {"shallow": ["base"]}})
    assert said.startswith("study.yaml, controls.shallow.0 is 'base', the reference")


def test_a_finished_study_is_told_its_controls_and_prices_without_doing_a_step(tmp_path):
    attacks = [{"use": "relearn", "batch_size": 2, "budget": {"steps": [0, 2]}}, {"use": "quantise", "bits": 4}]
    arms = {name: TINY["arms"][name] for name in ("untouched", "rmu")}
    plain = changed(TINY, attacks=attacks, evaluations=TINY["evaluations"][:1]) | {"arms": arms}
    run(put(tmp_path / "plain.yaml", plain), tmp_path / "home", tmp_path / "out")
    told = TOLD | {"controls": {"shallow": ["rmu"]}}
    done, rows = run(put(tmp_path / "told.yaml", plain | told), tmp_path / "home", tmp_path / "out")
    assert done == 0
    statement = json.loads((tmp_path / "out" / "statement.json").read_text(encoding="utf-8"))
    assert statement["controls"] == {"shallow": ["rmu"], "never": None}
    assert statement["price"] == told["price"]
    for row in rows:
        spent = row["budget"]
        assert list(spent) == ["steps", "tokens", "examples", "flops", "seconds", "memory", "money"]
        assert spent["money"] == pytest.approx(spent["seconds"] / 3600 * 2.5)
        assert (spent["memory"] or 0) > 1e6 if spent["seconds"] else spent["memory"] is None
