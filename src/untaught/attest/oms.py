"""Signatures of a model folder's files, in OpenSSF Model Signing 1.0: `model_signing verify key` accepts ours, and we
accept those of `model_signing sign key` (https://github.com/sigstore/model-transparency).

    bundle      a Sigstore bundle v0.3: which key (SHA-256 of its PEM text), and a DSSE envelope with one signature
    payload     an in-toto Statement v1 on one subject, the root digest of `manifest`
    predicate   https://model_signing/signature/v1.0: how files were hashed, what was left out, every file's SHA-256

Ours hold canonical JSON. Ed25519 keys sign too, and then only this package can verify: version 1.1 of `model_signing`
knows elliptic curves only.

Without a key, a bundle is Sigstore's (`keyless`), with a certificate and an entry of a log in place of the key.

Differs: read are SHA-256 of whole files only; shards, BLAKE, and certificates of others than Sigstore are for
`model_signing` itself. A link is never followed because a signature says so. A signature's own list of what is left out
is heeded, as it is signed, and what it leaves out is named in the manifest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec

from ..core import UserError
from . import dsse, keyless, keys, manifest
from .canonical import LONGEST, dumps, loads
from .manifest import Entry, Manifest
from .refusals import BadSignature, Tampered

MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
OTHERWISE = "Verify it with model_signing itself."
Signer = keys.Signer | keyless.Signer
Verifier = keys.Verifier | keyless.Verifier
KEY_FIELDS, MATERIAL_FIELDS = {"hint", "rawBytes", "keyDetails"}, {"publicKey", "tlogEntries"}


def interchangeable(signer: Signer) -> bool:
    """Whether `model_signing` can verify what is signed so: with an ECDSA key, or with none, but not with Ed25519."""
    return isinstance(signer, keyless.Signer) or isinstance(signer.key, ec.EllipticCurvePrivateKey)


def statement(made: Manifest, *, followed: bool = False, left_out: Iterable[str] = ()) -> dict[str, Any]:
    """The in-toto statement about a folder's files, as plain data. `left_out`: paths that are no part of it."""
    how = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": followed,
        "ignore_paths": sorted({*manifest.GIT, *left_out}),
    }
    files = [{"algorithm": "sha256", "digest": one.sha256, "name": one.path} for one in made.entries]
    return {
        "_type": STATEMENT,
        "subject": [{"name": made.name, "digest": {"sha256": made.root}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": how, "resources": files},
    }


def bundle(made: Manifest, signer: Signer, *, followed: bool = False, left_out: Iterable[str] = ()) -> bytes:
    """A signed Sigstore bundle about a folder's files: what `sign` writes."""
    payload = dumps(statement(made, followed=followed, left_out=left_out))
    if isinstance(signer, keyless.Signer):
        return signer.seal(payload)
    return dumps(
        {
            "mediaType": MEDIA,
            "verificationMaterial": {"publicKey": {"hint": _hint(signer.verifier())}, "tlogEntries": []},
            "dsseEnvelope": dsse.seal(payload, PAYLOAD, signer),
        }
    )


def sign(
    folder: Path,
    signer: Signer,
    out: Path,
    *,
    cache: Path | None = None,
    follow: bool = False,
    ignore: Iterable[str] = (),
    force: bool = False,
) -> Manifest:
    """Sign a folder: write a bundle to `out` and give the manifest that was signed. A signature that is there is only
    written over with `force`, and anything else never. `out` may be in the folder: it is no part of what is signed.
    """
    check_free(out, force)
    left_out = {*ignore, *within(folder, out)}
    made = manifest.of_folder(folder, cache=cache, follow=follow, ignore=left_out)
    write(out, bundle(made, signer, followed=follow, left_out=left_out))
    return made


def verify(
    folder: Path,
    signature: Path,
    verifier: Verifier,
    *,
    workers: int | None = None,
    follow: bool = False,
    ignore: Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """The manifest of a folder whose files are exactly what this key signed; otherwise `BadSignature` or
    `BytesDiffer`. `ignore` names paths in the folder that are no part of it, beside those that the signature names.
    """
    expected, left_out = opened(signature, verifier)
    own = {*ignore, *left_out, *within(folder, signature)}
    return manifest.check_folder(expected, folder, workers=workers, follow=follow, ignore=own, progress=progress)


def opened(signature: Path, verifier: Verifier) -> tuple[Manifest, tuple[str, ...]]:
    """What a bundle expects of a folder, and which paths it leaves out, if this key signed it."""
    where, data = str(signature), read(signature, "signature")
    return expected(payload(loads(data, where), data, verifier, where), where)


def read(file: Path, kind: str) -> bytes:
    """A signature's or a statement's file, unless it is too large to be one."""
    try:
        with file.open("rb") as opened_:
            data = opened_.read(LONGEST + 1)
    except FileNotFoundError:
        raise UserError(f"there is no {kind} {file}. Give the file that signing wrote.") from None
    except OSError as error:
        raise UserError(f"the {kind} {file} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise UserError(f"the {kind} {file} is empty. Give the file that signing wrote.")
    return data


def payload(told: Any, data: bytes, verifier: Verifier, where: str) -> bytes:
    """What is signed in a bundle, given as it was read and as bytes, if the key or identity at hand signed it."""
    table = _table(told, where, {"mediaType", "verificationMaterial", "dsseEnvelope"})
    if table["mediaType"] != MEDIA:
        raise BadSignature(f"{where} is no Sigstore bundle v0.3: its mediaType is {str(table['mediaType'])[:100]!r}.")
    if isinstance(verifier, keyless.Verifier):
        _check_certified(table["verificationMaterial"], where)
        return verifier.open_(data, PAYLOAD, where)
    _check_material(table["verificationMaterial"], verifier, where)
    return dsse.open_(table["dsseEnvelope"], verifier, PAYLOAD, where)


def expected(content: bytes, where: str) -> tuple[Manifest, tuple[str, ...]]:
    """What a payload that was found to be signed expects of a folder, and which paths it leaves out."""
    return _expected(loads(content, f"the payload of {where}"), f"the payload of {where}")


def check_free(out: Path, force: bool) -> None:
    """A `UserError` where a file would be written over that should not be: without `force` any, with it one that is no
    signature.
    """
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into. Make it first.")
    if not os.path.lexists(out):
        return
    if not force:
        raise UserError(f"{out} is there already. Give another name, or ask for it to be written over (--force).")
    try:
        with out.open("rb") as file:
            told = loads(file.read(LONGEST + 1), str(out))
    except (OSError, Tampered):
        told = None
    if not isinstance(told, dict) or not {"dsseEnvelope", "payloadType"} & cast("dict[str, Any]", told).keys():
        raise UserError(f"{out} is no signature or statement, so it is not written over. Give another name.")


def write(out: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        manifest.write_whole(out, data)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Give another place.") from None


def within(folder: Path, file: Path) -> tuple[str, ...]:
    """A file's path below a folder, if it is in there. A link in the folder counts as where it is."""
    place, root = file.parent.resolve() / file.name, folder.resolve()
    return (place.relative_to(root).as_posix(),) if place.is_relative_to(root) else ()


def _hint(verifier: keys.Verifier) -> str:
    """What a bundle knows a key by: SHA-256 over its PEM text."""
    return hashlib.sha256(verifier.pem).hexdigest()


def _table(value: Any, where: str, fields: set[str]) -> dict[str, Any]:
    """A table with exactly these fields."""
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != fields:
        raise BadSignature(f"{where} is no signature of model files: it should have {', '.join(sorted(fields))} only.")
    return cast("dict[str, Any]", value)


def _check_certified(value: Any, where: str) -> None:
    """It was signed without a key, so that an identity can be looked for in it."""
    if isinstance(value, dict) and "publicKey" in value:
        raise UserError(f"{where} was signed with a key, and an identity is at hand. Give the public key: --key.")


def _check_material(value: Any, verifier: keys.Verifier, where: str) -> None:
    """It was signed with a key, and names no other than the one at hand."""
    material = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if {"certificate", "x509CertificateChain"} & material.keys():
        raise UserError(
            f"{where} was signed with a certificate, and a key is at hand. Say whom you believe: --identity, --issuer."
        )
    key = material.get("publicKey")
    if not material.keys() <= MATERIAL_FIELDS or not isinstance(key, dict):
        raise BadSignature(f"{where} does not say which key signed it: it should have publicKey and tlogEntries only.")
    named = cast("dict[str, Any]", key)
    if not named.keys() <= KEY_FIELDS or material.get("tlogEntries", []) != []:
        raise BadSignature(f"{where} has more about its key than a signature with a key has.")
    if named.get("hint") not in (None, "", _hint(verifier)):
        raise BadSignature(f"{where} names another key than the one at hand, {verifier.keyid[:16]}.")


def _expected(told: Any, where: str) -> tuple[Manifest, tuple[str, ...]]:
    """What a payload says of a folder, if it does not contradict itself."""
    table = _table(told, where, {"_type", "subject", "predicateType", "predicate"})
    if table["_type"] != STATEMENT or table["predicateType"] != PREDICATE:
        raise BadSignature(f"{where} is {str(table['predicateType'])[:100]!r}, and should be {PREDICATE}.")
    try:
        (subject,) = table["subject"]
        name, root = str(subject["name"]), subject["digest"]["sha256"]
        how, files = table["predicate"]["serialization"], table["predicate"]["resources"]
        method, kind = how["method"], how["hash_type"]
        left_out: list[Any] = how.get("ignore_paths", [])
        entries = [(one["name"], one["algorithm"], one["digest"]) for one in files]
        texts = all(isinstance(text, str) for text in [root, *left_out, *(text for entry in entries for text in entry)])
    except (LookupError, TypeError, ValueError, AttributeError):
        raise BadSignature(f"{where} lacks what a signature of model files has.") from None
    if not texts:
        raise BadSignature(f"{where} has numbers or tables where names and digests should be.")
    if (method, kind) != ("files", "sha256"):
        raise UserError(f"{where} has {kind} of {method}, and only sha256 of files is read here. {OTHERWISE}")
    return _checked(name, root, entries, where), tuple(one for one in left_out if manifest.fault(one) is None)


def _checked(name: str, root: str, entries: list[tuple[str, str, str]], where: str) -> Manifest:
    """A manifest whose names lead nowhere else and whose digests come to its root."""
    seen: set[str] = set()
    for path, algorithm, digest in entries:
        if wrong := manifest.fault(path):
            raise BadSignature(f"{where}: the name {path[:200]!r} {wrong}.")
        if algorithm != "sha256" or not manifest.SHA256.fullmatch(digest):
            raise BadSignature(f"{where}: the digest of {path} is not SHA-256 in small hexadecimal digits.")
        if path in seen:
            raise BadSignature(f"{where}: {path} is there twice.")
        seen.add(path)
    if not entries or manifest.root_of(digest for _, _, digest in entries) != root:
        raise BadSignature(f"{where}: the files' digests do not come to its root digest.")
    return Manifest(name, tuple(Entry(path, -1, digest) for path, _, digest in entries))
