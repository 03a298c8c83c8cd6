"""Wrong input by the command line: exit code 2, a message that says what mends it, and nothing left behind."""

import shutil
from pathlib import Path

import pytest
import yaml
from studies import PRETRAIN, SMALLEST, TINY, changed, leftovers, put, untaught


def files_study(library, **changes):
    """A study of somebody's own model and files, with whole paths."""
    table = {
        "workers": 1,
        "corpus": {"hazard": str(library / "hazard.jsonl"), "benign": str(library / "benign.jsonl")},
        "base": str(library / "base"),
        "items": {"questions": str(library / "questions.jsonl")},
        "arms": {"rmu": {"unlearning": [{"use": "rmu", "steps": 1}]}},
        "attacks": [{"use": "relearn", "budget": {"steps": 1}}],
        "evaluations": [{"use": "multiple_choice", "items": "questions"}],
    }
    return changed(table, **changes)


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def told(answer, *words):
    """Exit code 2 and one message with these words, without a traceback."""
    code = answer.returncode if hasattr(answer, "returncode") else answer.code
    said = answer.stderr if hasattr(answer, "stderr") else answer.err
    assert code == 2, said
    assert said.startswith("untaught: ")
    assert "Traceback" not in said
    for word in words:
        assert str(word) in said
    assert (answer.stdout if hasattr(answer, "stdout") else answer.out) == ""


# ------------------------------------------------------------------------------------------------ as processes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "none.yaml"], ["there is no file none.yaml. Give the path of a YAML file."]),
        (["run", "words.yaml"], ["words.yaml holds a single value, and should hold a table"]),
        (["plan", "broken.yaml"], ["broken.yaml, line 2, column 2 is not YAML: "]),
        (["run", "study.yaml", "--set", "sed=[0]"], ["study.yaml has no setting 'sed'. Did you mean 'seeds'?"]),
        (["run", "study.yaml", "--set", "seeds"], ["--set seeds should be PATH=VALUE, such as --set seeds=[0]."]),
        (["run", "study.yaml", "--set", "seeds=[0"], ["--set seeds: '[0' is not a YAML value."]),
        (["report", "nowhere"], ["nowhere is not a folder. Give the folder that `untaught run --out` wrote"]),
        (["list", "attack"], ["there is no shelf 'attack'. Did you mean 'attacks'?"]),
        (["show", "relern"], ["there is no component 'relern'. Did you mean 'relearn'?"]),
        (["new", "attacks", "My-Attack"], ["'My-Attack' cannot name a component. Use lower case"]),
        (["new", "attacks", "mine", "--out", "words.yaml/sub"], ["cannot be written: ", "Give a"]),
    ],
)
def test_as_a_process_of_its_own(tmp_path, words, said):
    put(tmp_path / "work" / "words.yaml", "just words")
    put(tmp_path / "work" / "broken.yaml", "a: [1\nb: 2")
    put(tmp_path / "work" / "study.yaml", SMALLEST)
    before = below(tmp_path)
    told(untaught(*words, home=tmp_path / "home", cwd=tmp_path / "work"), *said)
    assert below(tmp_path) == before


def test_a_misspelt_setting_of_a_component_as_a_process_of_its_own(tmp_path):
    put(tmp_path / "work" / "study.yaml", changed(TINY, arms__rmu__unlearning__0__stear=5))
    told(
        untaught("run", "study.yaml", home=tmp_path / "home", cwd=tmp_path / "work"),
        "study.yaml, arms.rmu.unlearning.0 (unlearning.rmu) has no setting 'stear'. Did you mean 'steer'?",
    )
    assert below(tmp_path) == ["work", "work/study.yaml"]


# ------------------------------------------------------------------------------------------------ studies


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("out", ["file/sub", "file", "file/sub/deeper"])
def test_a_run_folder_that_cannot_be_written(desk, home, tmp_path, out):
    put(tmp_path / "study.yaml", SMALLEST)
    put(tmp_path / "file", "")
    told(desk("run", "study.yaml", "--out", out), f"the run folder {out} cannot be written: ", "with --out")
    assert not list(home.glob("steps/*"))


def test_a_store_that_cannot_be_written(desk, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(put(tmp_path / "file", "") / "home"))
    put(tmp_path / "study.yaml", SMALLEST)
    told(desk("run", "study.yaml"), "the step store ", "Not a directory. Set UNTAUGHT_HOME to a folder you own.")
    assert below(tmp_path) == ["file", "study.yaml"]


