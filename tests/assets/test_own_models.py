"""Model folders of one's own and of the Hub: checked and copied, or refused by what they lack. No code, no pickles."""

import json
import shutil
import sys
import types

import pytest

from untaught import assets
from untaught.assets.fetching import fetch
from untaught.core import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder as transformers writes it."""
    from untaught.engine import models
    from untaught.lab.start import StartingModel

    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    texts = [f"Something is said here {n} times." for n in range(40)]
    models.save(StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(texts, 0), folder)
    return folder


@pytest.fixture
def own(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "small")


def test_a_folder_is_copied_without_code_and_recorded(own):
    from untaught.engine import models

    (own / "modeling_own.py").write_text("raise SystemExit")
    (own / "training_args.bin").write_bytes(b"a pickle")
    done = fetch(str(own))
    names = {path.name for path in done.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "provenance.json"} <= names
    assert not names & {"modeling_own.py", "training_args.bin"}
    assert done.provenance.source["local"] == str(own)
    assert done.provenance.given == str(own)
    assert models.load(assets.path("asset:small")).model.config.hidden_size == 32
    assert not fetch(str(own)).now


def test_a_name_that_is_taken_is_said(own, tmp_path):
    fetch(str(own))
    other = shutil.copytree(own, tmp_path / "other" / "small")
    with pytest.raises(UserError, match=r"the name 'small' is taken by an asset from .*--name"):
        fetch(str(other))
    assert fetch(str(other), name="second").folder.name == "second"
    with pytest.raises(UserError, match="'smollm2' is the name of an asset of the catalogue"):
        fetch(str(other), name="smollm2")
    with pytest.raises(UserError, match="cannot name an asset"):
        fetch(str(other), name="../x")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without(*names):
    def remove(folder):
        for name in names:
            (folder / name).unlink()

    return remove


def with_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_own.Own"}}))


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def headless(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)


def sharded(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def garbled(folder):
    (folder / "config.json").write_text("{")


WRONG = [
    (pickled, r"has only pytorch_model\.bin, which would run code when loaded"),
    (without("model.safetensors"), "has no weights"),
    (without("config.json"), r"has no config\.json"),
    (without("tokenizer.json"), "has no tokenizer"),
    (with_code, r"config\.json asks to run code of its own"),
    (cut, r"model\.safetensors has \d+ bytes and its header speaks of \d+"),
    (headless, r"model\.safetensors is cut short or no safetensors file"),
    (sharded, r"lacks model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json names"),
    (garbled, r"config\.json is not a JSON table"),
]


@pytest.mark.parametrize(("spoil", "told"), WRONG, ids=[told[:24] for _, told in WRONG])
def test_a_folder_that_cannot_be_used_is_refused(spoil, told, own):
    spoil(own)
    with pytest.raises(UserError, match=told):
        fetch(str(own))
    with pytest.raises(UserError, match="is not there"):
        assets.path("asset:small")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match="neither a model folder nor a GGUF file"):
        fetch(str(tmp_path / "notes.txt"))


class Hub(types.ModuleType):
    """What `huggingface_hub` is to us: one repository, in a folder."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, []

    def HfApi(self):  # noqa: N802
        return self

    def model_info(self, name, revision):
        if name == "no/such":
            raise FileNotFoundError("404\nlong story")
        self.asked.append((name, revision))
        files = [types.SimpleNamespace(rfilename=path.name) for path in self.folder.iterdir()]
        return types.SimpleNamespace(sha="c0ffee", siblings=files, tags=["license:mit", "text"])

    def snapshot_download(self, name, *, revision, allow_patterns, local_dir):
        self.asked.append((name, revision))
        for file in allow_patterns:
            shutil.copy(self.folder / file, local_dir)
        (local_dir / ".cache").mkdir()
        (local_dir / ".cache" / "note").write_text("of the Hub's own")


@pytest.fixture
def hub(own, monkeypatch):
    made = Hub(own)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_a_model_of_the_hub_is_taken_at_a_commit(hub, own):
    (own / "modeling_own.py").write_text("raise SystemExit")
    done = fetch("hub:someone/tiny@main")
    assert hub.asked == [("someone/tiny", "main"), ("someone/tiny", "c0ffee")]
    assert done.provenance.source == {"hub": "someone/tiny", "commit": "c0ffee", "asked": "main"}
    assert (done.provenance.asset, done.provenance.licence) == ("tiny", "mit")
    assert "modeling_own.py" not in done.provenance.files
    assert not (done.folder / ".cache").exists()
    assert not fetch("hub:someone/tiny@main").now
    assert done.provenance.mend == "untaught fetch hub:someone/tiny@main --name tiny --again"


def test_what_the_hub_cannot_give_is_said(hub, own, monkeypatch):
    with pytest.raises(UserError, match=r"'hub:no/such' cannot be fetched \(FileNotFoundError\): 404$"):
        fetch("hub:no/such")
    with pytest.raises(UserError, match="names no model"):
        fetch("hub:tiny")
    pickled(own)
    with pytest.raises(UserError, match=r"hub:someone/tiny at c0ffee has only pytorch_model\.bin"):
        fetch("hub:someone/tiny")
    assert ("someone/tiny", "c0ffee") not in hub.asked, "nothing was downloaded"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs the extra 'hub'"):
        fetch("hub:someone/tiny")
