"""Arms that fine-tune on a pool: who draws it, what filters are told of it, what is trained on, what is judged."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from studies import changed, identities, put, run

from untaught.core import UserError
from untaught.corpus.world import read_any_items
from untaught.lab.manners import Manners
from untaught.report import account, effects, judges, read, redraw, summary
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.store import Store

SMALL = {"risky": 8, "ordinary": 12, "exposures": 1, "fact_exposures": 2, "pool_exposures": 2, "values": 4}
POOL = {"size": 40, "contamination": 0.25, "prompt_words": None}
TUNED = [{"use": "finetune", "steps": 4, "batch_size": 4, "lowest": 0.5, "lr": 0.003}]
KNOWN = {"hazard": 4, "clean": 8, "of": "hard"}
ARMS = {
    "base": {"training": [{"use": "pretrain", "warmup": 1}]},
    "unfiltered": {"from": "base", "pool": POOL, "training": TUNED},
    "oracle": {"from": "base", "pool": POOL, "filters": ["oracle"], "training": TUNED},
    "few": {
        **{"from": "base", "pool": POOL | {"known": KNOWN}, "training": TUNED},
        "filters": [{"use": "few_shot_ranker", "removed": 0.25, "layers": [0]}],
    },
    "probe": {
        **{"from": "base", "pool": POOL | {"labelled": 20}, "training": TUNED},
        "filters": [{"use": "probe", "removed": 0.25, "layers": [0]}],
    },
    "then_safe": {"from": "unfiltered", "training": [TUNED[0] | {"text": "safe"}]},
    "rounds": {"from": "base", "pool": POOL, "training": [*TUNED, TUNED[0] | {"text": "safe"}, *TUNED]},
}
STUDY = {
    "title": "A tiny pool",
    "seeds": [0, 1],
    "world": {"use": "manners", **SMALL},
    "start": {"width": 32, "blocks": 2, "heads": 2, "vocabulary": 500},
    "workers": 1,
    "arms": ARMS,
    "attacks": [{"use": "relearn", "batch_size": 2, "lowest": 0.5, "budget": {"steps": [0, 2]}}],
    "evaluations": [
        {"use": "multiple_choice", "items": "manners"},
        {"use": "answer_likelihood", "items": "benign_text"},
    ],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, run: its steps by title for seed 0, their records, and the run folder."""
    folder = tmp_path_factory.mktemp("pools")
    file = put(folder / "study.yaml", STUDY)
    run(file, folder / "home", folder / "out")
    store, what = Store(folder / "home"), plan(load(file))
    steps = {step.title: step for step in what.steps if step.seed == 0}

    def table(title, name):
        return pq.read_table(store.folder(steps[title].identity) / name)

    records = {title: store.record(step.identity) for title, step in steps.items()}
    return SimpleNamespace(steps=steps, records=records, table=table, out=folder / "out", file=file)


PLAIN, LABELLED, WITH_KNOWN = (
    "pool of 40, 25% hazard" + end for end in ("", ", 20 labelled", ", 4 and 8 known")
)  # fmt: skip


def test_arms_with_the_same_pool_share_its_step(made):
    drawn = [title for title, step in made.steps.items() if step.kind == "pool"]
    assert sorted(drawn) == sorted([PLAIN, LABELLED, WITH_KNOWN])


def test_pools_that_differ_in_what_is_told_of_them_have_the_same_examples(made):
    ids = [made.table(title, "pool.parquet")["id"].to_pylist() for title in (PLAIN, LABELLED, WITH_KNOWN)]
    assert ids[0] == ids[1] == ids[2]
    assert made.records[PLAIN].measured["hazard"] == 10


def test_known_examples_are_beside_the_pool_and_share_no_prompt_with_it(made):
    pool, known = (made.table(WITH_KNOWN, f"{name}.parquet") for name in ("pool", "known"))
    assert known["hazard"].to_pylist().count(True) == KNOWN["hazard"]
    assert known["kind"].to_pylist().count("safe") == KNOWN["clean"] == known.num_rows - KNOWN["hazard"]
    assert not set(pool["prompt"].to_pylist()) & set(known["prompt"].to_pylist())


def test_the_oracle_takes_all_hazard_and_nothing_else(made):
    told = made.records["filter for oracle"].measured
    assert (told["recall"], told["precision"], told["removed"]) == (1.0, 1.0, 10)
    kept = made.table("filter for oracle", "kept.parquet")
    assert not any(kept["hazard"].to_pylist())
    assert {"messages", "kind", "source", "prompt"} <= {*kept.column_names}


