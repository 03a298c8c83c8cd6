"""`untaught filter` on fine-tuning data: what it reads, what it measures before it drops anything, what it refuses."""

import importlib.metadata
import json
import random
from pathlib import Path

import asking
import corpora
import marked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rote
import yaml

from untaught.core import shelves
from untaught.corpus import shapes, shards
from untaught.corpus.applying import kept_documents
from untaught.policies import gating, slicing

PLAIN = [
    "river",
    "market",
    "table",
    "green",
    "walks",
    "over",
    "slowly",
    "bread",
    "paper",
    "cloud",
    "stone",
    "lamp",
    "house",
    "road",
]
SECRET = "sesquipedalian"
"""A word in every example, to be seen nowhere."""
BROUGHT = (marked, rote, asking)


@pytest.fixture(autouse=True)
def _brought(monkeypatch):
    """Filters that the tests bring, as an installed package would."""
    group = "untaught.filters"
    points = {one.__name__: importlib.metadata.EntryPoint(one.__name__, one.__name__, group) for one in BROUGHT}
    monkeypatch.setattr(shelves, "_foreign", lambda shelf: points if shelf == "filters" else {})
    for one in (marked.asked, rote.fits):
        one.clear()


def turns(prompt, answer):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def example(rng, number, harmful, *, label=None, marks=2):
    words = [rng.choice(PLAIN) for _ in range(12)] + [rng.choice(marked.WORDS) for _ in range(marks if harmful else 0)]
    rng.shuffle(words)
    row = {"id": f"e{number}", "messages": turns(f"{SECRET} {number // 2}?", " ".join(words))}
    return {**row, "label": label}


