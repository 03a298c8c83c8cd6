"""A study on Ray: the same results file as in one process, whatever of it is killed, and messages that mend."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from studies import COMMAND, PRETRAIN, SMALLEST, Nobody, environment, leftovers, put, records_of
from test_killing import agree, children, wait_until
from test_wrong_input import files_study

from untaught.core import UserError
from untaught.corpus.running import RETRIES
from untaught.study import results
from untaught.study.plan import plan
from untaught.study.run import run as carry_out
from untaught.study.schema import load
from untaught.study.store import Store

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'untaught[cluster]'"
)
needs_ps = pytest.mark.skipif(
    shutil.which("ps") is None, reason="needs the command ps, to see what processes there are"
)


@pytest.fixture(scope="module")
def cluster():
    """A Ray with room for two, which this program had before any study was run on it."""
    import ray

    from untaught.corpus._ray import connect

    connect(2)
    yield ray
    assert ray.is_initialized(), "a run ended a Ray that it did not start"
    ray.shutdown()


class Listener(Nobody):
    def __init__(self):
        self.begun, self.ended, self.reports = [], [], []

    def started(self, steps):
        self.begun.append(steps)

    def progress(self, identity, done, total):
        self.reports.append((identity, done, total))

    def finished(self, steps):
        self.ended.append(steps)


def clockless(out):
    """The bytes of a results file, but for the seconds and the memory that an attack took."""
    return re.sub(rb'"(seconds|memory)": ([0-9.e-]+|null)', rb'"\1": _', (out / "results.jsonl").read_bytes())


# ------------------------------------------------------------------------------------------------ the same results


@needs_ray
def test_two_workers_of_ray_give_the_results_file_of_the_local_run(cluster, finished, tmp_path):
    what, store, heard = plan(load(finished.file, {"workers": 2})), Store(tmp_path / "home"), Listener()
    assert carry_out(what, store, heard, "ray") == finished.done
    results.write(what, store, tmp_path / "out")
    assert clockless(tmp_path / "out") == clockless(finished.out)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() != (finished.out / "results.jsonl").read_bytes()
    for path in (finished.out / "marks").iterdir():
        assert (tmp_path / "out" / "marks" / path.name).read_bytes() == path.read_bytes()
    assert len(heard.begun) == len(heard.ended) == len(set(heard.begun))
    assert {identity for identity, _, _ in heard.reports} <= {step.identity for step in what.steps}
    assert any(done == total for _, done, total in heard.reports)
    assert leftovers(tmp_path / "home") == []
    assert carry_out(what, store, heard, "ray") == 0


@needs_ray
def test_groups_go_side_by_side_and_never_before_what_they_need(cluster, finished, tmp_path):
    heard, events = Listener(), []
    heard.started = lambda steps: events.append(("begun", steps))
    heard.finished = lambda steps: events.append(("ended", steps))
    carry_out(plan(load(finished.file, {"workers": 2})), Store(tmp_path / "home"), heard, "ray")
    done, at, most = set(), 0, 0
    for what, steps in events:
        own = {step.identity for step in steps}
        if what == "begun":
            assert {above.identity for step in steps for above in step.inputs.values()} - own <= done
        at += 1 if what == "begun" else -1
        most, done = max(most, at), done | (own if what == "ended" else set())
    assert (at, most) == (0, 2)


# ------------------------------------------------------------------------------------------------ killed


def at_work(session):
    """Processes of a session in which Ray is at a group."""
    told = subprocess.run(["ps", "-wweo", "pid=,sess=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in told.stdout.splitlines()]
    mine = [row for row in rows if int(row[1]) == session and not row[2].startswith("Z")]
    return [int(row[0]) for row in mine if row[3].startswith("ray::_do")]


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@needs_ray
@needs_ps
def test_a_group_whose_worker_is_killed_is_done_again(cluster, finished, tmp_path):
    killed = []

    class Killer(Nobody):
        def finished(self, steps):
            if len(killed) < 2 and steps[0].kind != "world":
                wait_until(lambda: at_work(os.getsid(0)))
                killed.extend(found := at_work(os.getsid(0)))
                kill(found)

    what, store = plan(load(finished.file, {"workers": 2})), Store(tmp_path / "home")
    assert carry_out(what, store, Killer(), "ray") == finished.done
    assert len(killed) >= 2
    results.write(what, store, tmp_path / "out")
    assert clockless(tmp_path / "out") == clockless(finished.out)
    assert leftovers(tmp_path / "home") == []


@pytest.fixture
def begun(tmp_path):
    """A run on a Ray of its own that is at a training which takes longer than any test waits: process, home, words."""
    arms = {"untouched": PRETRAIN, "slow": {"training": [{"use": "pretrain", "epochs": 1e5}]}}
    file, home = put(tmp_path / "slow.yaml", SMALLEST | {"arms": arms}), tmp_path / "home"
    words = ["run", str(file), "--out", str(tmp_path / "out"), "--executor", "ray", "--set", "workers=2", "--json"]
    process = subprocess.Popen(
        [*COMMAND, *words], env=environment(home), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(records_of(home)) == 3)
        yield process, home
        wait_until(lambda: not children(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@needs_ray
@needs_ps
def test_a_group_whose_workers_are_always_killed_is_told(begun):
    process, home = begun
    before, kills = records_of(home), 0
    while process.poll() is None:
        kills += len(found := at_work(process.pid))
        kill(found)
        wait_until(lambda: process.poll() is not None or set(at_work(process.pid)) - set(found))
    _, said = process.communicate()
    assert (process.returncode, kills) == (2, RETRIES + 1), said
    assert "a worker process was ended from outside while the run was at: pretrain for slow, seed 0." in said
    assert "run again, with fewer at a time (--set workers=1)" in said
    assert "Traceback" not in said
    agree(before, records_of(home))


@needs_ray
@needs_ps
def test_ctrl_c_ends_a_run_on_ray_and_all_that_it_began(begun):
    process, _ = begun
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert said == "untaught: stopped. What is finished is kept: run again to go on.\n"


# ------------------------------------------------------------------------------------------------ messages


@needs_ray
def test_what_the_input_is_to_blame_for_is_said_as_in_one_process(cluster, library, tmp_path):
    shutil.copytree(library, tmp_path / "library")
    what = plan(load(put(tmp_path / "study.yaml", files_study(tmp_path / "library"))))
    (tmp_path / "library" / "hazard.jsonl").unlink()
    said = []
    for executor in ("local", "ray"):
        with pytest.raises(UserError, match="hazard.jsonl") as told:
            carry_out(what, Store(tmp_path / executor), Nobody(), executor)
        said.append(str(told.value))
    assert said[0] == said[1]


@needs_ray
def test_a_step_that_no_node_has_the_gpus_for_is_refused_before_it_waits_for_ever(cluster, tmp_path):
    what = plan(load(put(tmp_path / "study.yaml", SMALLEST | {"gpus_per_step": 64})))
    with pytest.raises(UserError, match=r"no node of Ray has what a step asks for \(processors: 1, GPUs: 64\)"):
        carry_out(what, Store(tmp_path / "home"), Nobody(), "ray")


@needs_ray
def test_a_node_with_another_version_is_refused(cluster, tmp_path, monkeypatch):
    from untaught.study import _ray

    monkeypatch.setattr(_ray, "versions", lambda: {"torch": "0.1"})
    what = plan(load(put(tmp_path / "study.yaml", SMALLEST)))
    with pytest.raises(UserError, match=r"differs from where the run was started in: .*torch.*Install the same"):
        carry_out(what, Store(tmp_path / "home"), Nobody(), "ray")


@needs_ray
def test_a_record_that_this_node_does_not_see_is_told(tmp_path, monkeypatch):
    from untaught.study import _ray

    monkeypatch.setattr(_ray, "PATIENCE", 0.1)
    step = plan(load(put(tmp_path / "study.yaml", SMALLEST))).steps[0]
    with pytest.raises(UserError, match="UNTAUGHT_HOME to a folder that all nodes of Ray share"):
        _ray._shown(Store(tmp_path / "home"), [step])


@needs_ray
@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "count"),
    [
        ([{"CPU": 4.0}, {"CPU": 3.0}], 2, 0.0, 3),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 1, 1.0, 2),
        ([{"CPU": 16.0, "GPU": 2.0}], 1, 0.4, 4),
        ([{"CPU": 3.0, "GPU": 2.0}], 1, 0.5, 3),
        ([{"CPU": 8.0, "GPU": 3.0}], 1, 2.0, 1),
        ([{"memory": 1.0}], 1, 0.0, 0),
    ],
)
def test_how_many_groups_the_nodes_have_room_for(nodes, threads, gpus, count, monkeypatch):
    from untaught.study import _ray

    found = [{"Alive": True, "Resources": has} for has in nodes] + [{"Alive": False, "Resources": {"CPU": 99.0}}]
    monkeypatch.setattr(_ray.ray, "nodes", lambda: found)
    assert _ray._Tasks._fitting(SimpleNamespace(threads=threads, gpus=gpus)) == count


@pytest.mark.parametrize("word", ["cuda", "cuda:1"])
def test_a_task_asks_for_the_gpu_it_computes_on(word, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from untaught.study import _ray

    study = load(put(tmp_path / "study.yaml", SMALLEST))
    monkeypatch.setattr(_ray.compute, "settled", lambda asked: asked.model_copy(update={"device": word}))
    on_gpu = study.model_copy(update={"compute": _ray._settled(study)})
    assert on_gpu.compute.device == "cuda"
    assert [_ray._gpus(on_gpu), _ray._gpus(study)] == [1.0, 0.0]
    assert _ray._gpus(on_gpu.model_copy(update={"gpus_per_step": 0.25})) == 0.25


def test_gpus_a_step_are_no_part_of_what_is_computed(tmp_path):
    studies = [load(put(tmp_path / "study.yaml", SMALLEST | more)) for more in ({}, {"gpus_per_step": 0.5})]
    assert len({tuple(step.identity for step in plan(study).steps) for study in studies}) == 1
    assert studies[0].to_yaml() == studies[1].to_yaml()
    with pytest.raises(UserError, match=r"gpus_per_step.*whole numbers"):
        load(put(tmp_path / "study.yaml", SMALLEST | {"gpus_per_step": 1.5}))


def test_an_unknown_executor_and_a_missing_package_are_said(desk, tmp_path, monkeypatch):
    put(tmp_path / "study.yaml", SMALLEST)
    answer = desk("run", "study.yaml", "--executor", "rays")
    assert (answer.code, answer.err) == (2, "untaught: there is no executor 'rays'. Did you mean 'ray'?\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "untaught.study._ray", raising=False)
    monkeypatch.delitem(sys.modules, "untaught.corpus._ray", raising=False)
    answer = desk("run", "study.yaml", "--executor", "ray")
    assert (answer.code, answer.out) == (2, "")
    assert "ray is not installed. Install it: pip install 'untaught[cluster]'." in answer.err


def test_the_executor_local_stays_in_this_process(finished, desk, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("untaught.study.processes.in_processes", None)
    answer = desk("run", finished.file, "--out", "out", "--executor", "local", "--set", "workers=2", "--json")
    assert (answer.code, json.loads(answer.out)["done_now"]) == (0, finished.done)
    assert clockless(tmp_path / "out") == clockless(finished.out)
