"""Manifests: one root for one set of files, and whatever could be read differently elsewhere is refused by its name."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.attest import manifest
from untaught.attest.manifest import (
    Difference,
    Entry,
    Manifest,
    Unfit,
    cache_of,
    check_folder,
    differences,
    fault,
    of_folder,
)
from untaught.attest.refusals import BytesDiffer
from untaught.core import ExitCode, UserError

DATA = Path(__file__).parent / "data"
ROOT = "b70edd5793b599e441335501828376bc46e576fe347bea033148d3a4d8f50be1"
"""What `model_signing` 1.1.1 gave as the subject's digest of `data/model`."""


@pytest.fixture
def model(tmp_path):
    """A copy of the model folder, old enough to be sure of its times."""
    folder = tmp_path / "model"
    shutil.copytree(DATA / "model", folder)
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return folder


def paths(made):
    return [entry.path for entry in made.entries]


def test_the_root_is_what_model_signing_gives(model):
    assert of_folder(model).root == ROOT


def test_files_are_listed_by_the_parts_of_their_paths_with_sizes_and_digests(model):
    made = of_folder(model)
    assert paths(made) == [
        "README.md", "config.json", "model.safetensors", "shards/more.safetensors", "shards-of-none.txt",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert paths(made) != sorted(paths(made))  # '-' comes before '/'
    for entry in made.entries:
        data = (model / entry.path).read_bytes()
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert made.root == hashlib.sha256(b"".join(bytes.fromhex(entry.sha256) for entry in made.entries)).hexdigest()


def test_the_folders_name_and_place_and_git_and_empty_folders_change_no_root(model, tmp_path):
    before = of_folder(model)
    (model / ".git" / "objects").mkdir(parents=True)
    (model / ".git" / "HEAD").write_text("main")
    (model / ".gitattributes").write_text("*")
    (model / "empty" / "nested").mkdir(parents=True)
    moved = model.rename(tmp_path / "another")
    after = of_folder(moved)
    assert after.root == before.root
    assert after.name == "another"
    assert after.ignored == (".git", ".gitattributes")


def test_gits_files_further_down_are_part_of_the_model(model):
    before = of_folder(model).root
    (model / "shards" / ".gitignore").write_text("*")
    assert of_folder(model).root != before


def test_what_is_to_be_ignored_is_named_and_counts_nothing(model):
    before = of_folder(model).root
    (model / "model.sig").write_text("{}")
    made = of_folder(model, ignore=["model.sig"])
    assert (made.root, made.ignored) == (before, ("model.sig",))
    assert of_folder(model).root != before


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(workers, model):
    assert of_folder(model, workers=workers) == of_folder(model)


@pytest.mark.parametrize("size", [0, 1, manifest.PIECE - 1, manifest.PIECE, manifest.PIECE + 1, 3 * manifest.PIECE])
def test_files_of_any_size_are_read_whole(size, tmp_path):
    data = os.urandom(size)
    (tmp_path / "weights").write_bytes(data)
    told = []
    made = of_folder(tmp_path, workers=16, progress=told.append)
    assert made.entries == (Entry("weights", size, hashlib.sha256(data).hexdigest()),)
    assert sum(told) == size


def test_a_folder_that_is_not_there_or_empty_is_wrong_input(tmp_path):
    with pytest.raises(UserError, match="there is no model folder"):
        of_folder(tmp_path / "none")
    with pytest.raises(UserError, match="has no files"):
        of_folder(tmp_path)
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match="has no files"):
        of_folder(tmp_path)


def test_a_link_is_refused_by_name_and_said_to_leave_the_folder_if_it_does(model, tmp_path):
    (tmp_path / "secret").write_text("outside")
    (model / "inside").symlink_to("config.json")
    with pytest.raises(Unfit, match="inside is a link. Ask for links to be followed"):
        of_folder(model)
    (model / "inside").unlink()
    (model / "outside").symlink_to("../secret")
    with pytest.raises(Unfit, match="outside is a link that leaves the folder"):
        of_folder(model)


def test_a_snapshot_of_the_hub_is_the_same_as_its_files_when_links_are_followed(model, tmp_path):
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for entry in of_folder(model).entries:
        shutil.copy(model / entry.path, blobs / entry.sha256)
        (snapshot / entry.path).parent.mkdir(exist_ok=True)
        (snapshot / entry.path).symlink_to(os.path.relpath(blobs / entry.sha256, (snapshot / entry.path).parent))
    assert of_folder(snapshot, follow=True).root == of_folder(model).root
    with pytest.raises(Unfit, match="is a link that leaves the folder"):
        of_folder(snapshot)


