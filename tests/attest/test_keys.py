"""Keys: what signs with one is verified with its other half only, and a file that is no key says what it is."""

import hashlib

import keyring
import pytest
from cryptography.hazmat.primitives import serialization

from untaught.attest.keys import load_private, load_public
from untaught.core import ExitCode, UserError

KINDS = list(keyring.MAKERS)


@pytest.fixture
def written(tmp_path):
    """A file with these bytes."""

    def write(data, name="key.pem"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_what_a_key_signs_its_public_half_verifies_and_nothing_else(kind, passphrase, written):
    key = keyring.MAKERS[kind]()
    signer = load_private(written(keyring.private(key, passphrase)), passphrase)
    verifier = load_public(written(keyring.public(key), "key.pub"))
    signature = signer.sign(b"data")
    assert verifier.verify(signature, b"data")
    assert signer.algorithm == verifier.algorithm == kind
    assert not verifier.verify(signature, b"dat4")
    assert not verifier.verify(signature[:-1], b"data")
    assert not verifier.verify(b"", b"data")
    assert not any(keyring.signer(other).verifier().verify(signature, b"data") for other in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_of_a_signature_is_noticed(kind):
    signer = keyring.signer(kind)
    signature, verifier = signer.sign(b"data"), signer.verifier()
    for place in range(len(signature)):
        flipped = bytearray(signature)
        flipped[place] ^= 1
        assert not verifier.verify(bytes(flipped), b"data")


def test_a_key_is_known_by_the_digest_of_its_public_half():
    signer = keyring.signer()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    der = signer.key.public_key().public_bytes(serialization.Encoding.DER, spki)
    assert signer.keyid == signer.verifier().keyid == hashlib.sha256(der).hexdigest()


def test_a_key_in_the_older_form_is_read(written):
    key = keyring.MAKERS["ECDSA P-384"]()
    old = keyring.private(key, form=serialization.PrivateFormat.TraditionalOpenSSL)
    hidden = keyring.private(key, b"abc", serialization.PrivateFormat.TraditionalOpenSSL)
    assert old.startswith(b"-----BEGIN EC PRIVATE KEY")
    keyids = {load_private(written(old)).keyid, load_private(written(hidden), b"abc").keyid}
    assert keyids == {load_public(written(keyring.public(key))).keyid}


def test_a_signer_does_not_show_its_key():
    signer = keyring.signer()
    assert "PrivateKey" not in repr(signer) or hex(signer.key.private_numbers().private_value)[2:] not in repr(signer)


ED, EC = keyring.MAKERS["Ed25519"](), keyring.MAKERS["ECDSA P-256"]()


@pytest.mark.parametrize(
    ("data", "passphrase", "said"),
    [
        (keyring.private(ED, b"right"), None, "is encrypted. Give its passphrase"),
        (keyring.private(ED, b"right"), b"wrong", "the passphrase does not open"),
        (keyring.private(EC, b"right", serialization.PrivateFormat.TraditionalOpenSSL), None, "is encrypted"),
        (keyring.private(EC, b"right", serialization.PrivateFormat.TraditionalOpenSSL), b"no", "does not open"),
        (keyring.private(ED), b"needless", "is not encrypted"),
        (keyring.public(ED), None, "is a public key"),
        (keyring.private(keyring.OTHERS["RSA"]()), None, "of the kind RSA"),
        (keyring.private(keyring.OTHERS["secp256k1"]()), None, "of the curve secp256k1"),
        (b"", None, "no PEM file"),
        (b"a word", None, "no PEM file"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None, "no private key that can be read"),
        (keyring.private(ED)[:-40], None, "no private key that can be read"),
        (b"x" * 2**17 + keyring.private(ED), None, "no PEM file"),
    ],
)
def test_a_file_that_is_no_usable_private_key_says_why(data, passphrase, said, written):
    path = written(data)
    with pytest.raises(UserError, match=said) as caught:
        load_private(path, passphrase)
    assert str(path) in str(caught.value)
    assert getattr(caught.value, "code", ExitCode.WRONG_INPUT) == ExitCode.WRONG_INPUT


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (keyring.private(ED), "is a private key"),
        (keyring.public(keyring.OTHERS["RSA"]()), "of the kind RSA"),
        (keyring.public(keyring.OTHERS["secp256k1"]()), "of the curve secp256k1"),
        (b"a word", "no PEM file"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key that can be read"),
    ],
)
def test_a_file_that_is_no_usable_public_key_says_why(data, said, written):
    with pytest.raises(UserError, match=said):
        load_public(written(data))


def test_a_key_that_is_not_there_is_wrong_input(tmp_path):
    with pytest.raises(UserError, match="there is no private key"):
        load_private(tmp_path / "none.pem")
    with pytest.raises(UserError, match="there is no public key"):
        load_public(tmp_path / "none.pem")
    with pytest.raises(UserError, match="cannot be read"):
        load_public(tmp_path)
