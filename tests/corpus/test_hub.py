"""Datasets of the Hub, with a hub that is a folder: what is asked of it, and that nothing is public by itself."""

import sys
import types

import corpora
import pytest


class Hub(types.ModuleType):
    """What `huggingface_hub` is to us."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked, self.private = folder, [], None

    def snapshot_download(self, name, **how):
        self.asked.append((name, how))
        if name == "no/such":
            raise FileNotFoundError("404\nlong story")
        return str(self.folder)

    def HfApi(self):  # noqa: N802
        return self

    def create_repo(self, name, *, private, repo_type, exist_ok):
        self.private = private if self.private is None else self.private

    def repo_info(self, name, repo_type):
        return types.SimpleNamespace(private=self.private)

    def upload_folder(self, **how):
        self.asked.append(("upload", how))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(corpora.corpus(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def filtered(tmp_path, *words):
    return corpora.untaught("filter", *words, "--out", tmp_path / "o", "--config", corpora.policy(tmp_path / "p.yaml"))


def test_a_dataset_is_a_corpus(hub, tmp_path):
    assert filtered(tmp_path, "hub:someone/texts@abc123") == 0
    assert len(corpora.decisions(tmp_path / "o")) == 1400
    name, how = hub.asked[0]
    assert (name, how["revision"], how["repo_type"]) == ("someone/texts", "abc123", "dataset")
    assert how["allow_patterns"] == ["*.parquet", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst"]


def test_a_folder_of_a_dataset(hub, tmp_path):
    assert filtered(tmp_path, "hub:someone/texts/sub") == 0
    assert len(corpora.decisions(tmp_path / "o")) == 500
    assert hub.asked[0][1]["allow_patterns"][0] == "sub/*.parquet"


@pytest.mark.parametrize(("given", "said"), [("hub:x", "names no dataset"), ("hub:no/such", "cannot be fetched")])
def test_what_is_not_there_is_a_message(hub, tmp_path, capsys, given, said):
    assert filtered(tmp_path, given) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "long story" not in err


def test_without_the_extra_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert filtered(tmp_path, "hub:someone/texts") == 2
    assert "untaught[hub]" in capsys.readouterr().err


def test_an_upload_is_private_and_holds_no_removed_document(hub, tmp_path):
    assert filtered(tmp_path, hub.folder, "--upload", "hub:someone/kept") == 0
    assert hub.private is True
    _, how = hub.asked[-1]
    assert how["allow_patterns"] == ["kept/**", "policy.yaml", "receipts/**", "summary.json"]


def test_only_the_user_makes_it_public(hub, tmp_path):
    assert filtered(tmp_path, hub.folder, "--upload", "hub:someone/kept", "--public") == 0
    assert hub.private is False


def test_a_dataset_that_is_public_already_is_not_written_to_unasked(hub, tmp_path, capsys):
    hub.private = False
    assert filtered(tmp_path, hub.folder, "--upload", "hub:someone/kept") == 2
    assert "Say --public" in capsys.readouterr().err
    assert not hub.asked
