"""The page on unlearning lists every method, and the study of all of them uses every one that is for knowledge."""

import re
from pathlib import Path

import yaml

from untaught.core import shelves

ROOT = Path(__file__).parents[2]


def test_every_method_has_a_row():
    page = (ROOT / "docs" / "unlearning.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == shelves.names("unlearning")


def test_the_study_of_all_methods_leaves_out_none_and_gives_all_one_bound():
    study = yaml.safe_load((ROOT / "studies" / "unlearning.yaml").read_text(encoding="utf-8"))
    entries = [entry for arm in study["arms"].values() for entry in arm.get("unlearning", ())]
    apart = {"probe_directions", "lock", "lodge"}  # one is for behaviour, two are controls
    assert {entry["use"] for entry in entries} == set(shelves.names("unlearning")) - apart
    assert all(entry["stop"] == entries[0]["stop"] for entry in entries)
