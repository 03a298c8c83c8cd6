"""Signatures without a key of one's own: Sigstore, through the library `sigstore` (extra `sign`).

Who signs shows a token of an OpenID Connect provider. Sigstore's authority gives a certificate for ten minutes that
says whom the token was of, what was signed goes into a public log, and the bundle holds both. Whoever verifies names
the identity and the issuer that he believes: by itself a bundle only says that somebody signed.

    token       a file, the variable UNTAUGHT_IDENTITY_TOKEN, or what the machine's surroundings give (as in CI), in
                this order. Nobody is asked, no browser is opened, and no key is taken in its place
    trust       the authorities and logs that are believed: a file of a trusted root; without one, those that the
                library came with or last fetched, so that verifying needs no network

Bundles are v0.3 with one envelope, as OpenSSF Model Signing has them (https://docs.sigstore.dev/about/bundle).
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core import UserError
from ..core.extras import from_extra
from .refusals import BadSignature

TOKEN = "UNTAUGHT_IDENTITY_TOKEN"
"""The environment variable that an identity token is taken from."""
LONGEST = 2**16
"""Bytes of a token, at most."""


@dataclass(frozen=True)
class Verifier:
    """An identity that is believed, and who vouches for it."""

    identity: str
    """An address, or the URI of a workflow."""
    issuer: str
    """The OpenID Connect provider, as `https://accounts.google.com`."""
    trust: Path | None = None

    @property
    def words(self) -> str:
        """`kim@example.org, for whom https://accounts.google.com vouches`."""
        return f"{self.identity}, for whom {self.issuer} vouches"

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {"identity": {"identity": self.identity, "issuer": self.issuer}}

    def open_(self, bundle: bytes, payload_type: str, where: str) -> bytes:
        """The payload of a bundle, if this identity signed it as this type; otherwise `BadSignature`."""
        with _library():
            from sigstore.errors import Error
            from sigstore.models import Bundle
            from sigstore.verify import Verifier as Theirs
            from sigstore.verify.policy import Identity
        root = _root(self.trust)
        try:
            kind, payload = Theirs(trusted_root=root).verify_dsse(
                Bundle.from_json(bundle), Identity(identity=self.identity, issuer=self.issuer)
            )
        except (Error, ValueError, TypeError, LookupError) as error:
            raise BadSignature(
                f"{where} was not signed by {self.words}, or was altered since: {_said(error)}."
            ) from None
        if kind != payload_type:
            raise BadSignature(f"{where} is signed as {str(kind)[:100]!r}, and {payload_type!r} was asked for.")
        return payload


@dataclass(frozen=True, repr=False)
class Signer:
    """Whoever a token is of. One certificate is asked for, and signs everything."""

    token: str
    trust: Path | None = None

    @property
    def words(self) -> str:
        """Whom the token is of, as it says itself: `kim@example.org, for whom ... vouches`."""
        return Verifier(self._token.identity, self._token.federated_issuer).words

    def check(self) -> None:
        """A `UserError` for a token that is of no use, before anything is read."""
        _ = self._token

    def seal(self, payload: bytes) -> bytes:
        """A bundle around an in-toto statement, as a file has it. Needs the network."""
        from sigstore import dsse

        try:
            return self._theirs.sign_dsse(dsse.Statement(payload)).to_json().encode() + b"\n"
        except UserError:
            raise
        except Exception as error:  # its clients raise what they like, and no network is not our bug
            raise UserError(
                f"Sigstore did not sign: {_said(error)}. It needs the network and a token that is not over. Try again,"
                " or sign with a key: --key."
            ) from None

    @cached_property
    def _token(self) -> Any:
        with _library():
            from sigstore.errors import Error
            from sigstore.oidc import IdentityToken
        try:
            return IdentityToken(self.token)
        except Error as error:
            raise UserError(
                f"the identity token is of no use: {_said(error)}. Give one for the audience 'sigstore', not over yet."
            ) from None

    @cached_property
    def _theirs(self) -> Any:
        """The library's own signer, with one certificate for all that it signs."""
        from sigstore.models import ClientTrustConfig
        from sigstore.sign import Signer as Theirs
        from sigstore.sign import SigningContext

        if self.trust is None:
            trusted = ClientTrustConfig.production()
        else:
            trusted = ClientTrustConfig.from_json(_text(self.trust).decode("utf-8", "replace"))
        return Theirs(self._token, SigningContext.from_trust_config(trusted), cache=True)


def signer(file: Path | None = None, trust: Path | None = None) -> Signer:
    """Whoever is to sign, by a token from where one is; a `UserError` where there is none."""
    with _library():
        from sigstore.errors import Error
        from sigstore.oidc import detect_credential
    token = _text(file).decode("ascii", "replace") if file is not None else os.environ.get(TOKEN)
    if token is None:
        try:
            token = detect_credential()
        except Error as error:
            raise UserError(f"the surroundings should give an identity token and do not: {_said(error)}.") from None
    if not token or not token.strip():
        raise UserError(
            f"there is no identity token. Put one into a file (--token FILE) or the variable {TOKEN}, run where one is"
            " given (as in CI), or sign with a key: --key."
        )
    made = Signer(token.strip(), trust)
    made.check()
    return made


def _root(file: Path | None) -> Any:
    """The authorities and logs that are believed."""
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig, TrustedRoot

    try:
        if file is None:
            return ClientTrustConfig.production(offline=True).trusted_root
        text = _text(file)
        if b"clienttrustconfig" in text:
            return ClientTrustConfig.from_json(text.decode("utf-8", "replace")).trusted_root
        return TrustedRoot.from_file(str(file))
    except (Error, ValueError, TypeError, LookupError, OSError) as error:
        where = "Sigstore's own trusted root" if file is None else str(file)
        raise UserError(
            f"{where} cannot be read as a trusted root: {type(error).__name__}. Give one: --trust FILE."
        ) from None


def _text(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LONGEST * 16)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Give the path of a file.") from None


@contextmanager
def _library() -> Generator[None]:
    with from_extra("sigstore", "sign", needed="signatures without a key need sigstore"):
        logging.getLogger("sigstore").setLevel(logging.ERROR)  # that it asks no network is as it should be
        yield


def _said(error: Exception) -> str:
    """What a library says, in one line."""
    told = " ".join(str(error).split())[:200].rstrip(".")
    return told or type(error).__name__