def test_links_that_are_followed_lead_to_files_only(model, tmp_path):
    (model / "gone").symlink_to("nowhere")
    with pytest.raises(Unfit, match="gone is a link to nothing"):
        of_folder(model, follow=True)
    (model / "gone").unlink()
    (model / "above").symlink_to(tmp_path)
    with pytest.raises(Unfit, match="above is a link to something that is no file"):
        of_folder(model, follow=True)
    (model / "above").unlink()
    (model / "round").symlink_to("round")
    with pytest.raises(Unfit, match="round is a link to nothing"):
        of_folder(model, follow=True)


def test_a_special_file_is_refused_and_not_waited_for(model):
    os.mkfifo(model / "pipe")
    with pytest.raises(Unfit, match="pipe is neither a file nor a folder"):
        of_folder(model)


@pytest.mark.parametrize("name", ["a\nb", "a\u202eb", "a\\b", "c:d", "a\x7f", "\u200b"])
def test_names_that_hide_or_mean_something_else_elsewhere_are_refused(name, model):
    (model / name).write_text("x")
    with pytest.raises(Unfit, match="Rename the file"):
        of_folder(model)


def test_a_name_that_is_not_utf_8_is_refused(model):
    try:
        (Path(os.fsdecode(os.fsencode(model) + b"/\xff\xfe"))).write_text("x")
    except OSError:
        return  # this file system takes no such name
    with pytest.raises(Unfit, match="not UTF-8"):
        of_folder(model)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Weights", "weights"), ("stra\u00dfe", "strasse"), ("\u00e9", "e\u0301"), ("A/x", "a/y"), ("\u212b", "\u00c5")],
)
def test_names_that_are_one_on_other_file_systems_are_refused(one, other, tmp_path):
    for name in (one, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    if len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2:
        with pytest.raises(Unfit, match="are one on some file systems"):
            of_folder(tmp_path)


@pytest.mark.parametrize("path", ["../x", "a/../x", "/x", "a//b", "./a", "a/.", "", "a/", "C:/x", "a\\..\\b", "a\0"])
def test_paths_that_lead_elsewhere_have_a_fault(path):
    assert fault(path)


@pytest.mark.parametrize("path", ["a", "a/b.c", ".hidden", "..a/b..", "\u00fc \u4e2d.txt", "ab:c"])
def test_ordinary_paths_have_none(path):
    assert fault(path) is None


def test_differences_are_named_one_by_one(model):
    before = of_folder(model)
    (model / "README.md").write_text("changed")
    (model / "config.json").rename(model / "config2.json")
    (model / "shards" / "new").write_text("x")
    listed = differences(before, of_folder(model))
    assert listed == [
        Difference("changed", "README.md"),
        Difference("missing", "config.json"),
        Difference("extra", "config2.json"),
        Difference("extra", "shards/new"),
    ]
    with pytest.raises(BytesDiffer) as caught:
        check_folder(before, model)
    assert "in 4 files: README.md (changed), config.json (missing), config2.json (extra)" in str(caught.value)
    assert caught.value.code == ExitCode.BYTES_DIFFER


def test_two_files_that_were_swapped_are_both_changed(model):
    before = of_folder(model)
    (model / "README.md").rename(model / "kept")
    (model / "config.json").rename(model / "README.md")
    (model / "kept").rename(model / "config.json")
    kinds = {(one.kind, one.path) for one in differences(before, of_folder(model))}
    assert kinds == {("changed", "README.md"), ("changed", "config.json")}


def test_an_unchanged_folder_is_accepted_and_a_link_in_it_is_not(model, tmp_path):
    before = of_folder(model)
    assert check_folder(before, model) == before
    (model / "README.md").rename(tmp_path / "README.md")
    (model / "README.md").symlink_to(tmp_path / "README.md")
    with pytest.raises(BytesDiffer, match="README.md is a link that leaves the folder"):
        check_folder(before, model)
    assert check_folder(before, model, follow=True) == before


NAMES = st.text("abAB.-", min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=5)), st.dictionaries(NAMES, st.binary(max_size=5)))
def test_there_are_no_differences_exactly_when_the_files_are_the_same(one, other):
    made = [
        Manifest("x", tuple(Entry(k, len(v), hashlib.sha256(v).hexdigest()) for k, v in sorted(files.items())))
        for files in (one, other)
    ]
    listed = {(d.kind, d.path) for d in differences(*made)}
    assert listed == {
        *(("missing", path) for path in one.keys() - other.keys()),
        *(("extra", path) for path in other.keys() - one.keys()),
        *(("changed", path) for path in one.keys() & other.keys() if one[path] != other[path]),
    }


def reads(monkeypatch):
    """How many files are read from here on."""
    told, read = [], manifest._read
    monkeypatch.setattr(manifest, "_read", lambda file, one, *rest: (told.append(one.path), read(file, one, *rest))[1])
    return told


@pytest.fixture
def kept(tmp_path, model, monkeypatch):
    """A cache that knows the model folder, whose files were old when they were read."""
    monkeypatch.setattr(manifest, "UNSURE", -1)
    cache = tmp_path / "cache" / "digests.json"
    of_folder(model, cache=cache)
    return cache


