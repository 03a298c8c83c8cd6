"""Verifying: is this what was signed, by whom it should be, and does what was claimed meet what is demanded?

    1. the signature over every character of the statement, by the key at hand, or by
       an identity for whom an issuer vouches                                         else exit code 3
    2. what kind of statement it is, and of which version                             else 2; a later version is named
    3. every file of the folder: none extra, missing or changed, each named           else 4
    4. the weights in them: those that were measured, or made from these by edges     else 4
    5. with a run folder: every file of it that the numbers rest on                   else 4
       and every number, made from these files anew                                   else 5
    6. with filter folders: every receipt, and every file that a receipt names        else 4
    7. with a policy: every demand, answered by the number that decides it            else 5

Needs no network and no torch. Digests that were kept from earlier are not believed: every byte is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..core import UserError
from . import dsse, evidence, keyless, oms
from .canonical import loads
from .manifest import Manifest, check_folder
from .oms import Verifier
from .policy import Answer, Policy
from .predicate import PAYLOAD, Statement
from .refusals import BytesDiffer, ClaimFails
from .statement import manifest_of, opened


@dataclass(frozen=True)
class Verified:
    """What was found to be so."""

    by: Verifier
    manifest: Manifest
    statement: Statement | None
    """None: a signature of the files, which claims nothing of the model."""
    answers: tuple[Answer, ...] = ()
    """To every demand of the policy, met or not."""
    with_run: bool = False
    with_filters: int = 0
    """Filter folders that are those which the statement speaks of."""

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
    filtered: Sequence[Path] = (),
    follow: bool = False,
) -> Verified:
    """What holds of a model folder by a statement, or a `Refused` that says what does not.

    Demands that are not met are left in the answer: `problem` tells them.
    """
    content = _signed(file, verifier)
    told = loads(content, f"the payload of {file}")
    if isinstance(told, dict) and cast("dict[str, Any]", told).get("predicateType") == oms.PREDICATE:
        if policy is not None or run is not None or filtered:
            raise UserError(f"{file} signs files and claims nothing of the model. Give a statement of untaught sign.")
        return Verified(verifier, oms.verify(model, file, verifier, follow=follow), None)
    statement = opened(content, str(file))
    claim = statement.predicate
    own = [*claim.model.ignored, *oms.within(model, file)]
    _refuse_more_than_files(model, own)
    found = check_folder(manifest_of(statement), model, follow=follow, ignore=own, with_weights=True)
    if found.weights != claim.model.weights:
        raise BytesDiffer(f"the weights in {model} are not those that {file} speaks of, though its files are. Ask its"
                          " signer: the statement was put together wrongly.")  # fmt: skip
    if run is not None:
        _refuse_other_run(run, statement, file)
    for folder in filtered:
        _refuse_other_filter(folder, statement, file)
    answers = policy.answers(claim) if policy else ()
    return Verified(verifier, found, statement, answers, with_run=run is not None, with_filters=len(filtered))


def _signed(file: Path, verifier: Verifier) -> bytes:
    """What the key or identity at hand signed: of an envelope, or of one in a bundle."""
    where, data = str(file), oms.read(file, "statement")
    told = loads(data, where)
    if isinstance(told, dict) and "mediaType" in told:
        return oms.payload(cast("dict[str, Any]", told), data, verifier, where)
    if isinstance(verifier, keyless.Verifier):
        raise UserError(f"{file} was signed with a key, and an identity is at hand. Give the public key: --key.")
    return dsse.open_(told, verifier, PAYLOAD, where)


def _refuse_more_than_files(model: Path, left_out: Sequence[str]) -> None:
    """What is not signed may be a statement and a signature: no folder, whose files nobody would have looked at."""
    for name in left_out:
        if (model / name).is_symlink() or (model / name).is_dir():
            raise BytesDiffer(f"{model}: {name} is a link or a folder, and should be a statement or a signature.")


def _refuse_other_run(run: Path, statement: Statement, file: Path) -> None:
    """`BytesDiffer`, naming every file that the numbers of a statement do not rest on."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder. Give the run folder that the statement was made from.")
    if wrong := evidence.differences(run, statement.predicate.study):
        told = "".join(f"\n  {line}" for line in wrong)
        raise BytesDiffer(f"{run} is not the run that {file} rests on:{told}")
    if wrong := evidence.contradictions(run, statement.predicate):
        raise ClaimFails(f"{run} is the run that {file} rests on, and says otherwise of {', '.join(wrong)}.")


def _refuse_other_filter(folder: Path, statement: Statement, file: Path) -> None:
    """`BytesDiffer`, naming what differs, unless a filter folder is one that a statement speaks of."""
    if wrong := evidence.differences_of_filtered(folder, statement.predicate.filters):
        told = "".join(f"\n  {line}" for line in wrong)
        raise BytesDiffer(f"{folder} is not the filter folder that {file} speaks of:{told}")


def in_words(answer: Answer) -> str:
    """`FAILS: no attack ... - 0.62 (relearn, 20 steps, seed 0)`."""
    number = "no number" if answer.number is None else f"{answer.number:.4g}"
    return f"{'holds' if answer.holds else 'FAILS'}: {answer.clause} - {number} ({answer.why})"


def lines(found: Verified) -> Iterator[str]:
    """What was verified, for people."""
    count = len(found.manifest.entries)
    yield f"signed by {found.by.words}"
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
        yield "the run folder is the one that the numbers rest on, and has these numbers"
    if found.with_filters:
        yield f"{found.with_filters} filter folder{'s' if found.with_filters > 1 else ''} as the statement says"
    for answer in found.answers:
        yield in_words(answer)


def plain(found: Verified, wrong: ClaimFails | None) -> dict[str, Any]:
    """What was verified, for programs."""
    told: dict[str, Any] = {
        "verified": wrong is None,
        "code": 0 if wrong is None else int(wrong.code),
        "message": None if wrong is None else str(wrong),
        **found.by.plain(),
        "root": found.manifest.root,
        "files": len(found.manifest.entries),
        "not_signed": list(found.manifest.ignored),
        "run": found.with_run,
        "filters": found.with_filters,
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
