"""Making a policy: what is learned, held out, chosen and measured; what a sample tells; presets and the labeller."""

import hashlib
import http.server
import json
import math
import random
import re
import shlex
import threading
from pathlib import Path

import corpora
import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.core import Corpus, Document, UserError, documents
from untaught.corpus import shards
from untaught.corpus.policy import Choose, Labeller, Policy
from untaught.policies import choosing, estimating, filtering, holding, labelling, presets, sampling

NAMES = [f"{a}{b}" for a in ("flor", "quen", "zib", "mard", "tolv") for b in ("pine", "ox", "ul")]
PLAIN = [
    "the",
    "a",
    "market",
    "river",
    "table",
    "green",
    "walks",
    "over",
    "slowly",
    "with",
    "bread",
    "paper",
    "and",
    "for",
]


def text(rng, names):
    words = [rng.choice(PLAIN) for _ in range(30)] + rng.sample(NAMES, names)
    rng.shuffle(words)
    return " ".join(words)


def side(count, seed, names):
    """Texts with each so many invented names."""
    rng = random.Random(seed)
    return [{"id": f"{seed}-{i}", "text": text(rng, rng.choice(names))} for i in range(count)]


@pytest.fixture
def seeds(tmp_path):
    """A labelled corpus, and one to be filtered, of which a fifth is hazard."""
    corpora.write(tmp_path / "hazard.jsonl", side(200, 1, [2, 3, 4]))
    corpora.write(tmp_path / "benign.jsonl", side(300, 2, [0, 0, 0, 1]))
    corpora.write(tmp_path / "data/a.jsonl", side(160, 3, [0, 0, 1]) + side(40, 4, [3]))
    corpora.write(tmp_path / "data/b.parquet", side(160, 5, [0, 0, 1]) + side(40, 6, [3]), row_group_size=64)
    return tmp_path


LIST = {"use": "blocklist", "documents": 3}


def seed_policy(folder, *stages, **more):
    corpus = {"hazard": "hazard.jsonl", "benign": "benign.jsonl"}
    return corpora.policy(folder / "seed.yaml", *(stages or (LIST,)), **{"corpus": corpus, **more})


def ran(folder, policy, *more):
    return corpora.untaught("filter", folder / "data", "--config", policy, "--out", folder / "out", *more)


def made(folder):
    return yaml.safe_load((folder / "out/policy.yaml").read_text(encoding="utf-8"))


def told(capsys):
    return capsys.readouterr().err.strip()


# ------------------------------------------------------------------------------------------------------ making a policy


