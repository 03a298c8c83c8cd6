"""The digest of weights and those of their files come of one reading, whatever the sharding and the order in a file."""

import hashlib
import json
import os
import struct
import subprocess
import sys

import pytest
from releases import model, release

from untaught.attest import digest, manifest, weights
from untaught.attest.manifest import cache_of, check_folder, of_folder
from untaught.attest.refusals import BytesDiffer
from untaught.attest.verifying import verify
from untaught.core import UserError


def written(path, tensors):
    """A safetensors file with these tensors in this order: name to bytes."""
    at, header = 0, {}
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


TENSORS = {f"layer.{number}": os.urandom(size) for number, size in enumerate([0, 1, 70_000, 2**20 + 3, 5, 2**21, 9])}


@pytest.fixture(params=["one file", "shards in turn", "another order"])
def folder(request, tmp_path):
    names = list(TENSORS)
    files = {
        "one file": {"model": names},
        "shards in turn": {"a": names[::2], "b": names[1::2]},
        "another order": {"a": names[::-2], "b": names[1::2]},
    }[request.param]
    for file, held in files.items():
        written(tmp_path / f"{file}.safetensors", {name: TENSORS[name] for name in held})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_both_digests_are_what_they_are_defined_to_be(folder):
    plain = digest.of_tensors((name, "U8", (len(data),), data) for name, data in TENSORS.items())
    made = of_folder(folder, with_weights=True)
    assert made.weights == digest.of_weights(folder) == plain
    assert made.entries == of_folder(folder).entries
    for entry in made.entries:
        assert entry.sha256 == hashlib.sha256((folder / entry.path).read_bytes()).hexdigest()
    assert of_folder(folder).weights is None


def test_a_file_whose_tensors_lie_in_order_is_read_once(folder, monkeypatch, request):
    read, again = [], manifest._read
    monkeypatch.setattr(manifest, "_read", lambda file, one, *rest: (read.append(one.path), again(file, one, *rest))[1])
    of_folder(folder, with_weights=True)
    turned = request.node.callspec.params["folder"] == "another order"
    assert sorted(read) == (["a.safetensors", "config.json"] if turned else ["config.json"])


def test_a_second_signing_reads_no_weights_and_a_changed_byte_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(manifest, "UNSURE", -1)
    before = of_folder(folder, cache=cache_of(folder), with_weights=True)
    monkeypatch.setattr(weights, "digests", None)
    assert of_folder(folder, cache=cache_of(folder), with_weights=True).weights == before.weights
    monkeypatch.undo()
    path = next(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = of_folder(folder, cache=cache_of(folder), with_weights=True)
    assert after.weights == digest.of_weights(folder) != before.weights


def test_weights_that_cannot_be_read_are_files_like_others_until_somebody_asks_for_them(tmp_path):
    own = model(tmp_path / "model")
    before = of_folder(own, with_weights=True)
    (own / "model.safetensors").write_bytes(b"\xff" * 100)
    assert of_folder(own, with_weights=True).weights is None
    with pytest.raises(BytesDiffer, match=r"model.safetensors \(changed\)"):
        check_folder(before, own, with_weights=True)
    with pytest.raises(UserError, match=r"model.safetensors has a header of .* bytes, longer than the file"):
        digest.of_weights(own)


def test_a_file_that_is_cut_short_while_it_is_read_is_refused_and_ends_nothing(tmp_path, monkeypatch):
    for name, data in {"model.safetensors": None, "other.bin": os.urandom(3 * manifest.PIECE)}.items():
        folder = tmp_path / name
        folder.mkdir()
        path = folder / name
        written(path, {"a": os.urandom(2**22)}) if data is None else path.write_bytes(data)
        cut = lambda count, path=path: os.truncate(path, 2**15)  # noqa: E731
        with pytest.raises(UserError, match="while it was read"):
            of_folder(folder, with_weights=True, progress=cut)


def test_verifying_takes_little_memory_whatever_the_weights(tmp_path):
    """A sparse file of a gigabyte, in a process of its own: it may not take up more than 200 MB."""
    size = 2**30
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    script = (
        "import pathlib, resource, sys; from untaught.attest.manifest import of_folder;"
        "assert of_folder(pathlib.Path(sys.argv[1]), with_weights=True).weights;"
        "status = pathlib.Path('/proc/self/status');"
        "print(status.read_text().split('VmHWM:')[1].split()[0] if status.exists() else"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(told.stdout) * 1024 < 200e6


def test_what_is_not_signed_may_be_no_folder_and_no_link(tmp_path):
    one = release(tmp_path / "one")
    statement = one.model / "statement.json"
    one.statement.rename(statement)
    verifier = one.signer.verifier()
    assert verify(one.model, statement, verifier)
    statement.rename(tmp_path / "kept.json")
    statement.symlink_to(tmp_path / "kept.json")
    with pytest.raises(BytesDiffer, match="is a link or a folder"):
        verify(one.model, statement, verifier)