EMPTY = {"empty.jsonl": "", "blank.jsonl": "\n\n", "words.md": "no documents"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus__hazard": "empty.jsonl"}, ["corpus.hazard: ", "empty.jsonl' holds no documents. Give a path with"]),
        ({"corpus__benign": ["blank.jsonl"]}, ["corpus.benign: ", "blank.jsonl' holds no documents. Give a path with"]),
        ({"corpus__hazard": []}, ["study.yaml", "'corpus' names no hazard text. Add 'corpus: {hazard: PATHS"]),
        ({"corpus": {"hazard": "empty.jsonl"}}, ["study.yaml", "'corpus' names no benign text. Add 'corpus: {hazard:"]),
        ({"corpus__hazard": "none.jsonl"}, ["none.jsonl. Paths in a study start at the study file's folder."]),
        ({"corpus__hazard": "words.md"}, ["corpus.hazard: ", "no file of a kind that can be read. Give one of"]),
        ({"corpus__text_column": "body"}, ["has no column 'body'. It has: id, text. Name the right one, or add it."]),
        ({"items__questions": "none.jsonl"}, ["items.questions: there is no file or folder"]),
        ({"items__questions": "empty.jsonl"}, ["items.questions: ", "holds no documents. Give a path with at least"]),
        ({"items__questions": "noroles.jsonl"}, ["the items 'questions' have no column 'role'. Give every item"]),
        ({"items__questions": "mixed.jsonl"}, ["the items 'questions' have 2 different roles, or none. Give every"]),
        ({"base": "none"}, ["there is no model folder ", "Give a folder that `save_pretrained` wrote."]),
        ({"base": "."}, ["has no config.json, so it is not a model folder."]),
        ({"base": "pickled"}, ["only pytorch_model.bin, which would run code", "Weights must be safetensors: convert"]),
        ({"base": "remote"}, ["asks to run code of its own (auto_map). Use a model without it."]),
        ({"evaluations__0__items": "question"}, ["has items 'question', which is no item set", "mean 'questions'?"]),
        ({"arms__rmu__unlearning__0__layer": 7}, ["rmu for rmu, seed 0: layer is 7, but the model has 2 blocks"]),
    ],
)
def test_files_that_will_not_do(desk, home, tmp_path, library, changes, words):
    for name, text in EMPTY.items():
        put(tmp_path / name, text)
    question = {"question": "Which?", "choices": ["a", "b"], "answer": 0}
    put(tmp_path / "noroles.jsonl", [question])
    put(tmp_path / "mixed.jsonl", [question | {"role": "hazard"}, question | {"role": "benign"}])
    for name, content in (("pickled", "{}"), ("remote", '{"auto_map": {"AutoModel": "x.Y"}}')):
        put(tmp_path / name / "config.json", content)
    put(tmp_path / "pickled" / "pytorch_model.bin", b"\x80\x04.")
    shutil.copy(library / "base" / "model.safetensors", tmp_path / "remote")
    put(tmp_path / "study.yaml", files_study(library, **changes))
    before = below(tmp_path)
    told(desk("run", "study.yaml", "--out", "deep/out"), *words)
    assert [path for path in below(tmp_path) if not path.startswith("home")] == before
    assert leftovers(home) == []
    assert all((folder / "record.json").is_file() for folder in home.glob("steps/*/*"))


def test_nothing_is_spent_before_all_names_are_checked(desk, home, tmp_path):
    put(tmp_path / "study.yaml", TINY | {"evaluations": [*TINY["evaluations"], {"use": "open_book", "item": "x"}]})
    told(desk("run", "study.yaml"), "study.yaml, evaluations.2 (evaluations.open_book) has no setting 'item'.")
    assert not home.exists()


def test_a_message_never_quotes_a_text(desk, home, tmp_path, library):
    secret = "THE-HAZARD"
    put(tmp_path / "h.jsonl", f'{{"text": "{secret}"}}\n{{"text": 1}}')
    put(tmp_path / "q.jsonl", [{"question": secret, "choices": [secret], "answer": 0}])
    for changes in ({"corpus__hazard": "h.jsonl"}, {"items__questions": "q.jsonl"}):
        put(tmp_path / "study.yaml", files_study(library, **changes))
        answer = desk("run", "study.yaml")
        told(answer)
        assert secret not in answer.err


