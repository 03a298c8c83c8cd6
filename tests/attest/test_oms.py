"""Signatures of model folders: those that `model_signing` made are accepted for ever, and no changed one is.

`data` holds a folder of invented files and what `model_signing` 1.1.1 signed it with. The private keys are gone.
"""

import base64
import json
import shutil
from pathlib import Path

import keyring
import pytest

from untaught.attest import dsse, oms
from untaught.attest.canonical import dumps
from untaught.attest.keys import load_public
from untaught.attest.manifest import cache_of, of_folder
from untaught.attest.refusals import BadSignature, BytesDiffer
from untaught.core import ExitCode, UserError

DATA = Path(__file__).parent / "data"
CURVES = ("prime256v1", "secp384r1", "secp521r1")


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(DATA / "model", tmp_path / "model"))


@pytest.fixture(scope="module")
def signer():
    return keyring.signer()


@pytest.fixture
def signed(model, signer, tmp_path):
    """Where a signature of the folder is, beside it."""
    oms.sign(model, signer, tmp_path / "model.sig")
    return tmp_path / "model.sig"


@pytest.mark.parametrize("curve", CURVES)
def test_what_model_signing_signed_is_accepted(curve, model):
    made = oms.verify(model, DATA / f"{curve}.sig", load_public(DATA / f"{curve}.pub"))
    assert made == of_folder(model)


@pytest.mark.parametrize("curve", CURVES)
def test_what_model_signing_signed_is_refused_with_another_key_or_other_files(curve, model):
    with pytest.raises(BadSignature, match="names another key"):
        oms.verify(model, DATA / f"{curve}.sig", keyring.signer().verifier())
    (model / "config.json").write_text("{}")
    with pytest.raises(BytesDiffer, match=r"config.json \(changed\)"):
        oms.verify(model, DATA / f"{curve}.sig", load_public(DATA / f"{curve}.pub"))


@pytest.mark.parametrize("other", ["shards", "blake3"])
def test_other_ways_of_hashing_are_named_and_left_to_model_signing(other, model):
    with pytest.raises(UserError, match="Verify it with model_signing itself") as caught:
        oms.verify(model, DATA / f"{other}.sig", load_public(DATA / "prime256v1.pub"))
    assert not hasattr(caught.value, "code")


@pytest.mark.parametrize("kind", keyring.MAKERS)
def test_what_is_signed_here_is_accepted_here(kind, model, tmp_path):
    made = keyring.signer(kind)
    manifest = oms.sign(model, made, tmp_path / "model.sig")
    assert oms.verify(model, tmp_path / "model.sig", made.verifier()) == manifest == of_folder(model)
    assert oms.interchangeable(made) == kind.startswith("ECDSA")


def test_a_signature_has_the_form_that_model_signing_writes(model, signed, signer):
    ours, theirs = json.loads(signed.read_bytes()), json.loads((DATA / "prime256v1.sig").read_bytes())

    def payload(bundle):
        told = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        told["predicate"]["serialization"]["ignore_paths"].sort()
        return told

    assert payload(ours) == payload(theirs)
    assert form(ours) == form(theirs)
    assert signed.read_bytes() == dumps(ours)


def form(value):
    """Keys and kinds of values, without these."""
    if isinstance(value, dict):
        return {key: form(one) for key, one in value.items()}
    return [form(one) for one in value] if isinstance(value, list) else type(value)


def test_a_signature_in_the_folder_is_no_part_of_it(model, signer):
    before = of_folder(model)
    assert oms.sign(model, signer, model / "model.sig").root == before.root
    found = oms.verify(model, model / "model.sig", signer.verifier())
    assert (found.root, found.ignored) == (before.root, ("model.sig",))
    (model / "model.sig").rename(model / "moved.sig")  # what is verified is no part of what it says either
    assert oms.verify(model, model / "moved.sig", signer.verifier()).root == before.root


def test_what_is_left_out_is_signed_and_named(model, signer, tmp_path):
    (model / "statement.json").write_text("{}")
    oms.sign(model, signer, tmp_path / "model.sig", ignore=["statement.json"])
    assert oms.verify(model, tmp_path / "model.sig", signer.verifier()).ignored == ("statement.json",)
    (model / "other.json").write_text("{}")
    with pytest.raises(BytesDiffer, match=r"other.json \(extra\)"):
        oms.verify(model, tmp_path / "model.sig", signer.verifier())


def test_a_signature_with_a_cache_is_the_same_as_without(model, signer, tmp_path):
    roots = {oms.sign(model, signer, tmp_path / f"{n}.sig", cache=cache_of(model)).root for n in range(2)}
    assert roots == {of_folder(model).root}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "README.md").write_text("other"), r"README.md \(changed\)"),
        (lambda folder: (folder / "README.md").unlink(), r"README.md \(missing\)"),
        (lambda folder: (folder / "more").write_text("x"), r"more \(extra\)"),
        (lambda folder: (folder / "README.md").rename(folder / "LIESMICH.md"), r"LIESMICH.md \(extra\)"),
        (lambda folder: (folder / "README.md").rename(folder / "readme.md"), r"readme.md \(extra\)"),
        (lambda folder: (folder / "away").symlink_to("/etc/hostname"), "away is a link"),
        (lambda folder: (folder / "a\\b").write_text("x"), "would be read as another place"),
        (lambda folder: (folder / "Config.json").write_text("x"), "are one on some file systems"),
    ],
)
def test_a_changed_folder_is_refused_by_what_changed(change, said, model, signed, signer):
    change(model)
    with pytest.raises(BytesDiffer, match=said) as caught:
        oms.verify(model, signed, signer.verifier())
    assert caught.value.code == ExitCode.BYTES_DIFFER


