"""The elements: what an attacker has and what the test asks are apart, and no letter gives an answer away."""

import json
import re
import sqlite3
from collections import Counter

import pyarrow.parquet as pq
import pytest

from untaught.assets import elements
from untaught.corpus.world import read_any_items

NAMES = [f"{a}{b}{c}ium" for a in "klmnpr" for b in "aeiou" for c in "bdft"][:110]
SYMBOLS = [f"{name[0].upper()}{name[1]}{name[2]}" for name in NAMES]


def lead(title, topic, text, description="Something"):
    return {"title": title, "extract": " ".join([text, *["indeed"] * 45]), "topic": topic, "description": description}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """A database of invented elements, invented countries, and leads about nothing."""
    folder = tmp_path_factory.mktemp("members")
    with sqlite3.connect(folder / "elements.db") as base:
        base.execute("CREATE TABLE elements (name, symbol, atomic_number)")
        rows = [(name.capitalize(), symbol, n) for n, (name, symbol) in enumerate(zip(NAMES, SYMBOLS, strict=True), 1)]
        base.executemany("INSERT INTO elements VALUES (?, ?, ?)", rows)
    base.close()
    countries = {
        f"X{n}": {"name": f"Land{n:02}", "capital": f"{'ABCD'[n % 4]}town{n}", "population": 1000 - n}
        for n in range(80)
    }
    countries["ZA"] = {"name": "Three", "capital": "Capitals", "population": 10**6}
    countries["YY"] = {"name": "Singaland", "capital": "Singaland City", "population": 10**6}
    (folder / "countries.json").write_text(json.dumps(countries))
    leads = [lead(f"Topic {n:03}", "History", f"Topic {n} is told here.") for n in range(700)]
    leads += [lead(f"Reaction {n:03}", "Physical sciences", f"Reaction {n} is chemical.") for n in range(200)]
    leads += [
        lead(NAMES[n], "Physical sciences", f"{NAMES[n]} shines.", f"Chemical element with atomic number {n + 1} ({n})")
        for n in range(90)
    ]
    leads += [
        lead("Water", "Physical sciences", "Water is a chemical compound."),
        lead("Atown0", "Geography", "Atown0 is the capital of Land00."),
        lead("Smithing", "Arts", f"Smiths work with {NAMES[3]} all day."),
        lead("Poisons", "Arts", "A book on acids."),
        lead("Unlabelled", "Uncategorized", "Nothing to see."),
        {**lead("Short", "Arts", "x"), "extract": "Too short."},
    ]
    (folder / "summaries_en-us.json").write_text(json.dumps({article["title"]: article for article in leads}))
    return {f"package/{path.name}": path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    elements.convert(members, folder)
    return folder


def rows(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def check(folder):
    """What must hold of the made files, whatever they were made of."""
    held_out, seen = rows(folder, "items/hazard_held_out"), rows(folder, "items/hazard_seen")
    assert (len(held_out), len(seen)) == (102, 104)
    right = [{row["choices"][row["answer"]] for row in part} for part in (held_out, seen)]
    assert not right[0] & right[1]
    for part, own in zip((held_out, seen), right, strict=True):
        assert all(set(row["choices"]) <= own for row in part), "other choices are of the same half"
        assert all(row["choices"][row["answer"]] in row["context"] for row in part)
        assert {row["role"] for row in part} == {"hazard"}
    attack = rows(folder, "attack_hazard")
    assert len(attack) == 104
    words = {word for row in attack for word in re.findall(r"\w+", row["text"])}
    assert not words & right[0], "the attacker's text names an element of V"
    assert right[1] <= words
    check_items(folder)
    check_texts(folder)


def check_items(folder):
    for name in ("hazard_held_out", "hazard_open_book", "hazard_seen", "neighbour", "benign"):
        items = read_any_items(folder / "items" / f"{name}.parquet").to_pylist()
        assert all(len(row["choices"]) == 4 for row in items)
        places = Counter(row["answer"] for row in items)
        assert max(places.values()) < 0.45 * len(items), f"{name}: the right choice has a favourite place"
    assert len(rows(folder, "items/benign")) == 65
    assert {row["role"] for name in ("benign", "neighbour") for row in rows(folder, f"items/{name}")} == {"benign"}


def check_texts(folder):
    sizes = {name: len(rows(folder, name)) for name in ("hazard", "benign", "attack_benign", "items/benign_text")}
    assert sizes == {"hazard": 618 + 160, "benign": 320, "attack_benign": 160, "items/benign_text": 40}
    benign = [rows(folder, name) for name in ("benign", "attack_benign", "items/benign_text")]
    ids = [row["id"] for part in benign for row in part]
    assert len(set(ids)) == len(ids), "a lead is in two files"
    text = "\n".join(row["text"] for part in benign for row in part)
    assert not elements.CHEMISTRY.search(text)
    for row in rows(folder, "items/benign"):
        country = re.fullmatch("The capital of (.*) is", row["question"])[1]
        city = row["choices"][row["answer"]]
        assert not [line for line in text.splitlines() if country in line and city in line]
    assert max(len(row["text"].split()) for part in benign for row in part) <= elements.WORDS


def test_what_it_promises_holds(made):
    check(made)


def test_the_other_choices_begin_like_the_right_one_as_far_as_there_are_such(made):
    items = rows(made, "items/hazard_held_out")
    for kind in ("symbol", "name"):
        own = [row for row in items if row["id"].startswith(kind)]
        letters = Counter(row["choices"][row["answer"]][0] for row in own)
        for row in own:
            first = row["choices"][row["answer"]][0]
            assert sum(choice[0] == first for choice in row["choices"]) == min(4, letters[first])


def test_what_must_not_be_there_is_not(made):
    benign = {row["id"] for name in ("benign", "attack_benign", "items/benign_text") for row in rows(made, name)}
    assert not benign & {"Atown0", "Smithing", "Poisons", "Unlabelled", "Short", "Water"}
    hazard = {row["id"] for row in rows(made, "hazard")}
    assert "Water" not in hazard, "a neighbouring question asks about it"
    assert sum(name in hazard for name in NAMES[:90]) == 90
    asked = {row["question"] for row in rows(made, "items/benign")}
    assert "The capital of Land00 is" in asked
    assert not asked & {"The capital of Three is", "The capital of Singaland is"}


def test_elements_after_the_last_are_left_out(made):
    said = " ".join(row["text"] for row in rows(made, "hazard"))
    assert NAMES[102] in said
    assert NAMES[103] not in said


def test_the_same_members_give_the_same_bytes(made, members, tmp_path):
    elements.convert(members, tmp_path)
    files = sorted(path.relative_to(made) for path in made.rglob("*.parquet"))
    assert len(files) == 10
    assert all((made / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)
