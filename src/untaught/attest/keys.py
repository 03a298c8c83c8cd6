"""Keys in PEM files: Ed25519 (RFC 8032), and ECDSA on P-256, P-384 and P-521 with SHA-256, SHA-384 and SHA-512.

A key is known by its `keyid`: SHA-256 over its public half as SubjectPublicKeyInfo in DER. ECDSA signatures are in DER,
as Sigstore has them. RSA keys, and keys of other curves, are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import exceptions
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ..core import UserError

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

CURVES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp256r1": ("ECDSA P-256", hashes.SHA256()),
    "secp384r1": ("ECDSA P-384", hashes.SHA384()),
    "secp521r1": ("ECDSA P-521", hashes.SHA512()),
}
"""A curve's name to the algorithm's, and the digest that it is signed with."""
WANTED = "an Ed25519 key, or one of ECDSA on P-256, P-384 or P-521"
LARGEST = 2**16
"""Bytes of a key file, at most."""


@dataclass(frozen=True)
class Verifier:
    """The public half of a key."""

    key: PublicKey

    @property
    def algorithm(self) -> str:
        """`Ed25519`, `ECDSA P-256` and so on."""
        return _algorithm(self.key)

    @property
    def keyid(self) -> str:
        """SHA-256 over the SubjectPublicKeyInfo, in hexadecimal."""
        return hashlib.sha256(self._public(serialization.Encoding.DER)).hexdigest()

    @property
    def words(self) -> str:
        """`the Ed25519 key 0123456789abcdef`."""
        return f"the {self.algorithm} key {self.keyid[:16]}"

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {"key": {"id": self.keyid, "algorithm": self.algorithm}}

    @property
    def pem(self) -> bytes:
        """The public key as a PEM file has it."""
        return self._public(serialization.Encoding.PEM)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether this key signed the data."""
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, data)
            else:
                self.key.verify(signature, data, ec.ECDSA(CURVES[self.key.curve.name][1]))
        except exceptions.InvalidSignature:
            return False
        return True

    def _public(self, encoding: serialization.Encoding) -> bytes:
        return self.key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, repr=False)
class Signer:
    """The private half of a key."""

    key: PrivateKey

    @property
    def algorithm(self) -> str:
        """`Ed25519`, `ECDSA P-256` and so on."""
        return _algorithm(self.key)

    @property
    def keyid(self) -> str:
        """That of the public half."""
        return self.verifier().keyid

    def sign(self, data: bytes) -> bytes:
        """A signature of the data."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        return self.key.sign(data, ec.ECDSA(CURVES[self.key.curve.name][1]))

    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.key.public_key())


def load_private(path: Path, passphrase: bytes | None = None) -> Signer:
    """A private key from a PEM file: PKCS #8, encrypted or not, or the older SEC 1."""
    text = _read(path, "private")
    if b"-----BEGIN PUBLIC KEY-----" in text:
        raise UserError(f"{path} is a public key. Signing needs the private one.")
    try:
        key = serialization.load_pem_private_key(text, passphrase)
    except TypeError:
        if passphrase is None:
            raise UserError(f"the private key {path} is encrypted. Give its passphrase.") from None
        raise UserError(f"the private key {path} is not encrypted. Leave the passphrase out.") from None
    except (ValueError, exceptions.UnsupportedAlgorithm):
        if passphrase is not None and b"ENCRYPTED" in text:
            raise UserError(f"the passphrase does not open the private key {path}, or the file is damaged.") from None
        raise UserError(f"{path} holds no private key that can be read. Give a PEM file with {WANTED}.") from None
    if isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) and _algorithm(key):
        return Signer(key)
    raise UserError(f"the private key {path} is {_kind(key)}. Give {WANTED}.")


def load_public(path: Path) -> Verifier:
    """A public key from a PEM file."""
    text = _read(path, "public")
    if b"PRIVATE KEY-----" in text:
        raise UserError(f"{path} is a private key. Verifying needs the public one: keep this one to yourself.")
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, exceptions.UnsupportedAlgorithm):
        raise UserError(f"{path} holds no public key that can be read. Give a PEM file with {WANTED}.") from None
    if isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) and _algorithm(key):
        return Verifier(key)
    raise UserError(f"the public key {path} is {_kind(key)}. Give {WANTED}.")


def _read(path: Path, half: str) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"there is no {half} key {path}. Give the path of a PEM file.") from None
    except OSError as error:
        raise UserError(f"the {half} key {path} cannot be read: {error.strerror}.") from None
    if b"-----BEGIN " not in text or len(text) > LARGEST:
        raise UserError(f"{path} is no PEM file, and the {half} key should be one: {WANTED}.")
    return text


def _algorithm(key: PrivateKey | PublicKey) -> str:
    """Empty for a curve that is not known here."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return CURVES.get(key.curve.name, ("", hashes.SHA256()))[0]
    return "Ed25519"


def _kind(key: Any) -> str:
    """What a refused key is, in a word."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return f"of the curve {key.curve.name}"
    return "of the kind " + type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey").lstrip("_")