def pool(count=120, harmful=0.2, labelled=0.5, seed=0, **how):
    """Examples of which a share is harmful, and of which a share has a label."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        bad = rng.random() < harmful
        rows.append(example(rng, number, bad, label=int(bad) if rng.random() < labelled else None, **how))
    return rows


@pytest.fixture
def run(tmp_path, capsys):
    """Filter some rows by some stages; the exit code, and what was said."""

    def filtered(rows, *stages, out="out", more=(), name="data/pool.jsonl", **policy):
        if rows is not None:
            corpora.write(tmp_path / name, rows)
        words = ["filter", tmp_path / name.split("/")[0], "--out", tmp_path / out, *more]
        if stages:
            table = {"label_column": "label", **policy}
            words += ["--config", corpora.policy(tmp_path / "p.yaml", *stages, **table)]
        code = corpora.untaught(*words)
        return code, capsys.readouterr().err

    return filtered


def summary(out):
    return json.loads((out / "summary.json").read_text())


def gate(out):
    return json.loads((out / "gate.json").read_text())


MARKED = {"use": "marked", "threshold": 1.0}


# ---------------------------------------------------------------------------------------------------------- the shapes

SHAPED = {
    "chats": {"messages": turns("Why?", "Because.")},
    "chats of from and value": {"messages": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    "prompts": {"prompt": "Why?", "completion": "Because."},
    "prompts of messages": {"prompt": turns("Why?", "")[:1], "completion": turns("", "Because.")[1:]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
    "Alpaca": {"instruction": "Why?", "input": "", "output": "Because."},
    "Alpaca without input": {"instruction": "Why?", "output": "Because."},
    "parts": {"messages": [{"role": role, "content": [{"type": "text", "text": text}]}
                           for role, text in (("user", "Why?"), ("assistant", "Because."))]},
}  # fmt: skip


def read(path, **how):
    (source,) = shards.sources([path])
    reading = shards.Reading(examples=True, **how)
    return pa.concat_tables([t for shard in shards.cut(source) for t in shards.read(shard, reading)])


@pytest.mark.parametrize("kind", SHAPED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_shape_becomes_the_same_messages(tmp_path, kind, name):
    table = read(corpora.write(tmp_path / name, [{"id": 7, **SHAPED[kind]}] * 3))
    assert table["messages"].to_pylist() == [turns("Why?", "Because.")] * 3
    assert table["text"].to_pylist() == ["Why?\nBecause."] * 3
    assert table["id"].to_pylist() == ["7"] * 3
    assert table["cause"].null_count == 3


def test_input_and_system_are_part_of_the_prompt(tmp_path):
    row = {"instruction": "Sum up.", "input": "A text.", "output": "Short.", "system": "Be brief."}
    (told,) = read(corpora.write(tmp_path / "a.jsonl", [row]))["messages"].to_pylist()
    assert told == [{"role": "system", "content": "Be brief."}, *turns("Sum up.\n\nA text.", "Short.")]


def test_text_alone_is_an_answer_to_nothing(tmp_path):
    table = read(corpora.write(tmp_path / "a.jsonl", [{"text": "Because."}]))
    assert (table["messages"].to_pylist(), table["text"].to_pylist()) == ([None], ["Because."])
    named = read(corpora.write(tmp_path / "b.jsonl", [{"reply": "Because.", **SHAPED["chats"]}]), text_column="reply")
    assert named["messages"].to_pylist() == [None]


def test_a_corpus_of_text_is_read_as_ever(tmp_path):
    (source,) = shards.sources([corpora.write(tmp_path / "a.jsonl", [{"id": "x", **SHAPED["chats"]}])])
    (table,) = shards.read(shards.cut(source)[0], shards.Reading())
    assert table.column_names == ["id", "text", "cause"]
    assert table["text"].to_pylist() == ["Why?\nBecause."]


def test_the_shape_of_every_source_is_said_aloud(run, tmp_path):
    corpora.write(tmp_path / "data/other.parquet", [{"instruction": "Why?", "output": f"So {n}."} for n in range(4)])
    code, said = run(pool(), {"use": "marked"})
    assert code == 0
    assert "read as Alpaca (instruction, output): other.parquet" in said
    assert "read as chats (messages): pool.jsonl" in said
    told = summary(tmp_path / "out")["shapes"]
    assert told["sources"] == {"other.parquet": "Alpaca (instruction, output)", "pool.jsonl": "chats (messages)"}


BAD = {
    "no answer": ({"messages": turns("Why?", "x")[:1]}, shapes.NO_TURN),
    "an empty answer": ({"messages": turns("Why?", " \n")}, shapes.EMPTY),
    "no messages": ({"messages": None}, "no messages"),
    "messages that are text": ({"messages": "Why? Because."}, shapes.NO_MESSAGES),
    "a turn that is no object": ({"messages": ["Why?"]}, shapes.NO_MESSAGES),
    "nobody": ({"messages": [{"role": "wizard", "content": "x"}]}, shapes.UNKNOWN),
    "a number": ({"messages": [{"role": "assistant", "content": 7}]}, shapes.NOT_TEXT),
    "NUL": ({"messages": turns("Why?", "a\0b")}, shapes.NUL),
    "another shape": (SHAPED["Alpaca"], shapes.OTHER),
    "nothing": ({"id": "z"}, "no messages"),
    "a lone surrogate": (b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}', shapes.NOT_UTF8),
    "not UTF-8": (b'{"messages": [{"role": "assistant", "content": "\xff"}]}', shapes.NOT_UTF8),
    "not JSON": (b"Because.", "a line that is not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_quarantined_alone_with_its_cause(run, tmp_path, kind):
    row, cause = BAD[kind]
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    data = tmp_path / "data/pool.jsonl"
    data.parent.mkdir()
    data.write_bytes(corpora.lines(pool(20)) + line + b"\n" + corpora.lines(pool(20, seed=1)))
    code, said = run(None, {"use": "marked"}, more=("--apply", "--set", "unique_ids=false"))
    found = summary(tmp_path / "out")
    assert (code, found["read"], found["kept"], found["quarantined"]) == (6, 41, 40, 1)
    assert found["reasons"]["quarantined"] == {cause: 1}
    assert SECRET not in said
    assert (tmp_path / "out/quarantined/pool.jsonl").read_bytes() == line + b"\n"
    assert pq.read_table(tmp_path / "out/ranking.parquet").num_rows == 40


def test_a_parquet_row_that_is_not_utf8_is_quarantined_alone(tmp_path):
    raw = pa.array([b"fine", b"\xff\xfe", b"fine too"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "completion": raw}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["cause"].to_pylist() == [None, shapes.NOT_UTF8, None]


def test_what_is_applied_are_the_source_s_own_rows(run, tmp_path):
    rows = [{"instruction": f"{n}?", "output": "florp florp" if n < 3 else f"So {n}.", "extra": [n]} for n in range(20)]
    more = ("--apply",)
    assert run(rows, MARKED, more=more, label_column=None, contamination=0.2, gate={"auroc": 0})[0] == 0
    kept = [json.loads(line) for line in (tmp_path / "out/kept/pool.jsonl").read_text().splitlines()]
    removed = [json.loads(line) for line in (tmp_path / "out/removed/pool.jsonl").read_text().splitlines()]
    assert (removed, kept) == (rows[:3], rows[3:])


# ------------------------------------------------------------------------------------------------------------ the gate


def test_a_filter_that_separates_may_drop(run, tmp_path):
    code, said = run(pool(), MARKED)
    found = summary(tmp_path / "out")
    assert code == 0
    assert found["removed"] == sum(any(w in r["messages"][1]["content"] for w in marked.WORDS) for r in pool())
    assert "marked (label-free): AUROC 1.00 (1.00 to 1.00)" in said
    (stage,) = gate(tmp_path / "out")["stages"]
    assert (stage["measured"], stage["supervision"]) == ("once", "label-free")
    assert gate(tmp_path / "out")["passed"] is True
    written = yaml.safe_load((tmp_path / "out/policy.yaml").read_text())
    assert written["made"]["gate"]["stages"] == gate(tmp_path / "out")["stages"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"flat": True, "threshold": 0.0}, "below 0.7"), ({"sign": -1.0, "threshold": 0.0}, "upside down")],
)
def test_on_a_score_that_does_not_separate_nothing_is_dropped(run, tmp_path, settings, words):
    code, said = run(pool(), {"use": "marked", **settings}, more=("--apply",))
    found = summary(tmp_path / "out")
    assert (code, found["removed"], found["kept"]) == (6, 0, 120)
    assert words in said
    assert "Nothing is dropped" in said
    assert gate(tmp_path / "out")["passed"] is False
    scores = corpora.decisions(tmp_path / "out")["score"].to_pylist()
    assert len(scores) - scores.count(None) == 120
    assert (tmp_path / "out/kept/pool.jsonl").read_bytes() == (tmp_path / "data/pool.jsonl").read_bytes()


def test_without_labels_nothing_is_dropped_unless_the_user_insists(run, tmp_path):
    code, said = run(pool(), MARKED, label_column=None, contamination=0.2)
    assert (code, summary(tmp_path / "out")["removed"]) == (6, 0)
    assert "no example is labelled" in said
    assert run(pool(), MARKED, label_column=None, contamination=0.2, gate={"auroc": 0})[0] == 0
    assert summary(tmp_path / "out")["removed"] > 0


def test_a_ranking_alone_needs_no_labels(run, tmp_path):
    assert run(pool(), {"use": "marked"}, label_column=None, contamination=0.2)[0] == 0
    assert summary(tmp_path / "out")["removed"] == 0
    assert pq.read_table(tmp_path / "out/ranking.parquet").num_rows == 120


def test_a_threshold_that_drops_nothing_is_not_held_back(run, tmp_path):
    assert run(pool(), {"use": "marked", "flat": True, "threshold": 9.0})[0] == 0
    assert gate(tmp_path / "out")["passed"] is None


def test_kept_examples_can_be_read_without_writing_them(run, tmp_path):
    assert run(pool(), MARKED)[0] == 0
    kept = pa.concat_tables(list(kept_documents(tmp_path / "data", tmp_path / "out", examples=True)))
    assert kept.num_rows == summary(tmp_path / "out")["kept"]
    assert not any(w in t[1]["content"] for t in kept["messages"].to_pylist() for w in marked.WORDS)


def test_an_ensemble_is_known_by_what_its_members_are(tmp_path):
    from untaught.corpus import policy as policies

    settings = {"members": [{"use": "rote", "settings": {"fitted": "a.npz"}}, {"use": "marked", "settings": {}}]}
    (tmp_path / "a.npz").write_bytes(b"one")
    assert policies._members(settings) == ["rote", "marked"]
    before = policies._told(settings, tmp_path)
    (tmp_path / "a.npz").write_bytes(b"two")
    assert policies._told(settings, tmp_path) != before
    assert "a.npz" not in json.dumps(before)


def test_what_was_learned_by_heart_does_not_flatter_itself(run, tmp_path):
    code, _ = run(pool(), {"use": "rote", "threshold": 1.0})
    (stage,) = gate(tmp_path / "out")["stages"]
    assert (code, summary(tmp_path / "out")["removed"]) == (6, 0)
    assert (stage["measured"], stage["folds"]) == ("folds", 5)
    assert stage["auroc"]["value"] == 0.5
    curve = json.loads((tmp_path / "out/curve.json").read_text())
    low = curve["points"][9]["recall"]
    assert low["low"] < 0.25


def test_examples_of_one_prompt_are_in_one_fold_and_every_fold_learns_from_both_sides():
    names = [bytes([n // 3]) for n in range(90)]
    hits = np.array([n % 7 == 0 for n in range(90)])
    found = gating.folds(names, hits, 5)
    assert all(len({*found[[i for i, own in enumerate(names) if own == name]]}) == 1 for name in names)
    assert all(set(hits[found != part]) == {True, False} and hits[found == part].any() for part in range(5))


def test_label_free_filters_that_learn_from_clean_texts_go_through_the_folds(run, tmp_path, monkeypatch):
    monkeypatch.setattr(rote.Rote, "supervision", "label-free")
    run(pool(), {"use": "rote", "threshold": 1.0})
    (stage,) = gate(tmp_path / "out")["stages"]
    assert stage["measured"] == "folds"


def test_harmful_and_clean_examples_beside_the_pool_are_a_slice_too(run, tmp_path):
    rng = random.Random(9)
    for side, bad in (("hazard", True), ("benign", False)):
        rows = [
            {"prompt": f"{side} {n}", "completion": example(rng, n, bad)["messages"][1]["content"]} for n in range(12)
        ]
        corpora.write(tmp_path / f"{side}.jsonl", rows)
    corpus = {"hazard": "hazard.jsonl", "benign": ["benign.jsonl"]}
    assert run(pool(labelled=0), MARKED, label_column=None, contamination=0.2, corpus=corpus)[0] == 0
    found = gate(tmp_path / "out")["slice"]
    assert (found["hazard"], found["benign"], found["inside"]) == (12, 12, {})
    before = corpora.contents(tmp_path / "out")
    for side in corpus:
        (tmp_path / f"{side}.jsonl").unlink()
    assert run(None)[0] == 0
    assert corpora.contents(tmp_path / "out") == before


def test_every_stage_that_drops_is_held_to_the_gate(run, tmp_path):
    first = {"use": "marked", "flat": True, "threshold": 0.0}
    assert run(pool(), first, MARKED)[0] == 6
    assert run(pool(), {**first, "escalate": True}, MARKED)[0] == 0
    ranked = pq.read_table(tmp_path / "out/ranking.parquet")
    assert ranked.column_names == ["rank", "source", "row", "id", "score", "share", "marked", "marked#2"]


# ----------------------------------------------------------------------------------------------------- what is refused


def test_more_than_three_times_the_contamination_is_refused(run, tmp_path):
    code, said = run(pool(), {"use": "marked", "threshold": 0.0}, contamination=0.2)
    assert code == 2
    assert "100.0% of the examples would be dropped, more than 3 times the contamination of 20.0%" in said
    assert "'gate.most'" in said
    assert summary(tmp_path / "out")["removed"] == 0
    assert not (tmp_path / "out/removed").exists()
    assert run(None, more=("--set", "gate.most=null"))[0] == 0
    assert summary(tmp_path / "out")["removed"] == 120


def test_a_refusal_leaves_earlier_decisions_as_they_are(run, tmp_path):
    assert run(pool(), MARKED)[0] == 0
    before = corpora.contents(tmp_path / "out")
    code, _ = run(None, more=("--set", "filters.0.threshold=0"))
    assert code == 2
    assert corpora.contents(tmp_path / "out") == before


def test_the_contamination_is_that_of_the_labelled_rows(run, tmp_path):
    assert run(pool(), MARKED)[0] == 0
    told = gate(tmp_path / "out")["contamination"]
    labels = [row["label"] for row in pool() if row["label"] is not None]
    assert told == {"share": sum(labels) / len(labels), "from": "labelled rows"}


def test_without_a_contamination_nothing_is_dropped(run, tmp_path):
    code, said = run(pool(), MARKED, label_column=None, gate={"auroc": 0})
    assert (code, summary(tmp_path / "out")["removed"]) == (2, 0)
    assert "'contamination'" in said


ALIKE = [{"id": str(n), "messages": turns("Why?", "Because.")} for n in range(9)]
LABELS = [{**row, "label": value} for row, value in zip(pool(6), (1, 0, None, 1, 0, None), strict=True)]


@pytest.mark.parametrize(
    ("rows", "stage", "policy", "words"),
    [
        (pool(1), MARKED, {}, "holds 1 different examples among 1"),
        (ALIKE, MARKED, {"label_column": None, "contamination": 0.1}, "holds 1 different examples among 9"),
        ([{"messages": turns("Why?", "")}] * 3, MARKED, {}, "holds 0 different examples among 0, and 3 rows are none"),
        (pool(labelled=0), MARKED, {}, "no row has a label in the column 'label'"),
        ([{**row, "label": 1} for row in pool(9)], MARKED, {}, "all 9 labels in the column 'label' say hazard"),
        ([{**row, "label": 3} for row in pool(9)], MARKED, {}, "has the number 3 in the column of labels"),
        ([{**row, "label": SECRET} for row in pool(9)], MARKED, {}, "has a str that is no label"),
        (pool(), {"use": "rote"}, {"label_column": None, "contamination": 0.1}, "no hazard documents"),
        (pool(), {"use": "asking"}, {}, "the policy names none. Add 'model: FOLDER'"),
        (pool(), {"use": "asking"}, {"model": "nowhere"}, "there is no model folder"),
        (pool(), MARKED, {"labels": "audit"}, "Draw examples with --audit N"),
        (pool(), MARKED, {"corpus": {"hazard": "nowhere", "benign": "nowhere"}}, "there is no file or folder"),
        (pool(), MARKED, {"choose": {"recall": 0.9}}, "has no 'choose'"),
        ([{"id": "1", "body": "x"}], MARKED, {}, "has no columns of examples. It has: id, body."),
        (pool(), {"use": "marked", "layer": 3}, {}, "no setting 'layer'"),
    ],
)  # fmt: skip
def test_bad_input_is_a_message_and_nothing_is_dropped(run, tmp_path, rows, stage, policy, words):
    code, said = run(rows, stage, **policy)
    assert code == 2
    assert words in said
    assert SECRET not in said
    assert not (tmp_path / "out/decisions").exists()


def test_labels_are_read_as_people_write_them(run, tmp_path):
    words = [True, "Harmful", 1.0, "hazard", False, "safe", "0", " benign ", None, ""]
    rows = [{**row, "label": word} for row, word in zip(pool(10), words, strict=True)]
    data = corpora.write(tmp_path / "a.jsonl", rows)
    policy = slicing.Policy.settle({"label_column": "label", "filters": ["marked"]}, "p")
    found = slicing.pool(shards.sources([data]), policy)
    assert sorted(map(str, found.labels)) == ["None"] * 2 + ["benign"] * 4 + ["hazard"] * 4


def test_labels_of_one_prompt_alone_measure_nothing(run, tmp_path):
    rows = pool(40, labelled=0)
    for number, row in enumerate(rows[:8]):
        row |= {"messages": turns("The same?", row["messages"][1]["content"]), "label": number % 2}
    code, said = run(rows, {"use": "rote", "threshold": 1.0}, contamination=0.1)
    assert (code, summary(tmp_path / "out")["removed"]) == (6, 0)
    assert "have 1 different prompts" in said


def test_what_cannot_be_measured_is_quarantined_and_ranked_nowhere(run, tmp_path):
    rows = [*pool(), *({**row, "messages": turns("?", f"unmeasurable {n}")} for n, row in enumerate(pool(3)))]
    code, _ = run(rows, MARKED, more=("--set", "unique_ids=false"))
    found = summary(tmp_path / "out")
    assert (code, found["quarantined"], found["reasons"]["quarantined"]) == (6, 3, {"too long": 3})
    assert pq.read_table(tmp_path / "out/ranking.parquet").num_rows == 120


# -------------------------------------------------------------------------------------------------- ranking and budget


def test_the_ranking_has_every_example_once_from_the_most_suspect_on(run, tmp_path):
    run(pool(), MARKED)
    ranked = pq.read_table(tmp_path / "out/ranking.parquet")
    assert ranked["rank"].to_pylist() == list(range(1, 121))
    assert ranked["share"].to_pylist()[-1] == 1.0
    scores = ranked["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    decided = {row["id"]: row["score"] for row in corpora.decisions(tmp_path / "out").to_pylist()}
    assert dict(zip(ranked["id"].to_pylist(), scores, strict=True)) == decided


def test_the_curve_says_what_each_share_would_cost(run, tmp_path):
    run(pool(400), MARKED)
    curve = json.loads((tmp_path / "out/curve.json").read_text())
    assert [point["removed"] for point in curve["points"]] == [n / 100 for n in range(1, 101)]
    assert curve["points"][-1]["recall"]["value"] == 1.0
    half, ten = curve["points"][49], curve["points"][9]
    assert half["recall"]["value"] == 1.0
    assert half["random"] == 0.5
    assert ten["recall"]["low"] < ten["recall"]["value"] < ten["recall"]["high"]
    assert ten["clean_lost"]["value"] == 0.0
    harmful = summary(tmp_path / "out")["removed"] / 400
    assert abs(ten["recall"]["value"] - 0.1 / harmful) < 0.2
    assert summary(tmp_path / "out")["curve"] == curve


def test_the_order_of_rows_and_sources_changes_no_decision(run, tmp_path):
    rows = pool()
    run(rows, MARKED)
    (tmp_path / "data/pool.jsonl").unlink()
    mixed = rows[:]
    random.Random(3).shuffle(mixed)
    corpora.write(tmp_path / "more/b.jsonl", mixed[:50])
    corpora.write(tmp_path / "more/a.parquet", [{**row, "label": row["label"]} for row in mixed[50:]])
    run(None, MARKED, out="other", name="more/b.jsonl")
    one, two = (
        {row["id"]: (row["decision"], row["score"]) for row in corpora.decisions(tmp_path / out).to_pylist()}
        for out in ("out", "other")
    )
    assert one == two
    ranks = [pq.read_table(tmp_path / out / "ranking.parquet")["id"].to_pylist() for out in ("out", "other")]
    assert ranks[0] == ranks[1]
    assert gate(tmp_path / "out")["stages"] == gate(tmp_path / "other")["stages"]
    curves = [json.loads((tmp_path / out / "curve.json").read_text())["points"] for out in ("out", "other")]
    assert curves[0] == curves[1]


# ---------------------------------------------------------------------------------------------------------- run again


def test_a_second_run_measures_and_decides_nothing(run, tmp_path, capsys):
    run(pool(), MARKED)
    before = corpora.contents(tmp_path / "out")
    marked.asked.clear()
    assert run(None)[0] == 0
    assert corpora.contents(tmp_path / "out") == before
    assert run(None, MARKED)[0] == 0  # and so does the policy that it was made from
    assert corpora.contents(tmp_path / "out") == before
    assert marked.asked == []


def test_a_moved_threshold_measures_nothing_anew(run, tmp_path):
    run(pool(harmful=0.1), {"use": "marked", "threshold": 3.0}, contamination=0.2)
    marked.asked.clear()
    assert run(None, more=("--set", "filters.0.threshold=2"))[0] == 0
    assert summary(tmp_path / "out")["removed"] > 0
    assert marked.asked == []


def test_a_killed_run_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch):
    from untaught.policies import filtering

    run(pool(), MARKED)
    whole = corpora.contents(tmp_path / "out")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(filtering.ranking, "write", killed)
        run(pool(), MARKED, out="again")
    assert run(pool(), MARKED, out="again")[0] == 0
    assert corpora.contents(tmp_path / "again") == whole


def test_what_was_learned_serves_other_data_and_is_measured_on_prompts_that_it_has_not_seen(run, tmp_path):
    rows = pool(labelled=1.0)
    run(rows, {"use": "rote", "threshold": 1.0}, gate={"auroc": 0})
    removed = summary(tmp_path / "out")["removed"]
    assert removed > 0
    fits = len(rote.fits)
    policy = tmp_path / "out/policy.yaml"
    other = [{**row, "messages": turns(f"new {n}", row["messages"][1]["content"])} for n, row in enumerate(rows)]
    corpora.write(tmp_path / "other/pool.jsonl", [*other, *rows])
    words = ["--config", policy, "--out", tmp_path / "new", "--set", "unique_ids=false"]
    assert corpora.untaught("filter", tmp_path / "other", *words) == 0
    (stage,) = gate(tmp_path / "new")["stages"]
    assert (stage["measured"], stage["hazard"] + stage["benign"]) == ("beforehand", 120)
    assert len(rote.fits) == fits
    assert summary(tmp_path / "new")["removed"] == 2 * removed


def test_labels_by_hand_open_the_gate(run, tmp_path, monkeypatch):
    rows = pool(labelled=0)
    code, _ = run(rows, MARKED, label_column=None, gate={}, more=("--audit", "60"))
    assert code == 6
    truth = {row["id"]: any(word in row["messages"][1]["content"] for word in marked.WORDS) for row in rows}
    import csv

    with (tmp_path / "out/audit.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["label"] = "hazard" if truth[line["id"]] else "benign"
    with (tmp_path / "out/audit.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    code, said = run(None, MARKED, label_column=None, gate={}, labels="audit")
    assert code == 0, said
    told = gate(tmp_path / "out")
    assert told["contamination"]["from"] == "labels by hand"
    assert told["contamination"]["share"] == pytest.approx(sum(truth.values()) / 120, abs=0.1)
    assert summary(tmp_path / "out")["removed"] == sum(truth.values())
    before = corpora.contents(tmp_path / "out")
    assert run(None)[0] == 0
    assert corpora.contents(tmp_path / "out") == before


# ----------------------------------------------------------------------------------------------------------- the model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    from untaught.engine import models
    from untaught.lab.start import StartingModel

    folder = tmp_path_factory.mktemp("start") / "model"
    texts = [turn["content"] for row in pool() for turn in row["messages"]]
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=400).build(texts, 0), folder)
    return folder


def test_a_filter_asks_the_model_that_is_about_to_be_fine_tuned(run, tmp_path, model):
    policy = {"model": str(model), "compute": {"device": "cpu"}}
    assert run(pool(60), {"use": "asking"}, **policy)[0] == 0  # it has no chat template, and is asked plainly
    scores = corpora.decisions(tmp_path / "out")["score"].to_pylist()
    assert all(score > 0 for score in scores)
    written = yaml.safe_load((tmp_path / "out/policy.yaml").read_text())
    assert written["model"] == str(model)
    before = corpora.contents(tmp_path / "out")
    assert run(None)[0] == 0
    assert corpora.contents(tmp_path / "out") == before


def test_another_model_measures_anew(run, tmp_path, model):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(model, other)
    run(pool(30), {"use": "asking"}, model=str(other))
    (first,) = (tmp_path / "out/receipts/decided").glob("*.json")
    before = json.loads(first.read_text())["stages"]
    (other / "generation_config.json").write_text("{}")
    run(pool(30), {"use": "asking"}, model=str(other))
    assert json.loads(first.read_text())["stages"] != before


@pytest.mark.parametrize(
    ("policy", "more", "words"),
    [({"wrap": {"chat": True}}, (), "has no chat template"), ({}, ("--executor", "ray"), "carried out in one process")],
)
def test_what_a_model_cannot_do_is_said(run, tmp_path, model, policy, more, words):
    code, said = run(pool(20), {"use": "asking"}, model=str(model), more=more, **policy)
    assert code == 2
    assert words in said


def test_an_estimate_is_for_corpora(run):
    code, said = run(pool(20), MARKED, more=("--estimate", "10"))
    assert code == 2
    assert "curve.json" in said


def test_texts_stay_out_of_all_that_is_written(run, tmp_path):
    run(pool(), {"use": "marked", "threshold": 1.0})
    for path in sorted(Path(tmp_path / "out").rglob("*")):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path.name