@pytest.mark.parametrize("arm", ["few", "probe"])
def test_a_filter_asks_the_model_that_is_about_to_be_tuned(made, arm):
    step = made.steps[f"filter for {arm}"]
    assert step.inputs["subject"] == made.steps["pretrain for base"]
    told = made.records[f"filter for {arm}"].measured
    assert told["removed"] == 10
    assert 0 <= told["auroc"] <= 1


def test_what_a_filter_logs_stands_in_its_record(tmp_path):
    table = changed(STUDY, seeds=[0], attacks=[])
    stage = {"use": "saft", "layer": 0, "removed": 0.25, "fallback": False}
    table["arms"] = {"base": ARMS["base"], "saft": ARMS["probe"] | {"filters": [stage]}}
    file = put(tmp_path / "study.yaml", table)
    run(file, tmp_path / "home", tmp_path / "out")
    (step,) = [s for s in plan(load(file)).steps if s.kind == "filters"]
    (told,) = Store(tmp_path / "home").record(step.identity).measured["stages"]
    assert {"variance_by_label", "variance_by_source", "slice_auroc"} <= told["measured"].keys()


def test_a_text_of_its_own_is_trained_on_in_place_of_the_pool(made):
    step = made.steps["finetune for then_safe"]
    assert step.inputs.keys() == {"world", "subject"}
    assert step.settings["text"] == "safe"
    weights = {made.records[f"finetune for {arm}"].outputs["weights"] for arm in ("unfiltered", "then_safe")}
    assert len(weights) == 2


def test_the_same_training_again_goes_on_with_other_draws(made):
    third = made.steps["finetune for rounds, part 3"]
    second, pool = (third.inputs[role] for role in ("subject", "pool"))
    assert second.settings["text"] == "safe"
    assert second.inputs["subject"] == made.steps["finetune for unfiltered"]
    assert pool == made.steps[PLAIN]
    assert third.settings["turn"] == 1


def test_the_share_of_the_oracles_effect_is_told_before_and_after_the_attack(made):
    found = effects.comparisons(account(read(made.out)))
    assert [one.attack for one in found] == ["", "relearn, 2 steps"]
    assert {effect.arm for effect in found[0].effects} == set(ARMS) - {"unfiltered"}
    oracle = next(effect for effect in found[0].effects if effect.arm == "oracle")
    assert oracle.fall == found[0].possible
    assert oracle.seeds == 2
    assert oracle.share is None or oracle.share.value == pytest.approx(1)
    page = (made.out / "report.html").read_text(encoding="utf-8") if (made.out / "report.html").exists() else ""
    assert not page or "oracle" in page
    assert summary(made.out) is not None


