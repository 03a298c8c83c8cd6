"""Statements: composed from a run about one model folder, sealed by a key, and opened again with all distrust.

    compose   run folder and model folder -> `Statement`
    seal      `Statement` -> the bytes of a DSSE envelope, canonical inside and out; signed without a key, of a bundle
    opened    what was found to be signed -> `Statement`, or why it is not believed: 2 for a version that is not known

Signing proves who says this about which bytes. It does not prove that the numbers are true, nor that a model is safe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from .. import __version__
from ..core import UserError, suggest
from ..core.settings import explain
from . import digest, dsse, keyless
from .canonical import dumps, loads
from .evidence import MEND, Run, of_filtered
from .manifest import Entry, Manifest
from .oms import Signer
from .predicate import KIND, PAYLOAD, PREDICATE, STATEMENT, VERSION, File, Kind, Model, Predicate, Statement, Transform
from .refusals import BadSignature


@dataclass(frozen=True)
class Edge:
    """What was done to weights after they were measured: the folder of those that the run evaluated, and how."""

    before: Path
    kind: Kind


@dataclass(frozen=True)
class Claim:
    """What a statement is composed from, beside the model itself."""

    run: Path
    edges: tuple[Edge, ...] = ()
    """First to last; the first starts from what the run evaluated."""
    filtered: tuple[Path, ...] = ()
    """Filter folders of `untaught filter` that the training text came from."""
    references: tuple[str, ...] = ()
    """Arms to be held against; the one that nothing was removed from, when left out."""
    ignored: tuple[str, ...] = field(default=())
    """Paths below the model folder that are not signed: the statement itself, and the signature beside it."""


def edges(before: Path | None, kind: str | None) -> tuple[Edge, ...]:
    """The edge from what was measured, if there is one."""
    if before is None and kind is None:
        return ()
    if before is None or kind is None:
        raise UserError("--of and --transform belong together: the model that was measured, and what was done to it.")
    if kind not in get_args(Kind):
        raise UserError(f"there is no transform '{kind}'.{suggest(kind, get_args(Kind))}")
    return (Edge(before, cast("Kind", kind)),)


def compose(model: Path, manifest: Manifest, claim: Claim) -> Statement:
    """The statement of a run about a model folder, or a `UserError` that says what the run does not have.

    The digest of the weights is the manifest's, where that has it.
    """
    run, weights = Run.read(claim.run), manifest.weights or weights_of(model)
    chain = [*(weights_of(edge.before) for edge in claim.edges), weights]
    place = run.place(chain[0])
    steps = zip(claim.edges, chain, chain[1:], strict=False)
    filtered = [of_filtered(folder) for folder in claim.filtered]
    try:
        references = run.references(place.arm, claim.references)
        predicate = Predicate(
            version=VERSION,
            tool=f"untaught {__version__}",
            model=Model(
                name=manifest.name,
                arm=place.arm,
                seed=place.seed,
                weights=weights,
                measured=chain[0],
                files=tuple(File(path=e.path, size=e.size, sha256=e.sha256) for e in manifest.entries),
                ignored=claim.ignored,
            ),
            transforms=tuple(Transform(kind=edge.kind, before=b, after=a) for edge, b, a in steps),
            made=run.made(chain[0], place),
            filters=(*run.filters(chain[0], place), *filtered),
            evaluations=run.results(place.arm),
            attacks=run.attacks(place.arm),
            references=references,
            study=run.evidence([place.arm, *(reference.arm for reference in references)]),
        )
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{claim.run} is not as a run is left: {_first(error)} {MEND}") from None
    subject = {"name": manifest.name, "digest": {"sha256": manifest.root}}
    table = {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate.changed()}
    return Statement.model_validate_json(dumps(table), strict=True)


def weights_of(folder: Path) -> str:
    """The digest of a model folder's weights."""
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}. Give a folder that `save_pretrained` wrote.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no *.safetensors, so there are no weights to speak of. Give a model folder.")
    return digest.of_weights(folder)


def seal(statement: Statement, signer: Signer) -> bytes:
    """A signed statement, as a file has it."""
    if isinstance(signer, keyless.Signer):
        return signer.seal(dumps(statement.plain()))
    return dumps(dsse.seal(dumps(statement.plain()), PAYLOAD, signer)) + b"\n"


def opened(payload: bytes, where: str) -> Statement:
    """The statement in a payload that was found to be signed, every character of it."""
    table = loads(payload, f"the payload of {where}")
    if not isinstance(table, dict):
        raise BadSignature(f"{where} is signed, but it is no statement. Ask its signer.")
    _check_kind(cast("dict[str, Any]", table), where)
    if dumps(table) != payload:
        raise BadSignature(f"the payload of {where} is not canonical JSON, which a statement is. Ask its signer.")
    try:
        statement = Statement.model_validate_json(payload, strict=True)  # so that no text passes for a number
    except ValidationError as error:
        raise UserError(f"{where} is signed, but not a statement of version {VERSION}: {_first(error)}") from None
    if root_of(statement) != statement.root:
        raise BadSignature(f"{where} contradicts itself: its files do not have the root digest that it is about.")
    return statement


def manifest_of(statement: Statement) -> Manifest:
    """The files that a statement is about."""
    model = statement.predicate.model
    return Manifest(model.name, tuple(Entry(one.path, one.size, one.sha256) for one in model.files))


def root_of(statement: Statement) -> str:
    """The root digest of the files that a statement names."""
    return manifest_of(statement).root


def _check_kind(table: dict[str, Any], where: str) -> None:
    """What kind of statement this is, before anything else of it is looked at."""
    kind = table.get("predicateType")
    known = kind == PREDICATE and table.get("_type") == STATEMENT
    told = cast("dict[str, Any]", table["predicate"]) if isinstance(table.get("predicate"), dict) else {}
    version = told.get("version") if known else None
    later = re.fullmatch(re.escape(KIND) + r"v(\d{1,9})", str(kind))
    if later and int(later[1]) > VERSION:
        version = int(later[1])
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{where} is a statement of version {version}, and untaught {__version__} reads up to version {VERSION}."
            " Verify it with a newer untaught: pip install --upgrade untaught."
        )
    if not known:
        raise UserError(
            f"{where} is signed, but is no statement of untaught: its predicateType is {str(kind)[:100]!r}, and should"
            f" be {PREDICATE!r}."
        )


def _first(error: Exception) -> str:
    """What is wrong first, in our words. Values are not quoted: they are another's."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__} {error}."
    problem: dict[str, Any] = {**error.errors()[0]}
    return explain(problem | {"input": {}}, Statement, "the statement")
