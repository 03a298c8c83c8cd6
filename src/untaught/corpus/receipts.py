"""Receipts: what was done to a source, by which rules, with what result. Written last: what has one is done.

A receipt is a few lines of JSON without times, hosts or attempts: the same input and rules give the same bytes.

    source, shards [{sha256, read}], policy, stages [{name, measures}], counts, outputs {path: {bytes, sha256}}, damaged

Every receipt keeps the account   read = kept + removed + quarantined.   All of them together have one root:

    leaf = SHA-256(0x00, receipt)      node = SHA-256(0x01, left, right)      the root is that of RFC 9162, section 2.1

with the receipts in the order of their paths, so that one digest in a signed statement stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..attest import digest
from ..attest.merkle import merkle
from .writing import write_atomically

FOLDER = "receipts"
DECISIONS = ("kept", "removed", "quarantined")


@dataclass(frozen=True)
class Counts:
    """Documents and bytes of text by decision; documents by stage and by reason, the numbers in a reason left out."""

    read: int = 0
    kept: int = 0
    removed: int = 0
    quarantined: int = 0
    text_bytes: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.read != self.kept + self.removed + self.quarantined:
            raise ValueError(f"documents were lost or doubled: {self}")

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """All of them together."""
        whole: dict[str, Any] = {}
        for part in parts:
            _add(whole, asdict(part))
        return cls(**_sorted(whole))


def _add(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, Mapping):
            _add(whole.setdefault(name, {}), value)
        else:
            whole[name] = whole.get(name, 0) + value


def _sorted(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _sorted(v) if isinstance(v, Mapping) else v for k, v in sorted(table.items())}


@dataclass(frozen=True)
class Receipt:
    """What was done to a source or, while its other shards are at work, to one of them."""

    source: str
    policy: str
    shards: Sequence[Mapping[str, Any]]
    """For each shard of the source, in order: `sha256` of what was read, and how many documents were `read`."""
    stages: Sequence[Mapping[str, str]]
    counts: Counts
    outputs: Mapping[str, Mapping[str, Any]]
    """By path below the filter folder: `bytes` and `sha256`."""
    damaged: str | None = None
    """Why the source could not be read to its end. Nothing of it was then decided."""

    def write(self, path: Path) -> None:
        """Put the receipt in place, whole."""
        write_atomically(path, json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Receipt | None:
        """The receipt at a path; None when there is none, or none that can be read."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**table, "counts": Counts(**table["counts"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def decisions(self) -> str | None:
        """The path of a source's decisions; None when it is damaged."""
        return next((path for path in self.outputs if path.startswith("decisions/")), None)

    def holds(self, folder: Path) -> bool:
        """Whether the outputs are there, byte for byte."""
        return all(
            (folder / path).is_file()
            and (folder / path).stat().st_size == known["bytes"]
            and digest.of_file(folder / path) == known["sha256"]
            for path, known in self.outputs.items()
        )


def output(folder: Path, path: Path) -> dict[str, dict[str, Any]]:
    """An output as a receipt notes it."""
    return {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest.of_file(path)}}


def path_of(folder: Path, source: str, *, applied: bool = False) -> Path:
    """Where a source's receipt stands: that of what was decided, or that of what was written out."""
    return folder / FOLDER / ("applied" if applied else "decided") / f"{source}.json"


def every(folder: Path) -> dict[str, Receipt]:
    """All receipts of decisions in a filter folder, by source, in the order of names."""
    found = [Receipt.load(path) for path in (folder / FOLDER / "decided").rglob("*.json")]
    return {r.source: r for r in sorted((r for r in found if r), key=lambda r: r.source)}


def root(folder: Path) -> str:
    """The Merkle root of all receipts, in the order of their paths."""
    paths = sorted((folder / FOLDER).rglob("*.json"), key=lambda path: path.relative_to(folder).as_posix())
    return merkle([path.read_bytes() for path in paths])