def test_a_second_signing_reads_no_file_and_a_changed_one_is_read_again(model, kept, monkeypatch):
    before, told = of_folder(model), reads(monkeypatch)
    assert of_folder(model, cache=kept) == before
    assert told == []
    (model / "config.json").write_text("{}")
    assert differences(before, of_folder(model, cache=kept)) == [Difference("changed", "config.json")]
    assert told == ["config.json"]


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(model, kept):
    before, info = of_folder(model), (model / "README.md").stat()
    (model / "new").write_bytes(b"x" * info.st_size)
    os.utime(model / "new", ns=(info.st_atime_ns, info.st_mtime_ns))
    (model / "new").rename(model / "README.md")
    assert differences(before, of_folder(model, cache=kept)) == [Difference("changed", "README.md")]


def test_a_file_changed_in_place_with_its_time_put_back_is_read_again(model, kept):
    before, info = of_folder(model), (model / "README.md").stat()
    (model / "README.md").write_bytes(b"x" * info.st_size)
    os.utime(model / "README.md", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert differences(before, of_folder(model, cache=kept)) == [Difference("changed", "README.md")]


def test_verifying_asks_no_cache_even_when_it_lies(model, kept):
    before = of_folder(model)
    lying = json.loads(kept.read_text())
    for stamped in lying["files"].values():
        stamped[1] = "0" * 64
    kept.write_text(json.dumps(lying))
    assert of_folder(model, cache=kept).root != before.root  # for signing it is believed
    assert check_folder(before, model) == before


def test_a_file_is_kept_only_when_it_was_written_long_enough_before(tmp_path, model, monkeypatch):
    assert manifest.UNSURE >= 2e9  # the coarsest times that file systems keep
    cache = tmp_path / "digests.json"
    monkeypatch.setattr(manifest, "UNSURE", 3600e9)  # everything here was made within the hour
    of_folder(model, cache=cache)
    assert not cache.exists()
    monkeypatch.setattr(manifest, "UNSURE", -1)
    of_folder(model, cache=cache)
    assert sorted(json.loads(cache.read_text())["files"]) == sorted(paths(of_folder(model)))


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\xff", b"[]", b"{}", b'{"version": 2, "files": {}}', b'{"version": 1, "files": []}', b"[" * 10**6,
     b'{"version": 1, "files": {"config.json": 1}}', b'{"version": 1, "files": {"config.json": ["1", "x"]}}',
     b'{"version": 1, "files": {"config.json": [1, 2]}}'],
)  # fmt: skip
def test_a_damaged_cache_is_written_anew(damaged, model, kept):
    before, sound = of_folder(model), json.loads(kept.read_text())
    kept.write_bytes(damaged)
    assert of_folder(model, cache=kept) == before
    assert json.loads(kept.read_text()) == sound


def test_a_cache_that_cannot_be_written_stops_nothing(model, tmp_path):
    (tmp_path / "file").write_text("x")
    assert of_folder(model, cache=tmp_path / "file" / "digests.json") == of_folder(model)


def test_a_cache_in_the_folder_is_refused(model):
    with pytest.raises(UserError, match="Keep it elsewhere"):
        of_folder(model, cache=model / "digests.json")


def test_every_folder_has_a_cache_of_its_own(model, tmp_path):
    assert cache_of(model) == cache_of(model / "shards" / "..")
    assert cache_of(model) != cache_of(tmp_path)
    assert not cache_of(model).is_relative_to(model)


def test_a_file_that_changes_while_it_is_read_is_refused(model, monkeypatch):
    read = manifest._read

    def disturbed(file, one, *rest):
        digest = read(file, one, *rest)
        if one.path == "README.md":
            one.place.write_text("something else")
        return digest

    monkeypatch.setattr(manifest, "_read", disturbed)
    with pytest.raises(UserError, match=r"README.md changed while it was read"):
        of_folder(model)


def test_a_file_that_was_swapped_for_a_link_after_it_was_found_is_refused(model, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("outside")
    found = manifest._refuse_collisions

    def swap(names):
        found(names)
        (model / "README.md").unlink()
        (model / "README.md").symlink_to(tmp_path / "secret")

    monkeypatch.setattr(manifest, "_refuse_collisions", swap)
    with pytest.raises(UserError, match=r"README.md cannot be read"):
        of_folder(model)


def test_memory_stays_small_whatever_the_size(tmp_path):
    """A sparse file of a gigabyte, in a process of its own: it may not take up more than 200 MB."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2**30)
    script = (
        "import pathlib, resource, sys; from untaught.attest.manifest import of_folder;"
        "of_folder(pathlib.Path(sys.argv[1]), workers=8); status = pathlib.Path('/proc/self/status');"
        "print(status.read_text().split('VmHWM:')[1].split()[0] if status.exists() else"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    told = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(told.stdout) * 1024 < 200e6
