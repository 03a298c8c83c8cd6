"""Attack seeds: the same arms attacked again with other randomness, and only what draws at random."""

import io
import json
import shutil

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from studies import TINY, changed, identities, leftovers, put, records_of, rows_of, run, timeless

from untaught.core import Budget, UserError, shelves
from untaught.corpus.world import split
from untaught.engine.rig import Rig
from untaught.report import account, read, summary
from untaught.report.page import render
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.steps import Bench
from untaught.study.store import Store


def seeded(*seeds, **changes):
    return changed(TINY, attack_seeds=list(seeds), **changes)


@pytest.fixture(scope="module")
def repeated(finished, tmp_path_factory):
    """The tiny study with two attack seeds, run on a copy of the finished store."""
    folder = tmp_path_factory.mktemp("repeated")
    shutil.copytree(finished.home, folder / "home")
    before = records_of(folder / "home")
    done, rows = run(put(folder / "study.yaml", seeded(0, 7)), folder / "home", folder / "out")
    return folder, before, done, rows


def attacks_of(rows, name, items="hazard_held_out"):
    return [r for r in rows if (r["attack"], r["items"], r["metric"]) == (name, items, "accuracy")]


def test_attack_seed_0_is_what_there_was_before_and_nothing_of_it_is_done_again(finished, repeated):
    folder, before, done, rows = repeated
    relearns = 3 * 2  # arms, budgets that are not 0
    assert done == relearns * (1 + len(TINY["evaluations"]))
    assert before.items() <= records_of(folder / "home").items()
    assert leftovers(folder / "home") == []
    first = [row for row in rows if row["attack_seed"] in (0, None)]
    assert timeless(first) == timeless(finished.rows)
    assert identities(finished.file).items() <= identities(folder / "study.yaml").items()


def test_another_attack_seed_is_another_attack_on_the_same_arm(repeated):
    rows = timeless(repeated[3])
    for arm in TINY["arms"]:
        weights = {
            seed: {r["budget"]["steps"]: r["weights"] for r in attacks_of(rows, "relearn")
                   if (r["arm"], r["attack_seed"]) == (arm, seed)}
            for seed in (0, 7)
        }  # fmt: skip
        assert weights[0][0] == weights[7][0] == next(r["weights"] for r in rows if r["arm"] == arm)
        assert all(weights[0][steps] != weights[7][steps] for steps in (2, 4))
        surgery = [r["attack_seed"] for r in attacks_of(rows, "quantise") if r["arm"] == arm]
        assert surgery == [None]
    assert {r["attack_seed"] for r in rows if r["attack"] is None} == {None}


def test_marks_records_and_the_statement_name_the_attack_seed(repeated):
    folder, _, _, rows = repeated
    marks = pq.read_table(folder / "out" / "marks" / "rmu.parquet").to_pylist()
    count = {seed: sum(r["n"] for r in rows if (r["arm"], r["attack_seed"]) == ("rmu", seed)) for seed in (None, 0, 7)}
    assert {seed: sum(m["attack_seed"] == seed for m in marks) for seed in count} == count
    records = [json.loads(p.read_text(encoding="utf-8")) for p in (folder / "out" / "records").iterdir()]
    named = [r for r in records if r["kind"] == "attacks" and r["settings"].get("attack_seed") == 7]
    assert len(named) == 6
    assert all(r["title"].endswith(", attack seed 7, seed 0") and r["seed"] == 0 for r in named)
    assert sum("attack_seed" in r["settings"] for r in records) == 6
    statement = json.loads((folder / "out" / "statement.json").read_text(encoding="utf-8"))
    assert statement["attack_seeds"] == [0, 7]
    assert load(folder / "out" / "study.yaml").attack_seeds == (0, 7)


def test_the_same_attack_seed_again_gives_the_same_bits(repeated, tmp_path):
    _, rows = run(put(tmp_path / "study.yaml", seeded(7)), tmp_path / "home", tmp_path / "out")
    assert timeless(rows) == timeless([row for row in repeated[3] if row["attack_seed"] in (7, None)])


def test_weights_that_were_dropped_come_back_under_their_attack_seed(repeated, tmp_path):
    """An evaluation added later has the attack run again, and its weights compared with the record."""
    shutil.copytree(repeated[0] / "home", tmp_path / "home")
    more = [*TINY["evaluations"], {"use": "multiple_choice", "items": "benign"}]
    done, rows = run(put(tmp_path / "study.yaml", seeded(0, 7, evaluations=more)), tmp_path / "home", tmp_path / "out")
    assert done == 3 * (1 + 2 * 2 + 1)

    def places(items):
        names = ("arm", "attack", "attack_seed", "weights")
        return {tuple(row[n] for n in names) for row in rows if (row["items"], row["metric"]) == (items, "accuracy")}

    assert places("benign") == places("hazard_held_out")
    assert len(places("benign")) == 3 * (1 + 1 + 2 * 3)


