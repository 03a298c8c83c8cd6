"""Going on at the item: what was asked is not asked again, to the same bits, and any change asks anew."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from untaught.core import Compute, Subject, Wrap
from untaught.engine import generation, models, remembering, scoring
from untaught.evaluations.cloze import Cloze
from untaught.evaluations.multiple_choice import MultipleChoice
from untaught.lab.start import StartingModel
from untaught.study import single

PLACES = ["Abburg", "Tolburg", "Sefu", "Oran", "Wido", "Nalt"]
ITEMS = pa.table({
    "id": [f"{place}-{number}" for place in PLACES for number in range(4)],
    "question": [f"{'The boats of the river know ' * number}{place} is" for place in PLACES for number in range(4)],
    "choices": [["wide and long", "a hill", "red"]] * 24,
    "answer": [number % 3 for number in range(24)],
})  # fmt: skip
PAIRS = [("The river of Abburg is", " wide"), ("The river of Abburg is", " long"), ("A hill", " is red")]


def built():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(["The river of Abburg is wide."] * 2, 0)


@pytest.fixture(scope="module")
def start():
    return built()


@pytest.fixture
def runs(monkeypatch):
    """How often a model was run."""
    seen, original, written = [], scoring._asked, generation._continued
    monkeypatch.setattr(scoring, "_asked", lambda *given: seen.append(1) or original(*given))
    monkeypatch.setattr(generation, "_continued", lambda *given, **how: seen.append(1) or written(*given, **how))
    return seen


def asked(subject, folder, weights="w", pairs=PAIRS):
    with remembering.kept(folder, subject.model, weights=weights):
        return scoring.completions(subject, pairs)


def test_what_was_asked_before_is_not_asked_again_and_is_the_same(start, runs, tmp_path):
    def everything():
        with remembering.kept(tmp_path, start.model, weights="w"):
            return (
                scoring.completions(start, PAIRS),
                scoring.text_nats(start, ["The river.", "A hill is red."]),
                generation.said(start, ["The river", "A"], tokens=4, draw=1),
                generation.said(start, ["The river", "A"], tokens=4),
            )

    plain = everything()
    assert runs
    runs.clear()
    assert everything() == plain
    assert not runs
    scoring.completions(start, PAIRS)
    assert runs, "outside the block nothing is looked up"


@pytest.mark.parametrize("what", ["weights", "wrap", "prompt", "completion", "config", "precision", "threads", "code"])
def test_a_change_of_any_one_thing_finds_nothing(what, start, runs, tmp_path, monkeypatch):
    asked(start, tmp_path)
    runs.clear()
    asked(start, tmp_path)
    assert not runs
    subject, weights, pairs = start, "w", list(PAIRS)
    if what == "weights":
        weights = "others"
    if what == "wrap":
        subject = dataclasses.replace(start, wrap=Wrap(before="Say: "))
    if what == "prompt":
        pairs[0] = ("The rivers of Abburg is", " wide")
    if what == "completion":
        pairs[0] = ("The river of Abburg is", " wider")
    if what == "config":
        monkeypatch.setattr(start.model.config, "rms_norm_eps", 1e-3)
    if what in ("precision", "threads"):
        other = {"dtype": "mixed"} if what == "precision" else {"threads": 7}
        monkeypatch.setattr(remembering, "now", lambda: Compute(**{"device": "cpu", "dtype": "float32"} | other))
    if what == "code":
        monkeypatch.setattr(remembering, "code", lambda: "other code")
    asked(subject, tmp_path, weights, pairs)
    assert runs


@pytest.mark.parametrize("package", remembering.TRACKED)
def test_another_version_of_a_library_finds_nothing(package, start, monkeypatch):
    before, found = remembering.circumstances(start.model, "w"), remembering.importlib.metadata.version
    other = lambda name: "0.1" if name == package else found(name)  # noqa: E731
    monkeypatch.setattr(remembering.importlib.metadata, "version", other)
    assert remembering.circumstances(start.model, "w") != before


@pytest.mark.parametrize("how", [{"tokens": 5}, {"draw": 2}, {"draw": None}])
def test_another_length_or_draw_writes_anew(how, start, runs, tmp_path):
    with remembering.kept(tmp_path, start.model, weights="w"):
        generation.said(start, ["The river"], **{"tokens": 4, "draw": 1})
        runs.clear()
        generation.said(start, ["The river"], **{"tokens": 4, "draw": 1} | how)
    assert runs


def test_another_model_is_not_taken_for_the_one_that_is_remembered(start, runs, tmp_path):
    asked(start, tmp_path)
    other = built()
    runs.clear()
    with remembering.kept(tmp_path, start.model, weights="w"):
        scoring.completions(other, PAIRS)
    assert runs


def test_nothing_that_was_asked_or_said_can_be_read(start, tmp_path):
    with remembering.kept(tmp_path, start.model, weights="w"):
        [answer] = generation.said(start, ["The river of Abburg"], tokens=12)
    data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert data
    assert answer
    ids = start.tokenizer(answer)["input_ids"]
    for secret in (answer.encode(), b"Abburg", str(ids)[1:-1].encode(), b"[["):
        assert secret not in data


def test_a_damaged_file_counts_as_absent(start, runs, tmp_path):
    plain = asked(start, tmp_path)
    [path] = tmp_path.rglob("*.answers")
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], b"", b"nonsense" * 20):
        path.write_bytes(damaged)
        runs.clear()
        assert asked(start, tmp_path) == plain
        assert runs
        for new in set(tmp_path.rglob("*.answers")) - {path}:
            new.unlink()


def test_the_oldest_answers_go_when_they_are_too_many(tmp_path):
    for number in range(12):
        notes = remembering.Notes(tmp_path / "one", most=1000)
        notes.keep(["question", number], bytes(100))
        notes.put_by()
        time.sleep(0.01)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.answers")) <= 1000
    left = remembering.Notes(tmp_path / "one")
    assert left.find(["question", 11]) == bytes(100)
    assert left.find(["question", 0]) is None


def test_many_files_become_one_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "MANY", 4)
    for number in range(7):
        notes = remembering.Notes(tmp_path / "one")
        notes.keep(number, str(number).encode())
        notes.put_by()
    assert len(list(tmp_path.rglob("*.answers"))) < 7
    last = remembering.Notes(tmp_path / "one")
    assert [last.find(number) for number in range(7)] == [str(number).encode() for number in range(7)]


def test_a_folder_that_vanishes_or_cannot_be_written_ends_no_evaluation(start, tmp_path):
    plain = scoring.completions(start, PAIRS)
    (tmp_path / "file").write_text("")
    assert asked(start, tmp_path / "file") == plain


WRITER = """
import sys
from pathlib import Path
from untaught.engine import remembering
remembering.SECONDS, remembering.MANY = 0, 3
for number in range(60):
    notes = remembering.Notes(Path(sys.argv[1]) / "one") if number % 10 == 0 else notes
    notes.keep([sys.argv[2], number], sys.argv[2].encode() * 9)
