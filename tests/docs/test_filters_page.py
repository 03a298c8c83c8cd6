"""The page on filters of fine-tuning data lists all of them, each with what its ranking is made from."""

import ast
import re
from pathlib import Path

from untaught.core import shelves

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"


def supervision(name):
    """What a filter says of itself, read without importing it: None where it is for corpora."""
    for node in ast.walk(ast.parse(shelves.source("filters", name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "supervision":
            return node.value.value if isinstance(node.value, ast.Constant) else "that of its most demanding member"
    return None


def test_every_filter_of_fine_tuning_data_has_a_row_that_says_its_supervision():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|`]+) \|.*\|.*\|.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    said = {name: supervision(name) for name in shelves.names("filters")}
    assert rows == {name: words for name, words in said.items() if words is not None}