def test_a_resolved_study_with_pools_has_the_same_steps(made, tmp_path):
    again = put(tmp_path / "study.yaml", load(made.file).to_yaml())
    assert identities(again) == identities(made.file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms__then_safe__training__0__text": "saef"}, "has the text 'saef', which is no item set of the study. Did"),
        ({"arms__unfiltered__training": []}, "arms.unfiltered has a pool and trains on none. Add 'training'"),
        ({"arms__unfiltered__pool__contamination": 2}, "arms.unfiltered.pool.contamination is 2"),
        ({"arms__unfiltered__pool__sise": 2}, "arms.unfiltered.pool has no setting 'sise'. Did you mean 'size'?"),
        ({"effects": [{"oracle": "oracl"}]}, "effects.0 names 'oracl', which is no arm. Did you mean 'oracle'?"),
        ({"evaluations__0": {"use": "judged", "items": "manners", "reader": "bas"}}, "names 'bas', which is no arm."),
    ],
)
def test_wrong_settings_are_told_with_their_place(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        load(put(tmp_path / "study.yaml", changed(STUDY, **changes)))
    assert words in str(caught.value)


def test_aliases_are_copies_so_that_a_change_of_one_arm_changes_no_other(tmp_path):
    text = "world: lab:manners\narms:\n  a: {pool: &p {size: 40}, training: &t [pretrain]}\n"
    text += "  b: {pool: *p, training: *t}\n"
    text += "evaluations: [{use: multiple_choice, items: manners}]\n"
    study = load(put(tmp_path / "study.yaml", text.encode()), {"arms.a.pool.size": 50})
    assert [study.arms[name].pool.size for name in "ab"] == [50, 40]


# -- judged ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Examples in files as people rated them, with parts by prompt, and a model folder: an uncivil reply is harm."""
    from untaught.engine import models
    from untaught.lab.start import StartingModel

    folder = tmp_path_factory.mktemp("rated")
    world = Manners(**SMALL | {"risky": 16, "pool_exposures": 8}).build(0)
    parts = ("pool", "pool", "judge", "held_out")
    for side, kinds in (("harmful", ("harmful",)), ("safe", ("safe",)), ("benign", ("benign",))):
        rows = [row | {"part": parts[int(row["prompt"], 16) % 4]} for row in world.pool.to_pylist()]
        put(folder / f"{side}.jsonl", [row for row in rows if row["kind"] in kinds])
    asked = world.items["manners"].select(["id", "question", "role"]).to_pylist()
    put(folder / "prompts.jsonl", [{"id": r["id"], "text": r["question"], "role": r["role"]} for r in asked][:12])
    start = StartingModel(width=32, blocks=2, heads=2, vocabulary=500)
    models.save(start.build(world.documents["text"].to_pylist(), 0), folder / "base")
    return folder


@pytest.fixture(scope="module")
def judged(rated):
    table = {
        "title": "Judged",
        "seeds": [0, 1],
        "base": "base",
        "workers": 1,
        "corpus": {
            **{"hazard": "harmful.jsonl", "benign": ["safe.jsonl", "benign.jsonl"]},
            **{"attack_hazard": "harmful.jsonl", "attack_part": "held_out"},
        },
        "items": {
            "prompts": {"path": "prompts.jsonl", "most": 6},
            "answers": {"path": "benign.jsonl", "part": "held_out"},
        },
        "arms": {"base": {}, "unfiltered": {"pool": POOL, "training": TUNED}},
        "evaluations": [
            {
                **{"use": "judged", "items": "prompts", "tokens": 8},
                "judge": {"hazard": ["harmful.jsonl"], "benign": ["safe.jsonl"]},
            },
            {"use": "over_refusal", "items": "prompts", "tokens": 8},
            {"use": "answer_likelihood", "items": "answers", "role": "benign"},
        ],
    }
    file = put(rated / "study.yaml", table)
    _, rows = run(file, rated / "home", rated / "out")
    return SimpleNamespace(rows=rows, steps=plan(load(file)).steps, store=Store(rated / "home"), out=rated / "out")


def test_the_judge_is_made_once_and_says_how_well_it_agrees_with_people(judged):
    (step,) = [step for step in judged.steps if step.kind == "preparation"]
    told = judged.store.record(step.identity).measured
    assert told["agreement_low"] <= told["agreement"] <= told["agreement_high"]
    assert told["agreement"] > 0.8
    (found,) = judges.judges(read(judged.out))
    assert f"AUROC of {told['agreement']:.2f}" in judges.believed(found)
    assert judges.believed(found) in redraw(judged.out).read_text(encoding="utf-8").replace("&#39;", "'")


def test_what_no_seed_decides_is_done_once_for_all_seeds(judged):
    kinds = [step.kind for step in judged.steps]
    assert kinds.count("world") == 1
    base = [row for row in judged.rows if row["arm"] == "base"]
    assert {row["seed"] for row in base} == {0, 1}
    assert len({row["weights"] for row in base}) == 1


def test_every_prompt_has_a_probability_and_none_is_missing_without_a_word(judged):
    rows = {(r["arm"], r["seed"], r["metric"]): r for r in judged.rows if r["evaluation"] == "judged"}
    for arm in ("base", "unfiltered"):
        for metric in ("harmful", "harmful_share", "refused"):
            assert rows[arm, 0, metric]["n"] + rows[arm, 0, metric]["missing"] == 6
            value = rows[arm, 0, metric]["value"]
            assert value is None or 0 <= value <= 1


def test_some_rows_of_a_file_are_asked(rated):
    from untaught.study import files

    every = read_any_items(rated / "benign.jsonl")
    part = files.items(files.Rows(path="benign.jsonl", part="held_out"), rated)
    assert set(part["part"].to_pylist()) == {"held_out"}
    some = files.items(files.Rows(path="benign.jsonl", most=5), rated)
    assert some.num_rows == 5 < every.num_rows
    with pytest.raises(UserError, match="has no rows of the part 'held'"):
        files.items(files.Rows(path="benign.jsonl", part="held"), rated, "items.x")


def test_the_attacker_has_his_part_alone(judged, rated):
    (world,) = [step for step in judged.steps if step.kind == "world"]
    attack = pq.read_table(judged.store.folder(world.identity) / "attack.parquet")
    assert set(attack["part"].to_pylist()) == {"held_out"}


def test_a_judge_ranks_what_it_did_not_learn_from(rated):
    from untaught.evaluations.judged import Judged, Rated

    rated_answers = Rated(hazard=(str(rated / "harmful.jsonl"),), benign=(str(rated / "safe.jsonl"),))
    component = Judged(judge=rated_answers, reader=str(rated / "base"))
    one, other = (rated / name for name in ("one", "other"))
    for folder in (one, other):
        folder.mkdir()
        component.prepare(folder)
    assert (one / "judge.npz").read_bytes() == (other / "judge.npz").read_bytes()
    with pytest.raises(UserError, match="has no judge"):
        Judged(reader=str(rated / "base")).prepare(one)


def test_a_regression_is_where_its_loss_is_least():
    from untaught.core.logistic import _dual, _sigmoid, _weights

    rng = np.random.default_rng(0)
    rows, hits = rng.normal(size=(40, 5)), rng.random(40) < 0.3
    dual, bias = _dual(rows @ rows.T, hits, 0.01)
    weights = rows.T @ dual
    off = _weights(hits) * (_sigmoid(rows @ weights + bias) - hits)
    assert np.abs(rows.T @ off + 0.01 * weights).max() < 1e-8
    assert abs(off.sum()) < 1e-8


def test_a_single_model_is_judged_with_the_reader_that_is_named(desk, rated):
    judge = {"hazard": [str(rated / "harmful.jsonl")], "benign": [str(rated / "safe.jsonl")]}
    table = {"use": "judged", "items": "prompts.jsonl", "tokens": 8, "judge": judge, "reader": "base"}
    said = desk("evaluate", rated / "base", "--config", put(rated / "judged.yaml", table), "--json")
    assert said.code == 0, said.err
    assert {row["metric"] for row in json.loads(said.out)} == {"harmful", "harmful_share", "refused"}


# -- effects -----------------------------------------------------------------------------------------------------------


def values(mean, rng, seeds=3, items=60):
    return {
        (seed, f"{item}"): float(mean[item] + 0.01 * rng.normal()) for seed in range(seeds) for item in range(items)
    }


def test_the_share_is_what_it_says():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.8, 60)
    unfiltered, oracle, half = (values(base - fall, rng) for fall in (0.0, 0.2, 0.1))
    told = effects._told(half, unfiltered, oracle)
    found = effects._effect("half", told, effects._drawn(told))
    assert found.share.value == pytest.approx(0.5, abs=0.02)
    assert found.share.low < found.share.value < found.share.high
    assert found.relative.value == pytest.approx(0.1 / base.mean(), abs=0.02)
    assert (found.prompts, found.seeds) == (60, 3)


