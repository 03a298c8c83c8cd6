"""Items from csv: what is accepted, and that what is wrong is named by file and item."""

import json

import pyarrow as pa
import pytest

from untaught.core import UserError
from untaught.corpus.reading import read_items
from untaught.corpus.world import read_any_items, subjects_of

LISTED = 'id,question,choices,answer,role\nq1,"Which, then?","[""a"", ""b""]",1,hazard\n'
LETTERED = "question,A,B,C,answer,subject\nWhich?,a,b,c,B,birds\nWhat?,d,e,,0,fish\n"


def put(folder, text, name="items.csv"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_csv_file_has_its_choices_as_a_list_or_in_columns(tmp_path):
    row = {"id": "q1", "question": "Which, then?", "choices": ["a", "b"], "answer": 1, "role": "hazard"}
    assert read_any_items(put(tmp_path, LISTED)).to_pylist() == [row]
    found = read_any_items(put(tmp_path, "\ufeff" + LETTERED)).to_pylist()
    assert [(row["id"], row["choices"], row["answer"]) for row in found] == [
        ("items.csv:0", ["a", "b", "c"], 1),
        ("items.csv:1", ["d", "e"], 0),
    ]


def test_csv_and_jsonl_give_the_same_items(tmp_path):
    row = {"id": "q1", "question": "Which, then?", "choices": ["a", "b"], "answer": 1, "role": "hazard"}
    other = put(tmp_path, json.dumps(row), "items.jsonl")
    assert read_any_items(put(tmp_path, LISTED)).equals(read_items(other))


def test_items_without_choices_and_marks_of_what_is_robust_are_read(tmp_path):
    assert read_any_items(put(tmp_path, "question,answer\nWhich?,marsh\n")).to_pylist() == [
        {"id": "items.csv:0", "question": "Which?", "answer": "marsh"}
    ]
    told = read_any_items(put(tmp_path, "question,A,B,answer,robust\nWhich?,a,b,A,True\nWhat?,a,b,A,false\n"))
    assert told["robust"].to_pylist() == [True, False]


WRONG = [
    ("question,A,B,answer\nWhich?,a,b,C\n", "item 'items.csv:0' has an answer that is no choice"),
    ("question,A,B,answer\nWhich?,a,b,2\n", "item 'items.csv:0' has an answer that is no choice (2)"),
    ("question,A,B,answer\nWhich?,a,b,0.5\n", "item 'items.csv:0' has an answer that is no choice"),
    ("question,A,B,answer\nWhich?,a,b,\n", "item 'items.csv:0' has an answer that is no choice"),
    ("question,A,B,answer\nWhich?,a,a,0\n", "item 'items.csv:0' has 1 different choices of 2"),
    ("question,A,B,answer\nWhich?,a,,0\n", "item 'items.csv:0' has 1 different choices of 1"),
    ("question,A,B,answer\n ,a,b,0\n", "item 'items.csv:0' has no question"),
    ("id,question,A,B,answer\nx,Q?,a,b,0\nx,R?,a,b,0\n", "item 'x' shares its id with another"),
    ("question,choices,answer\nWhich?,a;b,0\n", "row 0 has choices that are no JSON list"),
    ("question,choices,answer\nWhich?,3,0\n", "item 'items.csv:0' has choices that are not a list of texts"),
    ("question,A,B,answer\nWhich?,a,b\n", "row 0 has 3 values for 4 columns"),
    ("Which?,a,b,0\n", "the first line has to name the columns"),
    ("question,A,B,answer\n", "holds no items"),
    ('question,A,B,answer\n"Which?,a,b,0\n', "is not a csv file in UTF-8"),
]


@pytest.mark.parametrize(("text", "complaint"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_by_file_and_item(tmp_path, text, complaint):
    file = put(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_any_items(file)
    assert str(file) in str(error.value)
    assert complaint in str(error.value)


def test_the_subjects_of_items_are_counted(tmp_path):
    assert subjects_of(read_any_items(put(tmp_path, LETTERED))) == {"birds": 1, "fish": 1}
    assert subjects_of(pa.table({"id": ["a"]})) == {}