def test_a_made_policy_finds_what_its_seed_did_not_name(seeds, capsys):
    assert ran(seeds, seed_policy(seeds, {**LIST, "escalate": True}, {"use": "classifier"}), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["removed"] == pytest.approx(80, abs=2)
    assert {p.name for p in (seeds / "out").iterdir()} >= {"policy.yaml", "classifier.npz", "decisions", "receipts"}


def test_a_made_policy_repeats_the_run_without_what_it_was_made_from(seeds, capsys):
    ran(seeds, seed_policy(seeds, {**LIST, "escalate": True}, {"use": "classifier"}, choose={"recall": 0.9}))
    before = corpora.contents(seeds / "out")
    for name in ("hazard.jsonl", "benign.jsonl", "seed.yaml"):
        (seeds / name).unlink()
    capsys.readouterr()
    assert corpora.untaught("filter", seeds / "data", "--out", seeds / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["decided_now"] == 0
    assert corpora.contents(seeds / "out") == before


def test_what_was_made_is_told_in_digests_and_numbers(seeds):
    ran(seeds, seed_policy(seeds, {**LIST, "choose": {"recall": 0.9}}))
    found = made(seeds)["made"]
    hazard = found["corpus"]["hazard"]
    assert hazard["files"] == {"hazard.jsonl": hashlib.sha256((seeds / "hazard.jsonl").read_bytes()).hexdigest()}
    assert [hazard[part] for part in ("learn", "choose", "check")] == [160, 20, 20]
    (stage,) = found["stages"]
    assert stage["learned"] is True
    assert stage["chosen"]["recall"] == 0.9
    assert stage["chosen"]["distinct"] == made(seeds)["filters"][0]["distinct"]
    assert stage["hazard"]["of"] == 20
    assert stage["hazard"]["low"] <= stage["hazard"]["share"] <= stage["hazard"]["high"]
    names = set(re.findall(r"[a-z]+", json.dumps(found)))
    assert not names & set(NAMES)
    assert Policy.settle(made(seeds), "again").made == found


def test_a_moved_threshold_of_a_made_policy_reads_no_text(seeds, monkeypatch):
    stages = {**LIST, "escalate": True}, {"use": "classifier", "rarity": 0}
    ran(seeds, seed_policy(seeds, *stages, choose={"recall": 0.9}))
    monkeypatch.setattr(shards, "read", None)
    change = "filters.1.threshold=0.01"
    assert corpora.untaught("filter", seeds / "data", "--out", seeds / "out", "--set", change) == 0
    assert made(seeds)["filters"][1]["threshold"] == 0.01


def test_numbers_about_other_filters_say_so(seeds):
    ran(seeds, seed_policy(seeds, choose={"recall": 0.9}))
    again = ["filter", seeds / "data", "--out", seeds / "out"]
    corpora.untaught(*again)
    distinct = made(seeds)["filters"][0]["distinct"]
    assert made(seeds)["made"]["still"] is True
    corpora.untaught(*again, "--set", f"filters.0.distinct={distinct + 1}")
    assert made(seeds)["made"]["still"] is False
    corpora.untaught(*again, "--set", f"filters.0.distinct={distinct}")
    assert made(seeds)["made"]["still"] is True


@pytest.mark.parametrize("wanted", [{"recall": 0.95}, {"false_positives": 0.02}, {"f1": "best"}, {"removed": 0.2}])
def test_every_wish_is_met_on_documents_that_it_was_not_chosen_on(seeds, wanted, capsys):
    stages = {**LIST, "escalate": True}, {"use": "classifier", "rarity": 0}
    assert ran(seeds, seed_policy(seeds, *stages, choose=wanted), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    last = made(seeds)["made"]["stages"][-1]
    assert last["chosen"].items() >= wanted.items()
    if "recall" in wanted:
        assert last["hazard"]["high"] >= 0.95
    if "false_positives" in wanted:
        assert last["benign"]["low"] <= 0.02
    if "removed" in wanted:
        assert last["sample"]["of"] == 200
        assert summary["removed"] / summary["read"] == pytest.approx(0.2, abs=0.05)
    else:
        assert summary["removed"] == pytest.approx(80, abs=12)


def test_a_share_is_chosen_without_a_labelled_corpus(seeds):
    policy = corpora.policy(seeds / "p.yaml", {"use": "blocklist", "terms": NAMES, "choose": {"removed": 0.25}})
    assert ran(seeds, policy) == 0
    found = made(seeds)
    assert found["filters"][0]["distinct"] in (2, 3)
    assert found["made"]["stages"][0]["sample"]["flagged"] == 40
    assert found["made"]["sample"]["documents"] == 400


def test_a_policy_without_a_wish_is_measured_on_all_that_is_held_out(seeds):
    ran(seeds, seed_policy(seeds))
    hazard = made(seeds)["made"]["corpus"]["hazard"]
    assert [hazard[part] for part in ("learn", "choose", "check")] == [160, 0, 40]
    assert made(seeds)["made"]["stages"][0]["hazard"]["of"] == 40


def test_stages_that_learn_nothing_are_measured_on_everything(seeds):
    ran(seeds, seed_policy(seeds, {"use": "blocklist", "terms": NAMES}))
    assert made(seeds)["made"]["stages"][0]["hazard"]["of"] == 200
    assert made(seeds)["made"]["stages"][0]["learned"] is False


def test_with_nothing_held_out_nothing_is_claimed(seeds):
    ran(seeds, seed_policy(seeds, held_out=0))
    assert made(seeds)["made"]["stages"][0]["hazard"] == {
        "flagged": 0, "of": 0, "share": None, "low": None, "high": None,
    }  # fmt: skip


def test_a_later_stage_answers_for_what_an_earlier_one_let_go(seeds, capsys):
    short = {"use": "blocklist", "terms": NAMES[:2], "distinct": 1, "escalate": True}
    assert ran(seeds, seed_policy(seeds, short, {"use": "classifier"}, choose={"recall": 0.95})) == 2
    assert re.search(
        r"filters\.1 \(classifier\): choose\.recall is 0\.95, and at most \d+ of 20 held-out", told(capsys)
    )


def test_a_classifier_s_recall_is_the_same_wish(seeds):
    ran(seeds, seed_policy(seeds, {"use": "classifier", "recall": 0.9, "rarity": 0}))
    one = made(seeds)
    ran(seeds, seed_policy(seeds, {"use": "classifier", "choose": {"recall": 0.9}, "rarity": 0}))
    assert made(seeds)["filters"] == one["filters"]
    assert one["filters"][0]["recall"] is None


def test_the_order_of_the_seed_does_not_matter(seeds):
    policy = seed_policy(seeds, {**LIST, "choose": {"recall": 0.9}})
    ran(seeds, policy)
    one = made(seeds)
    rows = side(200, 1, [2, 3, 4])[::-1]
    corpora.write(seeds / "hazard.jsonl", rows)
    ran(seeds, policy)
    two = made(seeds)
    assert two["filters"] == one["filters"]
    assert two["made"]["stages"] == one["made"]["stages"]


@pytest.mark.parametrize(
    ("stages", "more", "said"),
    [
        ([{**LIST, "choose": {}}], {}, "give exactly one of 'recall', 'false_positives', 'removed' and 'f1'"),
        ([{**LIST, "choose": {"recall": 0.9, "f1": "best"}}], {}, "give exactly one of"),
        ([{**LIST, "choose": {"recal": 0.9}}], {}, "has no setting 'recal'. Did you mean 'recall'?"),
        ([{**LIST, "choose": {"f1": "best"}}], {"choose": {"f1": "best"}}, "'choose' is there twice"),
        ([{"use": "blocklist", "terms": ["x"]}], {"choose": {"f1": "best"}, "corpus": None}, "Add 'corpus:"),
        ([{"use": "classifier", "recall": 0.9}], {"choose": {"f1": "best"}}, "has 'recall' and is to 'choose' too"),
        ([LIST], {"choose": {"recall": 0.9}, "held_out": 0.001}, "1 of 200 different texts of a side are held out"),
        ([LIST], {"corpus": None, "labeller": {"endpoint": "x", "model": "m", "topic": "t"}}, "no 'corpus'"),
        ([LIST], {"corpus": None}, "The policy has no 'corpus: {hazard: PATH, benign: PATH}' to learn from."),
    ],
)
def test_what_cannot_be_made_says_why(seeds, stages, more, said, capsys):
    assert ran(seeds, seed_policy(seeds, *stages, **more)) == 2
    assert said in told(capsys)


# --------------------------------------------------------------------------------------------- holding out and choosing


def pool(hazard, benign):
    return Corpus(*(documents(Document(str(i), t) for i, t in enumerate(texts)) for texts in (hazard, benign)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40), st.floats(0, 1), st.booleans())
def test_parts_share_no_text_and_lose_none(texts, held_out, upper):
    texts = [t.upper() if upper and i % 2 else t for i, t in enumerate(texts)]
    parts = holding.parted(pool(texts, ["x"]), held_out, 0, choosing=False)
    sides = [set(map(str.lower, p.hazard["text"].to_pylist())) for p in (parts.learn, parts.choose, parts.check)]
    assert sum(p.hazard.num_rows for p in (parts.learn, parts.choose, parts.check)) == len(texts)
    assert not sides[0] & sides[2]
    assert not sides[1]
    assert bool(sides[0]) == (held_out < 1)


SCORES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=25)


def group(scores, gone=0):
    return choosing.Scored(len(scores) + gone, gone, np.array(scores), pa.table({}))


@settings(deadline=None)
@given(SCORES, SCORES, st.integers(0, 3), st.floats(0.01, 0.99), st.sampled_from(["recall", "false_positives", "f1"]))
def test_thresholds_are_those_that_a_search_over_all_finds(hazard, benign, gone, share, wish):
    one, two = group(hazard, gone), group(benign, gone)
    wanted = Choose(**{wish: "best" if wish == "f1" else share})
    found = choosing.chosen(wanted, one, two, None, choosing.Setting("distinct", whole=True))
    every = range(1, 9)
    if wish == "recall":
        good = [t for t in every if one.flagged(t) >= share * one.total - 1e-9 and one.flagged(t) > gone]
        assert (found and one.flagged(found.threshold)) == (one.flagged(max(good)) if good else None)
    elif wish == "false_positives":
        good = [t for t in every if two.flagged(t) <= share * two.total + 1e-9]
        assert (found and found.threshold) == (min(good) if good else None)
    elif found:
        f1 = {t: 2 * one.flagged(t) / (one.flagged(t) + two.flagged(t) + one.total) for t in every}
        assert f1[found.threshold] == max(f1[t] for t in every if any(s >= t for s in (*hazard, *benign)))


def test_a_probability_s_threshold_stays_between_0_and_1():
    setting = choosing.Setting("threshold", whole=False)
    benign = group([1.0, 0.2])
    assert choosing.chosen(Choose(false_positives=0), group([1.0]), benign, None, setting) is None
    found = choosing.chosen(Choose(false_positives=0.5), group([1.0]), benign, None, setting)
    assert 0.2 < found.threshold <= math.nextafter(0.2, 1)


def test_what_a_stage_cannot_measure_is_not_flagged():
    one = choosing.Scored(2, 0, np.array([np.nan, 0.9]), pa.table({}))
    assert one.flagged(0.0) == 1


# -------------------------------------------------------------------------------------------------------- the estimate


def test_an_estimate_writes_the_policy_and_no_decisions(seeds, capsys):
    policy = seed_policy(seeds, {**LIST, "escalate": True}, {"use": "classifier"})
    assert ran(seeds, policy, "--estimate", "100", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = {p.name for p in (seeds / "out").iterdir()} - {".lock"}
    assert names == {"policy.yaml", "classifier.npz", "estimate.json"}
    assert found == json.loads((seeds / "out/estimate.json").read_text())
    assert found["sampled"]["documents"] == 100
    assert found["corpus"] == {"documents": 400, "exact": True}
    assert [stage["name"] for stage in found["stages"]] == ["blocklist", "classifier"]
    assert found["stages"][1]["seen"] == found["stages"][0]["flagged"]
    removed = found["removed"]["documents"]
    assert removed["low"] <= 0.2 <= removed["high"]
    assert found["cost"]["processor_seconds"] > 0


def test_the_full_pass_after_an_estimate_does_what_it_said(seeds, capsys):
    ran(seeds, seed_policy(seeds), "--estimate", "400", "--json")
    said = json.loads(capsys.readouterr().out)
    corpora.untaught("filter", seeds / "data", "--out", seeds / "out", "--json")
    summary = json.loads(capsys.readouterr().out)
    assert said["removed"]["documents"]["flagged"] == summary["removed"]
    share = summary["text_bytes"]["removed"] / sum(summary["text_bytes"].values())
    assert said["removed"]["text"]["share"] == pytest.approx(share, rel=1e-3)


def test_an_estimate_speaks_plainly(seeds, capsys):
    ran(seeds, seed_policy(seeds), "--estimate", "50")
    said = capsys.readouterr().out
    assert "50 of 400 documents looked at, from 5 of 5 blocks" in said
    assert re.search(r"blocklist +sees 50, flags \d+\.\d+% \(\d+\.\d+% to \d+\.\d+%\); \S+ ms a document", said)
    assert re.search(r"removed +\S+ \(.*\) of documents, \S+ \(.*\) of text", said)
    assert "processor seconds" in said


def test_an_estimate_and_writing_out_exclude_each_other(seeds, capsys):
    assert ran(seeds, seed_policy(seeds), "--estimate", "50", "--apply") == 2
    assert "--estimate decides nothing: leave out --apply" in told(capsys)


def drawn(folder, count, seed=0):
    return sampling.sample(shards.sources([str(folder)]), shards.Reading(), count, seed)


def test_a_sample_is_the_same_for_the_same_seed_and_spread_over_sources(tmp_path):
    data = corpora.corpus(tmp_path / "data")
    one, two, other = drawn(data, 200), drawn(data, 200), drawn(data, 200, seed=1)
    assert one.documents.equals(two.documents)
    assert not one.documents.equals(other.documents)
    numbers = [int(name[1:]) for name in one.documents["id"].to_pylist()]
    for first, last in ((0, 500), (500, 900), (900, 1200), (1200, 1400)):
        assert sum(first <= n < last for n in numbers) == pytest.approx((last - first) / 7, abs=25)
    assert len(set(numbers)) == 200


def test_of_few_documents_all_are_drawn(tmp_path):
    corpora.write(tmp_path / "a.jsonl", corpora.rows(7))
    found = drawn(tmp_path, 100)
    assert (found.documents.num_rows, found.corpus) == (7, 7)


def test_of_many_blocks_some_are_read_and_long_documents_are_no_likelier(tmp_path, monkeypatch):
    rows = [{"id": str(i), "text": "long " * 200 if i % 4 == 0 else "short"} for i in range(4000)]
    corpora.write(tmp_path / "a.jsonl", rows)
    monkeypatch.setattr(sampling, "SIZE", 4000)
    shares, sizes = [], []
    for seed in range(12):
        found = drawn(tmp_path, 240, seed)
        assert found.blocks <= sampling.BLOCKS < found.of_blocks
        texts = found.documents["text"].to_pylist()
        shares.append(sum(t != "short" for t in texts) / len(texts))
        sizes.append(found.corpus)
    assert np.mean(shares) == pytest.approx(0.25, abs=0.03)
    assert np.mean(sizes) == pytest.approx(4000, rel=0.1)


def test_damaged_sources_and_documents_are_told(tmp_path, capsys):
    corpora.write(tmp_path / "data/a.jsonl", corpora.rows(20))
    (tmp_path / "data/b.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "data/c.jsonl").write_text('{"id": "x", "text": null}\n')
    assert ran(tmp_path, corpora.policy(tmp_path / "p.yaml"), "--estimate", "50") == 0
    said = capsys.readouterr().out
    assert "quarantined  1 of those looked at" in said
    assert "damaged      b.parquet" in said


def test_neighbours_that_are_alike_widen_the_interval():
    hit, block = np.repeat([1, 0, 1, 0], 25), np.repeat([0, 1, 2, 3], 25)
    mixed = np.tile([0, 1, 2, 3], 25)
    wide, narrow = estimating._share(hit == 1, block), estimating._share(hit == 1, mixed)
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


# ------------------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", ["extra-weak", "strong", "weak"])
def test_a_preset_names_its_source_and_is_made_as_published(seeds, name):
    assert name in presets.names()
    policy = seed_policy(seeds, LIST, preset=name)
    assert ran(seeds, policy) == 0
    found = made(seeds)
    assert "2508.06601" in found["made"]["preset"]["source"]
    assert found["made"]["preset"]["published"]["removed"]
    stages = found["filters"]
    assert (stages[0]["distinct"], stages[0]["match"], stages[0]["documents"]) == (2, "substring", 3)
    thresholds = {"weak": 0.0105, "extra-weak": 0.5}
    assert [s["threshold"] for s in stages[1:]] == ([thresholds[name]] if name in thresholds else [])
    assert stages[0].get("escalate", False) == (name != "strong")


def test_a_preset_needs_no_file(seeds):
    given = [f"corpus.{side}={seeds / side}.jsonl" for side in ("hazard", "benign")]
    words = [word for change in ["preset=weak", "filters.0.documents=3", *given] for word in ("--set", change)]
    assert corpora.untaught("filter", seeds / "data", "--out", seeds / "out", *words) == 0
    assert [stage["use"] for stage in made(seeds)["filters"]] == ["blocklist", "classifier"]


def test_what_the_policy_says_wins(seeds):
    own = [{"use": "blocklist", "terms": NAMES, "match": "words"}, "classifier"]
    assert ran(seeds, seed_policy(seeds, *own, preset="weak", choose={"removed": 0.05})) == 0
    found = made(seeds)["filters"]
    assert (found[0]["match"], len(found[0]["terms"]), found[0]["escalate"]) == ("words", len(NAMES), True)
    assert found[1]["threshold"] != 0.0105


def test_an_unknown_preset_is_refused_with_the_nearest(seeds, capsys):
    assert ran(seeds, seed_policy(seeds, preset="week")) == 2
    assert told(capsys) == "untaught: seed.yaml: there is no preset 'week'. Did you mean 'weak'?"
    assert ran(seeds, seed_policy(seeds, LIST, {"use": "classifier"}, preset="strong")) == 2
    assert "the preset 'strong' has no such stage as 'classifier'. It has: blocklist." in told(capsys)


# ------------------------------------------------------------------------------------------------------- the labeller


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Speaks as its server's `reply` says: (status, content) for a question."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, self.headers.get("Authorization"), body))
        status, content = self.server.reply(body["messages"][1]["content"], len(self.server.calls))
        answer = content if isinstance(content, bytes) else reply(content)
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def reply(content):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(labelling, "PAUSE", 0.001)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as found:
        found.calls, found.reply = [], lambda question, _: (200, "yes" if "mard" in question else "No.")
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def asks(server, **more):
    endpoint = f"http://127.0.0.1:{server.server_port}/v1"
    return {"endpoint": endpoint, "model": "judge", "topic": "invented compounds", "retries": 1, **more}


@pytest.fixture
def noisy(seeds):
    """The benign side holds hazard documents, as an ordinary corpus does."""
    corpora.write(seeds / "benign.jsonl", side(300, 2, [0, 0, 0, 1]) + side(30, 7, [3]))
    return seeds


def labelled(folder, server, **more):
    stages = {"use": "blocklist", "terms": NAMES, "escalate": True}, {"use": "classifier", "rarity": 0}
    return seed_policy(folder, *stages, labeller=asks(server, **more))


def test_the_labeller_checks_what_the_first_stage_flags(noisy, server, capsys):
    assert ran(noisy, labelled(noisy, server)) == 0
    wrong = [r["text"] for r in side(30, 7, [3])]
    asked = [body["messages"][1]["content"] for _, _, body in server.calls]
    assert sorted(asked) == sorted(wrong)
    yes = sum("mard" in text for text in wrong)
    found = made(noisy)["made"]
    assert found["labeller"].items() >= {"flagged": 30, "asked": 30, "yes": yes, "no": 30 - yes, "missing": 0}.items()
    prompt = found["labeller"]["prompt"]
    assert "invented compounds" in prompt
    assert found["labeller"]["prompt_sha256"] == hashlib.sha256(prompt.encode()).hexdigest()
    path, _, body = server.calls[0]
    assert (path, body["temperature"], body["model"]) == ("/v1/chat/completions", 0, "judge")
    assert body["messages"][0] == {"role": "system", "content": prompt}
    place = f"127.0.0.1:{server.server_port}"
    assert f"sending the text of 30 documents to judge at {place}, on this machine." in told(capsys)
    assert found["stages"][1]["benign"]["of"] < found["stages"][0]["benign"]["of"]


def test_an_answer_is_paid_for_once(noisy, server, capsys):
    ran(noisy, labelled(noisy, server))
    calls, one = len(server.calls), made(noisy)
    capsys.readouterr()
    ran(noisy, labelled(noisy, server))
    assert len(server.calls) == calls
    assert "sending" not in told(capsys)
    assert made(noisy) == one
    ran(noisy, labelled(noisy, server, topic="something else"))
    assert len(server.calls) == 2 * calls


def test_neither_text_nor_key_is_kept(noisy, server, monkeypatch, tmp_path):
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUDGE_KEY", "sesame-open")
    assert ran(noisy, labelled(noisy, server, key="JUDGE_KEY")) == 0
    assert {key for _, key, _ in server.calls} == {"Bearer sesame-open"}
    kept = [p.read_bytes() for folder in ("home", "out") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert len(kept) > 30
    assert not [content for content in kept if b"sesame" in content]
    labels = [p.read_text() for p in (tmp_path / "home/labels").rglob("*.json")]
    assert set(labels) == {'{"answer": true}\n', '{"answer": false}\n'}


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, "maybe"), (200, "yes, because"), (200, ""), (200, b"{"), (200, b"[]"), (503, ""), (429, "")],
)
def test_what_is_no_answer_is_missing_and_never_a_label(noisy, server, status, content, capsys):
    server.reply = lambda *_: (status, content)
    assert ran(noisy, labelled(noisy, server)) == 2
    assert "without a usable answer, and 'labeller.missing' allows 5%" in told(capsys)
    assert ran(noisy, labelled(noisy, server, missing=1)) == 0
    found = made(noisy)["made"]
    assert found["labeller"].items() >= {"yes": 0, "no": 0, "missing": 30}.items()
    benign = found["corpus"]["benign"]
    assert found["stages"][1]["benign"]["of"] == benign["check"]


def test_an_outage_in_between_is_lived_through(noisy, server):
    server.reply = lambda question, calls: (200, "yes") if calls % 2 == 0 else (500, "")
    assert ran(noisy, labelled(noisy, server, at_once=1)) == 0
    assert made(noisy)["made"]["labeller"]["yes"] == 30


def test_a_server_that_is_not_there_is_an_outage(noisy, server, capsys):
    policy = labelled(noisy, server)
    table = json.loads(policy.read_text())
    table["labeller"]["endpoint"] = "http://127.0.0.1:9/v1"
    policy.write_text(json.dumps(table))
    assert ran(noisy, policy) == 2
    assert "without a usable answer" in told(capsys)


@pytest.mark.parametrize("status", [401, 404, 302, 307])
def test_a_refusal_is_told_at_once_and_a_redirect_not_followed(noisy, server, status, capsys):
    server.reply = lambda *_: (status, "no")
    assert ran(noisy, labelled(noisy, server, at_once=1)) == 2
    assert f"the labeller's endpoint refused with HTTP {status}." in told(capsys)
    assert len(server.calls) <= 3


def test_no_more_is_asked_than_allowed(noisy, server):
    ran(noisy, labelled(noisy, server, most=10))
    assert len(server.calls) == 10
    assert made(noisy)["made"]["labeller"].items() >= {"flagged": 30, "asked": 10}.items()


def test_terms_are_rated_one_by_one(noisy, server):
    policy = seed_policy(noisy, LIST, labeller=asks(server, rate_terms=True))
    assert ran(noisy, policy) == 0
    assert made(noisy)["filters"][0]["terms"]
    assert all("mard" in term for term in made(noisy)["filters"][0]["terms"])
    assert made(noisy)["made"]["labeller"]["terms"]["no"] > 0


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://judge.example/v1", "plain http would show the documents to everybody on the way"),
        ("http://127.0.0.1.judge.example/v1", "plain http"),
        ("ftp://judge.example", "give an address that starts with https://"),
        ("judge.example/v1", "give an address that starts with https://"),
        ("https://me:secret@judge.example/v1", "holds a name, a key or a query"),
        ("https://judge.example/v1?key=secret", "holds a name, a key or a query"),
        ("https://[judge", "is no address"),
    ],
)
def test_an_endpoint_that_would_leak_is_refused(endpoint, said):
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        labelling.checked(endpoint, "here")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("key", "said"), [("sk-123abc", "should be the *name*"), ("NO_SUCH_KEY", "holds no key")])
def test_a_key_comes_from_the_environment_alone(key, said):
    settings = Labeller(endpoint="https://judge.example/v1", model="m", topic="t", key=key)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        labelling.Client(settings, "here")
    assert "sk-123abc" not in str(refused.value)


