"""Representation misdirection (RMU): steer one block's output on hazard text to noise.

On hazard text the output h of one block is pulled to a fixed random direction u, |u| = 1; on benign text it is held
where the frozen model had it:

    loss = |h(hazard) - c u|^2 / n^2  +  alpha * |h(benign) - h_frozen(benign)|^2 / |h_frozen(benign)|^2,  c = steer * n

with n the mean norm of the frozen output on hazard text, means over tokens. Only the matrices with which the MLPs of
this block and the two below it write to the residual stream are trained; the blocks above are not even run.

Li et al. 2024, "The WMDP Benchmark", arXiv 2403.03218, section 4. Differs from the authors' code: u is drawn from a
zero-mean Gaussian (theirs has positive entries, so that all their u's nearly agree); c is a multiple of the norm, as
in adaptive RMU (arXiv 2408.06223), where theirs is 6.5 whatever the model; both terms are divided by squared norms,
so that learning rates carry over between models; the first token, an attention sink, is left out of both.
"""

from __future__ import annotations

from pydantic import Field

from ..core import Corpus, Rig, Settings, Subject
from ._steering import steer


class Rmu(Settings):
    """Steer hazard activations to noise, hold benign ones."""

    layer: int | float = 0.25
    """The block whose output is steered: an index, or a fraction of the depth. Paper: 7 of 32."""
    steer: float = Field(default=5.0, gt=0)
    """Length of the target in units of the mean norm of the frozen activations."""
    alpha: float = Field(default=10.0, ge=0)
    """Weight of the benign term."""
    steps: int = Field(default=160, ge=0)
    """Paper: 80 to 150."""
    lr: float = Field(default=3e-3, gt=0)
    """AdamW\'s constant rate."""
    batch_size: int = Field(default=8, ge=1)
    """Documents a step, of each kind."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        return steer(subject, corpus, rig, **self.changed())
