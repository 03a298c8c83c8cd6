"""The page of a filter folder and the page that a sample is labelled on: what they say, and what they never hold."""

import csv
import html.parser
import json
import re
import shutil
import sys
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from untaught.cli import main
from untaught.core import UserError
from untaught.report import audit_page, filter_page, filter_reading, histogram, words
from untaught.report.filter_page import pieces

VOID = {"meta", "br", "hr", "img", "input", "link"}
TERMS = ["florp", "quentar", "zib"]
SECRET = "sesquipedalian"
"""A word in every text and in no term."""
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def untaught(*given):
    with mock.patch.object(sys, "argv", ["untaught", *map(str, given)]):
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def rows(count=90):
    """Of three documents one holds no term, one holds one, one holds two or all three."""
    said = ["nothing here", "a zib alone", "florp and quentar", "nothing here", "a zib alone", "florp, quentar and zib"]
    return [{"id": f"d{i}", "text": f"{SECRET} {said[i % 6]} number {i}"} for i in range(count)]


def filtered(folder, table=None, stages=None, name="part.jsonl", **policy):
    """A filter folder about one file."""
    data = folder / "data" / name
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in (rows() if table is None else table)))
    stages = stages or [{"use": "blocklist", "terms": TERMS}]
    (folder / "p.yaml").write_text(json.dumps({"filters": stages, "workers": 1, **policy}))
    untaught("filter", folder / "data", "--out", folder / "out", "--config", folder / "p.yaml")
    return folder / "out"


@pytest.fixture
def out(tmp_path):
    return filtered(tmp_path)


def page(out):
    return (out / "report.html").read_text(encoding="utf-8")


def plain(text):
    """What a reader sees, in one line."""
    shown = re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", text, flags=re.S)
    return " ".join(html.unescape(shown).split())


def well_formed(text):
    """Every tag is closed, and every link leads somewhere."""
    tags, anchors, targets = [], set(), set()

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            given = dict(attrs)
            targets.add(given.get("id"))
            anchors.add((given.get("href") or "").removeprefix("#"))
            if tag not in VOID:
                tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert tags.pop() == tag

    Reader().feed(text)
    return not tags and anchors - {""} <= targets


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_removed_and_why(out):
    told = plain(page(out))
    assert "33.3% of 90 documents were removed" in told
    assert "blocklist 60 30 0 100%" in told
    assert "# distinct terms 30 100%" in told
    assert "part.jsonl 90 30 0 33.3%" in told
    summary = json.loads((out / "summary.json").read_text())
    assert summary["root"] in told
    assert summary["policy"] in told
    assert "terms: 3 entries" in told


def test_terms_are_told_by_how_many_documents_went_because_of_them(out):
    """30 removed documents hold florp and quentar; in 15 of them zib is a third, without which they go as well."""
    found = filter_reading.read(out)
    assert found.scores[0].held == {"florp": 30, "quentar": 30, "zib": 15}
    assert found.scores[0].decisive == {"florp": 15, "quentar": 15}
    assert "florp 30 15 100%" in plain(page(out))
    assert "zib 15 0 50.0%" in plain(page(out))


def test_the_page_is_one_file_that_is_well_formed_and_loads_nothing(out):
    text = page(out)
    assert well_formed(text)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<img|<iframe", text)
    assert text.count("<table") == text.count("<caption>")
    assert "<th>" not in text
    for chart in re.findall(r"<svg[^>]*>.*?</svg>", text, flags=re.S):
        assert re.match(r'<svg[^>]*role="img"[^>]*><title>[^<]+</title><desc>[^<]+</desc>', chart)