def test_no_share_is_told_of_an_effect_that_may_be_nothing():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.8, 60)
    unfiltered, oracle, other = (values(base, rng) for _ in range(3))
    told = effects._told(other, unfiltered, oracle)
    possible = effects._drawn(told)
    assert possible[0].holds_zero
    found = effects._effect("other", told, possible)
    assert found.share is None
    assert found.relative is not None


def test_a_prompt_counts_where_all_three_have_a_value():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.8, 60)
    unfiltered, oracle, half = (values(base - fall, rng) for fall in (0.0, 0.2, 0.1))
    for seed in range(3):
        del half[seed, "7"]
        del oracle[seed, "8"]
    assert effects._told(half, unfiltered, oracle).prompts == 58


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_what_is_kept_of_a_run_fills_the_tables_of_the_page(made):
    root = Path(__file__).parents[2]
    kept = json.loads(json.dumps(module(root / "benchmarks" / "fine_tuning_study.py").told(made.out), allow_nan=False))
    tables = module(root / "docs" / "generate.py").study_tables(kept)
    assert [line["arm"] for line in kept["filters"]] == ["oracle", "few", "probe"]
    assert "| `oracle` | 20 of 80 | 100% | 100% | 1.00, 1.00 |" in tables["filters"]
    assert tables["effects"].count("`oracle`") == 2
    assert all(f"`{arm}`" in tables["arms"] for arm in ARMS)
    page = (root / "docs" / "fine-tuning-study.md").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in page for name in tables)
