"""Grid: put the weights on the grid of a quantised file, as in a release that is made for few bits.

    w becomes s * round(w / s),   s = max |w| / (2^(bits-1) - 1),   for each group of neighbouring weights in a row

Many weights are released so, trained or converted for few bits, and are opened again in full precision to be worked on.
A change smaller than half a step of the grid is gone when they are rounded once more: what such weights unlearn in
small steps is a defence that `quantise` undoes, and a control for it. On weights of no grid rounding keeps a change on
average, since some weights are always near an edge.

It trains nothing and reads no text. How weights come to be there in training: Jacob et al. 2018, arXiv 1712.05877.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ..engine.anatomy import lines
from ..engine.models import fresh
from ..engine.rounding import rounded


class Grid(Settings):
    """Round every weight matrix of the blocks."""

    bits: int = Field(default=4, ge=2, le=16)
    """Bits a weight."""
    group: int = Field(default=32, ge=1)
    """Neighbouring weights of a row that share one scale."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        model = fresh(subject.model)
        if not rig.budget.empty:
            with torch.no_grad():
                for matrix in lines(model):
                    matrix.copy_(rounded(matrix.float(), self.bits, self.group))
        return replace(subject, model=model.eval())
