"""Executors: the same folder, byte for byte, whatever does the work, and whatever of it is killed."""

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import corpora
import kills
import pytest

from untaught.core import UserError
from untaught.corpus import deciding, running, shards
from untaught.policies import filtering

EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = "long.parquet"


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'untaught[cluster]'")


EXECUTORS = ["processes", pytest.param("ray", marks=needs("ray")), pytest.param("datatrove", marks=needs("datatrove"))]


def made(corpus, out):
    return filtering.make(*filtering.read_policy(corpus[1], out, {}), out).rules


def test_the_corpus_has_what_can_go_wrong(corpus, expected):
    summary = json.loads(expected["summary.json"])
    assert list(summary["damaged"]) == ["torn.jsonl.gz"]
    assert all(summary[decision] for decision in ("kept", "removed", "quarantined"))
    receipt = json.loads(expected[f"receipts/decided/{LONG}.json"])
    assert len(receipt["shards"]) == len(kills.PAST_A_SHARD)
    assert sum(name.startswith("findings/") for name in expected) > 2


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_killed_worker_changes_nothing_under_any_executor(executor, corpus, expected, tmp_path):
    """The control is `expected`, which came about in threads and undisturbed."""
    killed, (code, said) = kills.workers_killed(corpus, tmp_path / "out", executor, random.Random(1))
    assert (code, "Traceback" in said, killed) == (kills.TORN, False, 1), said
    assert kills.differences(tmp_path / "out", expected) == []


@pytest.mark.parametrize("executor", EXECUTORS[1:])
def test_what_the_input_is_to_blame_for_is_said_by_every_executor(executor, corpus, tmp_path):
    corpora.write(tmp_path / "out" / deciding.WORK / "a.jsonl", [])
    with kills.Run(*corpus, tmp_path / "out", executor) as run:
        code, said = run.ended()
    assert code == 2, said
    assert "cannot be written" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("package", ["ray", "datatrove"])
def test_a_missing_package_is_said_with_what_installs_it(package, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"untaught.corpus._{package}", raising=False)
    words = ["filter", corpus[0], "--config", corpus[1], "--out", tmp_path / "out", "--executor", package]
    assert corpora.untaught(*words) == 2
    assert "pip install 'untaught[cluster]'" in capsys.readouterr().err


# -- processes of this machine -----------------------------------------------------------------------------------------


def frail(given):
    """Work that kills its process the first time, where there is a path to note that down."""
    number, path = given
    if path is not None and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def hopeless(given):
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_of_killed_processes_is_done_by_new_ones(tmp_path):
    items = [(n, tmp_path / str(n) if n in (1, 6) else None) for n in range(8)]
    pool = running.Processes(2)
    assert {item[0]: answer for item, answer in pool(frail, items)} == {n: n * n for n in range(8)}
    assert len(list(tmp_path.iterdir())) == 2
    again = [(item[0], answer) for item, answer in pool(frail, [(4, None)])]
    assert again == [(4, 16)]


def test_work_that_is_always_killed_is_given_up():
    with pytest.raises(UserError, match="killed 4 times.*--set workers=1"):
        list(running.Processes(1)(hopeless, [1, 2]))


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs the command ps, to see what processes there are")
def test_processes_end_with_the_one_that_began_them(corpus, tmp_path):
    with kills.Run(*corpus, tmp_path / "out", "processes") as run:
        assert run.come(5, 0)
        assert run.workers()
        run.process.kill()
        kills.wait_until(lambda: not run.living())


def test_an_interrupted_run_ends_at_once_and_without_a_traceback(corpus, tmp_path):
    with kills.Run(*corpus, tmp_path / "out", "processes") as run:
        assert run.come(5, 0)
        os.killpg(run.process.pid, signal.SIGINT)
        code, said = run.ended()
        assert code not in (0, 1, 2, kills.TORN)
        assert "Traceback" not in said, said
        kills.wait_until(lambda: not run.living())


def test_a_source_finished_by_a_task_that_was_killed_before_it_said_so(corpus, tmp_path):
    rules = made(corpus, tmp_path)
    long = next(source for source in shards.sources([str(corpus[0])]) if source.name == LONG)
    for part in shards.cut(long):
        with pytest.raises(RuntimeError, match=f"{part.index} of 3 shards are decided"):
            deciding.finish(rules, long, tmp_path)
        deciding.decide(rules, part, tmp_path)
    deciding.finish(rules, long, tmp_path)
    before = corpora.contents(tmp_path)
    deciding.finish(rules, long, tmp_path)
    assert corpora.contents(tmp_path) == before


def test_what_a_killed_run_was_writing_goes(corpus, expected, tmp_path):
    for name, content in expected.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    for name in (".policy.yaml.1a2b.tmp", "kept/.a.jsonl.1a2b.tmp", f"{deciding.WORK}/a.jsonl/00000.json"):
        corpora.write(tmp_path / "out" / name, corpora.rows(1))
    assert corpora.untaught("filter", corpus[0], "--out", tmp_path / "out", "--apply", "--json") == kills.TORN
    assert kills.differences(tmp_path / "out", expected) == []


