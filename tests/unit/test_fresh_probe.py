"""A fresh probe finds what is in the states, the words set its floor, and a text has its own fold."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from untaught.core import Subject, UserError, Wrap
from untaught.core.ranking import auroc
from untaught.engine.features import Features
from untaught.evaluations import fresh_probe
from untaught.evaluations.fresh_probe import FreshProbe
from untaught.lab.start import StartingModel

LOUD = ["bell", "drum", "horn", "gong"]
QUIET = ["moss", "felt", "snow", "dust"]


def texts(rng, words, count):
    return [" ".join(rng.choice(words, 5)) for _ in range(count)]


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    rows = texts(rng, [*LOUD, *QUIET], 30) + texts(rng, QUIET, 30)
    names = [f"text-{n}" for n in range(60)]
    return pa.table({"id": names, "text": rows, "hazard": [True] * 30 + [False] * 30})


@pytest.fixture(scope="module")
def subject(items):
    torch.set_num_threads(1)
    start = StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(items["text"].to_pylist(), 0)
    return Subject(start.model, start.tokenizer, Wrap())


def means(marked):
    table = marked.to_pylist()
    return {m: np.mean([r["value"] for r in table if r["metric"] == m]) for m in {r["metric"] for r in table}}


def test_every_text_has_its_marks_and_their_mean_is_the_auroc(subject, items):
    marked = FreshProbe(layers=(0, 1)).grade(subject, items)
    assert set(marked["item"].to_pylist()) == set(items["id"].to_pylist())
    found = means(marked)
    assert set(found) == {"auroc", "auroc_words", "auroc_excess"}
    assert found["auroc"] > 0.8
    assert found["auroc_words"] > 0.8
    assert found["auroc_excess"] == pytest.approx(found["auroc"] - found["auroc_words"])


def planted(monkeypatch, values):
    causes = [None] * len(values)
    monkeypatch.setattr("untaught.engine.features.features", lambda *given: Features(values, causes))


def test_what_is_planted_in_the_states_is_found_and_noise_is_not(subject, items, monkeypatch):
    rng, hits = np.random.default_rng(1), fresh_probe._ordered(items)["hazard"].to_pylist()
    noise = [rng.normal(size=(60, 1, 16)).astype(np.float32) for _ in range(10)]
    found = []
    for one in noise:
        planted(monkeypatch, one)
        found.append(means(FreshProbe().grade(subject, items))["auroc"])
    assert abs(np.mean(found) - 0.5) < 0.12
    noise[0][np.flatnonzero(hits), 0, 3] += 4
    planted(monkeypatch, noise[0])
    assert means(FreshProbe().grade(subject, items))["auroc"] > 0.9


def test_the_order_of_the_texts_changes_no_mark(subject, items):
    mixed = items.take(pa.array(np.random.default_rng(2).permutation(60)))
    one, two = (
        {(r["item"], r["metric"]): r["value"] for r in FreshProbe(layers=(1,)).grade(subject, table).to_pylist()}
        for table in (items, mixed)
    )
    assert one == pytest.approx(two, abs=1e-6)


@pytest.mark.parametrize("few", [slice(0, 60, 3), slice(0, 30), slice(30, 60)])
def test_too_few_texts_are_an_error(subject, items, few):
    rows = range(60)[few]
    with pytest.raises(UserError, match="4 texts or more of each kind"):
        FreshProbe().grade(subject, items.take(pa.array(list(rows))))


def test_a_text_that_cannot_be_read_has_no_mark_but_a_cause(subject, items):
    texts = ["" if n == 3 else text for n, text in enumerate(items["text"].to_pylist())]
    marked = FreshProbe(layers=(1,)).grade(subject, items.set_column(1, "text", pa.array(texts))).to_pylist()
    (broken,) = [row for row in marked if row["item"] == "text-3" and row["metric"] == "auroc"]
    assert broken["value"] is None
    assert broken["note"]
    assert sum(row["value"] is None for row in marked) == 3


def test_both_kinds_are_dealt_evenly():
    hits = np.random.default_rng(3).permutation(50) < 25
    folds = fresh_probe._dealt(hits)
    assert set(np.bincount(folds[hits])) == set(np.bincount(folds[~hits])) == {5}


def test_the_mean_of_the_marks_of_either_kind_is_the_auroc():
    rng = np.random.default_rng(4)
    scores, hits = rng.normal(size=40).round(1), rng.random(40) < 0.4
    marks, whole = fresh_probe._apart(scores, hits), auroc(scores[hits], scores[~hits])
    assert marks[hits].mean() == pytest.approx(whole)
    assert marks[~hits].mean() == pytest.approx(whole)
