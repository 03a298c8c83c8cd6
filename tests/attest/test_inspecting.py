"""Inspecting: what could run code, lies about its size or leads outside is named, and nothing of it is run."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.attest import contents
from untaught.attest.inspecting import inspect, refuse_unsafe
from untaught.core import UserError

DATA = Path(__file__).parent / "data"


class Evil:
    """Loading it would leave a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(DATA / "model", tmp_path / "model"))


@pytest.fixture
def mark(tmp_path):
    """A file that is not there as long as no pickle was loaded."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def seen(folder, path):
    """Kinds and severities of what is said of one file."""
    return {(one.kind, one.severity) for one in inspect(folder) if one.path == path}


def refused(folder, path, said=""):
    """Why a file is refused, in words."""
    reasons = [one.reason for one in inspect(folder) if one.path == path and one.severity == "refuse"]
    assert any(said in reason for reason in reasons), reasons
    return reasons[0]


def zipped(members, compression=zipfile.ZIP_STORED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def test_an_ordinary_folder_has_notes_only_and_is_loaded(model):
    assert seen(model, "tokenizer_config.json") == {("chat template", "note")}
    assert [one for one in inspect(model) if one.severity == "refuse"] == []
    refuse_unsafe(model, strict=True)


def test_a_folder_that_is_not_there_is_wrong_input(tmp_path):
    with pytest.raises(UserError, match="there is no model folder"):
        inspect(tmp_path / "none")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "harmless.txt", "README"])
def test_a_pickle_is_told_by_its_content_whatever_its_name_and_what_it_calls_is_named(protocol, name, model, mark):
    (model / name).write_bytes(pickle.dumps({"a": [1, 2], "b": Evil(mark)}, protocol))
    assert "posix.system" in refused(model, name, "runs code when it is loaded")
    assert ("pickle", "refuse") in seen(model, name)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_breaks_off_after_its_call_is_told(protocol, model, mark):
    (model / "data").write_bytes(pickle.dumps(Evil(mark), protocol)[:-1] + b"\xff\xff")
    refused(model, "data", "posix.system")


def test_a_pickle_without_calls_is_one_too(model):
    (model / "data").write_bytes(pickle.dumps({"weights": [1.0, 2.0, 3.0]}))
    refused(model, "data", "can run code")


def test_a_call_behind_a_long_argument_or_many_steps_is_told(model, mark):
    long = b"\x80\x04\x8e" + struct.pack("<Q", 2**25) + bytes(2**25) + b"0" + pickle.dumps(Evil(mark), 4)[2:]
    (model / "long").write_bytes(long)
    refused(model, "long", "posix.system")
    (model / "many").write_bytes(b"\x80\x02" + b"N0" * 200_000 + pickle.dumps(Evil(mark), 2)[2:])
    refused(model, "many", "is a pickle")


def test_an_argument_that_claims_to_be_larger_than_the_file_takes_no_memory(model):
    (model / "claim.pkl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x")
    refused(model, "claim.pkl", "has a name that loaders unpickle")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: zipped({"archive/data.pkl": p, "archive/data/0": b"\0" * 64}),
        lambda p: zipped({"anything": p}),
        lambda p: zipped({"deep/x.pickle": b"?"}),
        lambda p: zipped({"data.pkl": p}, zipfile.ZIP_DEFLATED),
        lambda p: b"#!/bin/sh\n" + zipped({"data.pkl": p}),
        gzip.compress,
        bz2.compress,
        lzma.compress,
        zlib.compress,
        lambda p: zlib.compress(p, 1),
    ],
)
def test_a_pickle_in_an_archive_or_compressed_is_told(make, model, mark):
    (model / "file").write_bytes(make(pickle.dumps(Evil(mark))))
    refused(model, "file", "pickle")


def test_arrays_of_objects_are_pickles_and_arrays_of_numbers_are_not(model):
    np.save(model / "numbers.npy", np.arange(5))
    np.save(model / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.savez(model / "numbers.npz", a=np.arange(5))
    np.savez(model / "objects.npz", a=np.array([{}], dtype=object))
    assert seen(model, "numbers.npy") == set()
    assert seen(model, "numbers.npz") == {("archive", "note")}
    assert seen(model, "objects.npy") == seen(model, "objects.npz") == {("pickle", "refuse")}


@pytest.mark.parametrize("name", ["a.pt", "a.PTH", "a.pkl", "x/a.ckpt", "pytorch_model-00001-of-00002.bin", "a.joblib"])
def test_what_loaders_unpickle_by_its_name_is_refused_whatever_it_is(name, model):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"%% nothing known")
    assert ("pickle", "refuse") in seen(model, name)


def test_other_binary_files_and_texts_are_no_pickles(model):
    (model / "other.bin").write_bytes(b"\x01\x02\x03")
    (model / "import.txt").write_text("import os\nimport sys\nIt is a text.\n.\n")
    (model / "cat.md").write_text("cats\nare here\nRead on.")
    (model / "merges.txt").write_text("#version: 0.2\n\u0120 t\n\u0120 a\n")
    assert seen(model, "other.bin") == {("binary", "note")}
    assert seen(model, "import.txt") == seen(model, "cat.md") == seen(model, "merges.txt") == set()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_looked_at_without_harm(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    for name in ("a", "a.safetensors", "a.json", "a.gguf"):
        (folder / name).write_bytes(data)
    (folder / "b.gguf").write_bytes(b"GGUF" + data)
    (folder / "b.npy").write_bytes(b"\x93NUMPY" + data)
    (folder / "b.zip").write_bytes(b"PK\x03\x04" + data)
    (folder / "b.gz").write_bytes(b"\x1f\x8b\x08" + data)
    (folder / "b.pkl").write_bytes(b"\x80\x04" + data)
    assert all(one.severity in ("refuse", "note") and one.reason for one in inspect(folder))


def test_pickles_beside_safetensors_are_not_opened_and_pass_unless_it_is_strict(model, mark):
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    refuse_unsafe(model)
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.*untaught inspect"):
        refuse_unsafe(model, strict=True)
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is not loaded"):
        refuse_unsafe(model)


@pytest.mark.parametrize(
    ("name", "told", "kind", "severity"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling.Model"}}, "auto_map", "refuse"),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "a--b.C"}}}, "auto_map", "refuse"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map", "refuse"),
        ("config.json", {"custom_pipelines": {"x": {"impl": "a.B"}}}, "custom_pipelines", "refuse"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code", "refuse"),
        ("config.json", {"_attn_implementation": "someone/kernels"}, "hub code", "refuse"),
        ("modules.json", [{"type": "os.path.Anything", "path": ""}], "hub code", "refuse"),
        ("adapter_config.json", {"base_model_name_or_path": "someone/model"}, "outside path", "note"),
        ("tokenizer_config.json", {"tokenizer_file": "/home/x/tokenizer.json"}, "outside path", "note"),
    ],
)
def test_what_a_configuration_asks_for_is_told(name, told, kind, severity, model):
    (model / name).write_text(json.dumps(told))
    assert (kind, severity) in seen(model, name)


@pytest.mark.parametrize(
    "told",
    [
        {"auto_map": None, "trust_remote_code": False, "_attn_implementation": "sdpa", "tokenizer_file": None},
        {"time_step_limit": [0.0, float("inf")], "eps": 0.1000000000000000000001},
        {"model_type": "llama", "type": "yarn", "name_or_path": "/home/x/checkpoint-500"},
    ],
)
def test_an_ordinary_configuration_is_passed_over(told, model):
    (model / "config.json").write_text(json.dumps(told))
    assert seen(model, "config.json") == set()


@pytest.mark.parametrize("name", ["../away.safetensors", "/etc/passwd", "a\\..\\b", "C:/x", "a/../../b"])
def test_an_index_that_names_weights_elsewhere_is_refused(name, model):
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert seen(model, "model.safetensors.index.json") == {("outside path", "refuse")}


@pytest.mark.parametrize("text", ["{", "[1,]", '{"a": 1, "a": 2}', "\xff", "[" * 1000, '["\\ud800"]', "{'a': 1}"])
def test_json_that_readers_would_differ_on_is_refused(text, model):
    (model / "config.json").write_bytes(text.encode("latin-1"))
    assert seen(model, "config.json") == {("json", "refuse")}


TEMPLATES = [
    "{{ messages.__class__.__mro__ }}",
    "{{ ''|attr('x') }}",
    "{% set x = cycler.__init__.__globals__.os.popen('id') %}",
]


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_chat_template_that_reaches_into_python_is_refused_wherever_it_is(text, model):
    for name, told in [
        ("chat_template.jinja", text),
        ("additional_chat_templates/tools.jinja", text),
        ("chat_template.json", json.dumps({"chat_template": text})),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": text}]})),
        ("processor_config.json", json.dumps({"chat_template": {"default": text}})),
    ]:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(told)
        assert seen(model, name) == {("chat template", "refuse")}


def header(told, data=b"", length=None):
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin, end, shape=None, dtype="U8", **more):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end], **more}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "longer than the file"),
        (b"\1\0\0", "longer than the file"),
        (header({}, length=2**63), "longer than the file"),
        (header({}, length=100), "longer than the file"),
        (header(b""), "malformed"),
        (header(b" {}"), "malformed"),
        (header(b"[]"), "malformed"),
        (header(b"{" * 10_000), "malformed"),
        (header(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}'), "malformed"),
        (header({"a": 1}), "malformed"),
        (header({"a": {"dtype": "U8"}}), "malformed"),
        (header({"a": tensor(0, 4, dtype=["U8"])}, b"1234"), "malformed"),
        (header({"a": tensor(0, 4), "__metadata__": {"a": 1}}, b"1234"), "metadata that is no text"),
        (header({"a": tensor(0, 5)}, b"1234"), "lies outside"),
        (header({"a": tensor(3, 1, [0])}, b"1234"), "lies outside"),
        (header({"a": tensor(0, 2**50)}, b"1234"), "lies outside"),
        (header({"a": tensor(-1, 3)}, b"1234"), "is no count"),
        (header({"a": tensor(0, 4, [-2, -2])}, b"1234"), "is no count"),
        (header({"a": tensor(0, 4, [4.0])}, b"1234"), "is no count"),
        (header({"a": tensor(0, 4, [True, 4])}, b"1234"), "is no count"),
        (header({"a": tensor(0, 4, [3])}, b"1234"), "does not fit its bytes"),
        (header({"a": tensor(0, 4, [2**53, 2**53])}, b"1234"), "does not fit its bytes"),
        (header({"a": tensor(0, 4, [1] * 1000)}, b"1234"), "1000 axes"),
        (header({"a": tensor(0, 4, dtype="F32")}, b"1234"), "does not fit its bytes"),
        (header({"a": tensor(0, 3), "b": tensor(2, 4)}, b"1234"), "overlap"),
        (header({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234"), "overlap"),
        (header({"a": tensor(0, 1), "b": tensor(2, 4)}, b"1234"), "in none"),
        (header({"a": tensor(1, 4)}, b"1234"), "in none"),
        (header({"a": tensor(0, 3)}, b"1234"), "behind its last tensor"),
        (header({}, b"1234"), "behind its last tensor"),
    ],
)
def test_a_safetensors_header_that_contradicts_its_file_is_refused(data, said, model):
    (model / "bad.safetensors").write_bytes(data)
    refused(model, "bad.safetensors", said)
    with pytest.raises(UserError, match=r"bad.safetensors has"):
        refuse_unsafe(model)


@pytest.mark.parametrize(
    "data",
    [
        header({}),
        header({"a": tensor(0, 4), "empty": tensor(4, 4, [0, 7]), "__metadata__": {"format": "pt"}}, b"1234"),
        header({"b": tensor(2, 4), "a": tensor(0, 2)}, b"1234"),
        header({"scalar": tensor(0, 4, [], "F32")}, b"1234"),
        header({"half": tensor(0, 3, [6], "F4")}, b"123"),
        header({"new": tensor(0, 3, [7], "F3_FUTURE")}, b"123"),
        header(b"{}   "),
    ],
)
def test_a_sound_safetensors_file_is_passed_over(data, model):
    (model / "good.safetensors").write_bytes(data)
    assert seen(model, "good.safetensors") == set()


def test_a_header_bomb_costs_neither_time_nor_memory(model):
    with (model / "bomb.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**33))
        file.truncate(2**34)
    begun = time.monotonic()
    refused(model, "bomb.safetensors", "more than")
    assert time.monotonic() - begun < 5


def test_archives_that_grow_beyond_measure_are_refused(model, monkeypatch):
    monkeypatch.setattr(contents, "FREE", 2**22)
    zeros = bytes(2**23)
    (model / "a.zip").write_bytes(zipped({"x": zeros}, zipfile.ZIP_DEFLATED))
    (model / "a.gz").write_bytes(gzip.compress(zeros, 6))
    (model / "a.xz").write_bytes(lzma.compress(zeros, preset=0))
    (model / "a.bz2").write_bytes(bz2.compress(zeros))
    for name in ("a.zip", "a.gz", "a.xz", "a.bz2"):
        assert seen(model, name) == {("bomb", "refuse")}, name


def test_archives_of_ordinary_texts_are_noted_and_broken_ones_refused(model):
    text = " ".join(map(str, range(10_000))).encode()
    for name, data in [("a.gz", gzip.compress(text)), ("a.xz", lzma.compress(text)), ("a.bz2", bz2.compress(text))]:
        (model / name).write_bytes(data)
        assert seen(model, name) == {("archive", "note")}
        (model / name).write_bytes(data[: len(data) // 2])
        assert seen(model, name) == {("archive", "refuse")}
    (model / "a.zip").write_bytes(zipped({"x": text}))
    assert seen(model, "a.zip") == {("archive", "note")}
    (model / "a.zip").write_bytes(zipped({"x": text})[:-30])
    assert seen(model, "a.zip") == {("archive", "refuse")}
    (model / "a.zip").write_bytes(zipped({"../x": text}))
    assert ("outside path", "refuse") in seen(model, "a.zip")


def test_gguf_files_are_noted_and_those_that_lie_refused(model):
    (model / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + bytes(100))
    assert seen(model, "a.gguf") == {("gguf", "note")}
    for version, tensors, entries in [(3, 2**60, 1), (3, 1, 2**60), (99, 1, 1)]:
        (model / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + bytes(100))
        assert seen(model, "a.gguf") == {("header", "refuse")}


def test_code_is_noted_since_nothing_asks_for_it(model):
    (model / "modeling_x.py").write_text("print('x')")
    (model / "kernel.so").write_bytes(b"\x7fELF" + bytes(60))
    (model / "tool").write_bytes(b"\x7fELF" + bytes(60))
    assert seen(model, "modeling_x.py") == {("code", "note")}
    assert seen(model, "kernel.so") == seen(model, "tool") == {("native code", "note")}
    refuse_unsafe(model)


def test_links_are_told_by_where_they_lead(model, tmp_path):
    (tmp_path / "secret").write_text("outside")
    for name, target in [("in", "config.json"), ("out", "../secret"), ("none", "nowhere"), ("up", "..")]:
        (model / name).symlink_to(target)
    assert seen(model, "in") == {("link", "note")}
    for name in ("out", "none", "up"):
        assert seen(model, name) == {("outside path", "refuse")}


def test_links_of_a_hub_snapshot_are_noted_and_what_they_lead_to_is_looked_at(tmp_path, mark):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(pickle.dumps(Evil(mark)))
    (snapshot / "weights.bin").symlink_to("../../blobs/1")
    assert seen(snapshot, "weights.bin") == {("link", "note"), ("pickle", "refuse")}


def test_special_files_and_names_that_hide_are_refused_and_not_waited_for(model):
    os.mkfifo(model / "pipe")
    (model / "a\u202eb").write_text("x")
    assert seen(model, "pipe") == {("special file", "refuse")}
    assert seen(model, "a\\u202eb") == {("name", "refuse")}
    assert all(one.path.isprintable() for one in inspect(model))


def test_what_is_refused_comes_first(model):
    (model / "a.py").write_text("x")
    (model / "z.pt").write_text("x")
    assert [one.path for one in inspect(model)][:2] == ["z.pt", "a.py"]