def test_the_page_holds_no_text_unless_asked_to(out, tmp_path):
    assert SECRET not in page(out)
    closed = page(out)
    assert untaught("filter", tmp_path / "data", "--out", out, "--show-text") == 0
    opened = page(out)
    assert "<mark>florp</mark>" in opened
    assert SECRET in opened
    assert "This page holds text of the corpus" in plain(opened)
    assert well_formed(opened)
    assert untaught("filter", tmp_path / "data", "--out", out) == 0
    assert page(out) == closed
    assert untaught("report", out, "--show-text", "--data", tmp_path / "data") == 0
    assert page(out) == opened
    assert untaught("report", out) == 0
    assert page(out) == closed


def test_text_needs_its_source(out, tmp_path, capsys):
    assert untaught("report", out, "--show-text") == 2
    assert "--data DATA" in capsys.readouterr().err
    (tmp_path / "data/part.jsonl").write_text(json.dumps(rows(1)[0]) + "\n")
    assert untaught("report", out, "--show-text", "--data", tmp_path / "data") == 2
    assert "its bytes differ" in capsys.readouterr().err


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(out, tmp_path):
    shutil.copytree(out, tmp_path / "elsewhere")
    (tmp_path / "elsewhere/report.html").unlink()
    assert untaught("report", tmp_path / "elsewhere") == 0
    assert page(tmp_path / "elsewhere") == page(out)
    assert str(tmp_path) not in page(out)


