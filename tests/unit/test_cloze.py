"""Cloze: the right answer's own probability, and whether greedy decoding writes it."""

import copy
import json
import math

import pyarrow as pa
import pytest
import torch

from untaught.core import UserError, documents
from untaught.core.tables import Document
from untaught.corpus.reading import read_items
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.evaluations.cloze import Cloze
from untaught.lab.start import StartingModel

FACTS = {"The river of Abburg is": "oran and wide", "The hill of Tolburg is": "sefu"}


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=64, blocks=2, heads=2, vocabulary=320).build([f"{q} {a}" for q, a in FACTS.items()], 0)


@pytest.fixture(scope="module")
def taught(start):
    """A model that was taught the facts."""
    docs = documents(Document(str(i), f"{q} {a}") for i, (q, a) in enumerate(FACTS.items()))
    return tune_on_text(copy.deepcopy(start), docs, Rig(0, "x"), batch_size=2, length=32, steps=60, lr=3e-3)


def items(**more):
    rows = {"id": ["a", "b"], "question": list(FACTS), "answer": list(FACTS.values())}
    return pa.table(rows | more)


def values(subject, table, **settings):
    found = Cloze(**settings).grade(subject, table).to_pylist()
    assert all(row["chance"] is None for row in found)
    return {(row["item"], row["metric"]): row["value"] for row in found}


def written(subject, prompt, count):
    """What greedy decoding puts after a prompt."""
    ids = subject.tokenizer(prompt)["input_ids"]
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(subject.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


def test_recall_is_the_geometric_mean_of_the_answer_s_tokens(start):
    found = values(start, items())
    for name, (question, answer) in zip("ab", FACTS.items(), strict=True):
        head, whole = (start.tokenizer(text)["input_ids"] for text in (question, f"{question} {answer}"))
        assert whole[: len(head)] == head
        with torch.no_grad():
            shares = start.model(input_ids=torch.tensor([whole])).logits[0].softmax(-1)
        each = [shares[place - 1, whole[place]].item() for place in range(len(head), len(whole))]
        assert found[name, "recall_probability"] == pytest.approx(math.prod(each) ** (1 / len(each)), rel=1e-4)


def test_recalled_says_what_greedy_decoding_writes(start, taught):
    for subject in (start, taught):
        found = values(subject, items())
        for name, (question, answer) in zip("ab", FACTS.items(), strict=True):
            head, whole = (subject.tokenizer(text)["input_ids"] for text in (question, f"{question} {answer}"))
            decoded = written(subject, question, len(whole) - len(head)) == whole[len(head) :]
            assert found[name, "recalled"] == float(decoded)


def test_what_was_taught_is_recalled_and_what_was_not_is_not(start, taught):
    before, after = values(start, items()), values(taught, items())
    assert {value for (_, metric), value in after.items() if metric == "recalled"} == {1.0}
    assert {value for (_, metric), value in before.items() if metric == "recalled"} == {0.0}
    assert after["a", "recall_probability"] > 0.5
    assert before["a", "recall_probability"] < 0.1


def test_an_answer_may_be_a_text_or_the_index_of_one(start):
    indexed = items().drop_columns("answer")
    indexed = indexed.append_column("answer", pa.array([1, 0]))
    choices = [["no", "oran and wide"], ["sefu", "no"]]
    assert values(start, indexed.append_column("choices", pa.array(choices))) == values(start, items())
    for answers in ([2, 0], [-1, 0]):
        wrong = items(answer=answers, choices=choices)
        with pytest.raises(UserError, match="item 'a' has the answer .* index of one in a column 'choices'"):
            values(start, wrong)
    for table in (items(answer=[1, 0]), items(answer=["", "x"]), items(answer=[None, "x"])):
        with pytest.raises(UserError, match="item 'a' has the answer"):
            values(start, table)


def test_the_prompt_is_a_setting(start):
    assert values(start, items()) != values(start, items(), prompt="Question: {question}\nAnswer:")


def test_items_without_choices_are_read_from_files(tmp_path, start):
    file = tmp_path / "items.jsonl"
    rows = [{"question": q, "answer": a, "role": "hazard"} for q, a in FACTS.items()]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_items(file)
    assert read.column_names == ["id", "question", "answer", "role"]
    assert list(values(start, read).values()) == list(values(start, items()).values())
    for change, complaint in (({"answer": " "}, "has no answer"), ({"role": "x"}, "has a role that is neither")):
        file.write_text("\n".join(json.dumps(row | change) for row in rows), encoding="utf-8")
        with pytest.raises(UserError, match=complaint):
            read_items(file)
    file.write_text(json.dumps({"question": "x", "answer": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="has no column 'choices'"):
        read_items(file)