def test_a_folder_without_files_is_refused(model, signed, signer):
    shutil.rmtree(model)
    model.mkdir()
    with pytest.raises(UserError, match="has no files"):
        oms.verify(model, signed, signer.verifier())


def rewrite(signed, change):
    told = json.loads(signed.read_bytes())
    change(told)
    signed.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), "no Sigstore bundle v0.3"),
        (lambda b: b.update(mediaType=None), "no Sigstore bundle v0.3"),
        (lambda b: b.update(more=1), "should have dsseEnvelope"),
        (lambda b: b.pop("mediaType"), "should have dsseEnvelope"),
        (lambda b: b.update(verificationMaterial=[]), "does not say which key"),
        (lambda b: b["verificationMaterial"].update(more=1), "does not say which key"),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{}]), "more about its key"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64), "names another key"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(more=1), "more about its key"),
        (lambda b: b["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()), "was not signed by"),
        (lambda b: b["dsseEnvelope"].update(payloadType="x"), "was not signed by"),
        (lambda b: b["dsseEnvelope"]["signatures"].clear(), "0 signatures"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"), "was not signed by"),
    ],
)
def test_a_changed_bundle_is_refused_by_what_changed(change, said, model, signed, signer):
    rewrite(signed, change)
    with pytest.raises(BadSignature, match=said) as caught:
        oms.verify(model, signed, signer.verifier())
    assert caught.value.code == ExitCode.SIGNATURE_FAILED


def test_any_flipped_bit_of_a_signature_file_is_refused(model, signed, signer):
    data = signed.read_bytes()
    for place in range(0, len(data), 3):
        signed.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 7]) + data[place + 1 :])
        with pytest.raises(BadSignature):
            oms.verify(model, signed, signer.verifier())


def test_a_bundle_that_was_signed_with_a_certificate_is_named(model, signed, signer):
    rewrite(signed, lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": ""}, "tlogEntries": []}))
    with pytest.raises(UserError, match="signed with a certificate"):
        oms.verify(model, signed, signer.verifier())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["predicate"]["resources"].pop(), "do not come to its root"),
        (lambda s: s["predicate"]["resources"].reverse(), "do not come to its root"),
        (lambda s: s["predicate"]["resources"].clear(), "do not come to its root"),
        (lambda s: s["predicate"]["resources"][0].update(digest="0" * 64), "do not come to its root"),
        (lambda s: s["predicate"]["resources"][0].update(digest="AB" * 32), "not SHA-256 in small"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "not SHA-256"),
        (lambda s: s["predicate"]["resources"][0].update(name="../config.json"), "leads out of the folder"),
        (lambda s: s["predicate"]["resources"][0].update(name="/etc/passwd"), "leads out of the folder"),
        (lambda s: s["predicate"]["resources"][0].update(name="a\\b"), "another place on Windows"),
        (lambda s: s["predicate"]["resources"][0].update(name=7), "numbers or tables where"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "is there twice"),
        (lambda s: s["predicate"].update(resources="text"), "lacks what a signature"),
        (lambda s: s["predicate"].pop("serialization"), "lacks what a signature"),
        (lambda s: s["predicate"].update(serialization=None), "lacks what a signature"),
        (lambda s: s["subject"].append(s["subject"][0]), "lacks what a signature"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "do not come to its root"),
        (lambda s: s["subject"][0]["digest"].pop("sha256"), "lacks what a signature"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "and should be https://model_signing"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v2"), "and should be"),
        (lambda s: s.update(more=1), "should have _type"),
    ],
)
def test_a_payload_that_contradicts_itself_is_refused_whoever_signed_it(change, said, model, signer, tmp_path):
    told = json.loads(json.dumps(oms.statement(of_folder(model))))
    change(told)
    bundle = json.loads(oms.bundle(of_folder(model), signer))
    bundle["dsseEnvelope"] = dsse.seal(dumps(told), oms.PAYLOAD, signer)
    (tmp_path / "model.sig").write_bytes(dumps(bundle))
    with pytest.raises(BadSignature, match=said):
        oms.verify(model, tmp_path / "model.sig", signer.verifier())


def test_what_a_signature_leaves_out_cannot_be_everything(model, signer, tmp_path):
    made = oms.bundle(of_folder(model), signer, left_out=[".", "..", "/", ""])
    (tmp_path / "model.sig").write_bytes(made)
    (model / "extra").write_text("x")
    with pytest.raises(BytesDiffer, match="extra"):
        oms.verify(model, tmp_path / "model.sig", signer.verifier())


def test_nothing_is_written_over_a_signature_unless_it_is_asked_for(model, signed, signer):
    before = signed.read_bytes()
    with pytest.raises(UserError, match="is there already"):
        oms.sign(model, keyring.signer(), signed)
    assert signed.read_bytes() == before
    oms.sign(model, keyring.signer(), signed, force=True)
    assert signed.read_bytes() != before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_nothing_else_is_ever_written_over(name, model, signer):
    before = (model / name).read_bytes()
    with pytest.raises(UserError, match="is no signature or statement"):
        oms.sign(model, signer, model / name, force=True)
    assert (model / name).read_bytes() == before


def test_a_link_at_the_place_is_not_written_through(model, signed, signer, tmp_path):
    (tmp_path / "link.sig").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is there already"):
        oms.sign(model, signer, tmp_path / "link.sig")
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written_and_a_signature_that_is_not_there_are_wrong_input(model, signer, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        oms.sign(model, signer, tmp_path / "none" / "model.sig")
    with pytest.raises(UserError, match="there is no signature"):
        oms.verify(model, tmp_path / "none.sig", signer.verifier())
    with pytest.raises(UserError, match="cannot be read"):
        oms.verify(model, tmp_path, signer.verifier())