def test_what_leaves_the_machine_is_said_aloud(capsys, monkeypatch):
    client = labelling.Client(Labeller(endpoint="https://judge.example/v1", model="m", topic="t"), "here")
    monkeypatch.setattr(labelling.Client, "_post", lambda *_: reply("yes"))
    assert client.ask("{topic}?", ["some text"], "documents")[0] == [True]
    assert "1 documents to m at judge.example: IT LEAVES THIS MACHINE" in told(capsys)


# ------------------------------------------------------------------------------------------------------------ the page

PAGE = Path(__file__).parents[2] / "docs" / "make-a-policy.md"


def test_the_page_s_commands_do_what_it_says(seeds, monkeypatch, capsys):
    monkeypatch.chdir(seeds)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    files = [(re.match(r"# (\S+\.yaml)\n", block), block) for kind, block in found if kind == "yaml"]
    for name, block in files:
        assert name, f"a block without a name: {block}"
        Path(name[1]).write_text(block, encoding="utf-8")
        table = presets.expanded(yaml.safe_load(block), name[1])
        Policy.settle(table, name[1])
    lines = [
        line for kind, block in found if kind == "sh" for line in block.splitlines() if line.startswith("untaught")
    ]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line.replace("DATA", "data"), comments=True)
        assert corpora.untaught(*words[1:]) == 0, (line, told(capsys))


