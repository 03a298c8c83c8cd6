"""Signed envelopes: DSSE 1.0 (https://github.com/secure-systems-lab/dsse), with exactly one signature.

What is signed is not the payload but its pre-authentication encoding, so that a payload of one type cannot pass for
one of another:

    PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload

Differs from the protocol: several signatures are refused, and so is base64 that is not the standard and shortest
spelling; both leave room for altering an envelope without anybody noticing. What of that is left is ECDSA's own: of a
signature (r, s) anybody can make a second one of the same text, (r, n - s). It says the same and no more, so nothing
here takes a signature for the name of what it signs.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, cast

from .keys import Signer, Verifier
from .refusals import BadSignature

FIELDS = {"payload", "payloadType", "signatures"}


def encoded(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, signer: Signer) -> dict[str, Any]:
    """An envelope around a payload, as plain data."""
    signature = signer.sign(encoded(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": signer.keyid, "sig": base64.b64encode(signature).decode()}],
    }


def open_(envelope: Any, verifier: Verifier, payload_type: str, where: str = "the envelope") -> bytes:
    """The payload, if this key signed it as this type; otherwise `BadSignature`. `where` names it in an error."""
    if not isinstance(envelope, dict) or envelope.keys() != FIELDS:
        raise BadSignature(f"{where} is no DSSE envelope: it should have payload, payloadType and signatures only.")
    fields = cast("dict[str, Any]", envelope)
    kind, signed = fields["payloadType"], _listed(fields["signatures"])
    if not isinstance(kind, str):
        raise BadSignature(f"{where} has a payloadType that is no text.")
    if len(signed) != 1:
        raise BadSignature(f"{where} has {len(signed)} signatures, and should have exactly one.")
    signature = _signature(signed[0], verifier, where)
    content = _decoded(fields["payload"], f"the payload of {where}")
    if not verifier.verify(signature, encoded(kind, content)):
        raise BadSignature(f"{where} was not signed by the key {verifier.keyid[:16]}, or was altered since.")
    if kind != payload_type:
        raise BadSignature(f"{where} is signed as {kind[:100]!r}, and {payload_type!r} was asked for.")
    return content


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _signature(entry: Any, verifier: Verifier, where: str) -> bytes:
    if not isinstance(entry, dict) or not {"sig"} <= entry.keys() <= {"sig", "keyid"}:
        raise BadSignature(f"{where} has a signature with fields other than keyid and sig.")
    fields = cast("dict[str, Any]", entry)
    keyid = fields.get("keyid")
    if keyid and keyid != verifier.keyid:
        raise BadSignature(f"{where} names the key {str(keyid)[:16]}, and the one at hand is {verifier.keyid[:16]}.")
    return _decoded(fields["sig"], f"the signature of {where}")


def _decoded(text: Any, what: str) -> bytes:
    """Bytes of base64 in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise BadSignature(f"{what} is not base64.")
    return data