def test_a_page_is_drawn_again_only_when_something_changed(out, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(filter_page, "render", lambda *given: drawn.append(given) or "new")
    filter_page.update(out)
    assert not drawn
    untaught("filter", tmp_path / "data", "--out", out, "--set", "filters.0.distinct=1")
    assert len(drawn) == 1
    (out / "report.html").unlink()
    filter_page.update(out)
    assert len(drawn) == 2


def test_ids_sources_and_terms_cannot_become_markup(tmp_path):
    table = [{"id": f"{HOSTILE}{i}", "text": f"{HOSTILE} florp {HOSTILE} quentar {SECRET}"} for i in range(10)]
    stages = [{"use": "blocklist", "terms": [*TERMS, HOSTILE.lower()]}]
    out = filtered(tmp_path, table, stages, name="<b>bold</b>&.jsonl")
    for more in ((), ("--show-text", "--data", tmp_path / "data")):
        assert untaught("report", out, *more) == 0
        assert "<img" not in page(out)
        assert "<b>" not in page(out)
        assert "<img src=x onerror=alert(1)>" in plain(page(out))
        assert well_formed(page(out))


def test_what_must_be_mended_comes_first(tmp_path):
    table = [*rows(6), {"id": "n", "text": None}, {"id": "m", "text": None}, {"id": "z", "text": "a\0b"}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bad.parquet").write_bytes(b"PAR1 and nothing")
    told = plain(page(filtered(tmp_path, table)))
    first = told.index("To be mended")
    assert first < told.index("What labels by hand say") < told.index("By stage and reason")
    assert "1 source could not be read" in told
    assert "bad.parquet damaged" in told
    assert told.index("no text 2 Name the column") < told.index("text with NUL characters 1 Take the NUL")
    assert "Quarantined Id Source Row Score Cause" in told
    assert "To be mended" not in plain(page(filtered(tmp_path / "whole")))


def test_equal_ids_are_told(tmp_path):
    told = plain(page(filtered(tmp_path, [{"id": "same", "text": "one"}] * 3)))
    assert "2 documents share an id with another" in told


def test_no_documents_at_all(tmp_path):
    out = filtered(tmp_path, [])
    assert "No documents were read" in plain(page(out))
    assert well_formed(page(out))


def test_nothing_removed_and_everything_quarantined(tmp_path):
    nothing = filtered(tmp_path / "a", [{"id": "a", "text": "moss"}])
    assert "Nothing was removed from 1 document" in plain(page(nothing))
    broken = filtered(tmp_path / "b", [{"id": str(i), "text": None} for i in range(5)])
    assert "5 documents are quarantined" in plain(page(broken))
    assert "No document was scored by this stage" in plain(page(broken))
    assert well_formed(page(nothing))
    assert well_formed(page(broken))


def test_conversations_are_shown_like_texts(tmp_path):
    table = [{"messages": [{"role": "user", "content": "florp"}, {"role": "x", "content": "quentar <b>"}]}] * 4
    out = filtered(tmp_path, table)
    assert untaught("report", out, "--show-text", "--data", tmp_path / "data") == 0
    assert "<mark>florp</mark>\n<mark>quentar</mark> &lt;b&gt;" in page(out)
    assert "part.jsonl:0" in plain(page(out))


def test_thirty_sources_are_named_and_the_rest_is_one_line(tmp_path):
    for index in range(33):
        place = tmp_path / "data" / f"s{index:02}.jsonl"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(rows(3)[2 if index < 20 else 0]) + "\n")
    told = plain(page(filtered(tmp_path, rows(30), unique_ids=False)))
    assert "part.jsonl 30 10 0 33.3%" in told
    assert "4 more sources 4 0 0 0%" in told


# --- a cascade ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A blocklist that hands on to a classifier."""
    folder = tmp_path_factory.mktemp("cascade")
    table = rows(120)
    for name, own in (("hazard", table[2::3]), ("benign", table[0::3])):
        (folder / "lab").mkdir(exist_ok=True)
        (folder / f"lab/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    stages = [{"use": "blocklist", "terms": TERMS, "distinct": 1, "escalate": True}, {"use": "classifier"}]
    return filtered(folder, table, stages, corpus={"hazard": "lab/hazard.jsonl", "benign": "lab/benign.jsonl"})


def test_each_stage_has_its_scores_and_those_it_flagged(cascade):
    first, second = filter_reading.read(cascade).scores
    assert (first.clear, first.flagged) == ({0.0: 40}, {1.0: 40, 2.0: 20, 3.0: 20})
    assert sum(second.clear.values()) + sum(second.flagged.values()) == 80
    assert sum(second.flagged.values()) == json.loads((cascade / "summary.json").read_text())["removed"]
    assert "flagged: on to the next stage" in plain(page(cascade))


def test_terms_that_the_policy_does_not_say_are_text_and_hidden(cascade):
    assert SECRET not in page(cascade)
    assert "not shown" in plain(page(cascade))
    held = filter_reading.read(cascade).scores
    assert set(held[0].held) <= set(TERMS)
    assert not held[1].held


def test_the_threshold_of_a_classifier_is_drawn(cascade):
    (_, figure, made) = [
        filter_page._figure(stage, scores)
        for stage, scores in zip(*(getattr(filter_reading.read(cascade), n) for n in ("stages", "scores")), strict=True)
    ][1]
    assert made.threshold == 0.5
    assert "flagged from 0.5" in figure.desk
    assert "flagged from 0.5" in figure.phone


# --- what labels say ------------------------------------------------------------------------------------------------


def test_the_page_and_the_terminal_say_what_labels_say(out, tmp_path, capsys):
    assert "no decision was labelled by hand" in plain(page(out))
    assert untaught("filter", tmp_path / "data", "--out", out, "--audit", 60) == 0
    assert "none of the drawn documents has a label" in plain(page(out))
    with (out / "audit.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["label"] = "hazard" if line["decision"] == "removed" else "benign"
    with (out / "audit.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    capsys.readouterr()
    assert untaught("report", out) == 0
    assert re.search(r"60 of 60 documents labelled; recall \d", capsys.readouterr().out)
    told = plain(page(out))
    assert re.search(r"By 60 labels, at 95%, 0 to \d+ hazard documents are left in the kept part", told)
    assert "Clopper and Pearson 1934" in told
    assert untaught("filter", tmp_path / "data", "--out", out, "--set", "filters.0.distinct=1") == 0
    assert "the labels are of other decisions" in plain(page(out))


def test_json_says_the_same(out, tmp_path, capsys):
    capsys.readouterr()
    assert untaught("report", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(out / "report.html"), "audit": None}
    assert untaught("filter", tmp_path / "data", "--out", out, "--audit", 9, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["audit"]["stands"]
    assert "drawn" not in told["audit"]


def test_options_of_filter_folders_are_refused_elsewhere(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert untaught("report", tmp_path / "run", "--show-text") == 2
    assert "are for a filter folder" in capsys.readouterr().err


# --- the page that a sample is labelled on --------------------------------------------------------------------------


@pytest.fixture
def labelling(tmp_path):
    table = [{"id": f"d{i}", "text": f"</script><b>{HOSTILE} florp quentar \u2028 {i}"} for i in range(12)]
    out = filtered(tmp_path, table)
    assert untaught("filter", tmp_path / "data", "--out", out, "--audit", 12) == 0
    return out, (out / "audit.html").read_text(encoding="utf-8")


def test_texts_stand_in_the_page_as_data_and_nothing_else(labelling):
    out, text = labelling
    assert well_formed(text)
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert "\u2028" not in text
    found = json.loads(re.search(r'id="texts">(.*?)</script>', text)[1])
    assert sorted(found) == sorted(f"</script><b>{HOSTILE} florp quentar \u2028 {i}" for i in range(12))
    lines = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    with (out / "audit.csv").open(newline="") as file:
        assert [lines["columns"], *lines["rows"]] == list(csv.reader(file))


def test_the_labelling_page_loads_and_sends_nothing_and_says_not_to_publish_it(labelling):
    _, text = labelling
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(|<link|<img|<iframe|fetch\(|XMLHttpRequest|innerHTML", text)
    assert "holds text of the corpus. Do not publish it." in plain(text)


def test_the_labelling_page_shows_no_decision(labelling):
    _, text = labelling
    body = re.sub(r"<(style|script).*?</\1>", "", text, flags=re.S)
    assert not re.search(r"removed|blocklist|score|stratum", body)
    script = (audit_page.HERE / "audit_page.js").read_text()
    assert set(re.findall(r"columns\.indexOf\(\"(\w+)\"\)", script)) == {"label"}


def test_only_our_script_may_run(labelling):
    import base64
    import hashlib

    _, text = labelling
    script = re.search(r"<script>(.*?)</script>", text, flags=re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


# --- parts ----------------------------------------------------------------------------------------------------------


def test_pieces_are_cut_around_what_was_found():
    text = "x" * 200 + "florp" + "y" * 400 + "zib" + "z"
    found = pieces(text, [(605, 608), (200, 205), (202, 204), (5000, 5001)])
    assert found == [f"…{'x' * 80}<mark>florp</mark>{'y' * 80}…", f"…{'y' * 80}<mark>zib</mark>z"]
    near = pieces("a florp b zib c", [(2, 7), (10, 13)])
    assert near == ["a <mark>florp</mark> b <mark>zib</mark> c"]
    assert pieces("<b>", []) == ["&lt;b&gt;"]


def test_histograms_hold_every_document():
    clear, flagged = {0.0: 50, 1.0: 7}, {2.0: 3, 400.0: 1}
    made = histogram.chart("t", clear, flagged, 2.0)
    assert sum(bar.clear for bar in made.bars) == 57
    assert sum(bar.flagged for bar in made.bars) == 4
    assert made.bars[-1].label.endswith("or more")
    real = histogram.chart("t", {0.001: 5, 0.499: 2}, {0.5: 1, 1.0: 9}, 0.5)
    assert sum(bar.clear + bar.flagged for bar in real.bars) == 17
    assert all(not (bar.clear and bar.flagged) for bar in real.bars)
    far = histogram.chart("t", {-1234.5: 1}, {99.5: 1}, 0.0)
    assert sum(bar.clear + bar.flagged for bar in far.bars) == 2
    for each in (made, real, far, histogram.chart("t", {3.5: 2}, {}, None), histogram.chart("t", {0.0: 1}, {}, 1.0)):
        assert histogram.draw(each, 334.0, 260.0).startswith("<svg")


def test_a_damaged_folder_is_told(out):
    (out / "decisions/part.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"part\.parquet is missing or damaged"):
        filter_reading.read(out)
    (out / "summary.json").write_text("[]")
    with pytest.raises(UserError, match=r"summary\.json is not a JSON table"):
        filter_reading.read(out)


def test_a_policy_that_was_rewritten_by_hand_is_read_too(out):
    before = filter_reading.policy(out)
    (out / "policy.yaml").write_text(
        "filters:\n  - use: blocklist\n    terms: [florp, quentar, zib]\n    distinct: 2\n  - {use: blocklist}\n"
    )
    after = filter_reading.policy(out)
    assert (before[0].terms, before[0].threshold) == (after[0].terms, after[0].threshold) == (frozenset(TERMS), 2.0)
    assert after[1].name == "blocklist#2"


def chats(count=60, *, hidden=True):
    """Labelled examples; the harmful ones hold two terms, unless chance says who does."""
    told = [bool(i % 5 == 0) if hidden else i % 2 == 0 for i in range(count)]
    return [
        {
            "id": f"c{i}",
            "label": int(i % 5 == 0),
            "messages": [
                {"role": "user", "content": f"{SECRET} {i}?"},
                {"role": "assistant", "content": f"{SECRET} {'florp and quentar' if bad else 'nothing'} {i}"},
            ],
        }
        for i, bad in enumerate(told)
    ]


def test_the_page_of_fine_tuning_data_says_how_well_the_score_ranks_and_what_a_budget_buys(tmp_path):
    out = filtered(tmp_path, chats(), label_column="label")
    text, told = page(out), plain(page(out))
    assert "1 source read as chats (messages)" in told
    assert "Measured on 12 labelled harmful examples and 48 clean ones" in told
    assert "blocklist a filter for corpora 1.00 1.00 to 1.00" in told
    assert "20.0% 100% 75.8% to 100% 0% 0% to 7.4% 20.0%" in told
    assert "removed: 20.0%" in told
    assert well_formed(text)
    assert SECRET not in text
    assert text.count("<table") == text.count("<caption>")
    assert "The filter was held back" not in told


def test_the_page_says_why_a_filter_was_held_back(tmp_path):
    told = plain(page(filtered(tmp_path, chats(hidden=False), label_column="label")))
    assert "Nothing was removed from 60 documents" in told
    assert "The filter was held back : the AUROC of blocklist on labelled examples is" in told
    bare = [{key: value for key, value in row.items() if key != "label"} for row in chats()]
    told = plain(page(filtered(tmp_path / "bare", bare, contamination=0.2)))
    assert "not measured: no example is labelled" in told
    assert "There is no budget curve" in told


def test_a_page_about_a_corpus_says_nothing_of_ranking(out):
    assert "How well the score ranks" not in plain(page(out))


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """Many row groups, read a batch at a time: no column of the whole is held."""
    out = filtered(tmp_path, rows(6))
    path = out / "decisions/part.parquet"
    table = pq.read_table(path)
    big = pa.concat_tables([table] * 20_000).combine_chunks()
    big = big.set_column(0, "row", pa.array(range(big.num_rows), pa.int64()))
    pq.write_table(big, path, row_group_size=2**14)
    del table
    start = pa.total_allocated_bytes()
    size, most = big.nbytes, 0
    del big
    for batch in filter_reading._batches(path, ["row", "decision", "stage", "score", "terms"]):
        most = max(most, pa.total_allocated_bytes() - start)
        del batch
    assert most < size / 2
    found = filter_reading.read(out)
    assert found.scores[0].held["florp"] == 40_000


def test_shares_and_sizes_in_words():
    assert [words.share(v) for v in (0.5, 0.9999999, 1e-5, 1e-9, None)] == [
        "50.0%",
        "99.99%",
        "0.001%",
        "1e-07%",
        "missing",
    ]
    assert [words.size(v) for v in (0, 1500, 3.2e9)] == ["0 bytes", "1.5 kB", "3.2 GB"]
