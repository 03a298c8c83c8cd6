"""Signing: a statement about a model folder, and beside it a signature of its files that `model_signing` can verify.

Both have the same root digest for their subject. Nothing is written over without `force`, and nothing at all unless
everything that is to be said was found to hold: the run knows these weights, and no file of the folder could run code.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..core import UserError
from . import oms
from .inspecting import inspect
from .keys import Signer
from .manifest import cache_of, of_folder
from .predicate import Statement
from .statement import Claim, compose, seal
from .verifying import inside

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
    """Write a signed statement to `out` and the signature of the files beside it. `card` writes a model card first."""
    bundle = bundle_of(out)
    kept = [out, bundle, *([model / CARD] if card else [])]
    if not force and (there := [path for path in kept if path.exists()]):
        raise UserError(f"{there[0]} is there already. Give another place, or write over it with --force.")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} to. Make it, or give another --out.")
    claim = replace(claim, ignored=inside(model, [out, bundle]))
    cache = cache_of(model)
    manifest = of_folder(model, cache=cache, follow=follow, ignore=claim.ignored)
    _refuse_unsafe(model, follow)
    statement = compose(model, manifest, claim)
    if card is not None:
        write(model / CARD, card(statement).encode())
        statement = compose(model, of_folder(model, cache=cache, follow=follow, ignore=claim.ignored), claim)
    sealed = seal(statement, signer)
    signed = oms.sign(model, signer, bundle, cache=cache, follow=follow, ignore=claim.ignored, force=force)
    if signed.root != statement.root:
        bundle.unlink(missing_ok=True)
        raise UserError(f"{model} changed while it was signed. Sign it again when nobody writes to it.")
    write(out, sealed)
    return Signed(statement, out, bundle, oms.interchangeable(signer))


def _refuse_unsafe(model: Path, follow: bool) -> None:
    """A `UserError` where a file could run code: a loader might take it in place of the weights that were measured.

    Links that are followed are what the user said they are.
    """
    bad = [
        one for one in inspect(model) if one.severity == "refuse" and not (follow and (model / one.path).is_symlink())
    ]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"{model} is not signed: {bad[0].path} {bad[0].reason}{more}. Take it out; see untaught inspect {model}."
        )


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


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    made = None
    try:
        handle, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(made).chmod(0o644)
        Path(made).replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give another place.") from None
    finally:
        with contextlib.suppress(OSError):
            if made is not None:
                Path(made).unlink(missing_ok=True)
