"""What is generated for the documentation is what the code would generate now."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_study_schema_is_current():
    kept = json.loads((ROOT / "docs" / "study.schema.json").read_text(encoding="utf-8"))
    assert kept == generator().schema(), "run `make docs`"


def test_the_readme_s_table_is_made_from_the_kept_numbers():
    numbers = json.loads((ROOT / "docs" / "default-study.json").read_text(encoding="utf-8"))
    assert generator().table(numbers) in (ROOT / "README.md").read_text(encoding="utf-8"), "run `make docs`"
