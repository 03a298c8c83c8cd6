"""Run folders that are old, cut or changed: what cannot be signed is named, with its row or its record."""

import json
import shutil

import pytest
import releases

from untaught.attest.evidence import Run
from untaught.core import UserError

LEFT = "row 2 is not as a run is left: "


@pytest.fixture
def damaged(tmp_path):
    """A run folder to be damaged."""
    return releases.run(tmp_path / "run", releases.model(tmp_path / "model"))


def row_changed(run, **changes):
    lines = (run / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    row = {name: value for name, value in (json.loads(lines[1]) | changes).items() if value != "LEFT OUT"}
    text = "".join([lines[0], json.dumps(row) + "\n", *lines[2:]])
    (run / "results.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(
            ({name: "LEFT OUT"}, f"row 2 is a row without '{name}'")
            for name in ("arm", "weights", "attack", "seed", "low")
        ),
        ({"arm": ["a"]}, LEFT + "arm is a list, and text is wanted"),
        ({"seed": "0"}, LEFT + "seed is text, and a number is wanted"),
        ({"value": "high"}, LEFT + "value is text, and a number or null is wanted"),
        ({"budget": "10"}, LEFT + "budget is text, and a table or null is wanted"),
        ({"budget": {"steps": "x"}}, LEFT + "budget.steps is text, and a number or null is wanted"),
        ({"attack_settings": [1]}, LEFT + "attack_settings is a list, and a table or null is wanted"),
    ],
)
def test_a_row_that_cannot_be_signed_is_named(damaged, changes, said):
    assert Run.read(damaged).rows
    row_changed(damaged, **changes)
    with pytest.raises(UserError, match=rf"results\.jsonl {said}\. Give the folder that `untaught run"):
        Run.read(damaged)


def test_columns_that_a_later_version_adds_are_passed_over(damaged):
    row_changed(damaged, later=1)
    assert Run.read(damaged).rows[1]["later"] == 1


def test_records_that_are_no_records_are_named(damaged):
    path = sorted((damaged / "records").iterdir())[0]
    record = json.loads(path.read_text(encoding="utf-8"))
    for changes, said in (
        ({"inputs": [1]}, "inputs is a list"),
        ({"later": 1}, "an unexpected keyword argument 'later'"),
    ):
        path.write_text(json.dumps(record | changes), encoding="utf-8")
        with pytest.raises(UserError, match=rf"{path.name} is not a step's record: .*{said}"):
            Run.read(damaged)
    shutil.rmtree(damaged / "records")
    with pytest.raises(UserError, match="run has no folder records. Give the folder"):
        Run.read(damaged)
