"""Studies of somebody's own model and files, and of models that are broken: missing is missing, and never 0."""

import json
import shutil

import pytest
from studies import Nobody, changed, identities, leftovers, put, records_of, rows_of, run, timeless

from untaught.core import UserError
from untaught.study.plan import plan
from untaught.study.run import run as carry_out
from untaught.study.schema import load
from untaught.study.store import Store

STUDY = {
    "title": "Own files",
    "workers": 1,
    "corpus": {"hazard": ["text/hazard.jsonl"], "benign": "text/benign.jsonl"},
    "base": "models/base",
    "items": {"questions": "questions.jsonl", "held_out": "held_out.jsonl"},
    "arms": {"base": {}, "rmu": {"from": "base", "unlearning": [{"use": "rmu", "steps": 2}]}},
    "attacks": [{"use": "relearn", "budget": {"steps": 1}}],
    "evaluations": [{"use": "multiple_choice", "items": "questions"}, {"use": "perplexity", "items": "held_out"}],
}


@pytest.fixture
def place(library, tmp_path):
    """A folder with a study, its files in other places than the library has them."""
    folder = tmp_path / "place"
    shutil.copytree(library / "base", folder / "models" / "base")
    for side in ("hazard", "benign"):
        (folder / "text").mkdir(exist_ok=True)
        shutil.copy(library / f"{side}.jsonl", folder / "text")
    for name in ("questions", "held_out"):
        shutil.copy(library / f"{name}.jsonl", folder)
    put(folder / "study.yaml", STUDY)
    return folder


