"""The release page, the model card, ML-BOM and Croissant: they say what the statement says, and nothing runs there."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from releases import model, run, told

from untaught.attest import releasing
from untaught.attest.manifest import of_folder
from untaught.attest.statement import Claim, compose
from untaught.report import release_page


def stated(folder, name="tiny-model", lines=None):
    own = model(folder / name)
    return compose(own, of_folder(own), Claim(run(folder / "run", own, lines=lines)))


@pytest.fixture
def statement(tmp_path):
    return stated(tmp_path)


def page(found):
    return release_page.render(found.plain(), releasing.LIMITS)


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said += data


def test_the_page_is_one_file_that_loads_and_runs_nothing(statement):
    found = Tags(page(statement))
    assert not [tag for tag, _ in found.tags if tag in {"script", "img", "link", "iframe", "object", "form", "base"}]
    assert [a["href"] for tag, a in found.tags if tag == "a" and not a["href"].startswith("#")] == []
    assert not re.search(r"url\(|@import|https?://(?!untaught)", page(statement))
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    ids = {a["id"] for _, a in found.tags if "id" in a}
    assert {a["href"][1:] for tag, a in found.tags if tag == "a"} <= ids


def test_the_page_says_the_numbers_and_the_limits_first_of_all(statement):
    said = " ".join(Tags(page(statement)).said.split())
    assert "Accuracy on hazard_held_out: 0.26 before any attack, and at most 0.291 after what was tried" in said
    assert "0.97 in untouched" in said
    assert "40 steps, 10M tokens" in said
    assert "It does not say that the model is safe." in said
    assert statement.root in said
    assert statement.predicate.model.weights in said
    for entry in of_files(statement):
        assert entry.sha256 in said


def of_files(statement):
    return statement.predicate.model.files


def test_the_same_statement_gives_the_same_bytes(statement):
    assert page(statement) == page(statement)
    assert releasing.exports(statement) == releasing.exports(statement)


def test_names_are_text_on_the_page_and_in_the_card(tmp_path):
    hostile = "x-<img src=x onerror=alert(1)>|`*"

    def named(lines):
        for line in lines:
            if line["attack"] == "quantise":
                line["attack"] = hostile
        return lines

    found = stated(tmp_path, lines=named)
    tags = Tags(page(found))
    assert "img" not in {tag for tag, _ in tags.tags}
    assert hostile in tags.said
    card = releasing.card(found)
    assert "<img" not in card
    assert r"\|\`\*" in card


def test_what_is_missing_is_said_and_never_zero(tmp_path):
    def gone(lines):
        for line in lines:
            if line["items"] == "hazard_held_out" and line["seed"] == 0 and line["arm"] == "filtered":
                line |= told(None, line["items"])
        return lines

    found = stated(tmp_path, lines=gone)
    assert "Accuracy on hazard_held_out: missing before any attack" in page(found)
    assert "points of attacks have no value" in page(found)
    assert "| missing |" in releasing.card(found)
    front = yaml.safe_load(releasing.card(found).split("---\n")[1])
    assert [one["dataset"]["name"] for one in front["model-index"][0]["results"]] == ["benign"]


def test_without_attacks_nothing_is_said_of_how_long_it_lasts(tmp_path):
    def unattacked(lines):
        return [line for line in lines if line["attack"] is None]

    found = stated(tmp_path, lines=unattacked)
    assert "No attack was tried" in page(found)
    assert "No attack was tried" in releasing.card(found)


def test_the_card_has_the_hub_s_front_matter_and_the_values(statement):
    card = releasing.card(statement)
    front = yaml.safe_load(card.split("---\n")[1])
    [index] = front["model-index"]
    for result in index["results"]:
        assert {"type", "name"} <= result["task"].keys()
        assert {"type", "name"} <= result["dataset"].keys()
        [metric] = result["metrics"]
        assert isinstance(metric["value"], float)
    assert {result["metrics"][0]["value"] for result in index["results"]} == {0.26, 0.949}
    assert statement.root not in card, "the card is one of the files that the root is over"
    assert "What it does not say" in card


def test_the_bill_of_materials_has_every_file_and_every_value(statement):
    found = json.loads(releasing.exports(statement)["mlbom.cdx.json"])
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    component = found["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    held = {file["name"]: file["hashes"][0]["content"] for file in component["components"]}
    assert held == {file.path: file.sha256 for file in of_files(statement)}
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert [float(one["value"]) for one in metrics[-2:]] == pytest.approx([0.291, 0.281])
    assert len(metrics) == 6 + 2
    refs = {one["bom-ref"] for one in found["components"]}
    assert {one["ref"] for one in component["modelCard"]["modelParameters"]["datasets"]} == refs
    assert any(p["value"] == statement.root for p in component["properties"])