"""


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [one.wait(120) for one in running] == [0, 0]
    last = remembering.Notes(tmp_path / "one")
    assert all(last.find([name, number]) == name.encode() * 9 for name in "ab" for number in range(60))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_remembering as here
from untaught.engine import remembering, scoring
remembering.SECONDS, scoring.TOKENS, scoring.BEGUN, done = 0, 96, 0, []
original = scoring._asked
def asked(*given):
    if len(done) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return original(*given)
scoring._asked = asked
start = here.built()
with remembering.kept(Path(sys.argv[1]), start.model, weights="w"):
    here.marked(start)
"""


def marked(subject):
    return [kind().grade(subject, ITEMS).to_pylist() for kind in (Cloze, MultipleChoice)]


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_bits(runs, tmp_path, monkeypatch):
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, here], check=False, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for name, value in (("TOKENS", 96), ("BEGUN", 0)):
        monkeypatch.setattr(scoring, name, value)
    plain = marked(start := built())
    whole = len(runs)
    runs.clear()
    again = Subject(built().model, start.tokenizer)
    with remembering.kept(tmp_path, again.model, weights="w"):
        assert marked(again) == plain
    assert len(runs) == whole - 5


def test_a_folder_that_was_evaluated_is_evaluated_again_without_being_asked(start, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    models.save(start, tmp_path / "model")
    pq.write_table(ITEMS.append_column("role", pa.array(["hazard"] * 24)), tmp_path / "items.parquet")
    job, folder = single.read_job(None, {"use": "multiple_choice", "items": "items.parquet"})
    first = single.evaluate(tmp_path / "model", job, tmp_path)
    assert runs
    runs.clear()
    assert single.evaluate(tmp_path / "model", job, tmp_path) == first
    assert not runs
