"""Perplexity: an example is suspect whose answer the model finds unlikely. A control that needs no label.

    s = - 1/T sum over the T tokens of the answer of log p(token | prompt, tokens before it)      perplexity is e^s

in natural logarithm, by the model that is about to be fine-tuned. An example is dropped from `threshold` on. With
`high: false` the likely answers are the suspects, and the score is -s.

What it finds is what the model does not know: another genre, another language, a mistake in spelling, and harm where
the model was made not to say it. A filter that reads hidden states must rank better than this, at the same cost.

Source: Wenzek et al. 2020, "CCNet", arXiv 1911.00359, who drop web text by it, and Marion et al. 2023, "When Less is
More", arXiv 2309.04564, who try both ends. Differs from them: only the answer counts, and the model is the one that
is to be tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ..core import Corpus, Documents, Findings, Mask, Rig, Settings, Subject
from ._examples import below, settled, told


class Perplexity(Settings):
    """Rank by how unlikely the answer is to the model itself."""

    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    asks_model: ClassVar[bool] = True

    high: bool = True
    """Unlikely answers are suspect. False: likely ones."""
    threshold: float | None = None
    """Score from which an example is dropped, in nats per token. None: as `removed` says, or nothing is."""
    removed: float | None = Field(default=None, ge=0, le=1)
    """Share of the pool that is dropped."""
    length: int | None = Field(default=None, ge=2)
    """Tokens that an example is cut at. None: one longer than the model reads has no score."""

    def fit(self, pool: Corpus, rig: Rig) -> PerplexityScorer:
        scorer = PerplexityScorer(rig.subject(), 1 if self.high else -1, self.length, self.threshold)
        return settled(scorer, pool.unlabelled, self.removed)

    def frozen(self, scorer: PerplexityScorer, folder: Path) -> Perplexity:
        """These settings with the threshold that `fit` found."""
        return self.model_copy(update={"threshold": scorer.threshold, "removed": None})


@dataclass(frozen=True, eq=False)
class PerplexityScorer:
    """A model, and the score from which an example is dropped."""

    subject: Subject
    sign: int
    length: int | None
    threshold: float | None

    def measure(self, batch: Documents) -> Findings:
        from ..engine.features import answers

        found = answers(self.subject, batch, self.length)
        says = "{:.3f} nats per token" if self.sign > 0 else "{:.3f}, minus its nats per token"
        return told(self.sign * found.nats_per_token, found.causes, says)

    def keep(self, findings: Findings) -> Mask:
        return below(findings, self.threshold)
