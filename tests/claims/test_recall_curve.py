"""The curve of docs/how-good-must-a-filter-be.md: the filter's misses are what they are said to be, and what they leave
is what is learnt.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from untaught.corpus.world import split
from untaught.engine.rig import Rig
from untaught.evaluations.multiple_choice import MultipleChoice
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel
from untaught.training.pretrain import Pretrain

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = Compounds(substances=32, towns=16, values=12, exposures=80)


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("recall_curve", BENCHMARKS / "recall_curve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept():
    return json.loads((BENCHMARKS / "recall_curve.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def small(bench):
    return SMALL.build(0), bench.Statements(SMALL, 0)


@pytest.mark.parametrize("misses", ["documents", "facts"])
def test_a_filter_misses_exactly_its_share_of_the_hazard_and_no_benign_text(bench, small, misses):
    world, said = small
    whole = split(world.documents)
    before = None
    for recall in (0.0, 0.5, 0.75, 1.0):
        found = split(bench.left(world, said, misses, recall, 0))
        copies = bench.counted(bench.left(world, said, misses, recall, 0), said)
        assert found.benign.equals(whole.benign)
        if misses == "documents":
            assert found.hazard.num_rows == round((1 - recall) * whole.hazard.num_rows)
        else:
            assert set(copies.values()) <= {0, SMALL.exposures}
            assert sum(copies.values()) == (1 - recall) * SMALL.exposures * len(copies)
        assert sum(copies.values()) / (SMALL.exposures * len(copies)) == pytest.approx(1 - recall, abs=0.03)
        assert before is None or all(copies[fact] <= before[fact] for fact in copies), "more is left at a higher recall"
        before = copies


@pytest.mark.slow
def test_a_fact_whose_statements_were_missed_is_known_and_one_that_was_filtered_is_not(bench, small):
    """One model, whose filter missed every second fact: the control is in it."""
    world, said = small
    left = bench.left(world, said, "facts", 0.5, 0)
    start = StartingModel().build(world.documents["text"].to_pylist(), 0)
    model = Pretrain(batch_size=2).apply(start, split(left), Rig(0, "training/pretrain"))
    copies, right = bench.counted(left, said), {True: [], False: []}
    for items in bench.HALVES:
        for mark in MultipleChoice(items=items).grade(model, world.items[items]).to_pylist():
            if mark["metric"] == "accuracy":
                right[copies[mark["item"]] > 0].append(mark["value"])
    assert len(right[True]) == len(right[False]) == 32
    assert sum(right[True]) / 32 >= 0.9
    assert sum(right[False]) / 32 <= 0.5


def test_the_kept_curve_is_made_from_the_kept_models(bench, kept):
    wanted = {(*condition, seed) for seed in bench.SEEDS for condition in bench.conditions()}
    assert {(m["misses"], m["recall"], m["seed"]) for m in kept["models"]} == wanted
    assert len(kept["models"]) == len(wanted)
    assert kept["curve"] == bench.curve(kept["models"])
    assert kept["copies"] == bench.by_statements(kept["models"])
    assert kept["enough"] == [bench.enough(kept["curve"])]


@pytest.mark.parametrize("misses", ["documents", "facts"])
def test_on_the_kept_curve_a_better_filter_leaves_less_and_its_ends_are_everything_and_chance(kept, misses):
    points = {
        p["recall"]: p["value"]
        for p in kept["curve"]
        if p["misses"] in (misses, "either") and (p["items"], p["steps"]) == ("hazard_held_out", 0)
    }
    values = [points[recall] for recall in sorted(points)]
    assert all(later <= earlier + 0.03 for earlier, later in zip(values, values[1:], strict=False))
    assert values[0] >= 0.95
    assert values[-1] <= kept["enough"][0]["guessing_at_most"]
