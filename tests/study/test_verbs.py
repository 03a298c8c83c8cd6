"""The verbs of the command line, as a user meets them."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
from studies import SMALLEST, TINY, put, run, untaught
from test_wrong_input import files_study

from untaught.core import shelves


def loaded(body, *heavy):
    """Which of some modules are loaded in a new process after it ran some lines."""
    code = f"import sys\n{body}\nprint(*[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1].split()


COMMAND = """
sys.argv = {words!r}
from untaught.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def command(*words):
    """Lines that run the command line and go on after it."""
    return COMMAND.format(words=["untaught", *map(str, words)])


HEAVY = ("torch", "transformers", "numpy", "pyarrow", "pydantic", "yaml")


def test_the_package_and_its_help_load_nothing_heavy():
    assert loaded("import untaught", *HEAVY) == []
    assert loaded(command("--help"), *HEAVY) == []
    assert loaded(command("run", "--help"), "torch", "transformers", "numpy", "pyarrow") == []


def test_listing_and_reporting_need_no_torch(finished, tmp_path):
    assert loaded(command("list"), "torch", "transformers") == []
    shutil.copytree(finished.out, tmp_path / "out")
    assert loaded(command("report", tmp_path / "out"), "torch", "transformers") == []
    assert (tmp_path / "out" / "report.html").is_file()


def test_help_names_every_verb(desk):
    answer = desk("--help")
    assert answer.code == 0
    study, model = ("run", "plan", "report"), ("unlearn", "attack", "evaluate", "sign", "verify", "inspect")
    for verb in (*study, *model, "fetch", "list", "show", "new"):
        assert f" {verb} " in answer.out


def test_no_setting_is_a_flag():
    """Flags say what a verb is to do; how it does it is set in a file."""
    import typer

    from untaught.cli import app
    from untaught.corpus.policy import Policy

    flags = {
        name: {option for parameter in verb.params for option in parameter.opts if option.startswith("-")}
        for name, verb in typer.main.get_command(app).commands.items()
    }
    common = {"--out", "--set", "--json", "--config"}
    doing = {"--apply", "--executor", "--estimate", "--audit", "--show-text", "--upload", "--public"}
    assert flags.pop("filter") == common | doing
    assert flags.pop("run") == {"--out", "--set", "--json", "--executor"}
    assert flags.pop("report") == {"--json", "--show-text", "--data", "--export", "--out"}
    assert flags.pop("fetch") == {"--json", "--name", "--again"}
    made = {"--run", "--key", "--out", "--of", "--transform", "--filtered", "--reference", "--card", "--release"}
    assert flags.pop("sign") == made | {"--keyless", "--token", "--trust", "--follow", "--force", "--json"}
    asked = {"--statement", "--key", "--policy", "--run", "--rerun", "--draw", "--follow", "--json"}
    assert flags.pop("verify") == asked | {"--identity", "--issuer", "--trust", "--filtered"}
    assert set().union(*flags.values()) == common
    settings = {
        field for shelf in shelves.SHELVES for name in shelves.names(shelf) for field in settings_of(shelf, name)
    }
    assert not {flag.strip("-").replace("-", "_") for flag in doing} & (settings | set(Policy.model_fields))


def settings_of(shelf, name):
    return shelves.find(shelf, name).model_fields


def test_every_verb_speaks_json():
    import typer

    from untaught.cli import app

    for name, verb in typer.main.get_command(app).commands.items():
        assert "--json" in [option for parameter in verb.params for option in parameter.opts], name


# ------------------------------------------------------------------------------------------------ list, show, new


def test_list_names_every_component(desk):
    found = json.loads(desk("list", "--json").out)
    assert list(found) == list(shelves.SHELVES)
    for shelf, components in found.items():
        assert sorted(components) == shelves.names(shelf)
        assert all(components.values())
        said = desk("list", shelf)
        assert said.code == 0
        assert all(name in said.out for name in components)


@pytest.mark.parametrize("shelf", shelves.SHELVES)
def test_show_tells_of_every_component_and_its_settings(desk, shelf):
    for name in shelves.names(shelf):
        said = desk("show", f"{shelf}/{name}")
        assert said.code == 0, said.err
        assert shelves.summary(shelf, name).split()[0] in said.out
        schema = json.loads(desk("show", f"{shelf}/{name}", "--json").out)
        assert schema["shelf"] == shelf
        for setting in schema["schema"]["properties"]:
            assert f"  {setting} = " in said.out


