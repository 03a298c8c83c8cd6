"""Signatures without a key: real ones of Sigstore's are verified offline, and nothing is signed with a key instead.

`data/sigstore/pypi.sigstore.json` is the publish attestation of pypi-attestations 0.0.19 on PyPI, as a bundle; it was
taken from the source distribution of pypi-attestations 0.0.30 (Apache-2.0), test/assets.
"""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from releases import release

from untaught.attest import keyless, oms
from untaught.attest.predicate import PAYLOAD
from untaught.attest.refusals import BadSignature
from untaught.core import UserError

FILE = Path(__file__).parent / "data" / "sigstore" / "pypi.sigstore.json"
WHO = "https://github.com/trailofbits/pypi-attestations/.github/workflows/release.yml@refs/tags/v0.0.19"
GITHUB = "https://token.actions.githubusercontent.com"


@pytest.fixture
def library():
    return pytest.importorskip("sigstore")


def token(**changes):
    """A token as a provider writes it; only Sigstore would look at its signature."""
    now = int(time.time())
    claims = {"aud": "sigstore", "sub": "kim", "iss": "https://accounts.google.com", "iat": now, "exp": now + 600}
    claims |= {"email": "kim@example.org", "email_verified": True, **changes}
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), "AA"])


@pytest.mark.usefixtures("library")
def test_a_real_bundle_is_opened_by_its_identity_and_issuer_without_network():
    payload = keyless.Verifier(WHO, GITHUB).open_(FILE.read_bytes(), PAYLOAD, "it")
    assert json.loads(payload)["subject"][0]["name"] == "pypi_attestations-0.0.19.tar.gz"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("who", "issuer"), [("kim@example.org", GITHUB), (WHO, "https://accounts.google.com"), (WHO[:-1], GITHUB)]
)
def test_another_identity_or_issuer_is_refused(who, issuer):
    with pytest.raises(BadSignature, match="was not signed by"):
        keyless.Verifier(who, issuer).open_(FILE.read_bytes(), PAYLOAD, "it")


