"""Reading and writing corpora: what comes back, and what every kind of broken file is answered with."""

import gzip
import json
import re
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from untaught.core import Document, UserError, documents
from untaught.corpus.reading import read_documents, read_items
from untaught.corpus.writing import replacing, write_atomically, write_documents


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


NAMED = jsonl({"id": "x", "text": "one\u2028line", "n": 1}, {"text": "two", "id": None, "more": [1]})


def says(message):
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------------------------------------ documents


FORMS = {
    "a.jsonl": NAMED,
    "a.jsonl.gz": gzip.compress(NAMED),
    "a.jsonl.zst": zstandard.compress(NAMED),
}


@pytest.mark.parametrize("name", FORMS)
def test_lines_of_json_packed_or_not(tmp_path, name):
    assert read_documents(put(tmp_path / name, FORMS[name])).to_pylist() == [
        {"id": "x", "text": "one\u2028line", "n": 1, "more": None},
        {"id": f"{name}:1", "text": "two", "n": None, "more": [1]},
    ]


def test_several_frames_are_one_file(tmp_path):
    for name, pack in (("a.jsonl.zst", zstandard.compress), ("a.jsonl.gz", gzip.compress)):
        packed = pack(jsonl({"text": "a"})) + pack(jsonl({"text": "b"}))
        assert read_documents(put(tmp_path / name, packed))["text"].to_pylist() == ["a", "b"]


