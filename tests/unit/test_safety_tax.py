"""The safety tax of a run: each arm against the one it was made from, on the same items."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_fixture import row, write_run

from untaught.core import UserError
from untaught.report import account, read, redraw, safety_tax, summary

ARMS = {
    "untouched": {"training": [{"use": "pretrain"}]},
    "filtered": {"filters": [{"use": "blocklist"}], "training": [{"use": "pretrain"}]},
    "rmu": {"from": "untouched", "unlearning": [{"use": "rmu"}]},
    "again": {"from": "rmu", "unlearning": [{"use": "rmu"}]},
    "prompted": {"from": "untouched", "unlearning": [{"use": "rmu"}]},
}
RIGHT = {"untouched": 0.98, "filtered": 0.98, "rmu": 0.80, "again": 0.80, "prompted": 0.2}


def marked(folder, arm, values, attack=None):
    """Marks of an arm: (seed, item, items, metric, value)."""
    path = folder / "marks" / f"{arm}.parquet"
    path.parent.mkdir(exist_ok=True)
    rows = [
        {"item": item, "metric": metric, "value": value, "attack": attack, "items": items, "seed": seed}
        | {"evaluation": "perplexity" if metric == "nats_per_token" else "multiple_choice"}
        for seed, item, items, metric, value in values
    ]
    schema = [(name, pa.string()) for name in ("item", "metric", "attack", "items", "evaluation")]
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema([*schema, ("value", pa.float64()), ("seed", pa.int64())])), path
    )


@pytest.fixture
def run(tmp_path):
    """Three seeds, 200 benign questions and 30 texts."""
    lines = []
    for arm, right in RIGHT.items():
        for seed in range(3):
            lines += [row(arm, 0.3, seed=seed), row(arm, right, items="benign", n=200, seed=seed)]
            lines += [row(arm, right, items="benign", metric="accuracy_option_only", n=200, seed=seed)]
            lines += [row(arm, 2.0, items="benign_text", evaluation="perplexity", metric="nats_per_token", chance=None,
                          n=30, seed=seed)]  # fmt: skip
    folder = write_run(tmp_path / "run", lines, seeds=(0, 1, 2), arms=ARMS, controls={"shallow": ["prompted"]})
    draws = np.random.default_rng(0)
    hard = draws.random((3, 200))
    texts = draws.normal(2, 0.5, (3, 30))
    for arm, right in RIGHT.items():
        values = [(s, f"q{i}", "benign", "accuracy", float(hard[s, i] < right)) for s in range(3) for i in range(200)]
        more = 0.1 * (arm == "rmu")
        values += [
            (s, f"t{i}", "benign_text", "nats_per_token", texts[s, i] + more + draws.normal(0, 0.01))
            for s in range(3) for i in range(30)
        ]  # fmt: skip
        marked(folder, arm, values)
    return folder


def taxes(folder):
    return {(t.arm, t.measure.items): t for t in safety_tax.taxes(account(read(folder)))}


def test_each_arm_is_held_against_the_one_it_was_made_from_and_controls_are_left_out(run):
    assert {arm: tax.against for (arm, items), tax in taxes(run).items() if items == "benign"} == {
        "filtered": "untouched", "rmu": "untouched", "again": "rmu",
    }  # fmt: skip
    assert {tax.measure.metric for tax in taxes(run).values()} == {"accuracy", "nats_per_token"}


def test_what_it_costs_is_said_in_points_with_its_interval_and_p(run):
    tax = taxes(run)["rmu", "benign"]
    assert tax.cost.low < 0.18 < tax.cost.high
    assert tax.cost.lost > 80
    assert tax.cost.gained == 0
    assert tax.p < 1e-6
    assert safety_tax.sentence(tax) == (
        f"costs {100 * tax.cost.value:.1f} points ({100 * tax.cost.low:.1f} to {100 * tax.cost.high:.1f})"
    )
    assert safety_tax.chance(tax) == "under 0.001"


def test_no_difference_is_not_said_to_be_none_but_with_what_would_have_been_seen(run):
    tax = taxes(run)["filtered", "benign"]
    assert (tax.cost.value, tax.p) == (0.0, 1.0)
    told = safety_tax.sentence(tax)
    assert told.startswith("no difference could be seen (\u22120.5 to 0.5 points); one of at least ")
    assert safety_tax.seen_from(tax) in told


def test_nats_cost_when_they_are_more_and_have_no_mcnemar(run):
    tax = taxes(run)["rmu", "benign_text"]
    assert tax.cost.low < 0.1 < tax.cost.high
    assert safety_tax.sentence(tax).startswith("costs 0.")
    assert "nats per token" in safety_tax.sentence(tax)
    assert (tax.p, safety_tax.chance(tax)) == (None, "")
    assert safety_tax.sentence(taxes(run)["again", "benign_text"]).startswith("gains 0.")


def test_p_is_corrected_for_all_comparisons_of_the_page(run):
    from untaught.core.paired import holm, mcnemar

    found = [t for t in taxes(run).values() if t.measure.share]
    assert [t.p for t in found] == holm([mcnemar(t.cost.gained, t.cost.lost)[0] for t in found])


def test_weights_that_lost_where_seeds_differ_too_much_are_told_apart_from_arms(run):
    rights = [(s, f"q{i}", "benign", "accuracy", float(i >= (0, 0, 40)[s])) for s in range(3) for i in range(200)]
    marked(run, "filtered", rights)
    marked(run, "untouched", [(*place, 1.0) for *place, _ in rights])
    told = safety_tax.sentence(taxes(run)["filtered", "benign"])
    assert told.startswith("costs these weights 6.7 points; others made alike it may not (\u2212")


def test_missing_marks_are_counted_for_either_arm_and_pull_nothing(run):
    values = [(0, f"q{i}", "benign", "accuracy", None if i < 50 else 1.0) for i in range(200)]
    marked(run, "filtered", values)
    marked(run, "untouched", [(s, q, *rest, 1.0) for s, q, *rest, _ in values])
    tax = taxes(run)["filtered", "benign"]
    assert (tax.cost.n, tax.cost.missing, tax.cost.value) == (150, (50, 0), 0.0)
    assert safety_tax.counted(tax) == ("150 pairs, 1 seed", "50 missing in filtered")
    marked(run, "filtered", [(*place, None) for *place, _ in values])
    lost = taxes(run)["filtered", "benign"]
    assert (lost.cost.value, lost.p) == (None, None)
    assert safety_tax.sentence(lost) == "cannot be told: no item has a value of both"
    assert "missing" in redraw(run).read_text(encoding="utf-8")


def test_attacked_marks_are_no_part_of_it(run):
    marked(run, "rmu", [(0, f"q{i}", "benign", "accuracy", 0.0) for i in range(200)], attack="relearn")
    assert ("rmu", "benign") not in taxes(run)


def test_the_page_and_the_terminal_and_programs_tell_the_same(run):
    from rich.console import Console

    page = redraw(run).read_text(encoding="utf-8")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary(run))
    told = console.export_text()
    plain = safety_tax.plain(run)
    assert [(line["arm"], line["value"]) for line in json.loads(json.dumps(plain))] == [
        (tax.arm, tax.cost.value) for tax in taxes(run).values()
    ]
    for tax in taxes(run).values():
        assert safety_tax.sentence(tax) in page
    assert 'href="#safety-tax"' in page
    assert safety_tax.sentence(taxes(run)["rmu", "benign"]) in told
    assert "the safety tax" in told


def test_without_marks_the_page_says_what_is_lacking(tmp_path):
    lines = [row(arm, 0.9, items="benign") for arm in ("untouched", "rmu")] + [row("untouched", 0.9), row("rmu", 0.3)]
    folder = write_run(tmp_path / "run", lines, unlearned=("rmu",))
    assert safety_tax.taxes(account(read(folder))) == ()
    assert "Nothing could be compared item by item" in redraw(folder).read_text(encoding="utf-8")
    assert "the safety tax" not in str(summary(folder))


def test_damaged_marks_are_named_with_the_way_to_mend_it(run):
    (run / "marks" / "untouched.parquet").write_bytes(b"no marks")
    with pytest.raises(UserError, match=r"untouched\.parquet has no marks of a run, or is damaged\. Give the folder"):
        taxes(run)
