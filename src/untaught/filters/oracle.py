"""Oracle: drops the examples that are known to be harmful, and no other. An upper bound on every filter, and no filter.

    s = 1 for an example that says what one of the known harmful ones says, else 0

In a study it is told every label of the pool, so what it comes to downstream is all that dropping examples can do, and
other filters are told as shares of that. An example is known by the digest of what it says and who says it: a copy of a
harmful one is dropped wherever it stands, and one that is labelled both ways is dropped.

In a policy it knows the labelled slice and nothing else, and the gate, which asks of examples that nothing was learned
from, finds it at chance. Ours, as the bound in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings, UserError
from ._examples import below, load, names, placed, save, told


class Oracle(Settings):
    """Drop what is known to be harmful."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "supervised"
    sees_truth: ClassVar[bool] = True

    threshold: float | None = 0.5
    """Score from which an example is dropped. None: nothing is."""
    fitted: str | None = None
    """File with the digests of harmful examples; it needs no pool."""

    def resolved(self, folder: Path) -> Oracle:
        """With the place of what was learned made whole."""
        return placed(self, folder)

    def fit(self, pool: Corpus, rig: Rig) -> OracleScorer:
        if self.fitted is not None:
            digests = load(self.fitted, ("digests",))["digests"]
            return OracleScorer(frozenset(bytes(digest) for digest in digests), self.threshold)
        if not pool.hazard.num_rows and not pool.benign.num_rows:
            raise UserError(
                "oracle knows only what it is told, and no example is labelled. Label them all with 'label_column', or"
                " take a filter that ranks."
            )
        return OracleScorer(frozenset(names(pool.hazard)), self.threshold)

    def frozen(self, scorer: OracleScorer, folder: Path) -> Oracle:
        """These settings with the digests in a file."""
        whole = b"".join(sorted(scorer.harmful))
        save(folder / "oracle.npz", {"digests": np.frombuffer(whole, np.uint8).reshape(-1, 32)})
        return self.model_copy(update={"fitted": "oracle.npz", "threshold": scorer.threshold})


@dataclass(frozen=True)
class OracleScorer:
    """Digests of harmful examples, and the score from which one is dropped."""

    harmful: frozenset[bytes]
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        known = [name in self.harmful for name in names(batch)]
        return told(np.array(known, float), [None] * len(known), "known to be harmful: {:.0f}")

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)
