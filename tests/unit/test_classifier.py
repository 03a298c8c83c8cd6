"""The classifier: the formula against plain Python, the promised sameness, the wanted recall, and every message."""

import math
import random
import re
import subprocess
import sys
import threading
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from untaught.core import FINDINGS, Corpus, Document, UserError, documents
from untaught.engine.rig import Rig
from untaught.filters import _linear
from untaught.filters._cause import cause
from untaught.filters._linear import KNOWN, Model, alphabet, features, second_halves, weighed
from untaught.filters._minimum import minimum
from untaught.filters._words import WORD, normalise
from untaught.filters.classifier import Classifier, ClassifierScorer, SequenceScorer, parted, threshold_for

SMALL = {"buckets": 4096}
COMMON = ("the", "a", "of", "in", "on", "it", "was", "is", "and", "to", "by", "for", "with", "from", "at", "this")


def words_of(text):
    return WORD.findall(normalise(text))


def grams_of(words, ngrams):
    return [words[i : i + n] for n in range(1, ngrams + 1) for i in range(len(words) - n + 1)]


def bucket(gram, buckets):
    """The documented hash, in plain Python."""
    spread, chain, roll = 0xD6E8FEB86659FD93, 0x9E3779B97F4A7C15, 0
    for word in gram:
        roll = (roll * chain + zlib.crc32(word.encode())) % 2**64
    return (roll * spread % 2**64 >> 32) % buckets


def plainly(text, model):
    """Score, words, terms and where they stand, in plain Python from the normalised text."""
    words = words_of(text)
    grams = grams_of(words, model.ngrams)
    firsts = {}
    for gram in grams:
        firsts.setdefault(bucket(gram, len(model.weights)), gram)
    logit = math.fsum(model.weights[b].item() for b in firsts) / math.sqrt(max(len(firsts), 1)) + model.bias
    top = sorted((-model.weights[b], b) for b in firsts if model.weights[b] > 0)[:5]
    return 1 / (1 + math.exp(-logit)), [" ".join(firsts[b]) for _, b in top]


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
    places = sorted({bucket(gram, 4096) for gram in grams_of(words, 2)})
    logit = sum(float(scorer.weights[j]) / math.sqrt(len(places)) for j in places) + scorer.bias
    row = scorer.measure(table(text)).to_pylist()[0]
    assert row["score"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-12)
    assert row["reason"] == f"p = {row['score']:.2f}"
    assert row["terms"][0] in ("toxin3", "toxin4")
    assert len(row["terms"]) <= 5
    assert set(row["terms"]) <= {" ".join(gram) for gram in grams_of(words, 2)}
    assert {text[s["start"] : s["stop"]].lower().replace("\n", " ") for s in row["spans"]} == set(row["terms"])


def test_hashes_never_change():
    text, found = "a nerve agent", [147035, 174022, 99318, 123477, 90392]
    assert features([text], 2, 2**18)[0].tolist() == sorted(found)
    assert [bucket(gram, 2**18) for gram in grams_of(text.split(), 2)] == found
    assert [f.tolist() for f in features(["", "one"], 3, 64)] == [[], [bucket(["one"], 64)]]