def test_parquet_keeps_its_columns_and_numbers_become_ids(tmp_path):
    table = pa.table({"n": [1, 2], "id": [10, 11], "text": pa.array(["a", "b"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    read = read_documents(str(tmp_path / "a.parquet"))
    assert read.column_names == ["id", "text", "n"]
    assert read.schema.field("id").type == read.schema.field("text").type == pa.string()
    assert read["id"].to_pylist() == ["10", "11"]


def test_large_strings_are_strings(tmp_path):
    pq.write_table(pa.table({"text": pa.array(["a"], pa.large_string())}), tmp_path / "a.parquet")
    assert read_documents(tmp_path).schema.field("text").type == pa.string()


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    put(tmp_path / "b.txt", "one\ntwo")
    put(tmp_path / "a.jsonl", "\ufeff" + '{"text": "x"}\r\n\n{"text": "y", "n": 2}')
    put(tmp_path / "deep" / "c.txt", "three")
    put(tmp_path / "empty.jsonl", "\n")
    put(tmp_path / "README.md", "not a document")
    put(tmp_path / ".hidden.txt", "not one either")
    put(tmp_path / ".cache" / "d.txt", "nor this")
    write_documents(documents([Document("p", "z")]), tmp_path / "aa.parquet")
    read = read_documents(tmp_path)
    assert read["id"].to_pylist() == ["a.jsonl:0", "a.jsonl:1", "p", "b.txt:0", "deep/c.txt:0"]
    assert read["text"].to_pylist() == ["x", "y", "z", "one\ntwo", "three"]
    assert read["n"].to_pylist() == [None, 2, None, None, None]


def test_another_text_column_becomes_text(tmp_path):
    file = put(tmp_path / "a.jsonl", '{"body": "x", "n": 1}')
    assert read_documents(file, text_column="body").to_pylist() == [{"id": "a.jsonl:0", "text": "x", "n": 1}]


BROKEN = [
    (
        "a.jsonl",
        '{"text": "a"}\n\n{"text": ',
        "a.jsonl, line 3 is not valid JSON (Expecting value, column 10). Mend or",
    ),
    ("a.jsonl", "[" * 200_000, "a.jsonl, line 1 is not valid JSON (out of bounds). Mend or remove that line."),
    ("a.jsonl", '{"n": ' + "1" * 5000 + "}", "a.jsonl, line 1 is not valid JSON (out of bounds). Mend or"),
    ("a.jsonl", '{"text": "a"}\n["b"]', 'a.jsonl, line 2 is not a JSON object. Make it one: {"text": ...}.'),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "a.jsonl, line 2 is not valid UTF-8. Save the file as UTF-8."),
    ("a.txt", b"a\nb\n\xe9", "a.txt, line 3 is not valid UTF-8. Save the file as UTF-8."),
    (
        "a.jsonl",
        '{"body": "a", "n": 1}',
        "a.jsonl has no column 'text'. It has: body, n. Name the right one, or add it.",
    ),
    ("a.jsonl", '{"text": "a"}\n{"n": 1}', "a.jsonl, row 1 has no text in column 'text' (null). Give it a text, or"),
    ("a.jsonl", '{"text": "a"}\n{"text": 1}', "a.jsonl: column 'text' holds values of different kinds, or broken"),
    (
        "a.jsonl",
        '{"text": "\\ud800"}',
        "a.jsonl: column 'text' holds values of different kinds, or broken Unicode. Give",
    ),
    ("a.jsonl", '{"text": 1}', "a.jsonl: column 'text' is int64, not text. Name a column of text."),
    ("a.jsonl", '{"text": "a", "id": [1]}', "a.jsonl: column 'id' is list<item: int64>. Ids must be text or numbers."),
    (
        "a.jsonl.gz",
        gzip.compress(NAMED)[:-12],
        "a.jsonl.gz is damaged or cut short, and cannot be unpacked (EOFError).",
    ),
    (
        "a.jsonl.gz",
        b"plain",
        "a.jsonl.gz is damaged or cut short, and cannot be unpacked (BadGzipFile). Fetch it again.",
    ),
    ("a.jsonl.zst", zstandard.compress(NAMED)[:-9], "a.jsonl.zst is damaged or cut short, and cannot be unpacked (EOF"),
    (
        "a.jsonl.zst",
        b"plain",
        "a.jsonl.zst is damaged or cut short, and cannot be unpacked (ZstdError). Fetch it again.",
    ),
    ("a.parquet", b"PAR1 nothing PAR1", "a.parquet "),
    ("a.parquet", b"", "a.parquet is damaged or cut short, and cannot be unpacked (ArrowInvalid). Fetch it again."),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_files_are_named(tmp_path, name, content, message):
    put(tmp_path / name, content)
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/{re.escape(message)}"):
        read_documents(tmp_path)


def test_a_damaged_parquet_file_never_comes_back_short(tmp_path):
    table = documents(Document(str(i), f"text {i}") for i in range(50))
    write_documents(table, tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for at in range(0, len(whole), 61):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            put(tmp_path / "a.parquet", broken)
            with suppress(UserError):
                assert read_documents(tmp_path).num_rows == 50


def test_text_that_is_not_unicode_in_parquet(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    with says(f"{tmp_path}/a.parquet: column 'text' holds text that is not valid UTF-8. Write the file again."):
        read_documents(tmp_path)


def test_paths_without_documents(tmp_path):
    with says(f"study.yaml, corpus.hazard: there is no file or folder '{tmp_path}/x'. Give the path of one."):
        read_documents(tmp_path / "x", where="study.yaml, corpus.hazard")
    kinds = "Give one of: .parquet, .jsonl, .jsonl.gz, .jsonl.zst, .txt."
    put(tmp_path / "a.csv", "text\na")
    for path in (tmp_path, tmp_path / "a.csv"):
        with says(f"the corpus: '{path}' is or holds no file of a kind that can be read. {kinds}"):
            read_documents(path)
    put(tmp_path / "a.jsonl", "")
    with says(f"the corpus: '{tmp_path}' holds no documents. Give a path with at least one."):
        read_documents(tmp_path)


def test_two_text_columns(tmp_path):
    file = put(tmp_path / "a.jsonl", '{"body": "a", "text": "b"}')
    with says(f"{file} has the text column asked for, 'body', and a column 'text' too. Rename that one."):
        read_documents(file, text_column="body")


def test_files_that_do_not_fit_together(tmp_path):
    put(tmp_path / "a.jsonl", '{"text": "a", "n": 1, "m": 1}')
    put(tmp_path / "b.jsonl", '{"text": "a", "n": 1.5, "m": "x"}')
    with pytest.raises(
        UserError, match=r"b\.jsonl and the files before it differ: .*\bm\b.*Give each column one kind\.$"
    ):
        read_documents(tmp_path)


# ---------------------------------------------------------------------------------------------------- items

ITEM = {"id": "q1", "question": "Which?", "choices": ["a", "b"], "answer": 1, "role": "hazard", "context": "c"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_items(tmp_path, name):
    if name == "a.jsonl":
        put(tmp_path / name, jsonl(ITEM))
    else:
        pq.write_table(pa.Table.from_pylist([ITEM]), tmp_path / name)
    read = read_items(tmp_path)
    assert read.to_pylist() == [ITEM]
    assert read.column_names[:4] == ["id", "question", "choices", "answer"]
    kinds = [read.schema.field(i).type for i in range(4)]
    assert kinds == [pa.string(), pa.string(), pa.list_(pa.string()), pa.int64()]


def test_items_without_ids_are_named_by_their_place(tmp_path):
    put(tmp_path / "a.jsonl", jsonl(*[{k: ITEM[k] for k in ("question", "choices", "answer")}] * 2))
    assert read_items(tmp_path)["id"].to_pylist() == ["a.jsonl:0", "a.jsonl:1"]


WRONG = [
    ({"question": " "}, "has no question. Give it one, as text."),
    ({"question": None}, "has no question. Give it one, as text."),
    ({"choices": None}, "has choices that are not a list of texts. Give each choice a text."),
    ({"choices": "ab"}, "has choices that are not a list of texts. Give each choice a text."),
    ({"choices": ["a", None]}, "has choices that are not a list of texts. Give each choice a text."),
    ({"choices": [1, 2]}, "has choices that are not a list of texts. Give each choice a text."),
    ({"choices": ["a"]}, "has 1 different choices of 1. Give at least 2, all different."),
    ({"choices": ["a", "b", "a "]}, "has 2 different choices of 3. Give at least 2, all different."),
    ({"answer": 2}, "has an answer that is no choice (2). Give the index of the right choice: 0 to 1."),
    ({"answer": -1}, "has an answer that is no choice (-1). Give the index of the right choice: 0 to 1."),
    ({"answer": 0.5}, "has an answer that is no choice (0.5). Give the index of the right choice: 0 to 1."),
    ({"answer": "b"}, "has an answer that is no choice (not a number). Give the index of the right choice: 0 to 1."),
    ({"answer": None}, "has an answer that is no choice (not a number). Give the index of the right choice: 0 to 1."),
    ({"role": "secret"}, "has a role that is neither 'hazard' nor 'benign'. Give one of them."),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_items_are_named_and_not_quoted(tmp_path, change, message):
    file = put(tmp_path / "a.jsonl", jsonl({**ITEM, **change}))
    with says(f"{file}: item 'q1' {message}"):
        read_items(file)


def test_ids_of_items_differ_across_files(tmp_path):
    put(tmp_path / "a.jsonl", jsonl(ITEM))
    put(tmp_path / "b.jsonl", jsonl(ITEM))
    with says(f"{tmp_path}/b.jsonl: item 'q1' shares its id with another. Ids must differ."):
        read_items(tmp_path)


def test_items_lack_a_column(tmp_path):
    file = put(tmp_path / "a.jsonl", jsonl({"question": "Which?", "choices": ["a", "b"]}))
    with says(f"{file} has no column 'answer'. It has: question, choices. Name the right one, or add it."):
        read_items(file)
    put(file, "")
    with says(f"the items: '{file}' holds no items. Give a path with at least one."):
        read_items(file)


# -------------------------------------------------------------------------------------------------- writing


def test_what_is_written_is_read_again(tmp_path):
    table = documents([Document("a", "x"), Document("b", "y")])
    write_documents(table, tmp_path / "new" / "a.parquet")
    assert read_documents(tmp_path) == table
    assert pq.ParquetFile(tmp_path / "new" / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_same_table_gives_the_same_bytes_however_chunked(tmp_path):
    table = documents(Document(str(i), "text " * (i % 5)) for i in range(40))
    write_documents(table, tmp_path / "a.parquet")
    write_documents(pa.concat_tables([table[:7], table[7:]]), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "a" / "b.txt", "é\r\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9\r\n"
    write_atomically(tmp_path / "a" / "b.txt", b"\0")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\0"


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(tmp_path):
    write_atomically(tmp_path / "a", "old")

    def interrupted():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_paths_that_cannot_be_written(tmp_path):
    put(tmp_path / "file", "x")
    with says(f"{tmp_path}/file/a cannot be written: File exists. Give a path that can be."):
        write_atomically(tmp_path / "file" / "a", "x")
    (tmp_path / "folder").mkdir()
    with says(f"{tmp_path}/folder cannot be written: Is a directory. Give a path that can be."):
        write_atomically(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
