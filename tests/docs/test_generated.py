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


def test_the_page_on_filters_has_the_tables_of_the_kept_curve():
    recall = json.loads((ROOT / "benchmarks" / "recall_curve.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "how-good-must-a-filter-be.md").read_text(encoding="utf-8")
    assert generator().recall_table(recall) in page, "run `make docs`"
    assert generator().copies_table(recall) in page, "run `make docs`"
    masking = json.loads((ROOT / "benchmarks" / "masking.json").read_text(encoding="utf-8"))
    assert generator().masking_table(masking) in page, "run `make docs`"
    [enough] = recall["enough"]
    least = [f"{enough[f'{misses}_after_{steps}_steps']:.0%}" for misses in ("documents", "facts") for steps in (0, 20)]
    assert least == ["99%", "99%", "95%", "99%"], "the page's text says otherwise"
    assert f"explains up to {enough['guessing_at_most']:.0%}." in page
    assert generator().recall_picture(recall) == (ROOT / "docs" / "recall-curve.svg").read_text(encoding="utf-8")


def test_the_readme_s_table_is_made_from_the_kept_numbers():
    numbers = json.loads((ROOT / "docs" / "default-study.json").read_text(encoding="utf-8"))
    assert generator().table(numbers) in (ROOT / "README.md").read_text(encoding="utf-8"), "run `make docs`"


def test_the_page_on_ranking_has_the_tables_of_the_kept_numbers():
    rows = json.loads((ROOT / "benchmarks" / "ranking.json").read_text(encoding="utf-8"))["rows"]
    page = (ROOT / "docs" / "how-filters-rank.md").read_text(encoding="utf-8")
    seeds = json.loads((ROOT / "benchmarks" / "forget_filter.json").read_text(encoding="utf-8"))["seeds"]
    tables = generator().ranking_tables(rows) | generator().forgetting_tables(list(seeds.values()))
    for content in tables.values():
        assert content in page, "run `make docs`"


def test_the_page_on_the_downstream_study_has_the_tables_of_the_kept_numbers():
    studies = json.loads((ROOT / "benchmarks" / "fine_tuning_study.json").read_text(encoding="utf-8"))
    page, shares = (ROOT / "docs" / "fine-tuning-study.md").read_text(encoding="utf-8"), {}
    for name in ("fine-tuning-25", "fine-tuning-half"):
        for content in generator().study_tables(studies[name]).values():
            assert content in page, "run `make docs`"
        told = studies[name]["effects"][0]["arms"]
        shares[name] = {one["arm"]: round(100 * one["share"]["value"]) for one in told if one["share"]}
    first, half = shares.values()
    assert [first[arm] for arm in ("saft", "few_shot_ranker", "random")] == [22, -26, 36], "the text"
    assert [half[arm] for arm in ("few_shot_ranker", "random")] == [51, 22], "the text"


def test_the_pages_of_kept_studies_have_their_tables():
    studies = json.loads((ROOT / "benchmarks" / "studies.json").read_text(encoding="utf-8"))
    for name, found in studies.items():
        for page, mark, table in generator().studied(name, found):
            assert f"<!-- {mark} -->\n{table}" in page.read_text(encoding="utf-8"), "run `make docs`"