def changes():
    """The bundle with one thing of it changed."""

    def of(change):
        told = json.loads(FILE.read_bytes())
        change(told)
        return json.dumps(told).encode()

    def flip(table, key):
        data = bytearray(base64.b64decode(table[key]))
        data[len(data) // 2] ^= 1
        table[key] = base64.b64encode(data).decode()

    yield of(lambda b: flip(b["dsseEnvelope"], "payload"))
    yield of(lambda b: flip(b["dsseEnvelope"]["signatures"][0], "sig"))
    yield of(lambda b: b["dsseEnvelope"].update(payloadType="x"))
    yield of(lambda b: b["dsseEnvelope"]["signatures"].clear())
    yield of(lambda b: flip(b["verificationMaterial"]["certificate"], "rawBytes"))
    yield of(lambda b: b["verificationMaterial"]["tlogEntries"].clear())
    entry = lambda b: b["verificationMaterial"]["tlogEntries"][0]  # noqa: E731
    yield of(lambda b: flip(entry(b), "canonicalizedBody"))
    yield of(lambda b: flip(entry(b)["inclusionProof"], "rootHash"))
    yield of(lambda b: entry(b).update(logIndex="1"))
    yield b"{}"


@pytest.mark.usefixtures("library")
def test_a_bundle_of_which_anything_was_changed_is_refused():
    for data in changes():
        with pytest.raises(BadSignature):
            keyless.Verifier(WHO, GITHUB).open_(data, PAYLOAD, "it")


@pytest.mark.usefixtures("library")
def test_what_is_signed_by_the_right_one_and_is_no_statement_is_refused_by_the_verb(desk, tmp_path):
    one = release(tmp_path / "one")
    words = ("verify", one.model, "--statement", FILE, "--identity", WHO, "--issuer", GITHUB)
    done = desk(*words)
    assert (done.code, "is no statement of untaught" in done.err) == (2, True), done.err
    done = desk(*words[:-1], "https://accounts.google.com")
    assert (done.code, "was not signed by" in done.err) == (3, True), done.err
    done = desk(*words, "--trust", one.run / "study.yaml")
    assert (done.code, "as a trusted root" in done.err) == (2, True), done.err


def test_who_is_believed_is_said_once_and_whole(desk, tmp_path):
    one = release(tmp_path / "one", kind="ecdsa")
    verify = ("verify", one.model, "--statement", one.statement)
    for more in (
        (), ("--identity", WHO), ("--issuer", GITHUB), ("--key", one.public, "--identity", WHO, "--issuer", GITHUB),
        ("--key", one.public, "--trust", FILE),
    ):  # fmt: skip
        done = desk(*verify, *more)
        assert (done.code, "whom you believe" in done.err) == (2, True), done.err
    for statement in (one.statement, one.bundle):
        done = desk(*verify[:-1], statement, "--identity", WHO, "--issuer", GITHUB)
        assert (done.code, "signed with a key" in done.err) == (2, True), done.err
    done = desk("verify", one.model, "--statement", FILE, "--key", one.public)
    assert (done.code, "--identity, --issuer" in done.err) == (2, True), done.err


@pytest.mark.usefixtures("library")
def test_nothing_is_signed_without_a_token_or_the_network_and_no_key_is_taken_instead(desk, tmp_path, monkeypatch):
    one, out = release(tmp_path / "one"), tmp_path / "new.json"
    for name in (keyless.TOKEN, "GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITLAB_CI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    sign = ("sign", one.model, "--run", one.run, "--out", out)

    def wrong(said, *more):
        done = desk(*sign, *more)
        assert (done.code, said in done.err) == (2, True), done.err
        assert "Traceback" not in done.err
        assert not out.exists()
        assert not out.with_suffix(".sig").exists()

    wrong("one only")
    wrong("one only", "--key", one.key, "--keyless")
    wrong("one only", "--key", one.key, "--token", FILE)
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda *_: None)
    wrong("there is no identity token", "--keyless")
    wrong("cannot be read", "--keyless", "--token", tmp_path / "none")
    wrong("of no use", "--keyless", "--token", one.run / "study.yaml")
    monkeypatch.setenv(keyless.TOKEN, token(exp=int(time.time()) - 100))
    wrong("of no use", "--keyless")
    monkeypatch.setenv(keyless.TOKEN, token())
    wrong("Sigstore did not sign", "--keyless")


@pytest.mark.usefixtures("library")
def test_both_files_are_signed_by_one_certificate_over_the_very_bytes(desk, tmp_path, monkeypatch):
    """Only where the library would meet the network is it another: it gives the real bundle for whatever is signed."""
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.sign import Signer, SigningContext

    asked = []

    def sign_dsse(self, statement):
        asked.append((self, statement._contents))
        return Bundle.from_json(FILE.read_bytes())

    monkeypatch.setattr(Signer, "sign_dsse", sign_dsse)
    monkeypatch.setattr(Signer, "_signing_cert", lambda self: None)
    monkeypatch.setattr(SigningContext, "from_trust_config", lambda trusted: SimpleNamespace(trusted=trusted))
    offline = ClientTrustConfig.production(offline=True)
    monkeypatch.setattr(ClientTrustConfig, "production", lambda **_: offline)
    one, out = release(tmp_path / "one"), tmp_path / "new.json"
    (tmp_path / "token").write_text(token() + "\n")
    done = desk("sign", one.model, "--run", one.run, "--out", out, "--keyless", "--token", tmp_path / "token")
    assert done.code == 0, done.err
    assert "Signed by kim@example.org, for whom https://accounts.google.com vouches" in done.err
    (first, statement), (second, files) = asked
    assert first is second
    assert statement == base64.b64decode(json.loads(one.statement.read_bytes())["payload"])
    assert json.loads(files)["predicateType"] == oms.PREDICATE
    for path in (out, out.with_suffix(".sig")):
        assert json.loads(path.read_bytes())["mediaType"] == oms.MEDIA


def test_without_the_library_what_it_is_for_is_said():
    code = (
        "import sys; sys.modules['sigstore'] = None\n"
        "from untaught.attest import keyless\nfrom untaught.core import UserError\n"
        "for ask in (keyless.signer, lambda: keyless.Verifier('x', 'y').open_(b'', '', 'it')):\n"
        "    try:\n        ask()\n    except UserError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'untaught[sign]'") == 2


def test_a_token_is_never_shown():
    assert token() not in repr(keyless.Signer(token()))
    assert issubclass(BadSignature, UserError)
