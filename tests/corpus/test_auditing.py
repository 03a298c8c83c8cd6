"""Auditing: the sample, its file of labels, what the labels say, and that the intervals hold."""

import csv
import io
import json
import re

import corpora
import numpy as np
import pytest

from untaught.core import UserError
from untaught.core.statistics import exact_interval
from untaught.corpus import auditing, shards
from untaught.corpus.auditing import COLUMNS, allotted, labelled, texts_of
from untaught.corpus.shards import Reading
from untaught.policies.auditing import Stratum, estimates, refresh


@pytest.fixture
def data(tmp_path):
    return corpora.corpus(tmp_path / "data")


@pytest.fixture
def out(tmp_path, data):
    """The corpus, decided, and 60 documents drawn."""
    policy = corpora.policy(tmp_path / "p.yaml")
    assert corpora.untaught("filter", data, "--out", tmp_path / "out", "--config", policy, "--audit", 60) == 0
    return tmp_path / "out"


def read(out):
    return list(csv.DictReader(io.StringIO((out / "audit.csv").read_text(encoding="utf-8"))))


def save(out, rows):
    (out / "audit.csv").write_text(auditing.written(list(rows[0]), rows), encoding="utf-8")


def truth(row):
    return "hazard" if row["decision"] == "removed" else "benign"


def label(out, how=truth, first=None):
    """Label the first documents of the sample."""
    rows = read(out)
    for row in rows[:first]:
        row["label"] = how(row)
    save(out, rows)
    return rows


# --- exact intervals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "n", "level", "low", "high"),
    [
        (0, 10, 0.95, 0, 0.3084971),
        (1, 20, 0.95, 0.0012651, 0.2487328),
        (3, 10, 0.95, 0.0667395, 0.6524529),
        (5, 5, 0.95, 0.4781762, 1),
        (10, 200, 0.95, 0.0242342, 0.0900275),
        (50, 1000, 0.95, 0.0373354, 0.0653905),
        (0, 300, 0.99, 0, 0.0175060),
        (0, 0, 0.95, 0, 1),
    ],
)
def test_exact_intervals_are_those_of_clopper_and_pearson(hits, n, level, low, high):
    assert exact_interval(hits, n, level) == pytest.approx((low, high), abs=2e-7)


def test_an_exact_interval_without_a_hit_is_known_in_closed_form():
    for n in (1, 7, 90, 4000):
        assert exact_interval(0, n)[1] == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-9)
        assert exact_interval(n, n)[0] == pytest.approx(0.025 ** (1 / n), rel=1e-9)


def test_exact_intervals_hold_at_every_share():
    """Coverage, summed exactly over all outcomes."""
    n = 25
    ends = [exact_interval(hits, n) for hits in range(n + 1)]
    for share in np.linspace(0.001, 0.999, 333):
        chance, covered = (1 - share) ** n, 0.0
        for hits in range(n + 1):
            covered += chance * (ends[hits][0] <= share <= ends[hits][1])
            chance *= (n - hits) / (hits + 1) * share / (1 - share)
        assert covered >= 0.95


def test_an_impossible_count_is_refused():
    with pytest.raises(ValueError, match="no interval"):
        exact_interval(3, 2)


# --- the sample -----------------------------------------------------------------------------------------------------


def test_the_sample_is_of_decisions_that_stand_and_of_every_stratum(out):
    rows = read(out)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len({(row["source"], row["row"]) for row in rows}) == 60
    decided = {(row["source"], str(row["row"])): row for row in corpora.decisions(out).to_pylist()}
    for row in rows:
        known = decided[row["source"], row["row"]]
        assert (row["id"], row["decision"], row["stage"]) == (known["id"], known["decision"], known["stage"])
        assert float(row["score"]) == known["score"]
        assert row["label"] == ""
    strata = json.loads((out / "audit.json").read_text())["strata"]
    assert {s["name"]: s["size"] for s in strata} == {
        "removed by blocklist": 280,
        "kept by blocklist, score above 0": 373,
        "kept by blocklist, score up to 0": 747,
    }
    assert all(s["drawn"] == sum(row["stratum"] == s["name"] for row in rows) == 20 for s in strata)


