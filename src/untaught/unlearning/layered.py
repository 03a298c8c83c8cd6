"""Layered unlearning: RMU on one fold of the hazard text, then on two, and so on, holding the folds still to come.

    stage i of k:   RMU with  hazard = folds 1..i,  benign = benign text and folds i+1..k

Relearning one fold then need not bring back the others: each stage learned to tell what was removed before from what
was not yet. After the last stage all folds are removed.

Qian et al. 2025, "Layered Unlearning for Adversarial Relearning", arXiv 2505.09500, of which the abstract and summaries
were read: a reconstruction. Folds are drawn at random by document; `steps` are those of all stages together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ._steering import steer


class Layered(Settings):
    """RMU in stages, fold by fold."""

    folds: int = Field(default=3, ge=1)
    """Stages, and parts of the hazard text."""
    layer: int | float = 0.25
    """The block whose output is steered: an index, or a fraction of the depth."""
    steer: float = Field(default=5.0, gt=0)
    """Length of the target in units of the mean norm of the frozen activations."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=240, ge=0)
    """Optimiser steps of all stages together."""
    lr: float = Field(default=3e-3, gt=0)
    """AdamW's constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        corpus.need("hazard", "benign")
        order = rig.random("folds").permutation(corpus.hazard.num_rows)
        folds = min(self.folds, len(order))
        parts = [corpus.hazard.take(pa.array(np.sort(part))) for part in np.array_split(order, folds)]
        settings = self.changed() | {"steps": 0}
        del settings["folds"]
        for stage in range(1, folds + 1):
            settings["steps"] = self.steps * stage // folds - self.steps * (stage - 1) // folds
            told = replace(
                corpus,
                hazard=pa.concat_tables(parts[:stage], promote_options="default"),
                benign=pa.concat_tables([corpus.benign, *parts[stage:]], promote_options="default"),
            )
            subject = steer(subject, told, rig, **settings)
        return subject
