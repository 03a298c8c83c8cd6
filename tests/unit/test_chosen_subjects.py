"""Items of chosen subjects: a part of a benchmark, named as what it is."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from untaught.core import UserError
from untaught.study.files import Rows, digest_of_items, items

SUBJECTS = ["virology", "astronomy", "virology", "law"]


@pytest.fixture
def exams(tmp_path):
    table = pa.table({
        "id": list("abcd"),
        "question": ["What is it"] * 4,
        "choices": [["a town", "a hill"]] * 4,
        "answer": [0, 1, 0, 1],
        "subject": SUBJECTS,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "exams.parquet")
    return tmp_path


def chosen(folder, **settings):
    return items(Rows(path="exams.parquet", **settings), folder, "items.exams")["id"].to_pylist()


def test_subjects_are_taken_or_left_out(exams):
    assert chosen(exams) == list("abcd")
    assert chosen(exams, subjects=("virology", "law")) == ["a", "c", "d"]
    assert chosen(exams, without=("virology",)) == ["b", "d"]
    assert chosen(exams, subjects=("virology", "law"), without=("law",), most=1) == ["a"]


def test_other_subjects_are_another_item_set(exams):
    every = [{}, {"subjects": ("law",)}, {"without": ("law",)}, {"subjects": ("virology", "law")}, {"most": 2}]
    assert len({digest_of_items(Rows(path="exams.parquet", **one), exams) for one in every}) == len(every)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"subjects": ("virolgy",)}, "items.exams has no items of the subject 'virolgy'. Did you mean 'virology'?"),
        (
            {"without": ("physics",)},
            "items.exams has no items of the subject 'physics'. Known: astronomy, law",
        ),
        ({"subjects": ("law",), "without": ("law",)}, "items.exams has no items left: 'without' names every subject"),
    ],
)
def test_subjects_that_are_not_there_are_told(exams, settings, complaint):
    with pytest.raises(UserError) as error:
        chosen(exams, **settings)
    assert str(error.value).startswith(complaint)