@pytest.mark.parametrize("shelf", shelves.SHELVES)
def test_a_skeleton_meets_its_contract(desk, tmp_path, shelf, library, monkeypatch):
    answer = desk("new", shelf, "my_method", "--out", tmp_path / "mine", "--json")
    file = tmp_path / "mine" / "my_method.py"
    assert json.loads(answer.out) == {"file": str(file)}
    assert desk("new", shelf, "my_method", "--out", tmp_path / "mine").code == 2
    text = file.read_text(encoding="utf-8")
    assert "NAME" not in text
    assert text.startswith('"""MyMethod: ')
    made = component(file, shelf, monkeypatch)
    assert type(made)() == made
    works(made, shelf, library)


def component(file, shelf, monkeypatch):
    """The component in a file, imported as if it lay on its shelf."""
    name = f"untaught.{shelf}.my_method"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return shelves.component_of(module, shelf, "my_method", shelves.METHOD[shelf])()


def works(made, shelf, library):
    """What its shelf asks of a component, on a small model and a few texts."""
    from untaught.core import Budget
    from untaught.corpus.world import from_files, read_any_items, split
    from untaught.engine import models
    from untaught.engine.rig import Rig

    world = from_files([library / "hazard.jsonl"], [library / "benign.jsonl"], {})
    rig = Rig(0, f"{shelf}/my_method", budget=Budget(steps=2))
    if shelf == "filters":
        scorer = made.fit(world.labelled, rig)
        findings = scorer.measure(world.documents)
        assert findings.num_rows == len(scorer.keep(findings)) == world.documents.num_rows
        return
    subject = models.load(library / "base")
    if shelf == "evaluations":
        marks = made.grade(subject, read_any_items(library / "held_out.jsonl"))
        assert all(mark["value"] > 0 for mark in marks.to_pylist())
        return
    after = made.apply(subject, split(world.documents), rig)
    assert rig.spent.steps == 2
    before = dict(subject.model.named_parameters())
    assert any(not before[name].equal(weight) for name, weight in after.model.named_parameters())
    assert made.apply(subject, split(world.documents), Rig(0, budget=Budget(steps=0))).model is not None


# ------------------------------------------------------------------------------------------------ plan, run, report


