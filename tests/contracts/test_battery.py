"""The battery on every component of every shelf. A new file on a shelf is held to its contract without an edit here."""

import pytest
from bench import Case
from checks import battery

from untaught.core import shelves

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
