"""The classifier: the formula against plain numpy, the promised sameness, the wanted recall, and every message."""

import math
import random
import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.core import Corpus, Document, UserError, documents
from untaught.engine.rig import Rig
from untaught.filters._minimum import minimum
from untaught.filters.classifier import (
    Classifier,
    ClassifierScorer,
    hashed,
    ngram_at,
    parted,
    threshold_for,
    words_of,
)

SMALL = {"buckets": 4096}
COMMON = ("the", "a", "of", "in", "on", "it", "was", "is", "and", "to", "by", "for", "with", "from", "at", "this")


def table(*texts):
    return documents(Document(f"d{i}", text) for i, text in enumerate(texts))


def sentences(words, count, seed, share):
    """`count` texts of 12 words, of which about `share` are from `words` and the others common."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(words if rng.random() < share else COMMON) for _ in range(12)) for _ in range(count)]


def world(hazard=120, benign=240, seed=0, share=0.3):
    toxic, tame = [f"toxin{i}" for i in range(30)], [f"town{i}" for i in range(30)]
    return sentences(toxic, hazard, seed, share), sentences(tame, benign, seed + 1, share)


def pool(*sides):
    return Corpus(*(table(*side) for side in sides))


@pytest.fixture(scope="module")
def scorer():
    return Classifier(**SMALL).fit(pool(*world()), Rig(0))


def test_it_separates_what_can_be_separated(scorer):
    hazard, benign = world(seed=50, share=0.5)
    assert scorer.keep(scorer.measure(table(*hazard))).mean() < 0.05
    assert scorer.keep(scorer.measure(table(*benign))).mean() > 0.95


def test_the_score_is_the_formula(scorer):
    text = "The toxin3 of\nTOXIN4 was town5"
    words = text.lower().split()
    grams = [*words, *(" ".join(pair) for pair in zip(words, words[1:], strict=False))]
    places = np.unique(hashed(words, 2, 4096))
    logit = sum(float(scorer.weights[j]) / math.sqrt(len(places)) for j in places) + scorer.bias
    row = scorer.measure(table(text)).to_pylist()[0]
    assert row["score"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-12)
    assert row["reason"] == f"p = {row['score']:.2f}"
    assert row["terms"][0] in ("toxin3", "toxin4")
    assert len(row["terms"]) <= 5
    assert set(row["terms"]) <= set(grams)


def test_hashes_never_change():
    assert hashed(["a", "nerve", "agent"], 2, 2**18).tolist() == [147035, 174022, 99318, 123477, 90392]
    assert hashed([], 3, 64).tolist() == []
    assert hashed(["one"], 3, 64).size == 1


def test_a_hash_is_the_documented_one():
    spread, chain = 0xD6E8FEB86659FD93, 0x9E3779B97F4A7C15
    one, two = zlib.crc32(b"nerve"), zlib.crc32(b"agent")
    slow = [(n * spread % 2**64 >> 32) % 1000 for n in (one, two, (one * chain + two) % 2**64)]
    assert hashed(["nerve", "agent"], 2, 1000).tolist() == slow


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(1, 5))
def test_places_name_their_ngrams(count, ngrams):
    words = [f"w{i}" for i in range(count)]
    grams = [" ".join(words[i : i + n]) for n in range(1, ngrams + 1) for i in range(count - n + 1)]
    assert [ngram_at(words, place) for place in range(hashed(words, ngrams, 64).size)] == grams


def test_the_minimum_is_a_minimum():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    bowl, bottom = root @ root.T + np.eye(12), rng.normal(size=12)
    start = np.zeros(12)

    def loss(point):
        away = point - bottom
        return float(away @ bowl @ away / 2), bowl @ away

    assert minimum(loss, start, 200) == pytest.approx(bottom, abs=1e-6)
    assert not start.any()


def test_the_fit_is_the_minimum_of_the_formula():
    hazard, benign, l2 = ["toxin a", "toxin b", "c"], ["town a", "town"], 0.01
    fitted = Classifier(ngrams=1, buckets=512, l2=l2).fit(pool(hazard, benign), Rig(0))
    x = np.zeros((5, 512))
    for row, text in enumerate([*hazard, *benign]):
        places = np.unique(hashed(words_of(text), 1, 512))
        x[row, places] = 1 / math.sqrt(len(places))
    sign, share = np.array([1, 1, 1, -1, -1]), np.array([1 / 6] * 3 + [1 / 4] * 2)
    pull = -sign * share / (1 + np.exp(sign * (x @ fitted.weights.astype(float) + fitted.bias)))
    assert x.T @ pull + l2 * fitted.weights == pytest.approx(np.zeros(512), abs=1e-6)
    assert pull.sum() == pytest.approx(0, abs=1e-6)


def test_imbalance_does_not_move_the_threshold():
    hazard, benign = world(60, 60)
    even = Classifier(**SMALL).fit(pool(hazard, benign), Rig(0))
    odd = Classifier(**SMALL).fit(pool(hazard, benign * 9), Rig(0))
    probe = [*world(20, 1, seed=9)[0], *world(1, 20, seed=9)[1]]
    assert odd.scores(probe) == pytest.approx(even.scores(probe), abs=1e-4)


def test_the_same_pool_gives_the_same_bits_in_any_order():
    hazard, benign = world()
    for how in (SMALL, {**SMALL, "recall": 0.9}):
        one = Classifier(**how).fit(pool(hazard, benign), Rig(0))
        two = Classifier(**how).fit(pool(hazard[::-1], benign[::-1]), Rig(7))
        assert one.weights.tobytes() == two.weights.tobytes()
        assert (one.bias, one.threshold) == (two.bias, two.threshold)


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(0, 6), st.randoms(use_true_random=False))
def test_batching_and_order_change_nothing(scorer, texts, cut, rng):
    batch = table(*texts)
    whole = scorer.measure(batch)
    assert scorer.measure(batch[:cut]).to_pylist() + scorer.measure(batch[cut:]).to_pylist() == whole.to_pylist()
    order = rng.sample(range(len(texts)), len(texts))
    assert scorer.measure(batch.take(order)).to_pylist() == whole.take(order).to_pylist()


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_a_wanted_recall_is_reached_on_texts_held_out(recall):
    hazard, benign = world(share=0.08)
    rig = Rig(0)
    scorer = Classifier(recall=recall, **SMALL).fit(pool(hazard, benign), rig)
    unseen, seen = parted(sorted(hazard), 0.2, "hazard")
    assert not set(unseen) & set(seen)
    caught = ~scorer.keep(scorer.measure(table(*unseen)))
    assert caught.mean() >= recall
    assert rig.measured["held_out_recall"] == caught.mean()
    assert rig.measured["threshold"] == scorer.threshold
    assert 0 <= rig.measured["held_out_benign_dropped"] <= 1


def test_more_recall_is_a_lower_threshold():
    corpus = pool(*world(share=0.08))
    wanted = [Classifier(recall=r, **SMALL).fit(corpus, Rig(0)).threshold for r in (0.5, 0.8, 1.0)]
    assert wanted == sorted(wanted, reverse=True)
    assert wanted[0] > wanted[-1]


def test_copies_are_never_on_both_sides():
    texts = ["a"] * 5 + ["b"] * 5 + ["c"]
    held, rest = parted(texts, 0.5, "hazard")
    assert sorted(held + rest) == sorted(texts)
    assert not set(held) & set(rest)
    assert held
    assert rest


def test_the_threshold_is_the_largest_that_reaches_the_recall():
    scores = np.array([0.9, 0.1, 0.5, 0.7, 0.3])
    assert [threshold_for(r, scores) for r in (0.2, 0.21, 0.6, 0.8, 1.0)] == [0.9, 0.7, 0.5, 0.3, 0.1]


def test_the_threshold_itself_is_dropped(scorer):
    batch = table("toxin1 toxin2", "town1")
    findings = scorer.measure(batch)
    exact = ClassifierScorer(scorer.weights, scorer.bias, findings["score"][0].as_py(), 2)
    assert exact.keep(findings).tolist() == [False, True]


def test_an_empty_text_has_a_score(scorer):
    row = scorer.measure(table("")).to_pylist()[0]
    assert row["score"] == pytest.approx(1 / (1 + math.exp(-scorer.bias)))
    assert row["terms"] == []


def test_weights_cannot_be_written_to(scorer):
    with pytest.raises(ValueError, match="read-only"):
        scorer.weights[0] = 1


def test_saving_and_loading(scorer, tmp_path):
    scorer.save(tmp_path / "one.npz")
    scorer.save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded, batch = ClassifierScorer.load(tmp_path / "one.npz"), table(*world(9, 9)[0])
    assert loaded.measure(batch) == scorer.measure(batch)
    assert loaded.threshold == scorer.threshold


def says(message):
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


def test_messages_about_the_pool():
    with says("the corpus has no benign documents. Give some benign text."):
        Classifier().fit(pool(["a"], []), Rig(0))
    with says(
        "classifier.recall needs two different hazard texts, one to learn from and one held out; the labelled pool has"
        " one. Label more, or give 'threshold' and no 'recall'."
    ):
        Classifier(recall=0.9).fit(pool(["a", "a"], ["b", "c"]), Rig(0))


def test_messages_about_files(tmp_path):
    gone, junk = tmp_path / "gone.npz", tmp_path / "junk.npz"
    with says(f"the classifier {gone} cannot be read: No such file or directory. Give the path of a file."):
        ClassifierScorer.load(gone)
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", weights=np.array([{}], dtype=object), bias=0, threshold=0, ngrams=2)
    whole = (tmp_path / "other.npz").read_bytes()
    np.save(tmp_path / "bare.npy", np.zeros(3))
    bare = (tmp_path / "bare.npy").read_bytes()
    for content in (b"", b"nothing", whole, whole[:-30], bare, (tmp_path / "pickled.npz").read_bytes()):
        junk.write_bytes(content)
        with says(f"{junk} is not a saved classifier. Save the scorer again."):
            ClassifierScorer.load(junk)
    np.savez(junk, weights=np.full(3, np.nan), bias=0, threshold=0, ngrams=2)
    with says(f"{junk} holds weights that are not one row of finite numbers. Save the scorer again."):
        ClassifierScorer.load(junk)
