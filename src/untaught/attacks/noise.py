"""Noise: add Gaussian noise to every weight matrix of the blocks, in units of how much its weights differ.

    W + strength * std(W) * N,      N standard normal, for each matrix, and each expert's

A defence that stands on fine detail is hurt before knowledge that is held broadly. Tice et al. 2024, "Noise Injection
Reveals Hidden Capabilities of Sandbagging Language Models", arXiv 2412.01784: a model that hides what it can do may do
better with noise. Lee et al. 2025, arXiv 2506.06278, noise a model too, to unlearn and distil again.

Differs: Tice et al. add noise of one size to all parameters, over a range of sizes; here it is relative, and embedding,
head, norms and biases have none. It trains nothing and costs no steps.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ._surgery import edited


class Noise(Settings):
    """Add noise to weights."""

    strength: float = Field(default=0.1, gt=0)
    """Standard deviation of the noise, in units of each matrix's own."""

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        generator = rig.generator("noise")

        def noisy(name: str, matrix: Tensor) -> Tensor:
            drawn = torch.randn(matrix.shape, generator=generator).to(matrix.device)
            return matrix + self.strength * matrix.std((-2, -1), correction=0, keepdim=True) * drawn

        return edited(subject, rig, noisy)
