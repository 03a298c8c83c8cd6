"""A filter that the tests bring: how unlikely a model finds an answer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from untaught.core import Finding, Settings, findings


class Asking(Settings):
    thresholds: ClassVar[tuple[str, ...]] = ("threshold",)
    lock_free: ClassVar[bool] = True
    supervision: ClassVar[str] = "label-free"
    asks_model: ClassVar[bool] = True

    threshold: float | None = None

    def fit(self, pool, rig):
        return AskingScorer(rig.subject(), self.threshold)


@dataclass(frozen=True)
class AskingScorer:
    subject: object
    threshold: float | None

    def measure(self, batch):
        from untaught.engine.features import answers

        found = answers(self.subject, batch)
        pairs = zip(found.nats_per_token.tolist(), found.causes, strict=True)
        return findings(Finding(None if why else nats, why or f"{nats:.2f} nats") for nats, why in pairs)

    def keep(self, found):
        kept = np.ones(found.num_rows, bool)
        return kept if self.threshold is None else found["score"].to_numpy() < self.threshold
