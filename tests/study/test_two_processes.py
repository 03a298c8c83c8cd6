"""Two processes on the CPU come to what one comes to, with weights whole and in shards; one that fails ends both."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from studies import TINY, changed, environment, leftovers, put, rows_of, run, untaught

from untaught.core import Record, UserError
from untaught.engine import batches, models, parallel, scoring

TWO = changed(
    TINY,
    compute={"device": "cpu"},
    arms={
        "untouched": {"training": [{"use": "finetune", "steps": 6, "batch_size": 5, "lr": 3e-3}]},
        "rmu": {"from": "untouched", "unlearning": [{"use": "rmu", "steps": 4, "batch_size": 3}]},
        "relearnt": {"from": "rmu", "training": [{"use": "finetune", "steps": 3, "batch_size": 1, "rank": 2}]},
    },
    attacks=[{"use": "relearn", "batch_size": 3, "rank": 2, "budget": {"steps": [2, 4]}}],
)
"""Batches that two cannot halve, and batches of one, of which the second process has none."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "fsdp.yaml"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
UNTAUGHT = ("-m", "untaught")
ACCELERATE = ("accelerate.commands.launch", "--config_file", str(EXAMPLE))

pytestmark = pytest.mark.skipif(shutil.which("ps") is None, reason="needs the command ps, to end what it starts")


def launched(launcher, *words, home):
    """A launcher that starts `untaught` in two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, words)],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def workers_of(process):
    """The processes that a launcher started, in sessions of their own."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(pid) for pid, parent in map(str.split, lines) if int(parent) == process.pid]


def ended(process, seconds=120):
    """What came of it; nothing of it is left."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        for pid in [*workers_of(process), process.pid] if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def made(home, out):
    """Title to record and model folder of each step whose model is kept."""
    found = {}
    for path in (out / "records").iterdir():
        record = Record.from_json(path.read_text(encoding="utf-8"))
        model = home / "steps" / record.identity[:2] / record.identity / "model"
        if model.is_dir():
            found[record.title] = (record, model)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study in one process."""
    folder = tmp_path_factory.mktemp("alone")
    file = put(folder / "study.yaml", TWO)
    run(file, folder / "home", folder / "out")
    return SimpleNamespace(file=file, made=made(folder / "home", folder / "out"), rows=rows_of(folder / "out"))


def same(alone, home, out):
    """Whether weights and results are those of one process, within what rounding does."""
    found = made(home, out)
    assert found.keys() == alone.made.keys()
    for title, (record, model) in found.items():
        before, folder = alone.made[title]
        assert record.spent == before.spent
        assert record.compute["processes"] == 2
        one, other = load_file(folder / "model.safetensors"), load_file(model / "model.safetensors")
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)
    for row, other in zip(rows_of(out), alone.rows, strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=1e-4)
        assert {k: v for k, v in row["budget"].items() if k not in ("seconds", "memory")} == {
            k: v for k, v in other["budget"].items() if k not in ("seconds", "memory")
        }
    assert leftovers(home) == []
    return found


def test_two_processes_come_to_what_one_comes_to(alone, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    done = ended(launched(TORCHRUN, *UNTAUGHT, "run", alone.file, "--out", out, home=home))
    assert done.code == 0, done.err
    assert done.out.count("A tiny study") == 1
    assert done.err.count("steps were done now") == 1
    same(alone, home, out)


def test_shards_come_to_the_same_and_are_saved_as_one_ordinary_folder(alone, tmp_path):
    """Killed once in the middle, too: a run in shards goes on from its checkpoint."""
    home, out = tmp_path / "home", tmp_path / "out"
    words = (*UNTAUGHT, "run", alone.file, "--out", out, "--set", "compute.checkpoint_seconds=0")
    process = launched(ACCELERATE, *words, home=home)
    for _ in range(3000):
        if list((home / "steps").glob("*/.*.unfinished/0.safetensors")) or process.poll() is not None:
            break
        time.sleep(0.02)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert ended(process).code != 0
    done = ended(launched(ACCELERATE, *words, home=home))
    assert done.code == 0, done.err
    found = same(alone, home, out)
    assert any(record.cost.get("resumed_at") for record, _ in found.values())
    assert all(record.compute["shard"] for record, _ in found.values())
    record, folder = found["finetune for untouched, seed 0"]
    assert record.cost["memory_expected"] < 0.6 * alone.made[record.title][0].cost["memory_expected"]
    subject, plain = models.load(folder), models.load(alone.made[record.title][1])
    rows = batches.pad([[1, 5, 9, 4]], 0)
    one, other = (scoring.token_logprobs(s.model, rows).detach() for s in (subject, plain))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_one_process_cannot_do_ends_them_all_with_one_message(tmp_path):
    wild = {"untouched": {"training": [{"use": "finetune", "steps": 9, "lr": 1e30}]}}
    file = put(tmp_path / "study.yaml", changed(TWO, arms=wild, attacks=[]))
    done = ended(launched(TORCHRUN, *UNTAUGHT, "run", file, "--out", tmp_path / "out", home=tmp_path / "home"))
    assert done.code != 0
    assert done.err.count("untaught: ") == 1
    assert "finetune for untouched, seed 0: the loss term 'next_token' became nan" in done.err
    assert "exitcode  : 2" in done.err
    assert not (tmp_path / "out").exists()


def test_what_only_the_first_process_does_ends_the_others_when_it_fails(tmp_path):
    """They would wait for it for ever."""
    code = put(
        tmp_path / "first.py",
        "from untaught.core import UserError\n"
        "from untaught.engine import parallel\n"
        "def fail():\n    raise UserError('no room')\n"
        "with parallel.joined('cpu'):\n"
        "    assert parallel.first(lambda: {'a': [1, 'é']}) == {'a': [1, 'é']}\n"
        "    assert parallel.first(lambda: parallel.first(lambda: 3)) == 3\n"
        "    assert parallel.summed({'b': 2.5, 'c': parallel.rank()}) == {'b': 5.0, 'c': 1.0}\n"
        "    try:\n        parallel.first(fail)\n"
        "    except UserError as error:\n        print(f'{parallel.rank()} {error}\\n', end='', flush=True)\n",
    )
    done = ended(launched(TORCHRUN, code, home=tmp_path))
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == ["0 no room", "1 no room"]


def test_verbs_but_run_want_one_process(library, tmp_path, monkeypatch):
    job = put(tmp_path / "job.yaml", {"use": "quantise"})
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    done = untaught("attack", library / "base", "--config", job, "--out", tmp_path / "out", home=tmp_path)
    assert done.returncode == 2
    assert "only `untaught run` works in several processes" in done.stderr


def test_a_lone_variable_of_a_launcher_launches_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (parallel.rank(), parallel.world()) == (0, 1)


def test_a_device_of_one_process_is_refused_for_several(monkeypatch):
    from untaught.core import Compute
    from untaught.engine.compute import decisive, settled

    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("is_available", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    with pytest.raises(UserError, match=r"compute\.device is 'cuda:1', and several processes compute on cpu or cuda"):
        settled(Compute(device="cuda:1"))
    assert settled(Compute(device="cuda")).device == "cuda"
    assert decisive(Compute(device="cpu"))["processes"] == 2
    assert "checkpoint_seconds" not in decisive(Compute(device="cpu"))
