"""Profanity: what a scorer of words makes of what a model writes, with a cause where there is nothing to score."""

import copy
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from untaught.core import Subject, UserError, Wrap
from untaught.engine import generation
from untaught.evaluations._profane import Scorer
from untaught.evaluations.profanity import Profanity
from untaught.lab.start import StartingModel

TEXTS = ["The river of Abburg is oran.", "Boats reach Abburg by its river, which is oran."]
PROMPTS = ["The river of Abburg", "Boats", "The river of Abburg is oran and"]
ITEMS = pa.table({"id": ["a", "b", "c"], "text": PROMPTS})


def put(folder, **changes):
    """A scorer of two words and one machine."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"terms": "oran\nriver", "idf": [1.0, 2.0], "weights": [[4.0, -4.0]], "bias": [-1.0], "slope": [-2.0]}
    parts = plain | {"offset": [0.5], "pattern": r"(?u)\b\w\w+\b"} | changes
    parts["terms"] = np.frombuffer(parts["terms"].encode(), np.uint8)
    np.savez(folder / "model.npz", **{name: np.array(part) for name, part in parts.items()})
    return folder


def p(*x):
    return 1 / (1 + np.exp(-2.0 * (np.dot([4.0, -4.0], x) - 1.0) + 0.5))


@pytest.fixture(scope="module")
def subject():
    torch.set_num_threads(1)
    start = StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)
    with torch.no_grad():
        for weights in start.model.parameters():
            weights.mul_(3)
    return Subject(start.model, start.tokenizer, Wrap())


def test_words_are_counted_weighed_and_scaled(tmp_path):
    scorer = Scorer.load(put(tmp_path))
    found = scorer.profane(["Oran, ORAN river!", "oran", "x riverboat", ""])
    assert found == pytest.approx([p(2**-0.5, 2**-0.5), p(1, 0), p(0, 0), p(0, 0)], abs=1e-15)


def test_marks_are_means_over_what_was_drawn(subject, tmp_path):
    told = [generation.said(subject, PROMPTS, tokens=8, draw=draw) for draw in range(3)]
    letters = Counter(letter for drawn in told for letter in "".join(drawn).lower() if letter.isalpha())
    folder = put(tmp_path, terms="\n".join(letter for letter, _ in letters.most_common(2)), pattern="[a-z]")
    scorer = Scorer.load(folder)
    scored = [[scorer.profane([text])[0] if text.strip() else np.nan for text in drawn] for drawn in told]
    marked = Profanity(samples=3, tokens=8, scorer=str(folder)).grade(subject, ITEMS).to_pylist()
    values = {(row["metric"], row["item"]): row["value"] for row in marked}
    assert [values["profane", item] for item in "abc"] == pytest.approx(np.nanmean(scored, 0))
    shares = np.where(np.isnan(scored), np.nan, np.array(scored) > 0.5)
    assert [values["profane_share", item] for item in "abc"] == pytest.approx(np.nanmean(shares, 0))
    assert len({row["value"] for row in marked}) > 2, "a test of nothing"


def test_one_is_drawn_or_the_likeliest_token_taken(subject, tmp_path, monkeypatch):
    drawn = []

    def said(subject, prompts, *, tokens, draw, names):
        drawn.append((tokens, draw))
        return ["oran"] * len(prompts)

    monkeypatch.setattr(generation, "said", said)
    for samples in ({}, {"samples": None}, {"samples": 2}):
        marked = Profanity(scorer=str(put(tmp_path)), **samples).grade(subject, ITEMS)
        assert marked["value"].to_pylist() == pytest.approx([p(1, 0)] * 3 + [1.0] * 3)
    assert drawn == [(20, 0), (20, None), (20, 0), (20, 1)]


def test_what_is_no_answer_is_missing_with_its_cause(subject, tmp_path, monkeypatch):
    asked = Profanity(scorer=str(put(tmp_path)))
    broken = Subject(copy.deepcopy(subject.model), subject.tokenizer, subject.wrap)
    next(broken.model.parameters()).data.fill_(float("nan"))
    marked = asked.grade(broken, ITEMS).to_pylist()
    assert {(row["value"], row["note"]) for row in marked} == {(None, "the model's numbers are not finite")}
    monkeypatch.setattr(generation, "said", lambda *_, **__: [" ", "oran", "river"])
    marked = asked.grade(subject, ITEMS).to_pylist()
    assert {row["item"]: row["note"] for row in marked if row["value"] is None} == {"a": "the model said nothing"}
    assert [row["value"] for row in marked if row["metric"] == "profane_share"] == [None, 1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pattern": "("}, "is damaged or no scorer"),
        ({"idf": ["a", "b"]}, "is damaged or no scorer"),
        ({"idf": np.array([1.0, None])}, "is damaged or no scorer"),
        ({"idf": [1.0]}, "'idf' should be finite numbers of shape (2,)"),
        ({"terms": "oran\noran"}, "'idf' should be finite numbers of shape (1,)"),
        ({"weights": [[1.0, np.nan]]}, "'weights' should be finite numbers of shape (1, 2)"),
        ({"slope": [1.0, 2.0]}, "'slope' should be finite numbers of shape (1,)"),
    ],
)
def test_a_scorer_that_is_none_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        Scorer.load(put(tmp_path, **changes))
    assert words in str(caught.value)


def test_a_scorer_that_is_not_there_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file or directory. Fetch one: untaught fetch prof"):
        Scorer.load(tmp_path / "nowhere")
    (put(tmp_path) / "model.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="fetch profanity-model --again"):
        Scorer.load(tmp_path)


STUDY = {
    "world": {"use": "compounds", "substances": 8, "towns": 8, "values": 8, "exposures": 2, "attack_exposures": 2},
    "start": {"width": 32, "blocks": 2, "heads": 2, "vocabulary": 400},
    "workers": 1,
    "arms": {"untouched": {}},
    "evaluations": [{"use": "profanity", "items": "hazard_seen", "tokens": 4, "scorer": "scorer"}],
}


def planned(folder):
    from untaught.study.plan import plan
    from untaught.study.schema import load

    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return plan(load(folder / "study.yaml"))


def test_a_study_keeps_the_scorer_and_knows_it_by_its_bytes(tmp_path):
    from untaught.study import results
    from untaught.study.run import run
    from untaught.study.store import Store

    put(tmp_path / "scorer")
    what, store = planned(tmp_path), Store(tmp_path / "home")
    world, prepared, asked = what.steps
    assert [step.kind for step in what.steps] == ["world", "preparation", "evaluations"]
    run(what, store, Nobody())
    assert store.record(prepared.identity).measured == {"terms": 2.0}
    assert (store.folder(prepared.identity) / "model.npz").read_bytes() == (tmp_path / "scorer/model.npz").read_bytes()
    rows = results.write(what, store, tmp_path / "out")
    assert {row["metric"]: row["missing"] for row in rows} == {"profane": 0, "profane_share": 0}
    assert [step.identity for step in planned(tmp_path).steps] == [world.identity, prepared.identity, asked.identity]
    put(tmp_path / "scorer", bias=[-1.5])
    again = [step.identity for step in planned(tmp_path).steps]
    assert again[0] == world.identity
    assert not {prepared.identity, asked.identity} & set(again)


class Nobody:
    """Hears how a run goes, and forgets it."""

    def started(self, steps):
        pass

    def progress(self, identity, done, total):
        pass

    def finished(self, steps):
        pass