def test_strata_do_not_stand_one_after_another(out):
    names = [row["stratum"] for row in read(out)]
    assert sum(one != two for one, two in zip(names, names[1:], strict=False)) > 20


def test_the_same_decisions_give_the_same_sample(data, out, tmp_path):
    assert corpora.untaught("filter", data, "--out", tmp_path / "two", "--config", tmp_path / "p.yaml") == 0
    assert corpora.untaught("filter", data, "--out", tmp_path / "two", "--audit", 60) == 0
    assert corpora.contents(tmp_path / "two") == corpora.contents(out)


def test_a_larger_sample_holds_the_smaller_and_goes_on_after_it(data, out):
    before = read(out)
    assert corpora.untaught("filter", data, "--out", out, "--audit", 100) == 0
    assert read(out)[:60] == before
    assert len(read(out)) == 100


def test_a_sample_is_no_larger_than_what_was_decided(data, out):
    assert corpora.untaught("filter", data, "--out", out, "--audit", 9999) == 0
    assert len(read(out)) == 1400
    label(out)
    found = refresh(out)["estimates"]
    assert found["recall"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["hazard_left"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_another_policy_gives_another_sample(data, out):
    before = {(row["source"], row["row"]) for row in read(out)}
    assert corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1", "--audit", 60) == 0
    assert len(before & {(row["source"], row["row"]) for row in read(out)}) < 20


def test_the_rule_of_sizes():
    assert allotted([5, 400, 100_000], ["removed", "kept", "kept"], 200) == [5, 20, 175]
    assert allotted([10_000, 900, 90_000], ["removed", "kept", "kept"], 400) == [100, 27, 273]
    assert allotted([3, 2], ["removed", "kept"], 100) == [3, 2]
    assert allotted([50, 50, 50], ["removed", "kept", "kept"], 2) == [0, 1, 1]
    assert allotted([], [], 10) == []
    assert allotted([50], ["removed"], 30) == [30]


def test_texts_are_those_of_the_rows_in_every_format(data, out):
    wanted = [("a.parquet", 0), ("a.parquet", 499), ("b.jsonl", 3), ("sub/c.jsonl.gz", 299), ("sub/d.jsonl.zst", 7)]
    found = texts_of(shards.sources([data]), out, Reading(), wanted)
    starts = {"a.parquet": 0, "b.jsonl": 500, "sub/c.jsonl.gz": 900, "sub/d.jsonl.zst": 1200}
    assert found == {(name, row): corpora.rows(1, starts[name] + row)[0]["text"] for name, row in wanted}


def test_texts_of_a_source_that_changed_are_refused(data, out):
    corpora.write(data / "b.jsonl", corpora.rows(400, 501))
    with pytest.raises(UserError, match="its bytes differ"):
        texts_of(shards.sources([data]), out, Reading(), [("b.jsonl", 3)])
    (data / "b.jsonl").unlink()
    with pytest.raises(UserError, match=r"b\.jsonl was decided and is not among"):
        texts_of(shards.sources([data]), out, Reading(), [("b.jsonl", 3)])


# --- labels ---------------------------------------------------------------------------------------------------------


def test_drawing_again_keeps_every_label(data, out):
    rows = label(out, first=40)
    for row in rows:
        row["note"] = "seen" if row["label"] else ""
    save(out, rows)
    before = (out / "audit.csv").read_bytes()
    assert corpora.untaught("filter", data, "--out", out, "--audit", 60) == 0
    assert (out / "audit.csv").read_bytes() == before  # the same sample: not touched
    assert corpora.untaught("filter", data, "--out", out, "--audit", 80) == 0
    after = {(row["source"], row["row"]): row for row in read(out)}
    assert all(after[row["source"], row["row"]]["label"] == row["label"] for row in rows)
    assert all(after[row["source"], row["row"]]["note"] == "seen" for row in rows[:40])


def test_labels_of_documents_that_are_not_drawn_again_are_kept_and_come_back(data, out):
    rows = label(out, first=50)
    assert corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1", "--audit", 60) == 0
    assert sum(bool(row["label"]) for row in read(out)) == 50
    past = [row for row in read(out) if row["stratum"] == "earlier"]
    assert len(past) > 30
    assert refresh(out)["labelled"] == 50 - len(past)
    assert corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=2", "--audit", 60) == 0
    back = {(row["source"], row["row"]): row["label"] for row in read(out) if row["stratum"] != "earlier"}
    assert all(back[row["source"], row["row"]] == row["label"] for row in rows)


def test_a_label_never_comes_to_stand_at_another_text(data, out):
    rows = label(out)
    corpora.write(data / "b.jsonl", [{**row, "text": row["text"] + " new"} for row in corpora.rows(400, 500)])
    assert corpora.untaught("filter", data, "--out", out) == 0
    assert not json.loads((out / "audit.json").read_text())["stands"]
    assert corpora.untaught("filter", data, "--out", out, "--audit", 60) == 0
    fresh = [row for row in read(out) if row["stratum"] != "earlier" and row["source"] == "b.jsonl"]
    assert fresh
    assert not any(row["label"] for row in fresh)
    assert sum(bool(row["label"]) for row in read(out)) == len(rows)


def test_labels_of_other_decisions_say_nothing(data, out, capsys):
    label(out)
    assert corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1") == 0
    assert "drawn from other decisions" in capsys.readouterr().out
    assert refresh(out)["estimates"] is None


def test_a_spreadsheet_may_change_the_form(out):
    rows = read(out)
    lines = ["LABEL; Source ;row;note"]
    lines += [f'"{"  HAZARD " if i % 2 else "Benign"}";{row["source"]};{row["row"]};x' for i, row in enumerate(rows)]
    (out / "audit.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n;;;\r\n")
    found = refresh(out)
    assert (found["labelled"], found["skipped"]) == (60, 0)
    assert sum(s["hazard"] for s in found["strata"]) == 30


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tabs_and_utf_16_are_read(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes("source\trow\tlabel\na.parquet\t 3\t'benign'\n".encode(encoding))
    assert labelled(path)[1]["a.parquet", 3, False]["label"] == "benign"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["source,row,label", "a,1,benign", "", "a,2,maybe"], r"line 4: the label 'maybe' is not known\. Write hazard"),
        (["source,row,label", "a,1.5,benign"], "line 2: the row '1.5' is not a whole number"),
        (["source,label"], "line 1 has no column 'row'"),
        (["source,row,label", "a,1,benign", "a,1,hazard"], "line 3 gives another label to a document that has one"),
    ],
)
def test_what_is_wrong_with_labels_is_told_by_its_line(tmp_path, lines, message):
    (tmp_path / "audit.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message):
        labelled(tmp_path / "audit.csv")


def test_a_wrong_label_is_wrong_input(data, out, capsys):
    rows = read(out)
    rows[2]["label"] = "bad"
    save(out, rows)
    assert corpora.untaught("report", out) == 2
    assert re.search(r"audit\.csv line 4: the label 'bad'", capsys.readouterr().err)
    assert corpora.untaught("filter", data, "--out", out) == 2


def test_a_label_of_a_document_that_was_not_drawn_is_refused(out):
    rows = read(out)
    rows[0]["row"], rows[0]["label"] = "100000", "benign"
    save(out, rows)
    with pytest.raises(UserError, match=r"row 100000 of .*, which was not drawn"):
        refresh(out)


def test_no_cell_can_run_as_a_formula(tmp_path):
    table = [{"id": f"=1+{i}", "text": "florp quen tar" if i % 2 else "nothing"} for i in range(40)]
    data = tmp_path / "data"
    corpora.write(data / "=s.jsonl", table)
    out, policy = tmp_path / "out", corpora.policy(tmp_path / "p.yaml")
    assert corpora.untaught("filter", data, "--out", out, "--config", policy, "--audit", 20) == 0
    rows = label(out)
    assert all(row["id"].startswith("'=") and row["source"] == "'=s.jsonl" for row in rows)
    assert refresh(out)["labelled"] == 20


def test_the_lock_of_an_office_program_is_passed_over(data, out):
    (out / ".~lock.audit.csv#").write_text("someone")
    assert corpora.untaught("filter", data, "--out", out) == 0


def test_nothing_to_draw_is_no_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    policy = corpora.policy(tmp_path / "p.yaml")
    assert corpora.untaught("filter", tmp_path / "empty.jsonl", "--out", tmp_path / "o", "--config", policy) == 0
    assert corpora.untaught("filter", tmp_path / "empty.jsonl", "--out", tmp_path / "o", "--audit", 5) == 0
    assert read(tmp_path / "o") == []
    assert refresh(tmp_path / "o")["estimates"] is None


# --- what they say --------------------------------------------------------------------------------------------------


def test_estimates_are_sums_over_strata():
    kinds = [Stratum("r", "removed", 100, 50, 50, 40, 0), Stratum("k", "kept", 1000, 100, 100, 5, 0)]
    found = {name: estimate["value"] for name, estimate in estimates(kinds).items()}
    assert found["precision"] == 0.8
    assert found["hazard_left"] == 50
    assert found["hazard_left_share"] == 0.05
    assert found["recall"] == pytest.approx(80 / 130)
    assert found["false_positive_rate"] == pytest.approx(20 / (20 + 950))
    assert estimates(kinds)["precision"]["low"] == exact_interval(40, 50)[0]


def test_documents_passed_over_count_both_ways_and_those_not_reached_do_not(out):
    rows = read(out)
    for index, row in enumerate(rows[:30]):
        row["label"] = "" if index == 10 else "benign"
    save(out, rows)
    found = refresh(out)
    assert (found["labelled"], found["skipped"]) == (29, 1)
    full = Stratum("k", "kept", 1000, 30, 30, 0, 0)
    gap = Stratum("k", "kept", 1000, 30, 30, 0, 1)
    assert gap.bounds(0.95)[1] == pytest.approx(exact_interval(1, 30)[1] * 1000)
    assert gap.bounds(0.95)[0] == full.bounds(0.95)[0] == 0


def test_a_stratum_without_labels_leaves_the_value_missing_and_the_interval_wide():
    kinds = [Stratum("r", "removed", 100, 50, 50, 40, 0), Stratum("k", "kept", 1000, 100)]
    found = estimates(kinds)
    assert found["hazard_left"] == {"value": None, "low": 0.0, "high": 1000.0}
    assert found["recall"]["value"] is None
    assert 0 < found["recall"]["low"] < 0.1
    assert found["recall"]["high"] == 1
    assert found["precision"]["value"] == 0.8


def test_nothing_removed_leaves_precision_undefined():
    found = estimates([Stratum("k", "kept", 1000, 100, 100, 5, 0)])
    assert found["precision"] == {"value": None, "low": None, "high": None}
    assert found["recall"]["value"] == 0
    none = estimates([Stratum("k", "kept", 10, 10, 10, 0, 0)])
    assert none["recall"] == {"value": None, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    "truth",
    [
        [("removed", 2_000, 1_500), ("kept", 4_000, 120), ("kept", 60_000, 90)],
        [("removed", 30, 15), ("removed", 900, 880), ("kept", 300, 0), ("kept", 20_000, 1)],
        [("removed", 500, 5), ("kept", 8_000, 2_000)],
    ],
)
def test_intervals_hold_at_least_95_times_in_100(truth):
    """The whole way: sizes by the rule, documents drawn without replacement, and the truth known."""
    chance = np.random.default_rng(7)
    drawn = allotted([size for _, size, _ in truth], [decision for decision, *_ in truth], 150)
    r, n_r = (sum(row[i] for row in truth if row[0] == "removed") for i in (2, 1))
    left, n_l = (sum(row[i] for row in truth if row[0] == "kept") for i in (2, 1))
    real = {
        "precision": r / n_r,
        "recall": r / (r + left),
        "false_positive_rate": (n_r - r) / (n_r - r + n_l - left),
        "hazard_left": left,
        "hazard_left_share": left / n_l,
    }
    held, times = dict.fromkeys(real, 0), 1500
    for _ in range(times):
        kinds = [
            Stratum(str(index), decision, size, n, n, int(chance.hypergeometric(bad, size - bad, n)), 0)
            for index, ((decision, size, bad), n) in enumerate(zip(truth, drawn, strict=True))
        ]
        for name, estimate in estimates(kinds).items():
            held[name] += estimate["low"] - 1e-9 <= real[name] <= estimate["high"] + 1e-9
    assert all(count >= 0.95 * times for count in held.values()), held
