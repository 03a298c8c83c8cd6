"""Signing: a statement about a model folder, and beside it a signature of its files that `model_signing` can verify.

Both have the same root digest for their subject. Nothing is written over without `force`, and nothing at all unless
everything that is to be said was found to hold: the run knows these weights, and no file of the folder could run code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..core import UserError
from . import oms
from .inspecting import refuse_unsafe
from .manifest import Manifest, cache_of, of_folder
from .oms import Signer
from .predicate import Statement
from .statement import Claim, compose, seal

PASSPHRASE = "UNTAUGHT_PASSPHRASE"
"""The environment variable that the passphrase of an encrypted key is taken from."""
CARD = "README.md"
"""The model card's name in a model folder."""


@dataclass(frozen=True)
class Signed:
    """What was written."""

    statement: Statement
    file: Path
    bundle: Path
    interchangeable: bool
    """Whether `model_signing` can verify the signature beside the statement: it knows no Ed25519."""
    by: str = ""
    """Without a key: who signed, and who vouches for that."""


def sign(
    model: Path,
    claim: Claim,
    signer: Signer,
    out: Path,
    *,
    card: Callable[[Statement], str] | None = None,
    follow: bool = False,
    force: bool = False,
) -> Signed:
    """Write a signed statement to `out` and the signature of the files beside it. `card` writes a model card first.

    Both are made from one reading of the folder, and before either is written.
    """
    bundle = bundle_of(out)
    for place in (out, bundle):
        oms.check_free(place, force)
    if card is not None and not force and os.path.lexists(model / CARD):
        raise UserError(f"{model / CARD} is there already. Leave --card out, or write over it with --force.")
    claim = replace(claim, ignored=(*oms.within(model, out), *oms.within(model, bundle)))
    refuse_unsafe(model, what="signed", strict=True, follow=follow)

    def composed() -> tuple[Manifest, Statement]:
        made = of_folder(model, cache=cache_of(model), follow=follow, ignore=claim.ignored, with_weights=True)
        return made, compose(model, made, claim)

    manifest, statement = composed()
    if card is not None:
        oms.write(model / CARD, card(statement).encode())
        manifest, statement = composed()
    sealed = seal(statement, signer), oms.bundle(manifest, signer, followed=follow, left_out=claim.ignored)
    for place, data in zip((out, bundle), sealed, strict=True):
        oms.write(place, data)
    return Signed(statement, out, bundle, oms.interchangeable(signer), getattr(signer, "words", ""))


def bundle_of(out: Path) -> Path:
    """Where the signature of the files stands, beside a statement."""
    return out.with_suffix(".sig") if out.suffix != ".sig" else out.with_suffix(".files.sig")


def is_encrypted(key: Path) -> bool:
    """Whether a private key asks for a passphrase."""
    try:
        with key.open("rb") as file:
            return b"ENCRYPTED" in file.read(2**16)
    except OSError:
        return False  # reading it will say why
