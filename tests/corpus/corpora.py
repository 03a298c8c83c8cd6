"""Small corpora on disk, in invented words, and what a filter folder holds about them."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from untaught.cli import main

TERMS = ["florp", "quen tar", "zib"]


def rows(count, start=0):
    """Documents of which every fifth holds two terms, every third one."""
    texts = {0: "Florp here and QUEN\n tar there", 1: "nothing at all", 2: "a zib alone"}
    return [
        {"id": f"d{i}", "text": f"{texts[0 if i % 5 == 0 else 2 if i % 3 == 0 else 1]} {i}", "n": i}
        for i in range(start, start + count)
    ]


def lines(table):
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def write(path, table, **how):
    """A table by the end of the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path, **how)
    else:
        pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(lines(table)))
    return path


def corpus(folder):
    """All four formats, one below a folder."""
    write(folder / "a.parquet", rows(500), row_group_size=100)
    write(folder / "b.jsonl", rows(400, 500))
    write(folder / "sub/c.jsonl.gz", rows(300, 900))
    write(folder / "sub/d.jsonl.zst", rows(200, 1200))
    return folder


def policy(path, *stages, **more):
    """A policy file; left to itself, one blocklist on one worker."""
    stages = stages or ({"use": "blocklist", "terms": TERMS},)
    path.write_text(json.dumps({"filters": list(stages), "workers": 1, **more}))
    return path


def untaught(*words):
    """A verb of the command line; its exit code."""
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", ["untaught", *map(str, words)]):
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def decisions(out, name=None):
    """All decisions of a filter folder, or those about one source."""
    paths = [out / "decisions" / name] if name else sorted((out / "decisions").rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in paths])


def contents(out):
    """Every file of a filter folder, byte for byte."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
