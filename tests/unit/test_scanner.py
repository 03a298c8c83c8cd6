"""The scanner: the same findings as the plain reading, whatever the text, and never a byte from next door."""

import pickle
import random
import subprocess
import sys
import threading
import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.core import Corpus, Document, UserError, documents
from untaught.engine.rig import Rig
from untaught.filters import _scanner, _words, blocklist
from untaught.filters._words import changed, joining, lowered, normalise, placed
from untaught.filters.blocklist import Blocklist

NOTHING = Corpus(documents([]), documents([]))
MATCHES = ("words", "substring")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Small batches are scanned too."""
    monkeypatch.setattr(blocklist, "SMALL", 0)


def table(*texts):
    return documents(Document(f"d{i}", text) for i, text in enumerate(texts))


def fitted(terms, match="words", **other):
    return Blocklist(terms=tuple(terms), match=match, **other).fit(NOTHING, Rig(0))


def spans(text, *terms, match="words"):
    """(term, start, stop) of every hit, as the scanner sees it."""
    row = fitted(terms, match).measure(table(text)).to_pylist()[0]
    return [(row["terms"][span["term"]], span["start"], span["stop"]) for span in row["spans"]]


def agree(scorer, batch):
    """Scanned and read plainly, the findings are the same; they are given back."""
    found, plain = scorer.measure(batch), scorer.plain(batch)
    assert found.to_pylist() == plain.to_pylist()
    assert found.schema == plain.schema
    return found


ODD = [
    *"aAbBeEfFiIkKsS129+,-_.'#\x00",
    *" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2003\u2028\u202f\u205f\u3000",
]
ODD += [*"\u200b\u200d\u00ad\ufeff\ufe0f\u034f\u2060\U000e0041", *"ａＦ１（ﬁﬃĳ…™½²´¨ªµ№㎏ſKÅΩﷺﷲßẞſtİıŉǅΐ"]
ODD += [*"\u0301\u0307\u0308\u0327\u0338\u0345\u0323\u093c\u094d\u0e38\u3099", *"éÉçñøØΣσςοΟΔ漢字カｶﾞあ☢♥☺—’“"]
ODD += [
    *"\u1100\u1161\u11a8\uac00각힣\u1160",
    *"प्र٣ا\ufe8d\u0627\u0653",
    *"\U0001d400\U0001f600\U00010400\U0001d7d8\U00020000\U0002f800",
]
PIECES = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(
        ["fe", "acid", "Acid", "amino", "a b", "c++", "1,2-di", "  ", "\r\n", "e\u0301", "☺\ufe0f", "ac\u00adid"]
    ),
    st.sampled_from(["abcdefgh", "abcdefghi", "abcdefghij", "zbcdefghij", "abcdefghijklmnopq", "abcdefghxjklmnopq"]),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)
TERMS = st.lists(st.lists(PIECES, min_size=1, max_size=6).map("".join), min_size=1, max_size=12)


def usable(terms, match):
    return [term for term in terms if (normalise(term) if match == "words" else term)] or ["fe"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MATCHES), st.lists(TEXTS, max_size=5), TERMS)
def test_it_agrees_with_the_plain_reading(match, texts, terms):
    agree(fitted(usable(terms, match), match), table(*texts))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MATCHES), TEXTS, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1))
def test_it_finds_terms_cut_out_of_the_text_itself(match, text, cuts):
    spelled = normalise(text) if match == "words" else text.lower()
    terms = usable([spelled[start : start + length] for start, length in cuts], match)
    found = agree(fitted(terms, match), table("before acid", text, "acid after"))
    if match == "substring":
        assert found["terms"][1].as_py() == sorted({t.lower() for t in terms if t.lower() in text.lower()})


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=5))
def test_any_characters_at_all(text, terms):
    for match in MATCHES:
        agree(fitted(usable(terms, match), match), table(text, "".join(terms)))


@settings(max_examples=250, deadline=None)
@given(st.one_of(TEXTS, st.text()))
def test_places_belong_to_the_normalised_text(text):
    for (spelled, starts, stops), wanted in ((placed(text), normalise(text)), (lowered(text), text.lower())):
        assert spelled == wanted
        assert len(starts) == len(stops) == len(wanted)
        assert starts == sorted(starts)
        assert all(0 <= start < stop <= len(text) for start, stop in zip(starts, stops, strict=True))


def test_clusters_do_not_change_each_other():
    rng = random.Random(0)
    letters = sorted({*changed(), *joining(), *" aAeEiIsS"})
    marks, hangul = sorted(joining()), [chr(point) for point in [*range(0x1100, 0x1200), *range(0xAC00, 0xAC60)]]
    for _ in range(20_000):
        text = "".join(rng.choices(rng.choice([letters, letters + marks * 5, [*marks, *"aeiAEI"], hangul]), k=4))
        assert placed(text)[0] == normalise(text), ascii(text)


def test_every_character_beside_a_term():
    """Each assigned character before and after a term, and inside of one."""
    letters = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    letters = [c for c in letters if not "\u3400" < c < "\uac00" and not "\uac80" < c < "\ud700" and c < "\U00020000"]
    scorer = fitted(["acid", "amino acid", "++", "é"])
    agree(scorer, table(*(f"{c}acid{c} amino{c}acid +{c}+{c} e{c}" for c in letters[::7])))


@pytest.mark.parametrize(
    ("text", "term", "places"),
    [
        ("an amino\u200b \n\u00a0acid\u200b.", "amino acid", [(3, 16)]),
        ("\u200bacid\u200b acid", "acid", [(1, 5), (7, 11)]),
        ("\U0001f600 a\u00adcid", "acid", [(2, 7)]),
        ("ﬁne ﬁ", "fi", [(4, 5)]),
        ("x…", "..", [(1, 2)]),
        ("cafe\u0301 café", "café", [(0, 5), (6, 10)]),
        ("\u1112\u1161\u11ab \ud55c", "한", [(0, 3), (4, 5)]),
        ("“FE’s”", "fe", [(1, 3)]),
        ("++ +++", "++", [(0, 2), (3, 5), (4, 6)]),
        ("漢字 漢 字", "漢", [(3, 4)]),
        ("α-Particle αα-particle", "α-particle", [(0, 10)]),
        ("1,2-Dichloroethane 11,2-dichloroethane", "1,2-dichloroethane", [(0, 18)]),
        ("aa aa aa", "aa aa", [(0, 5), (3, 8)]),
        ("\x00fe\x00", "fe", [(1, 3)]),
        ("fe", "fe", [(0, 2)]),
    ],
)
def test_spans_count_characters_of_the_text_as_it_came(text, term, places):
    assert spans(text, term) == [(normalise(term), *place) for place in places]


def test_spans_of_substrings():
    assert spans("coFFee İfe", "fe", match="substring") == [("fe", 3, 5), ("fe", 8, 10)]
    assert spans("ΟΔΟΣ ΟΔΟΣΑ", "οδος", "οδοσ", match="substring") == [("οδος", 0, 4), ("οδοσ", 5, 9)]
    assert spans("amino\nacid ﬁ Ａ", "amino acid", "fi", "ａ", match="substring") == [("ａ", 13, 14)]


def test_hits_at_the_borders_of_blocks():
    terms = ["fe", "c++", "zebra crossing", "é", "☢", "amino-acid phosphatase"]
    texts = [
        " " * before + fill.join([term] * 3) + " " * after
        for before in (0, 1, 30, 31, 32, 33, 55, 62, 63, 64, 65, 127, 128)
        for after in (0, 1, 64)
        for term, fill in zip(terms, [" ", "\n", "’", " \u00a0", "-", "…"], strict=True)
    ]
    for match in MATCHES:
        found = agree(fitted(terms, match), table(*texts))
        assert all(score >= 1 for score in found["score"].to_pylist())


def test_long_words_end_where_they_end():
    words = ["a" * size for size in (1, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 200)]
    for word in words:
        assert [term for term, *_ in spans(f"({word})", *words)] == [word]
    agree(fitted([*words, "abcdefgh1", "abcdefgh2"]), table("abcdefgh1 abcdefgh2 abcdefgh3", " ".join(words)))


def test_a_document_of_megabytes():
    rng = random.Random(1)
    words = ["lorem", "ipsum", "Amino", "acid", "dolor…", "naïve", "c++", "\u200bzinc", "x\u0301"]
    for pick in (words[:4], words[:7], words[:8], words):
        text = " ".join(rng.choices(pick, k=100_000)) + " end"
        found = agree(fitted(["amino acid", "c++", "zinc", "end"]), table("zinc", text, "end"))
        assert found["score"].to_pylist()[1] >= 2


def test_neighbours_do_not_leak():
    batch = table("amino", "acid", "", "fe", "", "ac", "id", "c+", "+", "")
    for match in MATCHES:
        found = agree(fitted(["amino acid", "aminoacid", "acid", "c++", "acidfe"], match), batch)
        assert found["terms"].to_pylist() == [[], ["acid"], *[[]] * 8]


def test_what_stands_behind_the_last_byte_is_not_read():
    """The buffer ends with the text, or goes on with what would be a term."""
    whole = pa.array(["zinc fe", "acid xzi", "nc fe"])
    for kind in (pa.string(), pa.large_string()):
        for start in range(3):
            for length in range(3 - start + 1):
                part = pa.chunked_array([whole.cast(kind).slice(start, length)])
                batch = pa.table({"id": pa.array(map(str, range(length)), pa.string()), "text": part})
                agree(fitted(["zinc", "fe", "zi", "acid xzinc"]), batch)
    bare = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"zinc"))
    assert fitted(["zinc"]).measure(pa.table({"text": bare}))["score"].to_pylist() == [1.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_chunks_slices_and_widths_change_nothing(texts, rng):
    scorer, batch = fitted(["fe", "acid", "a b", "漢字", "+", "é"]), table("fe", *texts, "a b")
    whole = scorer.measure(batch).to_pylist()
    cuts = sorted(rng.sample(range(len(whole) + 1), 2))
    parts = [batch[: cuts[0]], batch[cuts[0] : cuts[1]], batch[cuts[1] :]]
    assert scorer.measure(pa.concat_tables(parts)).to_pylist() == whole
    assert [row for part in parts for row in scorer.measure(part).to_pylist()] == whole
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = batch["text"].cast(kind) if not pa.types.is_dictionary(kind) else batch["text"].dictionary_encode()
        assert scorer.measure(batch.set_column(1, "text", column)).to_pylist() == whole


def test_more_hits_than_there_is_room_for():
    texts = ["fe " * 3, "fe " * 20_000, "ﷺ " * 5_000 + "fe", "x\u0301 fe " * 9_000, "fe"]
    found = agree(fitted(["fe", "محمد", "x\u0301 fe", "وسلم"]), table(*texts, *texts))
    assert found["score"].to_pylist() == [1.0, 1.0, 2.0, 2.0, 1.0] * 2


@pytest.mark.parametrize("match", MATCHES)
def test_a_list_of_a_hundred_thousand(match):
    rng = random.Random(2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randrange(4, 12))) for _ in range(60_000)]
    terms = [*words, *(" ".join(rng.sample(words, 2)) for _ in range(40_000))]
    began = time.process_time()
    scorer = fitted(terms, match)
    rows = [" ".join(rng.choices(terms, k=30)) for _ in range(200)]
    found = scorer.measure(table(*rows))
    assert time.process_time() - began < 20
    for text, got in zip(rows[:3], found["terms"].to_pylist(), strict=False):
        assert set(got) == {term for term in scorer.terms if f" {term} " in f" {text} "} or match == "substring"
        assert match == "words" or set(got) == {term for term in scorer.terms if term in text}


def test_what_is_not_utf8_is_said_as_ever():
    for data in (b"a\xff fe", b"\xc3", b"\xe2\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80fe"):
        edges = (0).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        batch = pa.table({"text": pa.StringArray.from_buffers(1, pa.py_buffer(edges), pa.py_buffer(data))})
        with pytest.raises(UnicodeDecodeError):
            fitted(["fe"]).measure(batch)


def test_a_document_without_text_is_named():
    with pytest.raises(UserError, match="row 1 of the batch has no text"):
        fitted(["a"]).measure(pa.table({"text": ["a", None]}))


def test_threads_run_side_by_side_and_agree():
    scorer, batch = fitted(["fe", "acid"]), table(*["fe acid’ ﬁ" * 300] * 50)
    wanted, found = scorer.measure(batch), []
    threads = [threading.Thread(target=lambda: found.append(scorer.measure(batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(one.equals(wanted) for one in found)


def test_a_scorer_that_has_scanned_can_be_sent_elsewhere():
    scorer, batch = fitted(["fe", "acid"]), table("fe’ acid")
    wanted = scorer.measure(batch)
    again = pickle.loads(pickle.dumps(scorer))
    assert again == scorer
    assert again.measure(batch).equals(wanted)


def test_a_little_text_is_read_plainly_and_much_is_scanned(monkeypatch):
    monkeypatch.setattr(blocklist, "SMALL", 1_000)
    made = []
    monkeypatch.setattr(_scanner, "Scanner", lambda *terms, **how: made.append(terms) or Scanner(*terms, **how))
    scorer, batch = fitted(["fe"]), table("fe " * 100)
    findings = [scorer.measure(batch) for _ in range(6)]
    assert len(made) == 1
    assert all(one.equals(findings[0]) for one in findings)


Scanner = _scanner.Scanner


def test_nothing_is_compiled_before_there_is_something_to_scan():
    code = (
        "import sys, untaught.filters.blocklist; print([m for m in ('numba', 'llvmlite', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_paper_s_rule_and_ours_differ_in_what_they_flag():
    batch = table("coffee and amino acids", "Fe and amino acid")
    assert fitted(["fe", "amino acid"]).measure(batch)["score"].to_pylist() == [0.0, 2.0]
    assert fitted(["fe", "amino acid"], "substring").measure(batch)["score"].to_pylist() == [2.0, 2.0]


def test_settings_that_need_no_pool(tmp_path):
    settled = Blocklist(terms="list.txt", distinct=3, match="substring")
    (tmp_path / "list.txt").write_text("Fe\nAmino  Acid\n")
    scorer = settled.resolved(tmp_path).fit(NOTHING, Rig(0))
    frozen = settled.frozen(scorer, tmp_path)
    assert frozen.terms == ("amino  acid", "fe")
    assert frozen.fit(NOTHING, Rig(0)) == scorer
    scorer.save(tmp_path / "saved.json")
    assert type(scorer).load(tmp_path / "saved.json") == scorer
    assert Blocklist.thresholds == ("distinct",)
    assert Blocklist.lock_free


def test_no_letter_is_on_a_plane_that_is_left_out():
    left_out = (
        chr(point) for plane in set(range(17)) - set(_words.PLANES) for point in range(plane << 16, plane + 1 << 16)
    )
    assert not [c for c in left_out if c.isalnum() or c.isspace() or _words.normalise(c) != c or c.lower() != c]
