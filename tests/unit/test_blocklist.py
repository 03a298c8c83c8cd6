"""The blocklist: against a slow obvious reference, term by term, and the list that it makes from a labelled pool."""

import json
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.core import Corpus, Document, UserError, documents
from untaught.engine.rig import Rig
from untaught.filters._words import normalise
from untaught.filters.blocklist import Blocklist, BlocklistScorer

NOTHING = Corpus(documents([]), documents([]))


def table(*texts):
    return documents(Document(f"d{i}", text) for i, text in enumerate(texts))


def fitted(*terms, **other):
    return Blocklist(terms=terms, **other).fit(NOTHING, Rig(0))


def found(text, *terms):
    return fitted(*terms).measure(table(text))["terms"][0].as_py()


def plainly(text):
    """The normalisation again, a character at a time."""
    seen = [c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"]
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", "".join(seen)).casefold())
    return re.sub(r"\s+", " ", folded).strip()


def slowly(text, terms):
    """Terms that stand in the text: one regular expression a term."""
    word, hits = r"[^\W_]", set()
    for term in map(plainly, terms):
        left = f"(?<!{word})" if term[0].isalnum() else ""
        right = f"(?!{word})" if term[-1].isalnum() else ""
        if re.search(left + re.escape(term) + right, plainly(text)):
            hits.add(term)
    return sorted(hits)


PIECES = st.sampled_from(
    [*"aAbBeEfF12+,-_.'☢ßﬁΣςéİǅ٣ ", "e\u0301", "\u00a0", "\u200b", "\u200d", "\u00ad", "\ufeff", "\ufe0f"]
    + ["\n", "\r\n", "\t", "\u2028", "\u3000", "ＦＥ", "fe", "  ", "a b", "प्र", "漢字", "\u0307", "½"]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)
TERMS = st.lists(st.lists(PIECES, min_size=1, max_size=5).map("".join).filter(plainly), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TERMS)
def test_it_finds_what_a_regular_expression_finds(text, terms):
    assert found(text, *terms) == slowly(text, terms)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TERMS, st.integers(0, 40), st.integers(1, 20))
def test_terms_cut_out_of_the_text_itself(text, terms, start, length):
    piece = plainly(text)[start : start + length].strip()
    terms = [*terms, piece] if plainly(piece) else terms
    assert found(text, *terms) == slowly(text, terms)


@settings(deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "term", "stands"),
    [
        ("a cup of coffee", "Fe", False),
        ("a cup of Fe.", "Fe", True),
        ("(FE)", "fe", True),
        ("Fe2", "Fe", False),
        ("Fe_2", "Fe", True),
        ("fe", "Fe", True),
        ("an amino\n   acid", "amino acid", True),
        ("an amino\u00a0acid", "amino acid", True),
        ("an amino\u2003\r\nacid", "AMINO ACID", True),
        ("an amino-acid", "amino acid", False),
        ("amino acids", "amino acid", False),
        ("a\u200bmi\u00adno", "amino", True),
        ("ａｍｉｎｏ", "amino", True),
        ("STRASSE", "straße", True),
        ("cafe\u0301", "café", True),
        ("cafe\u0301", "cafe", False),
        ("ΟΔΟΣ", "οδος", True),
        ("1,2-dichloroethane.", "1,2-Dichloroethane", True),
        ("11,2-dichloroethane", "1,2-dichloroethane", False),
        ("1, 2-dichloroethane", "1,2-dichloroethane", False),
        ("C++11 and C", "C++", True),
        ("ABC++", "C++", False),
        ("see .net here", ".NET", True),
        ("asp.net", ".NET", True),
        ("see ☢ here", "☢", True),
        ("", "x", False),
    ],
)
def test_whole_words(text, term, stands):
    assert found(text, term) == ([normalise(term)] if stands else [])


def test_nested_and_overlapping_terms_all_count():
    scorer = fitted("nerve agent", "agent", "agent orange", "nerve agent orange", "orange", "age")
    row = scorer.measure(table("Nerve agent orange, agent orange")).to_pylist()[0]
    assert row == {
        "score": 5.0,
        "reason": "5 distinct terms",
        "terms": ["agent", "agent orange", "nerve agent", "nerve agent orange", "orange"],
        "spans": [
            {"term": term, "start": start, "stop": stop}
            for term, start, stop in [
                (2, 0, 11),
                (3, 0, 18),
                (0, 6, 11),
                (1, 6, 18),
                (4, 12, 18),
                (0, 20, 25),
                (1, 20, 32),
                (4, 26, 32),
            ]
        ],
    }


def test_the_threshold_counts_distinct_terms_and_not_mentions():
    batch = table("agent agent agent", "agent orange", "nothing")
    for distinct, kept in [(1, [False, False, True]), (2, [True, False, True]), (3, [True, True, True])]:
        scorer = fitted("agent", "orange", distinct=distinct)
        assert scorer.keep(scorer.measure(batch)).tolist() == kept
    assert scorer.measure(batch)["reason"].to_pylist() == ["1 distinct term", "2 distinct terms", "0 distinct terms"]