def test_evaluations_and_attacks_of_one_attempt_are_one_group(repeated):
    from untaught.study.run import groups

    made = groups(plan(load(repeated[0] / "study.yaml")))
    seeds = [{s.settings.get("attack_seed", 0) for s in g.steps if s.kind == "attacks"} for g in made]
    assert all(len(found) <= 1 for found in seeds)
    assert sum(found == {7} for found in seeds) == sum(found == {0} for found in seeds) - 3  # and 3 of quantise


@pytest.mark.parametrize("given", ["[]", "[1, 1]", "[-1]", "[x]", "3"])
def test_attack_seeds_that_will_not_do(desk, tmp_path, given):
    put(tmp_path / "study.yaml", TINY)
    answer = desk("plan", "study.yaml", "--set", f"attack_seeds={given}")
    assert answer.code == 2
    assert "attack_seeds" in answer.err


def test_what_says_that_it_draws_nothing_does_draw_nothing(finished):
    """Attacks of which a study does one for each seed give the same with any randomness."""
    import torch

    steps = [s for s in plan(load(finished.file)).steps if s.kind in ("training", "unlearning")]
    bench = Bench(load(finished.file), Store(finished.home))
    donor, subject = bench._subject(steps[0]), bench._subject(steps[-1])
    corpus = split(bench._text(steps[0]).attack)
    silent = [name for name in shelves.names("attacks") if not getattr(shelves.find("attacks", name), "random", True)]
    for name in silent:
        rigs = [Rig(seed, f"attacks/{name}", budget=Budget(), donor=lambda: donor) for seed in (0, 1)]
        first, second = (shelves.find("attacks", name)().apply(subject, corpus, rig) for rig in rigs)
        weights = [one.model.state_dict() for one in (first, second, subject)]
        assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())
        assert first.wrap == second.wrap
        moved = any(not torch.equal(weight, weights[0][key]) for key, weight in weights[2].items())
        assert moved or first.wrap != subject.wrap
    weights_alone = {"quantise", "interpolate", "extrapolate", "truncate"}
    assert set(silent) == weights_alone | {"system_prompt", "prefill", "in_context", "templates"}


def test_the_report_says_how_attacks_were_repeated_and_widens_nothing_by_it(finished, repeated):
    folder = repeated[0]
    once, twice = account(read(finished.out)), account(read(folder / "out"))
    assert (once.run.attack_seeds, twice.run.attack_seeds) == ((0,), (0, 7))
    assert len(once.grid.cells) == len(twice.grid.cells)
    for one, two in zip(once.grid.cells, twice.grid.cells, strict=True):
        assert (one.arm, one.measure, one.cost.steps) == (two.arm, two.measure, two.cost.steps)
        assert (one.estimate.seeds, one.estimate.of_seeds) == (two.estimate.seeds, two.estimate.of_seeds) == (1, 1)
        if one.attack is None or one.attack.component == "quantise":
            assert one.estimate == two.estimate
    page = render(twice)
    assert "repeated with 2 attack seeds on the same arms; a seed counts once" in page
    assert "<td>0, attack 7</td>" in page
    assert "Attack seeds: 0, 7." in page
    screen = Console(file=io.StringIO(), width=300, record=True)
    screen.print(summary(folder / "out"))
    assert "the mean of 2 attack seeds each" in " ".join(screen.export_text().split())
    assert "attack seed" not in render(once)


def test_rows_of_a_study_without_attack_seeds_are_read_as_ever(finished, tmp_path):
    """Results of before this column was there."""
    shutil.copytree(finished.out, tmp_path / "out")
    rows = [{k: v for k, v in row.items() if k != "attack_seed"} for row in rows_of(finished.out)]
    put(tmp_path / "out" / "results.jsonl", rows)
    assert read(tmp_path / "out").attack_seeds == ()
    old, new = account(read(tmp_path / "out")), account(read(finished.out))
    assert old.grid.cells == new.grid.cells


def test_a_study_with_a_wrong_attack_seed_says_where(tmp_path):
    with pytest.raises(UserError, match="'attack_seeds' must be a list of different numbers"):
        load(put(tmp_path / "study.yaml", seeded(2, 2)))