def test_plan_says_what_is_done_and_what_is_left(desk, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    put(tmp_path / "study.yaml", TINY)
    fresh = json.loads(desk("plan", "study.yaml", "--json").out)
    assert len(fresh["steps"]) == finished.done
    assert not any(step["done"] for step in fresh["steps"])
    assert fresh["seconds_left"] > 0
    assert "(a guess)" in desk("plan", "study.yaml").out
    shutil.copytree(finished.home, tmp_path / "home", dirs_exist_ok=True)
    done = json.loads(desk("plan", "study.yaml", "--json").out)
    assert all(step["done"] for step in done["steps"])
    assert done["seconds_left"] == 0
    more = json.loads(desk("plan", "study.yaml", "--json", "--set", "attacks.1.bits=8").out)
    assert {s["kind"] for s in more["steps"] if not s["done"]} == {"attacks", "evaluations"}
    said = desk("plan", "study.yaml", "--set", "attacks.1.bits=8")
    assert "A tiny study" in said.out
    assert "(a guess)" not in said.out


def test_a_plan_says_what_memory_the_base_model_takes(desk, library, tmp_path):
    from safetensors.torch import load_file

    count = sum(weight.numel() for weight in load_file(library / "base" / "model.safetensors").values())
    put(tmp_path / "study.yaml", files_study(library))
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        words = ("plan", "study.yaml", "--set", f"compute.dtype={dtype}")
        told = {"parameters": count, "bytes": width * count, "dtype": dtype}
        assert json.loads(desk(*words, "--json").out)["base_model"] == told
        assert f"The base model has {count:,} parameters: 0.00 GB in {dtype} for each copy" in desk(*words).out
    put(tmp_path / "world.yaml", SMALLEST)
    assert json.loads(desk("plan", "world.yaml", "--json").out)["base_model"] is None
    assert "The base model" not in desk("plan", "world.yaml").out


def test_a_plan_spends_nothing(desk, tmp_path, monkeypatch):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    assert desk("plan").code == 0
    assert not list(tmp_path.glob("home/steps/*"))


def test_run_speaks_on_stderr_and_prints_data_on_stdout(desk, tmp_path, monkeypatch):
    put(tmp_path / "study.yaml", SMALLEST)
    home = tmp_path / "home"
    first = untaught("run", "study.yaml", home=home, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr.strip() == "3 of 3 steps were done now. The report is runs/study/report.html."
    assert "untouched" in first.stdout
    assert "\x1b[" not in first.stdout + first.stderr
    monkeypatch.setenv("UNTAUGHT_HOME", str(home))
    second = desk("run", "study.yaml", "--out", "deep/er", "--json")
    assert json.loads(second.out) == {"run": "deep/er", "steps": 3, "done_now": 0, "missing": 0.0, "rows": 2}
    assert second.err == ""
    kept = {p.name for p in (tmp_path / "deep" / "er").iterdir()}
    assert kept == {"marks", "records", "report.html", "results.jsonl", "statement.json", "study.yaml"}


def test_report_draws_the_same_page_anew(desk, finished, tmp_path):
    shutil.copytree(finished.out, tmp_path / "out")
    pages = []
    for _ in range(2):
        told = json.loads(desk("report", "out", "--json").out)
        assert told.pop("page") == "out/report.html"
        assert {tax["arm"] for tax in told.pop("safety_tax")} == {"filtered", "rmu"}
        assert not told
        pages.append((tmp_path / "out" / "report.html").read_bytes())
        (tmp_path / "out" / "report.html").unlink()
    assert pages[0] == pages[1]


def test_a_mistake_of_ours_keeps_its_traceback(desk, tmp_path, monkeypatch):
    put(tmp_path / "study.yaml", SMALLEST)
    monkeypatch.setattr("untaught.study.plan.plan", lambda study: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk("plan", "study.yaml")


# ------------------------------------------------------------------------------------------------ one-off verbs


@pytest.fixture
def job(tmp_path, library):
    """A job's file, and text in a folder beside it."""
    for name in ("hazard", "benign", "questions"):
        put(tmp_path / "jobs" / f"{name}.jsonl", (library / f"{name}.jsonl").read_bytes())
    corpus = {"hazard": "hazard.jsonl", "benign": "benign.jsonl"}
    return put(tmp_path / "jobs" / "job.yaml", {"use": "rmu", "steps": 2, "corpus": corpus})


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_unlearn_writes_a_model_folder_and_leaves_the_other_alone(desk, job, library, tmp_path):
    before = bytes_of(library / "base")
    answer = desk("unlearn", library / "base", "--config", job, "--out", "new/model", "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["model"] == "new/model"
    assert said["spent"]["steps"] == 2
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(bytes_of(tmp_path / "new" / "model"))
    assert bytes_of(library / "base") == before
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model"]
    again = json.loads(desk("unlearn", library / "base", "--config", job, "--out", "again", "--json").out)
    other = json.loads(
        desk("unlearn", library / "base", "--config", job, "--out", "o", "--json", "--set", "seed=1").out
    )
    assert again["weights"] == said["weights"] != other["weights"]


def test_unlearn_ends_where_it_costs_more_than_it_may(desk, job, library, tmp_path):
    more = ["--set", "steps=30", "--set", "lr=0.1"]
    free = json.loads(desk("unlearn", library / "base", "--config", job, "--out", "free", *more, "--json").out)
    more += ["--set", "stop.kl=1e-4", "--set", "stop.every=1"]
    said = json.loads(desk("unlearn", library / "base", "--config", job, "--out", "ended", *more, "--json").out)
    assert said["spent"]["steps"] < free["spent"]["steps"] == 30
    assert said["measured"]["good_step"] < said["spent"]["steps"]
    assert said["measured"]["benign_kl"] <= 1e-4
    answer = desk("attack", library / "base", "--set", "use=quantise", "--set", "stop.kl=0.1")
    assert answer.code == 2
    assert "has a stop; only unlearning has one" in answer.err


def test_attack_keeps_to_its_budget_and_needs_no_text_it_does_not_read(desk, job, library, tmp_path):
    settings = ["--set", "use=relearn", "--set", "steps=9", "--set", "budget.steps=2"]
    put(tmp_path / "jobs" / "hazard_only.yaml", {"corpus": {"hazard": "hazard.jsonl"}})
    answer = desk("attack", library / "base", "--config", tmp_path / "jobs" / "hazard_only.yaml", *settings, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["spent"]["steps"] == 2
    assert (tmp_path / "base-relearn" / "model.safetensors").is_file()
    answer = desk("attack", library / "base", "--set", "use=quantise")
    assert answer.code == 0, answer.err
    assert "base-quantise: weights " in answer.out
    answer = desk("attack", library / "base", "--set", "use=interpolate", "--set", "donor=base-quantise", "--json")
    assert json.loads(answer.out)["spent"]["steps"] == 0
    merge = [
        "--set",
        "use=merge",
        "--set",
        "way=ties",
        "--set",
        "donor=base-quantise",
        "--set",
        f"base={library / 'base'}",
    ]
    answer = desk("attack", "base-relearn", *merge)
    assert answer.code == 0, answer.err
    assert "base-relearn-merge: weights " in answer.out


def test_a_prompt_that_an_attack_leaves_is_asked_with_by_evaluate(desk, library, tmp_path):
    asked = ["--set", "use=multiple_choice", "--set", f"items={library / 'questions.jsonl'}", "--json"]
    answer = desk("attack", library / "base", "--set", "use=system_prompt", "--set", "says=The river is green.")
    assert answer.code == 0, answer.err
    assert "base-system_prompt/wrap.json; untaught evaluate asks with it" in answer.err.replace("\n", " ")
    [attacked, _] = json.loads(desk("evaluate", "base-system_prompt", *asked).out)
    [plain, _] = json.loads(desk("evaluate", library / "base", *asked).out)
    assert attacked["wrap"]["before"] == "The river is green. "
    assert "wrap" not in plain
    assert attacked["weights"] == plain["weights"]
    [other, _] = json.loads(desk("evaluate", "base-system_prompt", *asked, "--set", "wrap.before=No.").out)
    assert other["wrap"]["before"] == "No."
    (tmp_path / "base-system_prompt" / "wrap.json").write_text("{", encoding="utf-8")
    broken = desk("evaluate", "base-system_prompt", *asked)
    assert (broken.code, "wrap.json is not JSON" in broken.err) == (2, True)


def test_evaluate_prints_a_row_a_metric(desk, job, library, tmp_path):
    settings = ["--set", "use=multiple_choice", "--set", "items=jobs/questions.jsonl"]
    rows = json.loads(desk("evaluate", library / "base", *settings, "--json").out)
    assert [row["metric"] for row in rows] == ["accuracy", "accuracy_option_only"]
    for row in rows:
        assert (row["role"], row["n"], row["missing"], row["chance"]) == ("hazard", 8, 0, 0.25)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    said = desk("evaluate", library / "base", *settings)
    assert said.code == 0
    assert f"{rows[0]['value']:.3f}" in said.out
    put(tmp_path / "jobs" / "grade.yaml", {"use": "multiple_choice", "items": "questions.jsonl"})
    assert json.loads(desk("evaluate", library / "base", "--config", "jobs/grade.yaml", "--json").out)[0]["n"] == 8


def test_a_study_and_the_one_off_verbs_grade_alike(desk, library, tmp_path):
    table = {
        "workers": 1,
        "corpus": {side: str(library / f"{side}.jsonl") for side in ("hazard", "benign")},
        "base": str(library / "base"),
        "items": {"questions": str(library / "questions.jsonl")},
        "arms": {"base": {}},
        "evaluations": [{"use": "multiple_choice", "items": "questions"}],
    }
    _, rows = run(put(tmp_path / "study.yaml", table), tmp_path / "home", tmp_path / "out")
    settings = ["--set", "use=multiple_choice", "--set", f"items={library / 'questions.jsonl'}"]
    single = json.loads(desk("evaluate", library / "base", *settings, "--json").out)
    for row, other in zip(rows, single, strict=True):
        assert {k: row[k] for k in ("metric", "value", "low", "high", "n", "role", "weights")} == {
            k: other[k] for k in ("metric", "value", "low", "high", "n", "role", "weights")
        }


def test_a_broken_model_is_missing_and_exit_code_6(desk, library, tmp_path):
    from test_own_files import breaks

    shutil.copytree(library / "base", tmp_path / "broken")
    breaks(tmp_path / "broken")
    settings = ["--set", "use=perplexity", "--set", f"items={library / 'held_out.jsonl'}"]
    answer = desk("evaluate", "broken", *settings, "--json")
    assert answer.code == 6
    assert json.loads(answer.out)[0]["value"] is None
    assert desk("evaluate", "broken", *settings).code == 6