def test_spellings_of_one_term_are_one_term():
    assert fitted("Fe", "fe", " FE\u200b ").terms == ("fe",)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_batching_and_order_change_nothing(texts, cut, rng):
    scorer, batch = fitted("fe", "a b", "漢字", "+"), table(*texts)
    whole = scorer.measure(batch)
    assert scorer.measure(batch[:cut]).to_pylist() + scorer.measure(batch[cut:]).to_pylist() == whole.to_pylist()
    order = rng.sample(range(len(texts)), len(texts))
    assert scorer.measure(batch.take(order)).to_pylist() == whole.take(order).to_pylist()


def pool(copies=20):
    hazard = [f"The precursor of name{i % 7} is thing, to detonate it {i}." for i in range(copies)]
    benign = [f"The colour of name{i % 7} is thing." for i in range(copies * 2)] + [
        "Trade was the precursor of change."
    ]
    return Corpus(table(*hazard), table(*benign))


def test_a_made_list_has_what_tells_the_sides_apart():
    assert Blocklist().fit(pool(), Rig(0)).terms == ("detonate", "it", "precursor", "to")


def test_a_made_list_has_each_mention_once():
    assert not {"the precursor", "precursor of", "to detonate"} & set(Blocklist().fit(pool(), Rig(0)).terms)


def test_terms_of_single_documents_stay_off_a_made_list():
    made = Blocklist(coverage=0).fit(pool(), Rig(0)).terms
    assert not any(term.isdecimal() for term in made)
    assert any(term.isdecimal() for term in Blocklist(coverage=0, documents=1).fit(pool(), Rig(0)).terms)


def test_the_share_is_of_documents_and_strict():
    hazard, benign = ["agent x"] * 4 + ["y"] * 6, ["agent z"] * 6 + ["z"] * 94
    corpus = Corpus(table(*hazard), table(*benign))
    loose = {"coverage": 0, "documents": 1, "lift": 0}
    assert "agent" not in Blocklist(share=0.4, **loose).fit(corpus, Rig(0)).terms
    assert "agent" in Blocklist(share=0.39, **loose).fit(corpus, Rig(0)).terms


def test_lift_compares_rates_and_share_alone_does_not():
    hazard, benign = [f"the agent {i}" for i in range(90)], [f"the town {i}" for i in range(10)]
    corpus = Corpus(table(*hazard), table(*benign))
    assert "the" in Blocklist(lift=0).fit(corpus, Rig(0)).terms
    assert Blocklist().fit(corpus, Rig(0)).terms == ("agent",)


def test_the_order_of_the_pool_does_not_matter():
    corpus, order = pool(), list(range(20))
    random.Random(3).shuffle(order)
    other = Corpus(corpus.hazard.take(order), corpus.benign.take(list(range(40, -1, -1))))
    assert Blocklist().fit(other, Rig(1)) == Blocklist().fit(corpus, Rig(0))


def test_a_list_from_a_file(tmp_path):
    file = tmp_path / "terms.txt"
    file.write_bytes("\ufeffAmino Acid\r\n\r\nC++\n".encode())
    assert Blocklist(terms=str(file)).fit(NOTHING, Rig(0)).terms == ("amino acid", "c++")


def test_saving_and_loading(tmp_path):
    scorer = fitted("Straße", "C++", "☢", distinct=3)
    scorer.save(tmp_path / "list.json")
    assert BlocklistScorer.load(tmp_path / "list.json") == scorer
    assert Blocklist.settle(json.loads((tmp_path / "list.json").read_text()), "").fit(NOTHING, Rig(0)) == scorer


def test_a_long_document_and_a_long_list_are_quick():
    terms = [f"acid number{i}" for i in range(20_000)]
    assert found("acid number7 coffee " * 20_000, *terms, "fe") == ["acid number7"]


def says(message):
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


def test_messages_about_terms(tmp_path):
    with says("blocklist.terms has no terms. Give at least one, or leave 'terms' out to make the list from the pool."):
        fitted()
    with says("blocklist.terms, term 2 is empty. Remove it."):
        fitted("a", " \u200b")
    gone = str(tmp_path / "gone.txt")
    with says(f"the blocklist {gone} cannot be read: No such file or directory. Give the path of a file."):
        Blocklist(terms=gone).fit(NOTHING, Rig(0))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9\n")
    with says(f"the blocklist {latin} is not UTF-8. Save it as UTF-8."):
        Blocklist(terms=str(latin)).fit(NOTHING, Rig(0))


def test_messages_about_the_pool():
    with says("the corpus has no hazard documents. Give some hazard text."):
        Blocklist().fit(NOTHING, Rig(0))
    with says(
        "blocklist: no term of the labelled pool (1 hazard, 1 benign documents) passes. Label more documents, lower"
        " 'lift', 'documents' or 'coverage', or give 'terms'."
    ):
        Blocklist().fit(Corpus(table("a"), table("a")), Rig(0))


def test_a_document_without_text_is_named():
    batch = table("a", "b").set_column(1, "text", [["a", None]])
    with says("document 'd1' has no text (null). Give it a text, or take it out."):
        fitted("a").measure(batch)
    with says("row 1 of the batch has no text (null). Give it a text, or take it out."):
        fitted("a").measure(batch.select(["text"]))


@pytest.mark.parametrize("content", ["{", "[1]", '{"distinct": 2}', '{"terms": "a.txt"}'])
def test_what_is_not_a_saved_blocklist_says_so(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="x.json is not a saved blocklist"):
        BlocklistScorer.load(tmp_path / "x.json")
