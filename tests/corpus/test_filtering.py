"""`untaught filter`: what it decides, what it writes, and what it does again when something changes."""

import json

import corpora
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from untaught.attest.merkle import merkle
from untaught.core import FINDINGS, UserError
from untaught.corpus import deciding, receipts, shards
from untaught.corpus.applying import kept_documents
from untaught.corpus.receipts import Counts, Receipt


@pytest.fixture
def data(tmp_path):
    return corpora.corpus(tmp_path / "data")


@pytest.fixture
def out(tmp_path, data):
    """The corpus, decided."""
    assert (
        corpora.untaught("filter", data, "--out", tmp_path / "out", "--config", corpora.policy(tmp_path / "p.yaml"))
        == 0
    )
    return tmp_path / "out"


def test_every_document_has_one_row_and_the_account_is_kept(data, out):
    table = corpora.decisions(out)
    assert table.column_names[:7] == ["row", "id", "decision", "stage", "score", "reason", "terms"]
    assert sorted(table["id"].to_pylist()) == sorted(row["id"] for row in corpora.rows(1400))
    removed = {row["id"] for row in corpora.rows(1400) if "Florp" in row["text"]}
    assert set(table.filter(pa.compute.equal(table["decision"], "removed"))["id"].to_pylist()) == removed
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["read"], summary["kept"], summary["removed"], summary["quarantined"]) == (1400, 1120, 280, 0)
    assert summary["stages"] == {"blocklist": {"kept": 1120, "removed": 280}}
    assert summary["reasons"] == {"removed": {"# distinct terms": 280}}


def test_decisions_stand_under_the_names_of_the_sources(out):
    names = {p.relative_to(out / "decisions").as_posix() for p in (out / "decisions").rglob("*.parquet")}
    assert names == {"a.parquet", "b.parquet", "sub/c.parquet", "sub/d.parquet"}
    assert corpora.decisions(out, "b.parquet")["row"].to_pylist() == list(range(400))
    assert set(corpora.decisions(out, "sub/c.parquet")["source"].to_pylist()) == {"sub/c.jsonl.gz"}


def test_a_term_is_told_with_the_places_where_it_stands(out):
    row = corpora.decisions(out, "a.parquet").slice(0, 1).to_pylist()[0]
    assert row["terms"] == ["florp", "quen tar"]
    text = corpora.rows(1)[0]["text"]
    assert [text[span["start"] : span["stop"]] for span in row["spans"]] == ["Florp", "QUEN\n tar"]


