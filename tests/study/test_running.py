"""Running a study: the run folder's contract, doing nothing twice, and the same numbers however it is run."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from studies import PRETRAIN, SMALLEST, TERMS, TINY, changed, leftovers, put, records_of, rows_of, run, timeless

from untaught.attest import digest
from untaught.core import Record, UserError
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.steps import Bench
from untaught.study.store import Store

COLUMNS = [
    *("arm", "attack", "attack_settings", "budget", "evaluation", "role", "items", "metric"),
    *("value", "low", "high", "n", "missing", "chance", "seed", "attack_seed", "weights"),
]


@pytest.fixture
def mine(finished, tmp_path):
    """A copy of the finished study to work on."""
    shutil.copytree(finished.home, tmp_path / "home")
    shutil.copytree(finished.out, tmp_path / "out")
    return tmp_path


def whole(out):
    """Every file of a run folder, by its bytes."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def subjects(rows):
    return {(r["arm"], r["attack"], r["budget"]["steps"], r["evaluation"], r["metric"]): r for r in rows}


# ------------------------------------------------------------------------------------------------ the run folder


def test_a_row_has_every_column_of_the_contract(finished):
    rows = rows_of(finished.out)
    assert rows == finished.rows
    assert len(rows) == 3 * (1 + 3 + 1) * 3
    for row in rows:
        assert list(row) == COLUMNS
        assert list(row["budget"]) == ["steps", "tokens", "examples", "flops", "seconds", "memory"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["missing"] == 0 < row["n"]
        assert (row["chance"] == 0.25) is (row["evaluation"] == "multiple_choice")
        assert row["role"] == ("benign" if row["items"] == "benign_text" else "hazard")
        assert len(row["weights"]) == 64
        assert (row["attack_settings"] == {}) is (row["attack"] is None)


def test_what_an_attack_spent_stands_in_its_rows(finished):
    found = subjects(finished.rows)
    for arm in TINY["arms"]:
        spent = [found[arm, "relearn", steps, "perplexity", "nats_per_token"]["budget"] for steps in (0, 2, 4)]
        assert [s["steps"] for s in spent] == [0, 2, 4]
        assert [s["examples"] for s in spent] == [0, 4, 8]
        assert 0 == spent[0]["tokens"] < spent[1]["tokens"] < spent[2]["tokens"]
        assert 0 == spent[0]["flops"] < spent[1]["flops"] < spent[2]["flops"]


def test_no_budget_is_the_arm_itself(finished):
    def plain(attack):
        rows = [r for r in timeless(finished.rows) if r["attack"] == attack and r["budget"]["steps"] == 0]
        return [{k: v for k, v in row.items() if k not in ("attack", "attack_settings", "attack_seed")} for row in rows]

    assert plain("relearn") == plain(None) != []


def test_marks_are_kept_for_every_item(finished):
    for arm in TINY["arms"]:
        marks = pq.read_table(finished.out / "marks" / f"{arm}.parquet")
        assert marks.column_names == [
            *("item", "metric", "value", "chance", "note"),
            *("arm", "attack", "attack_settings", "budget", "evaluation", "items", "seed", "attack_seed"),
        ]
        rows = [row for row in finished.rows if row["arm"] == arm]
        assert marks.num_rows == sum(row["n"] for row in rows)
        first = rows[0]
        own = [m for m in marks.to_pylist() if m["attack"] is None and m["metric"] == first["metric"]]
        assert sum(mark["value"] for mark in own) / len(own) == first["value"]


def test_there_is_a_record_for_each_step(finished):
    steps = {step.identity: step for step in plan(load(finished.file)).steps}
    records = [json.loads(p.read_text(encoding="utf-8")) for p in (finished.out / "records").iterdir()]
    assert {r["identity"] for r in records} == set(steps) == set(records_of(finished.home))
    assert finished.done == len(steps)
    for record in records:
        step = steps[record["identity"]]
        assert record["title"] == step.label
        assert record["inputs"] == {role: above.identity for role, above in step.inputs.items()}
        assert record["seed"] == 0
        assert record["versions"]["torch"]
        metered = {"memory_before", "memory_peak"}
        trained = {*metered, "memory_expected", "parameters", "trained_parameters"}
        trains = step.kind in ("training", "unlearning") or (step.kind == "attacks" and step.entry.use == "relearn")
        own = trained if trains else metered if step.kind == "attacks" else set()
        assert record["cost"].keys() == {"seconds", "peak_bytes"} | own
        assert {n: record["compute"][n] for n in ("device", "dtype", "threads", "processes")} == {
            "device": "cpu", "dtype": "float32", "threads": 1, "processes": 1
        }  # fmt: skip
        assert len(record["code"]) == 64


def test_a_finished_store_has_no_leftovers_and_no_attacked_weights(finished):
    assert leftovers(finished.home) == []
    held = {path.parent.name for path in finished.home.glob("steps/*/*/model")}
    kinds = {step.identity: step.kind for step in plan(load(finished.file)).steps}
    assert {kinds[identity] for identity in held} == {"world", "training", "unlearning"}


def test_the_statement_names_the_weights_of_each_arm(finished):
    statement = json.loads((finished.out / "statement.json").read_text(encoding="utf-8"))
    for arm in TINY["arms"]:
        weights = {r["weights"] for r in finished.rows if r["arm"] == arm and r["attack"] is None}
        assert set(statement["arms"][arm]["weights"].values()) == weights
    assert statement["results"] == finished.rows


def test_the_resolved_study_repeats_the_run(finished, mine):
    done, rows = run(finished.out / "study.yaml", mine / "home", mine / "again")
    assert (done, rows) == (0, finished.rows)
    assert whole(mine / "again") == whole(finished.out)


def test_a_records_words_are_those_of_the_study_that_is_written(finished, mine):
    arms = {"elsewhere" if name == "filtered" else name: arm for name, arm in TINY["arms"].items()}
    done, _ = run(put(mine / "study.yaml", TINY | {"arms": arms}), mine / "home", mine / "out")
    assert done == 0
    records = [json.loads(p.read_text(encoding="utf-8")) for p in (mine / "out" / "records").iterdir()]
    assert "filtered" not in json.dumps([r["title"] for r in records])
    assert [r["measured"]["arm"] for r in records if r["kind"] == "filters"] == ["elsewhere"]


def test_another_study_in_the_same_run_folder_leaves_its_own_files_only(mine):
    put(mine / "out" / "marks" / "mine.txt", "somebody's")
    put(mine / "out" / "records" / "notes.json", "{}")
    run(put(mine / "study.yaml", SMALLEST), mine / "home", mine / "out")
    assert {p.name for p in (mine / "out" / "marks").iterdir()} == {"untouched.parquet", "mine.txt"}
    assert len(list((mine / "out" / "records").iterdir())) == 3 + 1


# ------------------------------------------------------------------------------------------------ nothing twice


def test_a_second_run_does_nothing_and_writes_the_same_bytes(finished, mine):
    before = records_of(mine / "home")
    done, _ = run(finished.file, mine / "home", mine / "out")
    assert done == 0
    assert records_of(mine / "home") == before
    assert whole(mine / "out") == whole(finished.out)


def test_another_store_gives_the_same_but_for_the_clock(finished, tmp_path):
    done, rows = run(finished.file, tmp_path / "home", tmp_path / "out")
    assert done == finished.done
    assert timeless(rows) == timeless(finished.rows)
    marks = [{p.name: p.read_bytes() for p in (out / "marks").iterdir()} for out in (tmp_path / "out", finished.out)]
    assert marks[0] == marks[1]


def test_two_workers_give_what_one_gives_and_do_once_what_is_there_twice(finished, tmp_path):
    table = changed(TINY, workers=2, arms__alias={"from": "untouched"})
    table["attacks"].append({"use": "relearn", "batch_size": 2, "budget": {"steps": [2, 4]}})
    done, rows = run(put(tmp_path / "study.yaml", table), tmp_path / "home", tmp_path / "out")
    assert done == finished.done
    by_arm = {name: [r | {"arm": ""} for r in timeless(rows) if r["arm"] == name] for name in table["arms"]}
    assert by_arm["alias"] == by_arm["untouched"]
    own = [row for name in TINY["arms"] for row in timeless(rows) if row["arm"] == name]
    kept = [row for i, row in enumerate(own) if i % 21 < 15]  # without the attack that is there twice
    assert kept == timeless(finished.rows)


def test_an_evaluation_added_later_makes_attacked_weights_again_and_only_those(finished, mine):
    before = records_of(mine / "home")
    more = [*TINY["evaluations"], {"use": "multiple_choice", "items": "benign"}]
    done, rows = run(put(mine / "study.yaml", TINY | {"evaluations": more}), mine / "home", mine / "out")
    assert done == 3 * (1 + 3)  # three arms, each as it is and under three attacks
    after = records_of(mine / "home")
    assert before.items() < after.items()
    assert [row for row in rows if row["items"] != "benign"] == finished.rows
    weights = {k[:3]: row["weights"] for k, row in subjects(finished.rows).items()}
    assert all(row["weights"] == weights[k[:3]] for k, row in subjects(rows).items())
    assert list(mine.glob("home/steps/*/*/model/wrap.json")) != []
    assert all(record_kind(path) != "attacks" for path in mine.glob("home/steps/*/*/model"))


def record_kind(model):
    return json.loads((model.parent / "record.json").read_text(encoding="utf-8"))["kind"]


def test_weights_that_come_out_otherwise_than_before_are_an_error(finished, mine):
    for path in mine.glob("home/steps/*/*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] == "attacks":
            record["outputs"]["weights"] = "0" * 64
            path.write_text(json.dumps(record), encoding="utf-8")
    more = [*TINY["evaluations"], {"use": "multiple_choice", "items": "benign"}]
    with pytest.raises(
        UserError, match=r"gave other weights than before: [0-9a-f]{12}, not 0{12}\. .* new UNTAUGHT_HOME"
    ):
        run(put(mine / "study.yaml", TINY | {"evaluations": more}), mine / "home", mine / "out")
    assert leftovers(mine / "home") == []


def test_a_step_whose_record_is_damaged_is_done_again(finished, mine):
    path = next(p for p in mine.glob("home/steps/*/*/record.json") if record_of(p)["kind"] == "unlearning")
    path.write_text("{", encoding="utf-8")
    done, rows = run(finished.file, mine / "home", mine / "out")
    assert done == 1
    assert timeless(rows) == timeless(finished.rows)


def record_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ grids of all kinds


def test_a_budget_in_tokens_is_kept_to_beside_one_in_steps(tmp_path):
    attack = {"use": "relearn", "batch_size": 2, "budget": {"steps": 4, "tokens": [80, 200, 10_000]}}
    _, rows = run(put(tmp_path / "study.yaml", SMALLEST | {"attacks": [attack]}), tmp_path / "home", tmp_path / "out")
    spent = [row["budget"] for row in rows if row["attack"] and row["metric"] == "accuracy"]
    assert [s["tokens"] <= bound for s, bound in zip(spent, (80, 200, 10_000), strict=True)] == [True] * 3
    assert [s["steps"] for s in spent] == sorted(s["steps"] for s in spent)
    assert spent[-1]["steps"] == 4
    assert len({row["weights"] for row in rows if row["attack"]}) == len({s["steps"] for s in spent})


def test_a_point_on_the_way_is_what_a_run_of_its_own_gives(finished, tmp_path):
    alone = changed(TINY, attacks__0__budget__steps=2)
    _, rows = run(put(tmp_path / "study.yaml", alone), tmp_path / "home", tmp_path / "out")
    found, before = subjects(timeless(rows)), subjects(timeless(finished.rows))
    assert all(before[key] == row for key, row in found.items())


# ------------------------------------------------------------------------------------------------ what runs on


def test_a_method_whose_loss_is_no_number_is_told_and_what_is_finished_is_kept(finished, mine):
    table = changed(TINY, arms__wild={"from": "untouched", "unlearning": [{"use": "grad_diff", "lr": 1e30}]})
    before = records_of(mine / "home")
    with pytest.raises(UserError) as caught:
        run(put(mine / "study.yaml", table), mine / "home", mine / "out")
    assert str(caught.value).startswith("grad_diff for wild, seed 0: the loss term '")
    assert "A smaller lr" in str(caught.value)
    assert leftovers(mine / "home") == []
    assert before.items() <= records_of(mine / "home").items()


def test_a_worker_tells_of_wrong_input_as_one_process_does(mine):
    table = changed(TINY, workers=2, arms__wild={"from": "untouched", "unlearning": [{"use": "grad_diff", "lr": 1e30}]})
    table["arms"]["other"] = {"from": "rmu", "unlearning": [{"use": "grad_diff", "steps": 1}]}
    with pytest.raises(UserError, match="^grad_diff for wild, seed 0: the loss term '"):
        run(put(mine / "study.yaml", table), mine / "home", mine / "out")
    assert leftovers(mine / "home") == []


def test_the_store_says_what_it_cannot_do(tmp_path):
    with pytest.raises(UserError, match=r"the step store .* cannot be made: Not a directory\. Set UNTAUGHT_HOME to a"):
        Store(put(tmp_path / "file", "x") / "below")


def test_a_bench_does_only_what_is_not_done(finished, mine, monkeypatch):
    what = plan(load(finished.file))
    bench = Bench(what.study, Store(mine / "home"))
    monkeypatch.setattr(bench, "_write", None)
    for step in what.steps:
        bench.do([step])


def test_digests_in_records_are_those_of_the_files(finished):
    for path in finished.home.glob("steps/*/*/record.json"):
        for name, value in record_of(path)["outputs"].items():
            if name != "weights":
                assert digest.of_file(path.parent / name) == value
            elif (path.parent / "model").is_dir():
                assert digest.of_weights(path.parent / "model") == value


def test_a_stage_that_removes_nothing_hands_everything_on(tmp_path):
    stages = [{"use": "blocklist", "terms": ["stands nowhere"]}, {"use": "blocklist", "terms": TERMS, "distinct": 1}]
    arms = {"filtered": {"filters": stages, **PRETRAIN}}
    file = put(tmp_path / "two.yaml", TINY | {"arms": arms, "attacks": [], "evaluations": TINY["evaluations"][:1]})
    run(file, tmp_path / "home", tmp_path / "out")
    [record] = records_of_kind(tmp_path / "out", "filters")
    assert [stage["removed"] > 0 for stage in record.measured["stages"]] == [False, True]


def records_of_kind(out, kind):
    """The records of one kind of step in a run folder."""
    records = [Record.from_json(path.read_text()) for path in (out / "records").iterdir()]
    return [record for record in records if record.kind == kind]