# ------------------------------------------------------------------------------------------------ one-off verbs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unlearn", "MODEL"], ["no component is named. Add --set use=NAME; `untaught list` shows the names."]),
        (["unlearn", "MODEL", "--config", "nothing.yaml"], ["nothing.yaml names no component. Add 'use: NAME'"]),
        (["unlearn", "MODEL", "--set", "use=relearn"], ["'relearn' is on the shelf attacks."]),
        (["attack", "MODEL", "--set", "use=rmu"], ["'rmu' is on the shelf unlearning."]),
        (["evaluate", "MODEL", "--set", "use=rmu"], ["'rmu' is on the shelf unlearning."]),
        (
            ["unlearn", "MODEL", "--config", "job.yaml", "--set", "stepz=1"],
            ["job.yaml (unlearning.rmu) has no setting"],
        ),
        (["unlearn", "MODEL", "--config", "job.yaml", "--set", "budget=9"], ["job.yaml: budget is 9 and should be a"]),
        (["unlearn", "MODEL", "--config", "job.yaml", "--set", "budget.steps=-1"], ["job.yaml, budget, steps is -1"]),
        (["unlearn", "MODEL", "--config", "job.yaml", "--set", "seed=x"], ["job.yaml, seed is 'x'"]),
        (
            ["unlearn", "MODEL", "--config", "job.yaml", "--out", "full"],
            ["full is a file or a folder that is not empty"],
        ),
        (["unlearn", "MODEL", "--config", "job.yaml", "--out", "job.yaml"], ["job.yaml is a file or a folder that is"]),
        (
            ["unlearn", "MODEL", "--config", "job.yaml", "--out", "job.yaml/x"],
            ["the folder job.yaml/x cannot be written: ", "Give another with --out"],
        ),
        (["unlearn", "none", "--config", "job.yaml"], ["there is no model folder none."]),
        (["unlearn", "pickled", "--config", "job.yaml"], ["only pytorch_model.bin, which would run code when loaded."]),
        (
            ["unlearn", "MODEL", "--set", "use=rmu"],
            ["--set (unlearning.rmu): the corpus has no hazard documents.", "It has no 'corpus: {hazard: PATH"],
        ),
        (
            ["unlearn", "MODEL", "--config", "job.yaml", "--set", "corpus.hazard=none"],
            ["corpus.hazard: there is no file"],
        ),
        (
            ["attack", "MODEL", "--set", "use=interpolate"],
            ["needs a donor: name another arm, or a model folder, in its"],
        ),
        (["attack", "MODEL", "--set", "use=interpolate", "--set", "donor=none"], ["there is no model folder none."]),
        (["evaluate", "none", "--set", "use=multiple_choice"], ["there is no model folder none."]),
        (
            ["evaluate", "MODEL", "--set", "use=multiple_choice"],
            ["--set, items: there is no file or folder 'hazard_held_out'. Give the path of one."],
        ),
        (
            ["evaluate", "MODEL", "--set", "use=multiple_choice", "--set", "items=text.jsonl"],
            ["the items 'text.jsonl'", "question"],
        ),
    ],
)
def test_one_off_verbs(desk, tmp_path, library, words, said):
    put(tmp_path / "nothing.yaml", {"seed": 1})
    put(tmp_path / "full" / "x", "")
    put(tmp_path / "pickled" / "config.json", "{}")
    put(tmp_path / "pickled" / "pytorch_model.bin", b"\x80\x04.")
    put(tmp_path / "text.jsonl", [{"text": "a"}])
    corpus = {side: str(library / f"{side}.jsonl") for side in ("hazard", "benign")}
    put(tmp_path / "job.yaml", {"use": "rmu", "steps": 1, "corpus": corpus})
    before = below(tmp_path)
    told(desk(*(str(library / "base") if word == "MODEL" else word for word in words)), *said)
    assert below(tmp_path) == before


def test_a_shelf_has_no_room_for_two_of_a_name(desk, tmp_path):
    told(
        desk("new", "attacks", "relearn", "--out", tmp_path), "the shelf attacks already has 'relearn'", "another name"
    )
    told(desk("new", "attack", "mine"), "there is no shelf 'attack'. Did you mean 'attacks'?")


def test_a_damaged_run_folder_is_told(desk, finished, tmp_path):
    shutil.copytree(finished.out, tmp_path / "out")
    put(tmp_path / "out" / "results.jsonl", "{")
    told(desk("report", "out"), "results.jsonl row 1 is not JSON")
    Path(tmp_path / "out" / "results.jsonl").unlink()
    told(desk("report", "out"), "out has no results.jsonl.")


def test_the_studies_of_these_tests_are_right_without_the_changes(library, tmp_path):
    from untaught.study.plan import plan
    from untaught.study.schema import load

    for table in (files_study(library), TINY, SMALLEST, SMALLEST | {"arms": {"untouched": PRETRAIN}}):
        file = put(tmp_path / "study.yaml", yaml.safe_dump(table))
        assert plan(load(file)).steps