ROWS = (
    "list for F1, words, made", "list for F1, substring", "list for recall, words", "list for recall, substring",
    "cascade, words, made", "cascade, substring", "classifier, made",
)  # fmt: skip


def test_the_page_s_numbers_are_those_that_were_measured():
    found = json.loads((PAGE.parents[1] / "benchmarks/wikipedia.json").read_text(encoding="utf-8"))
    table = {row["policy"]: row for row in found["table"]}
    assert found["reached"]
    assert table["cascade, words, made"]["f1"]["value"] >= found["wanted_f1"]
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.search(r"\| 0\.\d\d \(", line)]
    assert len(lines) == len(ROWS) == len(table)
    for line, name in zip(lines, ROWS, strict=True):
        row = table[name]
        shares = [tuple(round(100 * row[m][end]) for end in ("value", "low", "high")) for m in ("recall", "precision")]
        one, two = (f"{value}% ({low}–{high})" for value, low, high in shares)
        f1 = "{:.2f} ({:.2f}–{:.2f})".format(*(row["f1"][end] for end in ("value", "low", "high")))
        assert line.endswith(f"| {one} | {two} | {f1} |"), name


def test_made_policies_are_read_back(seeds):
    ran(seeds, seed_policy(seeds, choose={"f1": "best"}))
    policy, folder = filtering.read_policy(None, seeds / "out", {})
    assert folder == seeds / "out"
    assert policy.made == made(seeds)["made"]
