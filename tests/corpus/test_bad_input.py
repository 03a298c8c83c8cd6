"""Broken input is quarantined with its cause or refused with a message, and never silently removed or kept."""

import gzip
import json
import resource
import subprocess
import sys

import corpora
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from untaught.core import UserError
from untaught.corpus import deciding, shards


@pytest.fixture
def run(tmp_path, capsys):
    """Filter a folder; the exit code, the summary and what was said."""

    def filtered(data, *more):
        p = corpora.policy(tmp_path / "p.yaml", {"use": "blocklist", "terms": corpora.TERMS, "distinct": 1})
        code = corpora.untaught("filter", data, "--out", tmp_path / "out", "--config", p, *more)
        path = tmp_path / "out" / "summary.json"
        return code, json.loads(path.read_text()) if path.is_file() else None, capsys.readouterr().err

    return filtered


def damaged(kind):
    """A source cut short or with a byte that is wrong."""
    rows = corpora.rows(3000)
    if kind == "a.jsonl.zst":
        return zstandard.compress(corpora.lines(rows))[:-20]
    if kind == "a.jsonl.gz":
        return gzip.compress(corpora.lines(rows))[:-20]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, write_page_checksum=True)
    data = bytearray(sink.getvalue().to_pybytes())
    if kind == "page.parquet":
        data[200] ^= 255
    return bytes(data[:-30] if kind == "footer.parquet" else data)


@pytest.mark.parametrize("kind", ["a.jsonl.zst", "a.jsonl.gz", "page.parquet", "footer.parquet"])
def test_a_damaged_source_is_named_and_no_part_of_it_is_decided(run, tmp_path, kind):
    corpora.write(tmp_path / "data/ok.jsonl", corpora.rows(10))
    (tmp_path / "data" / kind).write_bytes(damaged(kind))
    code, summary, said = run(tmp_path / "data", "--apply")
    assert code == 6
    assert list(summary["damaged"]) == [kind]
    assert f"{kind} is" in said
    assert summary["read"] == 10
    assert not list((tmp_path / "out/kept").glob(kind))
    (tmp_path / "data" / kind).unlink()
    corpora.write(tmp_path / "data" / kind, corpora.rows(10, 100))
    code, summary, _ = run(tmp_path / "data")
    assert (code, summary["read"], summary["damaged"]) == (0, 20, {})