# -- parts of a corpus -------------------------------------------------------------------------------------------------


def test_parts_are_decided_apart_and_finished_by_the_next_run(corpus, expected, tmp_path, capsys):
    out, found = tmp_path / "out", shards.sources([str(corpus[0])])
    rules = made(corpus, out)
    count = len(running.to_decide(found))
    assert count == len(found) + len(kills.PAST_A_SHARD) - 1
    for rank in (2, 0, 1):
        running.share(rules, found, out, rank, 3)
    capsys.readouterr()
    corpora.untaught("filter", corpus[0], "--out", out, "--apply", "--json")
    assert json.loads(capsys.readouterr().out)["decided_now"] == 1  # the one in several shards was left to be finished
    assert kills.differences(out, expected) == []


def test_a_part_leaves_alone_what_is_finished(corpus, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for name, content in expected.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    monkeypatch.setattr(deciding, "decide", lambda rules, shard, folder: done.append(shard.source.name))
    monkeypatch.setattr(deciding, "finish", lambda rules, source, folder: None)
    done = []
    running.share(made(corpus, out), shards.sources([str(corpus[0])]), out, 0, 1)
    assert done == []
    with pytest.raises(UserError, match="no part 3 of 3"):
        running.share(made(corpus, out), [], out, 3, 3)


# -- examples ----------------------------------------------------------------------------------------------------------


def example(*words, **environment):
    """Run an example as its reader does. Returns what it printed."""
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment}
    ended = subprocess.run(
        [str(word) for word in words], env=os.environ | own, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.parametrize("package", [pytest.param("ray", marks=needs("ray")), EXECUTORS[2]])
def test_the_examples_filter_their_corpus(package):
    path = EXAMPLES / f"filter_with_{package}.py"
    assert len(path.read_text().splitlines()) < 40
    printed = example(sys.executable, path)
    assert "1200 documents read" in printed
    assert re.search(r"kept +800 .*\n +removed +400 ", printed)


SBATCH = '''#!{python}
"""A Slurm that queues nothing: each task of an array runs here and now."""
import os, re, subprocess, sys

options = [word for word in sys.argv[1:] if word.startswith("--") and word != "--wrap"]
words = [word for word in sys.argv[1:] if word not in options]
for word in options:
    if word.startswith("--dependency"):
        assert re.fullmatch(r"--dependency=after(any|ok):7", word), word
if words[0] == "--wrap":
    command, text = ["bash", "-c", words[1]], ""
else:
    command, text = ["bash", *words], open(words[0]).read()
array = re.search(r"--array=0-([0-9]+)", " ".join(options) + text)
if "merge_stats" not in text:
    for task in range(int(array[1]) + 1 if array else 1):
        own = {{"SLURM_NODELIST": "here", "SLURM_ARRAY_TASK_ID": str(task)}} if array else {{}}
        own |= {{"SLURM_ARRAY_TASK_COUNT": str(int(array[1]) + 1)}} if array else {{}}
        subprocess.run(command, check=True, env=os.environ | own, stdout=sys.stderr)
print("7" if "--parsable" in options else "Submitted batch job 7")
'''


@pytest.fixture
def slurm(tmp_path):
    """A folder with the commands of Slurm, as far as the examples need them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "sbatch": SBATCH.format(python=sys.executable),
        "srun": '#!/bin/bash\nwhile [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done\nexec "$@"\n',
        "scontrol": '#!/bin/bash\necho "${@: -1}"\n',
    }
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.fixture
def undisturbed(tmp_path):
    """A small corpus and what is made of it in this process."""
    data, policy = corpora.corpus(tmp_path / "data"), corpora.policy(tmp_path / "policy.yaml")
    assert corpora.untaught("filter", data, "--config", policy, "--out", tmp_path / "expected", "--json") == 0
    return SimpleNamespace(data=data, policy=policy, expected=corpora.contents(tmp_path / "expected"))


def test_the_job_array_filters_a_corpus(slurm, undisturbed, tmp_path):
    """The commands are those at the top of the file."""
    text = (EXAMPLES / "filter.sbatch").read_text()
    commands = "\n".join(re.findall(r"^#     (.*)$", text, re.MULTILINE))
    names = {"filter.sbatch": EXAMPLES / "filter.sbatch", "policy.yaml": undisturbed.policy}
    for name, path in {**names, "DATA": undisturbed.data, "OUT": tmp_path / "out"}.items():
        assert name in commands
        commands = commands.replace(name, str(path))
    example("bash", "-ec", commands.replace("0-63", "0-2"), **slurm)
    assert kills.differences(tmp_path / "out", undisturbed.expected) == ["estimate.json"]


@needs("datatrove")
def test_the_slurm_example_queues_what_filters_a_corpus(slurm, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [undisturbed.policy, undisturbed.data, tmp_path / "out", "--tasks", 2, "--partition", "any"]
    example(sys.executable, EXAMPLES / "filter_on_slurm.py", *words, **slurm)
    assert kills.differences(tmp_path / "out", undisturbed.expected) == []
    assert (tmp_path / "slurm-logs").is_dir()
