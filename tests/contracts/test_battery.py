"""The battery on every component of every shelf. A new file on a shelf is held to its contract without an edit here."""

import importlib.util
import sys

import pytest
from bench import Case
from checks import battery, check_component

from untaught.core import shelves
from untaught.study import skeleton

PROMISES = [
    pytest.param(shelf, name, check, id=f"{shelf}/{name} {check.__name__.removeprefix('check_')}")
    for shelf in shelves.SHELVES
    for name in shelves.names(shelf)
    for check in battery(shelf)
]


@pytest.mark.parametrize(("shelf", "name", "check"), PROMISES)
def test_every_component_keeps_its_contract(shelf, name, check, bench):
    check(Case(shelf, name, shelves.find(shelf, name), bench))


def test_every_shelf_has_components():
    assert {param.values[0] for param in PROMISES} == set(shelves.SHELVES)


@pytest.mark.parametrize("shelf", ["filters", "unlearning", "evaluations"])
def test_a_new_component_starts_out_keeping_its_contract(shelf, bench, tmp_path, monkeypatch):
    """What `untaught new` writes passes before anything is filled in."""
    path = skeleton.write(shelf, "fresh_one", tmp_path)
    spec = importlib.util.spec_from_file_location(f"untaught.{shelf}.fresh_one", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its annotations are looked up
    spec.loader.exec_module(module)
    check_component(Case(shelf, "fresh_one", module.FreshOne, bench, path))