def test_a_second_run_decides_nothing(data, out, capsys):
    before = corpora.contents(out)
    assert corpora.untaught("filter", data, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["decided_now"] == 0
    assert corpora.contents(out) == before


def test_applied_files_mirror_the_sources_and_lose_nothing(data, out, tmp_path):
    assert corpora.untaught("filter", data, "--out", out, "--apply") == 0
    for name in ("a.parquet", "b.jsonl", "sub/c.jsonl.gz", "sub/d.jsonl.zst"):
        kinds = {kind: out / kind / name for kind in receipts.DECISIONS}
        assert all(path.is_file() for path in kinds.values())
        parts = {kind: read(path) for kind, path in kinds.items()}
        assert not parts["quarantined"]
        assert all("Florp" in row["text"] for row in parts["removed"])
        assert not any("Florp" in row["text"] for row in parts["kept"])
        whole = sorted(parts["kept"] + parts["removed"], key=lambda row: row["n"])
        assert whole == read(data / name)
    assert pq.read_schema(out / "kept/a.parquet") == pq.read_schema(data / "a.parquet")
    assert json.loads((out / "summary.json").read_text())["applied"]


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    source = shards.Source(path.name, path, shards.kind_of(path))
    return [json.loads(line) for line in shards.lines(shards.cut(source)[0])] if path.stat().st_size else []


def test_kept_documents_can_be_read_without_writing_them(data, out):
    kept = pa.concat_tables(list(kept_documents(data, out)))
    assert kept["text"].to_pylist() == [row["text"] for row in corpora.rows(1400) if "Florp" not in row["text"]]
    assert kept.column_names == ["id", "text"]


def test_removed_documents_can_stay_with_their_hazard_masked(data, out):
    kept = pa.concat_tables(list(kept_documents(data, out, masking="term"))).to_pylist()
    assert len(kept) == 1400
    masked = {row["id"]: [row["text"][s["start"] : s["stop"]] for s in row["masked"] or ()] for row in kept}
    removed = {row["id"] for row in corpora.rows(1400) if "Florp" in row["text"]}
    assert masked == {id: ["Florp", "QUEN\n tar"] if id in removed else [] for id in masked}
    sentences = pa.concat_tables(list(kept_documents(data, out, masking="sentence"))).to_pylist()
    assert sentences[0]["masked"] == [{"start": 0, "stop": len(sentences[0]["text"])}]  # the term runs over the break


def test_decisions_about_other_bytes_are_refused(data, out):
    corpora.write(data / "b.jsonl", corpora.rows(400, 501))
    with pytest.raises(UserError, match=r"b\.jsonl is not what was decided about"):
        list(kept_documents(data, out))


def test_a_source_that_was_damaged_since_is_refused_too(data, out):
    (data / "a.parquet").write_bytes((data / "a.parquet").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet is not what was decided about"):
        list(kept_documents(data, out))


def test_a_changed_input_is_decided_again_and_nothing_else(data, out, capsys):
    before = corpora.contents(out)
    corpora.write(data / "b.jsonl", corpora.rows(401, 500))
    assert corpora.untaught("filter", data, "--out", out, "--json") == 6  # d900 is now there twice
    capsys.readouterr()
    after = corpora.contents(out)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed - {"report.html"} == {"decisions/b.parquet", "receipts/decided/b.jsonl.json", "summary.json"}


def test_a_source_that_is_gone_leaves_nothing_behind(data, out):
    (data / "b.jsonl").unlink()
    corpora.untaught("filter", data, "--out", out)
    assert not [name for name in corpora.contents(out) if name.endswith(("b.parquet", "b.jsonl.json"))]


def test_a_moved_threshold_reads_no_text(data, out, monkeypatch):
    monkeypatch.setattr(shards, "read", None)
    assert corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1") == 0
    texts = [row["text"] for row in corpora.rows(1400)]
    assert corpora.decisions(out)["decision"].to_pylist().count("removed") == sum("nothing" not in t for t in texts)


def test_a_moved_threshold_gives_the_bytes_of_a_fresh_run(data, out, tmp_path):
    corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1")
    again = tmp_path / "again"
    corpora.untaught("filter", data, "--out", again, "--config", tmp_path / "p.yaml", "--set", "filters.0.distinct=1")
    assert corpora.contents(out) == corpora.contents(again)


def test_a_changed_rule_takes_back_what_was_written_out(data, out):
    corpora.untaught("filter", data, "--out", out, "--apply")
    corpora.untaught("filter", data, "--out", out, "--set", "filters.0.distinct=1")
    assert not (out / "kept").exists()
    assert not json.loads((out / "summary.json").read_text())["applied"]


class Counting:
    """A scorer that notes the ids it was asked about and fails on some."""

    def __init__(self, fails=()):
        self.asked, self.fails = [], fails

    def measure(self, batch):
        ids = batch["id"].to_pylist()
        self.asked += ids
        if set(ids) & set(self.fails):
            raise ZeroDivisionError("a text that must not be repeated")
        lengths = [float(len(text)) for text in batch["text"].to_pylist()]
        return pa.table([lengths, ["long"] * len(ids), [[]] * len(ids), [[]] * len(ids)], schema=FINDINGS)

    def keep(self, findings):
        return findings["score"].to_numpy() < 20


def decide(folder, data, *stages, digest="one"):
    from untaught.corpus import policy, running

    fitted = tuple(
        policy.Fitted(f"s{i}", escalate, scorer, True, f"{i}{measures}")
        for i, (scorer, escalate, measures) in enumerate(stages)
    )
    rules = policy.Rules(shards.Reading(), fitted, digest)
    running.run(rules, shards.sources([data]), folder, running.local(rules, 1))
    return corpora.decisions(folder)


def test_a_cascade_asks_the_dear_stage_only_about_what_is_handed_on(tmp_path, data):
    cheap, dear = Counting(), Counting()
    table = decide(tmp_path / "o", data, (cheap, True, "a"), (dear, False, "b"))
    assert len(cheap.asked) == 1400
    flagged = {row["id"] for row in corpora.rows(1400) if len(row["text"]) >= 20}
    assert set(dear.asked) == flagged
    by = dict(zip(table["id"].to_pylist(), table["stage"].to_pylist(), strict=True))
    assert {id for id, stage in by.items() if stage == "s1"} == flagged


def test_without_escalation_each_stage_removes_what_it_flags(tmp_path, data):
    first, second = Counting(), Counting()
    table = decide(tmp_path / "o", data, (first, False, "a"), (second, False, "b"))
    flagged = {row["id"] for row in corpora.rows(1400) if len(row["text"]) >= 20}
    assert set(second.asked) == {row["id"] for row in corpora.rows(1400)} - flagged
    assert set(table.filter(pa.compute.equal(table["stage"], "s0"))["id"].to_pylist()) == flagged


def test_a_changed_cheap_stage_leaves_the_dear_one_its_findings(tmp_path, data):
    decide(tmp_path / "o", data, (Counting(), True, "a"), (Counting(), False, "b"))
    cheap, dear = Counting(), Counting()
    decide(tmp_path / "o", data, (cheap, True, "other"), (dear, False, "b"), digest="two")
    assert len(cheap.asked) == 1400
    assert not dear.asked


def test_a_failure_quarantines_its_document_and_no_other(tmp_path, data):
    table = decide(tmp_path / "o", data, (Counting(fails={"d7", "d900"}), False, "a"))
    bad = table.filter(pa.compute.equal(table["decision"], "quarantined"))
    assert sorted(bad["id"].to_pylist()) == ["d7", "d900"]
    assert set(bad["reason"].to_pylist()) == {"ZeroDivisionError in the filter"}
    assert bad["score"].null_count == 2


@pytest.mark.parametrize("piece", [900, 5000])
def test_how_a_source_is_cut_does_not_change_its_decisions(tmp_path, data, piece, monkeypatch):
    whole = decide(tmp_path / "whole", data, (Counting(), True, "a"), (Counting(), False, "b"))
    monkeypatch.setattr(shards, "PIECE", piece)
    assert len(shards.cut(shards.sources([data])[0])) > 1 or piece == 5000
    cut = decide(tmp_path / "cut", data, (Counting(), True, "a"), (Counting(), False, "b"))
    assert cut.equals(whole)
    assert not (tmp_path / "cut/.work").exists()
    again = Counting()
    decide(tmp_path / "cut", data, (Counting(), True, "other"), (again, False, "b"), digest="two")
    assert not again.asked


def test_documents_without_an_id_are_called_after_file_and_row(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 40)
    corpora.write(tmp_path / "x.jsonl", [{"text": f"word {i}"} for i in range(9)] + [{"id": 5, "text": "x"}])
    ids = decide(tmp_path / "o", tmp_path / "x.jsonl", (Counting(), False, "a"))["id"].to_pylist()
    assert ids == [*(f"x.jsonl:{i}" for i in range(9)), "5"]


def test_a_receipt_refuses_a_lost_document():
    with pytest.raises(ValueError, match="lost or doubled"):
        Counts(read=3, kept=1, removed=1)


def test_a_tampered_output_is_made_again(data, out):
    good = corpora.contents(out)
    path = out / "decisions/a.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    corpora.untaught("filter", data, "--out", out)
    assert corpora.contents(out) == good


def test_the_root_is_that_of_rfc_9162():
    import hashlib

    leaf = [hashlib.sha256(b"\0" + text).digest() for text in (b"a", b"b", b"c")]
    pair = hashlib.sha256(b"\1" + leaf[0] + leaf[1]).digest()
    assert merkle([b"a", b"b", b"c"]) == hashlib.sha256(b"\1" + pair + leaf[2]).hexdigest()


def test_receipts_hold_no_time_no_host_and_no_absolute_path(data, out):
    for path in (out / "receipts").rglob("*.json"):
        assert str(data) not in path.read_text()
        assert set(json.loads(path.read_text())) == set(Receipt.__dataclass_fields__)


def test_conversations_are_decided_whole(tmp_path):
    talk = [
        {"messages": [{"role": "user", "content": "a florp"}, {"role": "assistant", "content": "a zib"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": []},
    ]
    for name in ("talk.jsonl", "talk.parquet"):
        path = corpora.write(tmp_path / name, talk)
        code = corpora.untaught(
            "filter", path, "--out", tmp_path / f"{name}-out", "--config", corpora.policy(tmp_path / "p")
        )
        assert code == 0
        assert corpora.decisions(tmp_path / f"{name}-out")["decision"].to_pylist() == ["removed", "kept", "kept"]


def test_globs_and_several_inputs(tmp_path, data):
    p = corpora.policy(tmp_path / "p.yaml")
    assert (
        corpora.untaught("filter", f"{data}/**/*.jsonl*", data / "a.parquet", "--out", tmp_path / "o", "--config", p)
        == 0
    )
    assert len(corpora.decisions(tmp_path / "o")) == 1400


def test_two_sources_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        corpora.write(tmp_path / folder / "a.jsonl", corpora.rows(3))
    with pytest.raises(UserError, match="Rename one"):
        shards.sources([tmp_path / "x/a.jsonl", tmp_path / "y/a.jsonl"])


def test_an_unreadable_part_never_reaches_the_prior(tmp_path, data):
    """What an earlier run found is used only while its tables are whole."""
    decide(tmp_path / "o", data, (Counting(), True, "a"), (Counting(), False, "b"))
    found = next((tmp_path / "o/findings").rglob("a.parquet"))
    found.write_bytes(b"")
    dear = Counting()
    table = decide(tmp_path / "o", data, (Counting(), True, "other"), (dear, False, "b"), digest="two")
    assert len(table) == 1400
    assert any(id in dear.asked for id in ("d0", "d5"))


def test_sizes_of_row_groups_do_not_show_in_what_is_decided(tmp_path):
    tables = []
    for size in (7, 1000):
        path = corpora.write(tmp_path / f"{size}" / "a.parquet", corpora.rows(1000), row_group_size=size)
        tables.append(decide(tmp_path / f"o{size}", path, (Counting(), False, "a")))
    assert tables[0].equals(tables[1])
    assert deciding.SCHEMA.equals(tables[0].schema)
