"""Verifying: is this what was signed, by whom it should be, and does what was claimed meet what is demanded?

    1. the signature over every character of the statement, by the key at hand        else exit code 3
    2. what kind of statement it is, and of which version                             else 2; a later version is named
    3. every file of the folder: none extra, missing or changed, each named           else 4
    4. the weights in them: those that were measured, or made from these by edges     else 4
    5. with a run folder: every file of it that the numbers rest on                   else 4
    6. with a policy: every demand, answered by the number that decides it            else 5

Needs no network and no torch. Digests that were kept from earlier are not believed: every byte is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..core import UserError
from . import evidence, oms
from .canonical import LONGEST, loads
from .keys import Verifier
from .manifest import Manifest, check_folder
from .policy import Answer, Policy
from .predicate import Statement
from .refusals import BytesDiffer, ClaimFails
from .statement import manifest_of, opened, weights_of

BUNDLE = "application/vnd.dev.sigstore.bundle"
"""How the media type of a signature by OpenSSF Model Signing begins."""


@dataclass(frozen=True)
class Verified:
    """What was found to be so."""

    key: Verifier
    manifest: Manifest
    statement: Statement | None
    """None: a signature of the files, which claims nothing of the model."""
    answers: tuple[Answer, ...] = ()
    """To every demand of the policy, met or not."""
    with_run: bool = False

    @property
    def unmet(self) -> tuple[Answer, ...]:
        """The demands that are not met."""
        return tuple(answer for answer in self.answers if not answer.holds)


def problem(found: Verified, where: str) -> ClaimFails | None:
    """Every demand of a policy that is not met, if any is not."""
    if not found.unmet:
        return None
    told = "".join(f"\n  {in_words(answer)}" for answer in found.unmet)
    return ClaimFails(f"{len(found.unmet)} of {len(found.answers)} demands of {where} are not met:{told}")


def verify(
    model: Path,
    file: Path,
    verifier: Verifier,
    policy: Policy | None = None,
    run: Path | None = None,
    *,
    follow: bool = False,
) -> Verified:
    """What holds of a model folder by a statement, or a `Refused` that says what does not.

    Demands that are not met are left in the answer: `problem` tells them.
    """
    envelope = loads(read(file), str(file))
    if is_bundle(envelope):
        if policy is not None or run is not None:
            raise UserError(f"{file} signs files and claims nothing of the model. Give a statement of untaught sign.")
        own = inside(model, [file])
        return Verified(verifier, oms.verify(model, file, verifier, follow=follow, ignore=own), None)
    statement = opened(envelope, verifier, str(file))
    claim = statement.predicate
    own = [*claim.model.ignored, *inside(model, [file])]
    found = check_folder(manifest_of(statement), model, follow=follow, ignore=own)
    if weights_of(model) != claim.model.weights:
        raise BytesDiffer(f"the weights in {model} are not those that {file} speaks of, though its files are. Ask its"
                          " signer: the statement was put together wrongly.")  # fmt: skip
    if run is not None:
        _refuse_other_run(run, statement, file)
    answers = policy.answers(claim) if policy else ()
    return Verified(verifier, found, statement, answers, with_run=run is not None)


def read(file: Path) -> bytes:
    """A statement's file, unless it is too large to be one."""
    try:
        with file.open("rb") as opened_:
            data = opened_.read(LONGEST + 1)
    except FileNotFoundError:
        raise UserError(f"there is no statement {file}. Give the file that `untaught sign --out` wrote.") from None
    except OSError as error:
        raise UserError(f"the statement {file} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise UserError(f"the statement {file} is empty. Give the file that `untaught sign --out` wrote.")
    return data


def is_bundle(envelope: Any) -> bool:
    """Whether this is a signature of a model folder's files, and no statement of ours."""
    told = cast("dict[str, Any]", envelope) if isinstance(envelope, dict) else {}
    return str(told.get("mediaType", "")).startswith(BUNDLE)


def inside(model: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """The paths below a folder of those files that are in it."""
    root = model.absolute()
    return tuple(f.absolute().relative_to(root).as_posix() for f in files if f.absolute().is_relative_to(root))


def _refuse_other_run(run: Path, statement: Statement, file: Path) -> None:
    """`BytesDiffer`, naming every file that the numbers of a statement do not rest on."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder. Give the run folder that the statement was made from.")
    if wrong := evidence.differences(run, statement.predicate.study):
        told = "".join(f"\n  {line}" for line in wrong)
        raise BytesDiffer(f"{run} is not the run that {file} rests on:{told}")


def in_words(answer: Answer) -> str:
    """`FAILS: no attack ... - 0.62 (relearn, 20 steps, seed 0)`."""
    number = "no number" if answer.number is None else f"{answer.number:.4g}"
    return f"{'holds' if answer.holds else 'FAILS'}: {answer.clause} - {number} ({answer.why})"


def lines(found: Verified) -> Iterator[str]:
    """What was verified, for people."""
    count = len(found.manifest.entries)
    yield f"signed by the {found.key.algorithm} key {found.key.keyid[:16]}"
    yield f"{count} files as they were signed, root {found.manifest.root[:16]}"
    if found.manifest.ignored:
        yield f"not signed: {', '.join(found.manifest.ignored)}"
    if found.statement is None:
        yield "a signature of files: it claims nothing of the model"
        return
    claim = found.statement.predicate
    yield f"{claim.model.arm}, seed {claim.model.seed}, of the study: {claim.study.title}"
    for edge in claim.transforms:
        yield f"{edge.kind} after it was measured, from the weights {edge.before[:16]}: the numbers are of those"
    if found.with_run:
        yield "the run folder is the one that the numbers rest on"
    for answer in found.answers:
        yield in_words(answer)


def plain(found: Verified, wrong: ClaimFails | None) -> dict[str, Any]:
    """What was verified, for programs."""
    told: dict[str, Any] = {
        "verified": wrong is None,
        "code": 0 if wrong is None else int(wrong.code),
        "message": None if wrong is None else str(wrong),
        "key": {"id": found.key.keyid, "algorithm": found.key.algorithm},
        "root": found.manifest.root,
        "files": len(found.manifest.entries),
        "not_signed": list(found.manifest.ignored),
        "run": found.with_run,
    }
    if found.statement is not None:
        model = found.statement.predicate.model
        told["model"] = {name: getattr(model, name) for name in ("name", "arm", "seed", "weights", "measured")}
        told["tool"] = found.statement.predicate.tool
    told["answers"] = [
        {name: getattr(answer, name) for name in ("clause", "holds", "number", "bound", "why")}
        for answer in found.answers
    ]
    return told
