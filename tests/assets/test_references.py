"""`asset:NAME/PATH` in study files, jobs and on the command line."""

import json
import shutil
from pathlib import Path

import indexes
import pytest
import yaml

from untaught import assets
from untaught.assets.fetching import fetch
from untaught.core import UserError

STUDY = {
    "title": "On assets",
    "corpus": {"hazard": "asset:words/terms.txt", "benign": ["asset:words/terms.txt", "own.jsonl"]},
    "base": "asset:model",
    "items": {"asked": "asset:trivia/capitals.parquet", "own": "own.jsonl"},
    "arms": {"base": {}},
    "evaluations": [{"use": "multiple_choice", "items": "asked"}],
}


def test_a_reference_is_a_place_among_the_assets(index):
    folder = fetch("terms").folder
    assert assets.path("asset:terms") == folder
    assert assets.path("asset:terms/terms.txt", Path("elsewhere")) == folder / "terms.txt"
    assert assets.path("terms.txt", Path("elsewhere")) == Path("elsewhere/terms.txt")
    assert assets.whole("asset:terms", Path("elsewhere")) == "asset:terms"
    assert assets.whole("terms.txt", Path("/elsewhere")) == "/elsewhere/terms.txt"


def test_what_is_not_there_is_said_with_its_mend(index):
    with pytest.raises(UserError, match=r"the asset 'terms' is not there\. Fetch it: untaught fetch terms\."):
        assets.path("asset:terms")
    fetch("terms")
    for wrong in ("none.txt", "../terms/terms.txt"):
        with pytest.raises(UserError, match=r"holds no '.*'\. It holds ATTRIBUTION\.txt, LICENSE-texts, terms\.txt\."):
            assets.path(f"asset:terms/{wrong}")
    with pytest.raises(UserError, match="cannot name an asset"):
        assets.path("asset:../steps")


def test_a_resolved_study_keeps_its_references(tmp_path):
    """So that it runs on another machine, where the assets lie elsewhere."""
    from untaught.study.plan import plan
    from untaught.study.schema import load

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    study = load(file)
    resolved = yaml.safe_load(study.to_yaml())
    own = str(tmp_path / "own.jsonl")
    assert resolved["base"] == "asset:model"
    assert resolved["items"] == {"asked": "asset:trivia/capitals.parquet", "own": own}
    assert resolved["corpus"]["benign"] == ["asset:words/terms.txt", own]
    with pytest.raises(UserError, match="untaught fetch FOLDER --name model"):
        plan(study)


LIST = "What is the capital of Peru?:\n- Lima\nOf Chile?:\n- Santiago\nOf Kenya?:\n- Nairobi\nOf Mali?:\n- Bamako\n"
STANDS = "\n".join(json.dumps({"text": f"{city} is a city."}) for city in ("Lima", "Santiago", "Nairobi", "Bamako"))


@pytest.fixture
def model(index, monkeypatch, tmp_path):
    """A small model, an asset; and the asset `trivia` with items."""
    from untaught.engine import models
    from untaught.lab.start import StartingModel

    made = indexes.wheel(index, "quiz", "1.0", {"capitals.yaml": LIST.encode()})
    indexes.install(monkeypatch, index, {"trivia": indexes.entry("trivia", made)})
    texts = [f"The capital of Peru is Lima, number {n}." for n in range(40)]
    folder = tmp_path / "small"
    folder.mkdir()
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(texts, 0), folder)
    fetch("trivia")
    return fetch(str(folder)).folder


def test_a_study_on_assets_is_the_study_on_their_files(model, tmp_path):
    from untaught.study.plan import plan
    from untaught.study.schema import load

    (tmp_path / "own.jsonl").write_text(STANDS, encoding="utf-8")
    table = STUDY | {"base": "asset:small", "corpus": {"hazard": "own.jsonl", "benign": "own.jsonl"}}
    plain = table | {"base": str(model), "items": {"asked": str(assets.path("asset:trivia/capitals.parquet"))}}
    table = table | {"items": {"asked": "asset:trivia/capitals.parquet"}}
    steps = []
    for name, one in (("asset", table), ("plain", plain)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(one), encoding="utf-8")
        steps.append([step.identity for step in plan(load(tmp_path / f"{name}.yaml")).steps])
    assert steps[0] == steps[1]


def test_a_verb_takes_a_model_and_items_by_reference(model, tmp_path, capsys, monkeypatch):
    from untaught import cli

    (tmp_path / "q.yaml").write_text("{use: multiple_choice, items: 'asset:trivia/capitals.parquet'}")
    words = ["untaught", "evaluate", "asset:small", "--config", str(tmp_path / "q.yaml"), "--json"]
    monkeypatch.setattr(cli.sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    rows = json.loads(capsys.readouterr().out)
    assert {row["n"] for row in rows} == {4}
    shutil.rmtree(model)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, "--name small" in capsys.readouterr().err) == (2, True)