def breaks(folder):
    """Make every weight of a model folder no number at all."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file, {"format": "pt"})


def test_paths_start_at_the_study_and_the_resolved_study_runs_from_anywhere(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place.parent)
    done, rows = run(place / "study.yaml", tmp_path / "home", tmp_path / "out")
    assert done == 1 + 1 + 2 + 4 * 2
    assert {(r["arm"], r["attack"], r["items"]) for r in rows} == {
        (arm, attack, items) for arm in STUDY["arms"] for attack in (None, "relearn") for items in STUDY["items"]
    }
    monkeypatch.chdir(tmp_path / "out")
    assert run(tmp_path / "out" / "study.yaml", tmp_path / "home", tmp_path / "again") == (0, rows)
    monkeypatch.chdir(place)
    from pathlib import Path

    assert identities(Path("study.yaml")) == identities(tmp_path / "out" / "study.yaml")


def turned(path):
    """Change one byte of a file, in its middle or where that breaks nothing."""
    data = bytearray(path.read_bytes())
    at = data.index(b'"text": "') + 9 if b'"text": "' in data else len(data) - 1
    data[at] ^= 1
    path.write_bytes(bytes(data))


ALL = {"world", "unlearning", "attacks", "evaluations"}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("text/hazard.jsonl", ALL),
        ("text/benign.jsonl", ALL),
        ("models/base/model.safetensors", ALL),
        ("held_out.jsonl", {"evaluations"}),
    ],
)
def test_one_byte_of_a_file_changes_the_identities_of_what_stands_on_it(place, name, kinds):
    def steps():
        return {(s.kind, s.label): s.identity for s in plan(load(place / "study.yaml")).steps}

    before = steps()
    turned(place / name)
    after = steps()
    assert {key[0] for key in before if before[key] != after[key]} == kinds


def test_a_world_of_the_lab_is_told_to_a_model_of_ones_own(place, tmp_path):
    from safetensors.torch import load_file

    world = {"use": "compounds", "substances": 8, "towns": 8, "values": 8, "exposures": 2, "attack_exposures": 2}
    study = {name: STUDY[name] for name in ("workers", "base", "arms", "attacks")} | {
        "world": world,
        "evaluations": [{"use": "multiple_choice", "items": "hazard_held_out"}],
    }
    done, rows = run(put(place / "study.yaml", study), tmp_path / "home", tmp_path / "out")
    assert done == 1 + 1 + 2 + 4
    assert {row["items"] for row in rows} == {"hazard_held_out"}
    made = plan(load(place / "study.yaml"))
    start = Store(tmp_path / "home").folder(made.steps[0].identity) / "model" / "model.safetensors"
    base = place / "models" / "base" / "model.safetensors"
    assert load_file(start).keys() == load_file(base).keys()
    assert all((one == load_file(base)[name]).all() for name, one in load_file(start).items())
    again = tmp_path / "out" / "study.yaml"
    assert run(again, tmp_path / "home", tmp_path / "again") == (0, rows)
    turned(base)
    after = plan(load(place / "study.yaml"))
    assert not {step.identity for step in made.steps} & {step.identity for step in after.steps}


def test_a_base_leaves_no_shape_to_choose_and_must_be_there(place):
    study = {name: STUDY[name] for name in ("arms", "base")} | {
        "world": "lab:compounds",
        "evaluations": [{"use": "multiple_choice", "items": "hazard_held_out"}],
    }
    with pytest.raises(UserError, match="'start' is the shape of the lab's starting model, and 'base' is another"):
        load(put(place / "study.yaml", study | {"start": {"width": 32}}))
    with pytest.raises(UserError, match="there is no folder|models/none"):
        plan(load(put(place / "study.yaml", study | {"base": "models/none"})))


def test_other_items_leave_those_that_were_alone(place):
    before = identities(place / "study.yaml")
    shutil.copy(place / "questions.jsonl", place / "more.jsonl")
    more = STUDY | {
        "items": STUDY["items"] | {"more": "more.jsonl"},
        "evaluations": [*STUDY["evaluations"], {"use": "multiple_choice", "items": "more"}],
    }
    assert before.items() < identities(put(place / "study.yaml", more)).items()


def test_where_a_file_is_does_not_matter(place):
    before = identities(place / "study.yaml")
    (place / "text").rename(place / "words")
    corpus = {"hazard": "words/hazard.jsonl", "benign": ["words/benign.jsonl"]}
    assert identities(put(place / "study.yaml", STUDY | {"corpus": corpus})) == before


def test_items_may_be_a_folder_or_packed(place, tmp_path):
    import gzip

    text = (place / "questions.jsonl").read_bytes()
    (place / "folder").mkdir()
    (place / "folder" / "q.jsonl.gz").write_bytes(gzip.compress(text))
    table = STUDY | {
        "attacks": [],
        "arms": {"base": {}},
        "items": {"questions": "folder", "held_out": "held_out.jsonl"},
    }
    _, rows = run(put(place / "study.yaml", table), tmp_path / "home", tmp_path / "out")
    assert [row["n"] for row in rows if row["items"] == "questions"] == [8, 8]


def test_an_attacker_has_texts_of_his_own(place, tmp_path):
    hazard = (place / "text" / "hazard.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    put(place / "theirs.jsonl", "".join(hazard[:1]))
    table = STUDY | {"corpus": STUDY["corpus"] | {"attack_hazard": "theirs.jsonl"}, "arms": {"base": {}}}
    _, own = run(put(place / "study.yaml", STUDY), tmp_path / "home", tmp_path / "out")
    _, theirs = run(put(place / "study.yaml", table), tmp_path / "home", tmp_path / "out2")
    weights = [{r["weights"] for r in rows if (r["arm"], r["attack"]) == ("base", "relearn")} for rows in (own, theirs)]
    assert weights[0] != weights[1]


# ------------------------------------------------------------------------------------------------ broken models


def test_a_model_without_numbers_gives_missing_rows_and_exit_code_6(desk, place, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    breaks(place / "models" / "base")
    put(place / "study.yaml", STUDY | {"arms": {"base": {}}, "attacks": [{"use": "quantise", "bits": 4}]})
    answer = desk("run", place / "study.yaml", "--out", "out")
    assert answer.code == 6
    assert "100.0% of the marks are missing, and the study allows 0.0%." in answer.err
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 2 * 3
    for row in rows:
        assert row["value"] is row["low"] is row["high"] is None
        assert row["n"] == 0 < row["missing"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "NaN" not in page
    again = desk("run", place / "study.yaml", "--out", "out", "--json", "--set", "missing=1.0")
    assert again.code == 0
    assert json.loads(again.out) == {"run": "out", "steps": 6, "done_now": 0, "missing": 1.0, "rows": 6}
    assert desk("report", "out").code == 0


def test_a_method_that_meets_no_numbers_is_told_with_the_step(desk, place, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    breaks(place / "models" / "base")
    answer = desk("run", place / "study.yaml", "--out", "out")
    assert answer.code == 2
    assert answer.err.startswith("untaught: rmu for rmu, seed 0: the loss term '")
    assert "nan" in answer.err
    assert len(records_of(tmp_path / "home")) == 1
    assert leftovers(tmp_path / "home") == []
    assert not (tmp_path / "out").exists()


def test_a_share_of_missing_marks_is_counted_and_not_averaged(place, tmp_path):
    lines = (place / "held_out.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    nothing = json.dumps({"id": "nothing", "text": "", "role": "benign"}) + "\n"
    put(place / "held_out.jsonl", "".join([*lines, nothing]))
    table = STUDY | {"arms": {"base": {}}, "attacks": []}
    _, rows = run(put(place / "study.yaml", table), tmp_path / "home", tmp_path / "out")
    found = next(row for row in rows if row["items"] == "held_out")
    assert found["n"] + found["missing"] == len(lines) + 1
    assert timeless([found])[0]["value"] > 1


@pytest.mark.parametrize("held", ["question", "answer", "turn", "text"])
def test_an_attacker_who_is_asked_what_he_taught_is_refused_when_the_study_is_planned(place, held):
    items = [json.loads(line) for line in (place / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    first = items[1]
    told = {
        "question": {"id": "x", "text": f"  {first['question'].upper()} "},
        "answer": {"id": "x", "text": f"{first['question']} {first['choices'][first['answer']]}."},
        "turn": {"id": "x", "text": "Two turns.", "messages": [{"role": "user", "content": first["question"]},
                                         {"role": "assistant", "content": "I would not know."}]},
        "text": {"id": "x", "text": "Some other text that is asked."},
    }[held]  # fmt: skip
    table = changed(STUDY, corpus__attack_hazard="attack.jsonl")
    if held == "text":
        put(place / "texts.jsonl", [{"id": "y", "role": "hazard", "text": "Some other text, that is asked!"}])
        table = changed(
            table, items__questions="texts.jsonl", evaluations=[{"use": "perplexity", "items": "questions"}]
        )
    other = {"id": "z", "text": "Nothing of the kind."}
    put(place / "attack.jsonl", [told] if held == "turn" else [other, told])
    study = put(place / "study.yaml", table)
    with pytest.raises(UserError, match=r"1 of \d+ items of 'questions' stand in the attacker's text") as refused:
        plan(load(study))
    assert first["question"] not in str(refused.value)
    plan(load(study, {"attacks": []}))
    file = table["items"]["questions"]
    plan(load(study, {"items.questions": {"path": file, "seen": True}}))


def test_weights_that_will_not_fit_are_said_before_anything_is_spent(place, tmp_path, monkeypatch):
    asked = Store(tmp_path)
    size = (place / "models" / "base" / "model.safetensors").stat().st_size
    put(place / "study.yaml", STUDY | {"attacks": [{"use": "quantise", "bits": 4}], "workers": 1})
    made = plan(load(place / "study.yaml"))  # the base itself, rmu, and one attack at a time
    monkeypatch.setattr(Store, "free", property(lambda _: 3 * size - 1))
    with pytest.raises(UserError, match=r"weights of 2 steps and of 1 attacks .* set UNTAUGHT_HOME"):
        carry_out(made, asked, Nobody())
    assert all(asked.record(step.identity) is None for step in made.steps)
    monkeypatch.setattr(Store, "free", property(lambda _: 3 * size))
    carry_out(made, asked, Nobody(), "local")
    monkeypatch.setattr(Store, "free", property(lambda _: 0))
    assert carry_out(made, asked, Nobody()) == 0
