"""Killing runs: nothing that was finished is lost or done twice, nothing half done stays, and no process is left."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from studies import COMMAND, SMALLEST, TINY, environment, leftovers, put, records_of, rows_of, run, run_apart, timeless

from untaught.core import Record
from untaught.study.store import Store


@pytest.fixture(scope="module")
def apart():
    """A way to start processes that have everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "untaught.engine.models"])
    return context


def started(apart, file, home, out):
    process = apart.Process(target=run_apart, args=(str(file), str(home), str(out)))
    process.start()
    return process


def agree(before, after):
    """No finished step was written again."""
    assert before.items() <= after.items()


def test_killed_at_any_moment_a_run_comes_to_the_same_end(apart, finished, tmp_path):
    home, out, rng = tmp_path / "home", tmp_path / "out", random.Random(5)
    records, kills, seconds = {}, 0, 0.3
    while True:
        process = started(apart, finished.file, home, out)
        process.join(rng.uniform(0.1, 1) * seconds if kills < 40 else None)
        ended = process.exitcode is not None
        process.kill()
        process.join()
        agree(records, found := records_of(home))
        if ended:
            break
        kills, records = kills + 1, found
        seconds *= 1.3  # in case this machine gets nothing done in so short a time
    assert process.exitcode == 0
    assert kills >= 3
    assert timeless(rows_of(out)) == timeless(finished.rows)
    assert {p.name for p in (out / "records").iterdir()} == {p.name for p in (finished.out / "records").iterdir()}
    assert leftovers(home) == []


def test_two_runs_at_once_share_a_store(apart, finished, tmp_path):
    home = tmp_path / "home"
    runs = [started(apart, finished.file, home, tmp_path / f"out{i}") for i in range(2)]
    seen = {}
    while any(process.is_alive() for process in runs):
        agree(seen, seen := records_of(home))
        time.sleep(0.05)
    assert [process.exitcode for process in runs] == [0, 0]
    assert timeless(rows_of(tmp_path / "out0")) == timeless(finished.rows)
    assert rows_of(tmp_path / "out0") == rows_of(tmp_path / "out1")
    assert leftovers(home) == []


# ------------------------------------------------------------------------------------------------ with workers


def children(group):
    """Living processes of a process group, and what they are called with."""
    lines = subprocess.run(["ps", "-wweo", "pid=,pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in lines.splitlines()]
    return {int(pid): words for pid, its, state, words in rows if int(its) == group and not state.startswith("Z")}


def begun(file, home, out):
    """The command line with two workers, as the head of a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, "run", str(file), "--out", str(out), "--set", "workers=2", "--json"],
        env=environment(home), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(true):
    """Wait until something holds; a test that waits for ever has failed."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def workers_of(process):
    return [pid for pid, words in children(process.pid).items() if "spawn_main" in words]


@pytest.fixture
def slow(tmp_path):
    """A study with a training that takes longer than any test waits."""
    table = TINY | {"arms": TINY["arms"] | {"slow": {"training": [{"use": "pretrain", "epochs": 1e5}]}}}
    return put(tmp_path / "slow.yaml", table)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs the command ps, to see what processes there are")
def test_workers_end_with_their_parent_and_a_killed_worker_is_told(slow, finished, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    process = begun(slow, home, out)
    try:
        wait_until(lambda: len(records_of(home)) > 2)
        process.kill()
        wait_until(lambda: not children(process.pid))
        records = records_of(home)
        process.communicate()

        process = begun(slow, home, out)
        wait_until(lambda: len(records_of(home)) > len(records) and len(workers_of(process)) == 2)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == 2
        assert "a worker process was ended from outside while the run was at: " in said
        assert "--set workers=1" in said
        assert "Traceback" not in said
        wait_until(lambda: not children(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    agree(records, records_of(home))
    assert not out.exists() or list(out.iterdir()) == []
    _, rows = run(finished.file, home, out)
    assert timeless(rows) == timeless(finished.rows)
    assert leftovers(home) == []


# ------------------------------------------------------------------------------------------------ the store


def record(identity, **more):
    return Record(identity, "world", "a world", None, {}, 0, {}, {"weights": "w"}, **more)


IDENTITY = "ab" + "0" * 62


def gone():
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    store = Store(tmp_path)
    with store.writing(IDENTITY) as mine:
        put(mine / "half.txt", "half")
        me = mine.name
        dead = mine.with_name(me.replace(f"-{os.getpid()}-", f"-{gone()}-"))
        elsewhere, old = (mine.with_name(f".0000000000000000-{host}-1-abcdefgh") for host in ("0" * 8, "1" * 8))
        for folder in (dead, elsewhere, old):
            put(folder / "half.txt", "half")
        os.utime(old, (0, 0))
        put(mine.with_name(".dead.lock"), "")
        store.sweep()
        assert {p.name for p in mine.parent.iterdir()} == {me, elsewhere.name}
    assert [p.name for p in (store.root / "ab").iterdir()] == [elsewhere.name]


def test_a_sweep_lets_a_lock_be_that_someone_has(tmp_path):
    store = Store(tmp_path)
    with store.alone(IDENTITY):
        store.sweep()
        assert len(leftovers(tmp_path)) == 1
    assert leftovers(tmp_path) == []


def test_a_step_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail():
        with store.writing(IDENTITY) as folder:
            put(folder / "half.txt", "half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert store.record(IDENTITY) is None
    assert leftovers(tmp_path) == []


def test_who_finishes_second_changes_nothing(tmp_path):
    store = Store(tmp_path)
    for seconds in (1.0, 2.0):
        with store.writing(IDENTITY) as folder:
            put(folder / "x.txt", str(seconds))
            store.finish(folder, record(IDENTITY, cost={"seconds": seconds}))
    assert store.record(IDENTITY).cost == {"seconds": 1.0}
    assert (store.folder(IDENTITY) / "x.txt").read_text(encoding="utf-8") == "1.0"
    assert leftovers(tmp_path) == []


def test_a_dropped_output_is_restored_beside_the_same_record(tmp_path):
    store = Store(tmp_path)
    with store.writing(IDENTITY) as folder:
        put(folder / "model" / "w", "1")
        store.finish(folder, record(IDENTITY))
    before = records_of(tmp_path)
    store.drop(IDENTITY, "model")
    store.drop(IDENTITY, "model")
    assert [p.name for p in store.folder(IDENTITY).iterdir()] == ["record.json"]
    for text in ("1", "2"):
        with store.writing(IDENTITY) as folder:
            put(folder / "model" / "w", text)
            store.restore(folder, IDENTITY, "model")
    assert (store.folder(IDENTITY) / "model" / "w").read_text(encoding="utf-8") == "1"
    assert records_of(tmp_path) == before
    assert leftovers(tmp_path) == []


def test_an_interrupted_run_says_so_without_a_traceback(tmp_path):
    process = begun(put(tmp_path / "study.yaml", SMALLEST), tmp_path / "home", tmp_path / "out")
    try:
        wait_until(lambda: (tmp_path / "home" / "steps").is_dir())
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, 1, 2, 6)
    assert "Traceback" not in said
