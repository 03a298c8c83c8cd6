"""With `model_signing` at hand (extra `sign`): it accepts what is signed here, and what it signs is accepted here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keyring
import pytest

from untaught.attest import oms
from untaught.attest.keys import load_public
from untaught.attest.manifest import of_folder
from untaught.attest.refusals import BytesDiffer

pytest.importorskip("model_signing")
DATA = Path(__file__).parent / "data"
CASES = pytest.mark.parametrize(
    ("kind", "inside"), [("ECDSA P-256", True), ("ECDSA P-256", False), ("ECDSA P-384", True), ("ECDSA P-521", False)]
)


@pytest.fixture
def model(tmp_path):
    folder = Path(shutil.copytree(DATA / "model", tmp_path / "model"))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    (folder / "shards" / ".gitignore").write_text("*")
    (folder / "\u00fcber").mkdir()
    (folder / "\u00fcber" / "\U0001f600").write_bytes(os.urandom(100))
    return folder


def theirs(*arguments):
    """What `model_signing` answers."""
    command = [sys.executable, "-W", "ignore", "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def keys(kind, tmp_path):
    key = keyring.MAKERS[kind]()
    (tmp_path / "key.pem").write_bytes(keyring.private(key))
    (tmp_path / "key.pub").write_bytes(keyring.public(key))
    return keyring.Signer(key)


@CASES
def test_model_signing_accepts_ours_until_a_file_changes(kind, inside, model, tmp_path):
    signer, out = keys(kind, tmp_path), (model if inside else tmp_path) / "model.sig"
    oms.sign(model, signer, out)
    command = ("verify", "key", model, "--public_key", tmp_path / "key.pub", "--signature", out)
    assert theirs(*command).returncode == 0
    (model / "README.md").write_text("changed")
    refused = theirs(*command)
    assert refused.returncode == 1
    assert "Hash mismatch for 'README.md'" in refused.stderr


@CASES
def test_we_accept_what_model_signing_signs_until_a_file_changes(kind, inside, model, tmp_path):
    signer, out = keys(kind, tmp_path), (model if inside else tmp_path) / "model.sig"
    made = theirs("sign", "key", model, "--private_key", tmp_path / "key.pem", "--signature", out)
    assert made.returncode == 0, made.stderr
    verifier = load_public(tmp_path / "key.pub")
    assert verifier == signer.verifier()
    assert oms.verify(model, out, verifier).entries == of_folder(model, ignore=["model.sig"]).entries
    (model / "README.md").write_text("changed")
    with pytest.raises(BytesDiffer, match=r"README.md \(changed\)"):
        oms.verify(model, out, verifier)


def test_a_followed_snapshot_is_accepted_by_both(model, tmp_path):
    signer = keys("ECDSA P-256", tmp_path)
    (model / "README.md").rename(tmp_path / "blob")
    (model / "README.md").symlink_to(tmp_path / "blob")
    oms.sign(model, signer, tmp_path / "model.sig", follow=True)
    command = ("verify", "key", model, "--public_key", tmp_path / "key.pub", "--signature", tmp_path / "model.sig")
    assert theirs(*command, "--allow_symlinks").returncode == 0
    assert theirs(*command).returncode == 1
    assert oms.verify(model, tmp_path / "model.sig", signer.verifier(), follow=True).root
