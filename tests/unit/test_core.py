"""The words: settings and their messages, finding components, tables, budgets, statistics against known values."""

import json
import math
from typing import Literal

import numpy as np
import pytest
from pydantic import Field

from untaught.core import (
    FINDINGS,
    MARKS,
    METHOD,
    Budget,
    Corpus,
    Document,
    ExitCode,
    Finding,
    Mark,
    Record,
    Settings,
    Spent,
    UserError,
    Wrap,
    documents,
    findings,
    marks,
    require,
    shelves,
    suggest,
    summarise,
)
from untaught.core.statistics import student_t95, wilson

# ------------------------------------------------------------------------------------------------------- settings


class Spout(Settings):
    width: float = Field(1.0, gt=0)
    """In centimetres."""


class Kettle(Settings):
    degrees: int = Field(100, ge=0, le=100)
    mode: Literal["boil", "keep"] = "boil"
    spout: Spout = Spout()
    spouts: dict[str, Spout] = Field(default_factory=dict)


class Maker(Settings):
    name: str


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"degress": 90}, "kettle.yaml has no setting 'degress'. Did you mean 'degrees'?"),
        ({"zzz": 1}, "kettle.yaml has no setting 'zzz'. Known: degrees, mode, spout, spouts."),
        ({"degrees": 120}, "kettle.yaml, degrees is 120: input should be less than or equal to 100."),
        ({"degrees": "hot"}, "kettle.yaml, degrees is 'hot': input should be a valid integer"),
        ({"mode": "melt"}, "kettle.yaml, mode is 'melt': input should be 'boil' or 'keep'."),
        ({"spout": {"widht": 1}}, "kettle.yaml.spout has no setting 'widht'. Did you mean 'width'?"),
        ({"spouts": {"left": {"widht": 1}}}, "kettle.yaml.spouts.left has no setting 'widht'. Did you mean 'width'?"),
        ({"spout": {"width": 0}}, "kettle.yaml, spout.width is 0: input should be greater than 0."),
        ({"spout": {"width": math.nan}}, "kettle.yaml, spout.width is nan"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place_and_what_would_be_right(table, message):
    with pytest.raises(UserError) as caught:
        Kettle.settle(table, "kettle.yaml")
    assert str(caught.value).startswith(message)


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(UserError) as caught:
        Kettle.settle({"degrees": -1, "modes": "x"}, "kettle.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_a_setting_without_a_default_is_said_to_be_missing():
    with pytest.raises(UserError, match=r"^m\.yaml, name is missing\. Add it\.$"):
        Maker.settle({}, "m.yaml")


def test_settings_are_frozen_equal_by_value_and_survive_a_table():
    kettle = Kettle(degrees=80, spouts={"left": Spout(width=2)})
    with pytest.raises(ValueError, match="frozen"):
        kettle.degrees = 1
    assert kettle == Kettle.settle(json.loads(json.dumps(kettle.changed())), "x")
    assert Kettle().changed() == {"degrees": 100, "mode": "boil", "spout": {"width": 1.0}, "spouts": {}}
    assert Spout.model_fields["width"].description == "In centimetres."


def test_a_suggestion_is_the_nearest_word_or_all_that_are_known():
    assert suggest("stear", ["steer", "layer"]) == " Did you mean 'steer'?"
    assert suggest("qqq", ["b", "a"]) == " Known: a, b."
    assert suggest("qqq", []) == ""


def test_exit_codes_are_the_published_ones():
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6]


# -------------------------------------------------------------------------------------------------------- shelves


def test_a_shelf_lists_its_files_without_underscored_helpers():
    for shelf in shelves.SHELVES:
        files = {p.stem for p in (shelves.ROOT / shelf).glob("*.py") if not p.stem.startswith("_")}
        assert files <= set(shelves.names(shelf))
        assert shelves.names(shelf) == sorted(shelves.names(shelf))
    assert not any(name.startswith("_") for name in shelves.names("filters"))


def test_a_component_is_found_by_its_file_name():
    found = shelves.find("filters", "blocklist")
    assert (found.__name__, found.__module__) == ("Blocklist", "untaught.filters.blocklist")
    assert shelves.source("filters", "blocklist").name == "blocklist.py"
    assert shelves.summary("filters", "blocklist")


@pytest.mark.parametrize(
    ("shelf", "name", "message"),
    [
        ("unlearning", "rmuu", "there is no component 'rmuu' on the shelf unlearning. Did you mean 'rmu'?"),
        ("unlearning", "relearn", "there is no component 'relearn' on the shelf unlearning. 'relearn' is on the shelf"),
        ("filters", "_words", "there is no component '_words' on the shelf filters."),
        ("attack", "relearn", "there is no shelf 'attack'. Did you mean 'attacks'?"),
        ("filters", "../core/errors", "there is no component '../core/errors' on the shelf filters."),
    ],
)
def test_a_component_that_is_not_there_is_answered_with_a_hint(shelf, name, message):
    with pytest.raises(UserError) as caught:
        shelves.find(shelf, name)
    assert str(caught.value).startswith(message)


def test_a_file_without_the_class_it_should_hold_is_said_to_be_so():
    class Module:
        class Other(Settings):
            pass

    for name in ("blocklist", "other"):
        with pytest.raises(UserError, match="has no settings class '(Blocklist|Other)' with a method 'fit'"):
            shelves.component_of(Module, "filters", name, METHOD["filters"])


def test_components_of_installed_packages_are_found_by_entry_point(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("kettle", "untaught.filters.blocklist", "untaught.filters")
    monkeypatch.setattr(shelves, "_foreign", lambda shelf: {"kettle": point} if shelf == "filters" else {})
    assert "kettle" in shelves.names("filters")
    assert shelves.source("filters", "kettle").name == "blocklist.py"
    with pytest.raises(UserError, match="no settings class 'Kettle'"):
        shelves.find("filters", "kettle")


# --------------------------------------------------------------------------------------------------------- tables


def test_a_value_that_is_not_finite_is_missing_and_says_so():
    table = marks(
        [Mark("a", "m", math.nan), Mark("b", "m", math.inf, note="why"), Mark("c", "m", 0.0), Mark("d", "m", None)]
    )
    assert table.schema == MARKS
    assert table["value"].to_pylist() == [None, None, 0.0, None]
    assert table["note"].to_pylist() == ["not a finite number", "why", None, "not a finite number"]
    assert table["value"].null_count == 3


def test_tables_of_nothing_have_their_columns():
    assert marks([]).schema == MARKS
    assert findings([]).schema == FINDINGS
    assert documents([]).column_names == ["id", "text"]
    row = {"score": 1.0, "reason": "why", "terms": ["a"], "spans": [{"term": 0, "start": 3, "stop": 4}]}
    assert findings([Finding(1.0, "why", ("a",), ((0, 3, 4),))]).to_pylist() == [row]


def test_a_column_that_is_lacking_is_named_with_those_that_are_there():
    with pytest.raises(UserError, match=r"^the pool has no column 'label'\. It has: id, text\. Name the right one"):
        require(documents([]), ["id", "label"], "the pool")


def test_a_corpus_says_which_side_is_empty_and_joins_what_both_sides_have():
    hazard = documents([Document("h", "bad")]).append_column("extra", [[1]])
    corpus = Corpus(hazard, documents([Document("b", "good")]))
    assert corpus.need("hazard", "benign") is corpus
    assert corpus.everything().to_pylist() == [{"id": "h", "text": "bad"}, {"id": "b", "text": "good"}]
    with pytest.raises(UserError, match="no hazard documents"):
        Corpus(documents([]), hazard).need("benign", "hazard")


def test_a_wrap_stands_around_the_prompt():
    assert Wrap().around("x") == "x"
    assert Wrap(before="<", after=">").around("x") == "<x>"


def test_a_record_survives_its_json_and_refuses_what_is_not_a_number():
    record = Record("id", "attacks", "t", None, {"a": [1]}, 3, {"subject": "s"}, {"weights": "w"}, measured={"é": 0.5})
    assert Record.from_json(record.to_json()) == record
    with pytest.raises(ValueError, match="JSON"):
        Record("id", "attacks", "t", None, {}, 3, {}, {}, measured={"loss": math.nan}).to_json()


# --------------------------------------------------------------------------------------------------------- budget


def test_a_budget_bounds_each_kind_and_none_is_no_bound():
    spent = Spent(steps=3, tokens=90, examples=6)
    assert spent.allows(Budget(), steps=10**9, tokens=10**9, examples=10**9)
    assert spent.allows(Budget(steps=4, tokens=100, examples=7), steps=1, tokens=10, examples=1)
    assert not spent.allows(Budget(steps=3), steps=1)
    assert not spent.allows(Budget(tokens=99), tokens=10)
    assert not spent.allows(Budget(examples=6), steps=1, examples=1)
    assert not Spent().allows(Budget(steps=0), steps=1)
    assert spent.allows(Budget(steps=3))
    assert spent.plain() == {"steps": 3, "tokens": 90, "examples": 6, "flops": 0.0, "seconds": 0.0}
    with pytest.raises(UserError, match="budget, steps is -5"):
        Budget.settle({"steps": -5}, "budget")


# ----------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilsons_interval_has_the_published_values(right, n, low, high):
    assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("freedom", "point", "within"),
    [(1, 12.7062, 1e-5), (2, 4.30265, 1e-5), (3, 3.18245, 0.01), (4, 2.77645, 0.004), (5, 2.57058, 0.002)]
    + [(9, 2.26216, 2e-4), (10, 2.22814, 2e-4), (30, 2.04227, 1e-5), (120, 1.97993, 1e-5), (10**6, 1.95997, 1e-5)],
)
def test_students_t_has_the_published_values(freedom, point, within):
    assert student_t95(freedom) == pytest.approx(point, rel=within)


def test_a_summary_is_the_mean_its_interval_and_what_was_missing():
    assert (summary := summarise([1.0, 2.0, 3.0, 4.0, None])).value == 2.5
    half = 3.18245 * math.sqrt(5 / 3) / 2  # t of 3 degrees of freedom; the sample's deviation is sqrt(5/3)
    assert (summary.low, summary.high) == pytest.approx((2.5 - half, 2.5 + half), rel=0.02)
    assert (summary.n, summary.missing) == (4, 1)


def test_zeros_and_ones_get_wilsons_interval_and_all_right_is_not_certain():
    perfect = summarise([1.0] * 10)
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.7225, abs=1e-4)
    nothing = summarise([0.0] * 10)
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(0.2775, abs=1e-4)


def test_a_summary_of_nothing_scored_is_missing_and_never_zero():
    for values in ([None, None], [math.nan, None], [math.inf, -math.inf]):
        summary = summarise(values)
        assert (summary.value, summary.low, summary.high, summary.n, summary.missing) == (None, None, None, 0, 2)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_what_is_not_finite_is_counted_as_missing_and_not_averaged():
    summary = summarise([0.5, math.nan, 1.5])
    assert (summary.value, summary.n, summary.missing) == (1.0, 2, 1)


def test_one_value_alone_has_no_interval():
    assert summarise([0.3]).low is None
    assert summarise([0.3, 0.3]).low == summarise([0.3, 0.3]).high == pytest.approx(0.3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [(s := summarise(list(rng.normal(2.0, 1.0, 8)))).low <= 2.0 <= s.high for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