BAD = {
    "not UTF-8": (b'{"id": "x", "text": "\xff\xfe"}', "text that is not UTF-8"),
    "a lone surrogate": (b'{"id": "x", "text": "\\ud800"}', "text that is not UTF-8"),
    "not JSON": (b"florp", "a line that is not JSON"),
    "two objects on one line": (b'{"text": "a"}{"text": "b"}', "a line that is not JSON"),
    "a list": (b'["florp"]', "a line that is not a JSON object"),
    "null text": (b'{"id": "x", "text": null}', "no text"),
    "no text": (b'{"id": "x"}', "no text"),
    "a number as text": (b'{"id": "x", "text": 7}', "a text that is not a string"),
    "NUL": (b'{"id": "x", "text": "flo\\u0000rp"}', "text with NUL characters"),
    "deep nesting": (b"[" * 100_000, "a line that is not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_quarantined_alone_with_its_cause(run, tmp_path, kind):
    line, cause = BAD[kind]
    data = tmp_path / "a.jsonl"
    data.write_bytes(corpora.lines(corpora.rows(5)) + line + b"\n\n" + corpora.lines(corpora.rows(5, 5)))
    code, summary, said = run(data, "--apply")
    assert (code, summary["read"], summary["quarantined"]) == (6, 11, 1)
    assert summary["reasons"]["quarantined"] == {cause: 1}
    assert cause in said
    assert "florp" not in said.lower()
    assert (tmp_path / "out/quarantined/a.jsonl").read_bytes() == line + b"\n"
    rest = [(tmp_path / "out" / kind / "a.jsonl").read_bytes() for kind in ("kept", "removed")]
    assert sum(part.count(b"\n") for part in rest) == 10


def test_bad_rows_of_parquet_are_quarantined(run, tmp_path):
    raw = pa.array([b"florp", b"\xff\xfe", b"fine", None, b"a\0b"], pa.binary())
    pq.write_table(pa.table({"id": list("abcde"), "text": raw.view(pa.string())}), tmp_path / "a.parquet")
    code, summary, _ = run(tmp_path / "a.parquet", "--apply")
    causes = {"text that is not UTF-8": 1, "no text": 1, "text with NUL characters": 1}
    assert (code, summary["reasons"]["quarantined"]) == (6, causes)
    assert pq.read_table(tmp_path / "out/quarantined/a.parquet").num_rows == 3


def test_an_allowed_share_of_quarantine_is_no_failure(run, tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_bytes(corpora.lines(corpora.rows(9)) + b"{}\n")
    assert run(data)[0] == 6
    assert run(data, "--set", "quarantined=0.1")[0] == 0


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_a_missing_text_column_is_refused_before_anything_is_spent(run, tmp_path, name):
    corpora.write(tmp_path / name, [{"id": "1", "body": "x"}])
    code, summary, said = run(tmp_path / name)
    assert (code, summary) == (2, None)
    assert "has no column 'text'. It has: id, body." in said
    assert run(tmp_path / name, "--set", "text_column=body")[0] == 0


def test_equal_ids_are_told_and_every_row_is_decided(run, tmp_path):
    corpora.write(tmp_path / "data/a.jsonl", corpora.rows(10))
    corpora.write(tmp_path / "data/b.parquet", corpora.rows(3))
    code, summary, said = run(tmp_path / "data")
    assert (code, summary["read"]) == (6, 13)
    assert summary["duplicate_ids"] == {"documents": 3, "ids": ["d0", "d1", "d2"]}
    assert "3 documents have an id that another has" in said
    assert run(tmp_path / "data", "--set", "unique_ids=false")[0] == 0


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = corpora.write(tmp_path / "a.jsonl", corpora.rows(10))
    (source,) = shards.sources([path])
    read = shards.read

    def meanwhile(shard, reading):
        yield from read(shard, reading)
        corpora.write(path, corpora.rows(11))

    monkeypatch.setattr(deciding.shards, "read", meanwhile)
    from untaught.corpus.policy import Fitted, Rules
    from untaught.filters.blocklist import BlocklistScorer

    rules = Rules(shards.Reading(), (Fitted("x", False, BlocklistScorer(("florp",), 1), True, "x", "x"),), "x")
    with pytest.raises(UserError, match="changed while it was read"):
        deciding.decide(rules, shards.cut(source)[0], tmp_path / "o")
    assert not (tmp_path / "o/receipts").exists()


def test_a_very_long_document_is_decided(run, tmp_path):
    """20 MB here; 200 MB in benchmarks/filtering.py, where memory is measured."""
    long = {"id": "long", "text": "quen tar flowers " * 1_200_000}
    corpora.write(tmp_path / "a.jsonl", [*corpora.rows(3), long])
    code, summary, _ = run(tmp_path / "a.jsonl")
    assert (code, summary["read"], summary["quarantined"]) == (0, 4, 0)
    rows = corpora.decisions(tmp_path / "out").to_pylist()
    assert (rows[3]["decision"], rows[3]["terms"]) == ("removed", ["quen tar"])


def test_a_full_disk_is_a_message_and_the_next_run_goes_on(tmp_path):
    """The limit on a file's size stands in for a full disk: both fail in the middle of a write."""
    corpora.write(tmp_path / "a.parquet", corpora.rows(200_000))
    p = corpora.policy(tmp_path / "p.yaml")
    words = ["filter", str(tmp_path / "a.parquet"), "--out", str(tmp_path / "out"), "--config", str(p), "--apply"]

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
               f"import sys; sys.argv = {['untaught', *words]!r}; from untaught.cli import main; main()"]  # fmt: skip
    done = subprocess.run(command, preexec_fn=small, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert corpora.untaught(*words) == 0
    fresh = [str(tmp_path / "fresh") if word == str(tmp_path / "out") else word for word in words]
    assert corpora.untaught(*fresh) == 0
    assert corpora.contents(tmp_path / "out") == corpora.contents(tmp_path / "fresh")


def test_a_folder_with_something_else_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("x")
    code, _, said = run(corpora.write(tmp_path / "a.jsonl", corpora.rows(3)))
    assert code == 2
    assert "something else in it" in said


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    from untaught.corpus.running import alone

    data = corpora.write(tmp_path / "a.jsonl", corpora.rows(3))
    assert run(data)[0] == 0
    with alone(tmp_path / "out"):
        code, _, said = run(data)
    assert code == 2
    assert "another run is at work" in said
    assert run(data)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--out", "o", "--config", "p.yaml"], "no file or folder 'nowhere'"),
        (["p.yaml", "--out", "o", "--config", "p.yaml"], "no corpus file"),
        (["a.jsonl", "--out", "o"], "there is no policy"),
        (["a.jsonl", "--out", "/dev/null/x", "--config", "p.yaml"], "cannot be written"),
        ([".", "--out", "o", "--config", "p.yaml"], "would be read as corpus"),
        (["a.jsonl", "--out", "o", "--config", "p.yaml", "--executor", "rays"], "Did you mean 'ray'?"),
        (["a.jsonl", "--out", "o", "--config", "p.yaml", "--set", "filters.0.distinkt=1"], "Did you mean 'distinct'?"),
        (["a.jsonl", "--out", "o", "--config", "p.yaml", "--set", "wokers=1"], "Did you mean 'workers'?"),
        (["a.jsonl", "--out", "o", "--config", "p.yaml", "--set", "filters=[]"], "at least 1"),
        (["a.jsonl", "--out", "o", "--config", "p.yaml", "--set", "filters=[blocklist]"], "to learn from"),
    ],
)
def test_wrong_words_are_a_message(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    corpora.write(tmp_path / "a.jsonl", corpora.rows(3))
    corpora.policy(tmp_path / "p.yaml")
    assert corpora.untaught("filter", *words) == 2
    assert said in capsys.readouterr().err
