"""A step that is killed in the middle goes on from there, and comes to the same last bit."""

import json
import multiprocessing
import os
import random
import time

import pytest
from studies import SMALLEST, TINY, changed, identities, leftovers, put, rows_of, run, run_apart, timeless

from untaught.core import Record
from untaught.study.store import WEEK, Store

LONG = changed(
    TINY,
    compute={"checkpoint_seconds": 0},
    arms={
        "untouched": {"training": [{"use": "pretrain", "epochs": 6}]},
        "rmu": {"from": "untouched", "unlearning": [{"use": "rmu", "steps": 30}]},
    },
    attacks=[
        {"use": "relearn", "batch_size": 2, "budget": {"steps": [0, 10, 30]}},
        {"use": "relearn", "batch_size": 2, "rank": 2, "lr": 1e-2, "budget": {"steps": [30]}},
    ],
)
"""Steps long enough to be killed in, saved after every optimiser step."""


@pytest.fixture(scope="module")
def apart():
    """A way to start processes that have everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "untaught.engine.models"])
    return context


def records(out):
    return {path.name: Record.from_json(path.read_text(encoding="utf-8")) for path in (out / "records").iterdir()}


def lasting(record):
    """All of a record that does not depend on how things happened to be."""
    plain = json.loads(record.to_json())
    return {name: value for name, value in plain.items() if name != "cost"}


def underway(home):
    """Identities of the steps that have a checkpoint."""
    return {path.parent.name.split(".")[1] for path in (home / "steps").glob("*/.*.unfinished/[0-9].safetensors")}


def test_steps_that_are_killed_in_the_middle_come_to_the_same_end(apart, tmp_path):
    file, home, out, rng = put(tmp_path / "study.yaml", LONG), tmp_path / "home", tmp_path / "out", random.Random(3)
    run(file, tmp_path / "calm" / "home", tmp_path / "calm" / "out")
    killed = []
    while True:
        process = apart.Process(target=run_apart, args=(str(file), str(home), str(out)))
        process.start()
        while process.exitcode is None and not [i for i in underway(home) if killed.count(i) < 2]:
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.1))
        ended = process.exitcode is not None
        process.kill()
        process.join()
        if ended and process.exitcode == 0:
            break
        killed += underway(home)
    found, calm = records(out), records(tmp_path / "calm" / "out")
    assert {name: lasting(record) for name, record in found.items()} == {n: lasting(r) for n, r in calm.items()}
    assert timeless(rows_of(out)) == timeless(rows_of(tmp_path / "calm" / "out"))
    resumed = [record for record in found.values() if record.cost.get("resumed_at")]
    assert {record.kind for record in resumed} == {"training", "unlearning", "attacks"}
    assert all(r.cost["resumed_at"] <= r.spent["steps"] for r in resumed if r.kind != "attacks")
    assert not any("resumed_at" in record.cost for record in calm.values())
    assert leftovers(home) == []


def test_how_often_a_step_is_saved_makes_no_other_step(tmp_path):
    file = put(tmp_path / "study.yaml", TINY)
    assert identities(file) == identities(file, compute__checkpoint_seconds=5)
    assert identities(file) != identities(file, compute__micro_batch=2)


# ------------------------------------------------------------------------------------------------ the store

IDENTITY, OTHER = "ab" + "0" * 62, "ab" + "1" * 62


def record(identity):
    return Record(identity, "training", "a training", None, {}, 0, {}, {"weights": "w"})


def checkpoint(store, identity, *, age=0.0):
    """A checkpoint of a step, last written so many seconds ago."""
    folder = put(store.unfinished(identity) / "0.safetensors", "x").parent
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_checkpoints_are_gone_when_their_step_is_finished(tmp_path):
    store = Store(tmp_path)
    for identity in (IDENTITY, OTHER):
        checkpoint(store, identity)
    with store.writing(IDENTITY) as folder:
        put(folder / "model" / "w", "1")
        store.finish(folder, record(IDENTITY))
    assert leftovers(tmp_path) == [str(store.unfinished(OTHER))]
    checkpoint(store, IDENTITY)
    store.drop(IDENTITY, "model")
    with store.writing(IDENTITY) as folder:
        put(folder / "model" / "w", "1")
        store.restore(folder, IDENTITY, "model")
    assert leftovers(tmp_path) == [str(store.unfinished(OTHER))]


def test_a_sweep_keeps_checkpoints_that_can_be_gone_on_from(tmp_path):
    store = Store(tmp_path)
    with store.writing(IDENTITY) as folder:
        store.finish(folder, record(IDENTITY))
    stale = checkpoint(store, IDENTITY, age=60)
    live, old = checkpoint(store, OTHER, age=WEEK / 2), checkpoint(store, "cd" + "2" * 62, age=WEEK * 2)
    store.sweep()
    assert (stale.exists(), live.exists(), old.exists()) == (False, True, False)
    again = checkpoint(store, IDENTITY, age=-60)  # its weights are being made again
    store.sweep()
    assert again.exists()


def test_an_evaluation_that_is_killed_asks_only_what_it_had_not_put_by(tmp_path, monkeypatch):
    from untaught.engine import scoring

    file, asked, original = put(tmp_path / "study.yaml", SMALLEST), [], scoring._asked

    def counted(*given, **how):
        asked.append(1)
        if len(asked) == dies:
            raise KeyboardInterrupt
        return original(*given, **how)

    monkeypatch.setattr(scoring, "TOKENS", 96)
    monkeypatch.setattr(scoring, "BEGUN", 0)
    monkeypatch.setattr(scoring, "_asked", counted)
    dies = 0
    _, calm = run(file, tmp_path / "calm", tmp_path / "calm" / "out")
    whole, dies = len(asked), len(asked) + 6
    with pytest.raises(KeyboardInterrupt):
        run(file, tmp_path / "home", tmp_path / "out")
    asked.clear()
    dies = 0
    _, rows = run(file, tmp_path / "home", tmp_path / "out")
    assert timeless(rows) == timeless(calm)
    assert len(asked) == whole - 5
    assert not leftovers(tmp_path / "home")
