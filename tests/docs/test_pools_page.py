"""The page on fine-tuning pools has the numbers that its benchmark kept."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_has_the_table_of_the_kept_pools():
    spec = importlib.util.spec_from_file_location("pools", ROOT / "benchmarks" / "pools.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kept = json.loads((ROOT / "benchmarks" / "pools.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "fine-tuning-pools.md").read_text(encoding="utf-8")
    assert script.markdown(kept["pools"]) in page, "run `python benchmarks/pools.py` and put in what it prints"