ODD = st.text(
    st.one_of(
        st.sampled_from(
            "ab1 _.,-\n\té\u00a0\u00ad\u200b\u200dßİıŉΐςΣἈ\u0301\u0323\u093c\u1100\u1161\u11a8가각ﬁＡ①½…™㌀ﷺ"
        ),
        st.sampled_from(
            "\ufe0f\u20e3\U0001f600\U0001d400\U0001e900\U00020000\U0002f800\u0e33\u0f77\u212b\u1e9b\u3099か"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=400)
@given(st.lists(ODD, max_size=5), st.integers(1, 4), st.sampled_from([2, 7, 64, 4096]), st.integers(0, 9))
@example(["a a b a a", "", "  ", "\U0010ffff x"], 3, 4096, 0)
def test_compiled_code_says_what_plain_python_says(texts, ngrams, buckets, seed):
    weights = np.random.default_rng(seed).normal(size=buckets).astype(np.float32)
    weights.setflags(write=False)
    model = Model(weights, 0.25, ngrams)
    found = weighed(texts, model)
    assert not found.errors
    for text, score, terms in zip(texts, found.scores.to_pylist(), found.terms.to_pylist(), strict=True):
        plain_score, plain_terms = plainly(text, model)
        assert score == pytest.approx(plain_score, rel=1e-9)
        assert terms == plain_terms
    for text, places in zip(texts, features(texts, ngrams, buckets), strict=True):
        assert places.tolist() == sorted({bucket(gram, buckets) for gram in grams_of(words_of(text), ngrams)})


@settings(deadline=None, max_examples=200)
@given(ODD, st.integers(1, 3))
def test_spans_are_every_place_of_a_term_and_only_those(text, ngrams):
    weights = np.random.default_rng(1).normal(size=512).astype(np.float32)
    weights.setflags(write=False)
    found = weighed([text], Model(weights, 0.0, ngrams))
    terms, spans = found.terms.to_pylist()[0], found.spans.to_pylist()[0]
    words = words_of(text)
    for span in spans:
        assert " ".join(words_of(text[span["start"] : span["stop"]])) == terms[span["term"]]
    if spans:
        places = [sum(gram == term.split(" ") for gram in grams_of(words, ngrams)) for term in terms]
        assert [sum(s["term"] == i for s in spans) for i in range(len(terms))] == places


def test_only_texts_that_python_must_normalise_lack_spans(scorer):
    for text in (
        "toxin3",
        "the caf\u00e9: TOXIN3\u2026",
        "\u200btoxin3",
        "\ufb01ne toxin3 \u0645\u0631\u062d\u0628\u0627",
    ):
        row = scorer.measure(table(text)).to_pylist()[0]
        assert {text[s["start"] : s["stop"]].lower() for s in row["spans"]} >= {"toxin3"}
    row = scorer.measure(table("cafe\u0301 toxin3")).to_pylist()[0]
    assert "toxin3" in row["terms"]
    assert row["spans"] == []


def test_the_table_of_forms_is_what_normalising_gives():
    """Every character of the table, alone and behind each of a few that compose with much."""
    table, halves = alphabet(), second_halves()
    for code in range(KNOWN):
        if table.kind[code] in (_linear.GAP, _linear.WORD):
            form = table.forms[table.first[code] : table.first[code + 1]].tobytes().decode()
            assert form == "".join(c if c.isalnum() else " " for c in alone(chr(code)))
            assert chr(code) not in halves
    assert not any(unicodedata.decomposition(chr(code)) for code in range(KNOWN, 0x2F800))


def alone(character):
    """A character's normalised form, white space as it is."""
    return normalise(f"x{character}x")[1:-1] if not character.isspace() else " "


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
        places = sorted({bucket(gram, 512) for gram in grams_of(words_of(text), 1)})
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


# ------------------------------------------------------------------------------------------------- no score, threads


def broken(*texts):
    """Documents of which those given as bytes are not UTF-8."""
    raw = pa.array([t if isinstance(t, bytes) else t.encode() for t in texts], pa.binary())
    column = pa.StringArray.from_buffers(len(texts), *raw.buffers()[1:])
    return pa.table({"id": [f"d{i}" for i in range(len(texts))], "text": column})


BAD = (b"\xff", b"nerve \xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xf0\x82\x82\xac")


def test_a_document_that_is_not_utf8_has_no_score(scorer):
    found = scorer.measure(broken("toxin1 toxin2", *BAD, "town1"))
    whole = scorer.measure(table("toxin1 toxin2", "town1"))
    assert found.take([0, 1 + len(BAD)]).equals(whole)
    rows = found.slice(1, len(BAD)).to_pylist()
    assert all((row["score"], row["terms"], row["spans"]) == (None, [], []) for row in rows)
    assert all(row["reason"].startswith("UnicodeDecodeError: 'utf-8' codec can't decode") for row in rows)
    assert not scorer.keep(found)[1 : 1 + len(BAD)].any()
    assert found.schema.equals(FINDINGS)


def test_slices_chunks_and_types_change_nothing(scorer):
    hazard, _ = world(6, 1)
    whole = scorer.measure(table(*hazard))
    chunked = pa.concat_tables([table(*hazard[:2]), table(*hazard[2:])])
    large = table(*hazard).set_column(1, "text", pa.array(hazard, pa.large_string()))
    coded = table(*hazard).set_column(1, "text", pa.array(hazard).dictionary_encode())
    for batch in (chunked, large, coded):
        assert scorer.measure(batch).equals(whole)
    assert scorer.measure(chunked.slice(1, 3)).equals(whole.slice(1, 3))
    assert scorer.measure(chunked.slice(0, 0)).num_rows == 0


def test_a_null_text_is_named(scorer):
    with says("document 'd1' has no text (null). Give it a text, or take it out."):
        scorer.measure(table("a", None))


def test_threads_side_by_side_give_the_same(scorer):
    batch = table(*world(200, 200)[0])
    whole, found = scorer.measure(batch), []
    threads = [threading.Thread(target=lambda: found.append(scorer.measure(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one.equals(whole) for one in found)
    assert len(found) == 4
    assert Classifier.lock_free


@pytest.mark.parametrize(
    ("error", "text", "said"),
    [
        (IndexError("index out of range in self"), "some text", "IndexError: index out of range in self"),
        (KeyError("nerve"), "a NERVE agent", "KeyError"),
        (ValueError("cannot tokenise: the nerve  agent is"), "Of the\nnerve agent isopropyl", "ValueError"),
        (ValueError("boom"), "", "ValueError: boom"),
        (ValueError(""), "x", "ValueError"),
        (ValueError("b" * 100), "text", "ValueError: " + "b" * 80),
        (ValueError("no way"), "no", "ValueError"),
    ],
)
def test_a_cause_never_quotes_the_text(error, text, said):
    assert cause(error, text) == said


# ------------------------------------------------------------------------------------------------------ a given model

NOTHING = pool([], [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny sequence classifier with random weights that knows the words of `world`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *COMMON,
        *(f"{kind}{i}" for kind in ("toxin", "town") for i in range(30)),
    ]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(
        vocab_size=len(words),
        **shape,
        max_position_embeddings=32,
        initializer_range=0.6,
        id2label={0: "fine", 1: "hazard"},
    )
    place = tmp_path_factory.mktemp("models") / "bert"
    BertForSequenceClassification(config).eval().save_pretrained(place)
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def file(scorer, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "linear.npz"
    scorer.save(place)
    return place


HOW = {"overlap": 8}


def test_a_given_linear_model_needs_no_pool(scorer, file):
    given_one = Classifier(model=str(file), threshold=0.25).fit(NOTHING, Rig(0))
    batch = table(*world(9, 9)[0])
    assert given_one.measure(batch) == scorer.measure(batch)
    assert given_one.threshold == 0.25


def test_a_given_sequence_classifier_needs_no_pool(folder):
    long = " ".join(["the", "toxin3", "of", "town4"] * 20)
    scorer = Classifier(model=str(folder), threshold=0.25, **HOW).fit(NOTHING, Rig(0))
    assert isinstance(scorer, SequenceScorer)
    found = scorer.measure(table(long, "", "toxin3"))
    assert found.schema.equals(FINDINGS)
    first, second, third = found.to_pylist()
    assert re.fullmatch(r"p = \d\.\d\d in window [1-4] of 4", first["reason"])
    assert first["reason"].startswith(f"p = {first['score']:.2f}")
    (span,) = first["spans"]
    assert span["term"] == -1
    assert len(long[span["start"] : span["stop"]].split()) in (14, 30)
    assert third["spans"] == [{"term": -1, "start": 0, "stop": 6}]
    assert (second["spans"], second["terms"]) == ([], [])
    assert scorer.keep(found).tolist() == [row["score"] < 0.25 for row in (first, second, third)]


def test_company_changes_no_finding_of_a_sequence_classifier(folder):
    scorer = Classifier(model=str(folder), **HOW).fit(NOTHING, Rig(0))
    rng = random.Random(0)
    batch = table(*(" ".join(rng.choices(COMMON, k=rng.choice((0, 3, 9, 40, 90)))) for _ in range(40)))
    whole = scorer.measure(batch)
    for size in (1, 7):
        assert pa.concat_tables([scorer.measure(batch.slice(at, size)) for at in range(0, 40, size)]).equals(whole)
    order = np.random.default_rng(0).permutation(40)
    assert scorer.measure(batch.take(order)).combine_chunks().equals(whole.take(order))


def test_the_threshold_itself_is_dropped_by_a_sequence_classifier_too(folder):
    scorer = Classifier(model=str(folder), **HOW).fit(NOTHING, Rig(0))
    findings = scorer.measure(table("toxin3", "town4"))
    for row in (0, 1):
        exact = SequenceScorer(scorer.judge, findings["score"][row].as_py())
        assert not exact.keep(findings)[row]


def test_a_failure_is_no_score_and_says_why(folder, monkeypatch):
    scorer = Classifier(model=str(folder), **HOW).fit(NOTHING, Rig(0))
    whole = scorer.measure(table("toxin3", "town4"))
    forward = scorer.judge.model.forward

    def call(input_ids, **rest):
        if input_ids.shape[1] > 12:
            raise RuntimeError("planted, of some length " + "x" * 90)
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(scorer.judge.model, "forward", call)
    found = scorer.measure(broken("toxin3", "the of " * 20, b"\xff", "town4"))
    assert found.take([0, 3]).equals(whole)
    bad, unread = found.slice(1, 2).to_pylist()
    assert bad == {
        "score": None,
        "reason": ("RuntimeError: planted, of some length " + "x" * 90)[:94],
        "terms": [],
        "spans": [],
    }
    assert unread["score"] is None
    assert unread["reason"].startswith("UnicodeDecodeError: ")
    assert scorer.keep(found)[1:3].tolist() == [False, False]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_recall_with_a_given_model_is_measured_on_the_pool(kind, request):
    place, (hazard, benign) = str(request.getfixturevalue(kind)), world(60, 60, share=0.08)
    rig = Rig(0)
    scorer = Classifier(model=place, recall=0.8, **HOW).fit(pool(hazard, benign), rig)
    scores = scorer.measure(table(*hazard))["score"].to_numpy()
    assert scorer.threshold == threshold_for(0.8, scores)
    assert rig.measured["pool_recall"] == np.mean(~scorer.keep(scorer.measure(table(*hazard)))) >= 0.8
    assert rig.measured["pool_benign_dropped"] == np.mean(~scorer.keep(scorer.measure(table(*benign))))
    assert Classifier(model=place, recall=0.8, **HOW).fit(pool(hazard, []), Rig(0)).threshold == scorer.threshold
    with says("the corpus has no hazard documents. Give some hazard text."):
        Classifier(model=place, recall=0.8, **HOW).fit(NOTHING, Rig(0))


def test_what_a_fit_found_can_be_kept(folder, tmp_path):
    corpus, batch = pool(*world(share=0.08)), table(*world(9, 9)[0])
    for settings_given in (Classifier(recall=0.9, **SMALL), Classifier(model=str(folder), recall=0.9, **HOW)):
        scorer = settings_given.fit(corpus, Rig(0))
        kept = settings_given.frozen(scorer, tmp_path)
        assert (kept.threshold, kept.recall) == (scorer.threshold, None)
        again = Classifier.settle(kept.changed(), "a table").resolved(tmp_path).fit(NOTHING, Rig(1))
        assert again.measure(batch).equals(scorer.measure(batch))
        assert again.threshold == scorer.threshold
    assert (tmp_path / "classifier.npz").is_file()
    assert Classifier(**SMALL).frozen(Classifier(**SMALL).fit(corpus, Rig(0)), tmp_path).model == "classifier.npz"
    assert kept.model == str(folder)
    assert Classifier.thresholds == ("threshold",)


def test_a_relative_place_starts_at_the_folder_of_the_file(file):
    found = Classifier(model=file.name).resolved(file.parent)
    assert found.model == str(file)
    assert Path(found.model).is_absolute()
    assert found.resolved(Path("elsewhere")) == found
    assert Classifier().resolved(file.parent) == Classifier()


def test_messages_about_a_given_model(tmp_path, folder):
    gone = tmp_path / "gone"
    message = (
        f"there is no model {gone}. Give the path of a saved linear classifier (.npz) or of a model folder, or leave"
        " 'model' out to train one on the labelled pool."
    )
    with says(message):
        Classifier(model="gone").resolved(tmp_path)
    with says(message):
        Classifier(model=str(gone)).fit(NOTHING, Rig(0))
    with says(f"{tmp_path} has no config.json, so it is not a model folder. Give one that has."):
        Classifier(model=str(tmp_path)).fit(NOTHING, Rig(0))
    with says(f"label is 'hazrd', and {folder} has these: 0 = 'fine', 1 = 'hazard'. Did you mean 'hazard'?"):
        Classifier(model=str(folder), label="hazrd", **HOW).fit(NOTHING, Rig(0))


def test_the_linear_model_needs_no_torch(file):
    code = (
        "import sys\nfrom untaught.filters.classifier import Classifier\n"
        "from untaught.core import Corpus, Document, documents\n"
        "batch = documents([Document('a', 'a text')])\n"
        f"Classifier(model={str(file)!r}).fit(Corpus(batch, batch), None).measure(batch)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


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
