"""Pruning: set weights of the blocks to 0, as a downloader does to save time, or to cut a defence out.

    magnitude    0 for the `share` of each matrix that is smallest in |w|
    wanda        0 for the `share` of each row that is lowest in |w_ij| n_j
    difference   0 for what is in the top `share` of its row by |w_ij| n_j on hazard text, and not in the top `spared`
                 of it on benign text

where n_j is the norm of input j over all tokens of the text that is read (benign for wanda), and a row is what one
output takes its inputs with, of each expert. What a defence put in for hazard text alone is what `difference` is after.

wanda: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695, which
also has `magnitude` for each matrix. difference: Wei et al. 2024, "Assessing the Brittleness of Safety Alignment via
Pruning and Low-Rank Modifications", arXiv 2402.05162; Łucki et al. 2024, "An Adversarial Perspective on Machine
Unlearning for AI Safety", arXiv 2409.18025.

Differs: `difference` scores as wanda does, one of the two scores of Wei et al.; the other, |w * gradient|, is of a loss
on what the defended model answers, where this asks only what the weights are given. Scores are compared within a row,
as wanda's are. All inputs are read on the model as it was, and not block by block behind what has been pruned. An
expert that no token reached is pruned by magnitude. It trains nothing and costs no steps.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core import Corpus, Documents, Inapplicable, Rig, Settings, Subject, UserError
from ..engine import examples
from ..engine.anatomy import blocks, matrices
from ..engine.states import hidden
from ._inputs import Inputs
from ._surgery import edited, highest, rows_of


class Prune(Settings):
    """Set weights to 0."""

    way: Literal["magnitude", "wanda", "difference"] = "magnitude"
    """What is taken for unimportant; `difference` takes what matters for hazard text alone."""
    share: float = Field(default=0.5, gt=0, le=1)
    """How many of the weights. For `difference` it bounds them; the papers have 0.005 to 0.2."""
    spared: float | None = Field(default=None, ge=0, le=1)
    """For `difference`: the share that matters most on benign text and stays; None spares as many as `share`."""
    examples: int = Field(default=128, ge=1)
    """The most documents that are read, of each kind. Papers: 128."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens."""

    @model_validator(mode="after")
    def _spared_by_difference(self) -> Self:
        if self.spared is not None and self.way != "difference":
            raise ValueError(f"'spared' is for 'way: difference', and the way is {self.way}. Leave it out")
        return self

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        if rig.budget.empty or self.way == "magnitude":
            return edited(subject, rig, lambda name, matrix: _without(matrix, _smallest(matrix, self.share)))
        corpus.need("benign", *(["hazard"] if self.way == "difference" else []))
        usual = self._norms(subject, corpus.benign, rig, "benign")
        if self.way == "wanda":
            return edited(
                subject, rig, lambda name, matrix: _without(matrix, _lowest(matrix.abs() * usual[name], self.share))
            )
        special = self._norms(subject, corpus.hazard, rig, "hazard")
        spared = self.share if self.spared is None else self.spared

        def cut(name: str, matrix: Tensor) -> Tensor:
            hazard, benign = (
                _top(matrix.abs() * norms[name], share) for norms, share in ((special, self.share), (usual, spared))
            )
            return _without(matrix, hazard & ~benign)

        return edited(subject, rig, cut)

    def _norms(self, subject: Subject, docs: Documents, rig: Rig, kind: str) -> dict[str, Tensor]:
        """Norm of every input of every matrix over some documents: (..., 1, inputs)."""
        drawn = torch.randperm(docs.num_rows, generator=rig.generator(kind))[: self.examples]
        rows = examples.rows(subject, docs.take(drawn.tolist()), self.length)
        if not rows.ids:
            raise UserError(f"the {kind} text has nothing to read: no document has an answer. Give some {kind} text.")
        model, last = subject.model, len(blocks(subject.model)) - 1
        size, weights = sum(p.numel() for p in model.parameters()), dict(matrices(model))
        with torch.no_grad(), Inputs(weights) as seen:
            for row in range(len(rows.ids)):  # one at a time: padding would count as an input
                batch = rows.batch([row])
                rig.spent.flops += 2.0 * batch.tokens * size
                hidden(model, batch, last)
        if missed := weights.keys() - seen.sums.keys():
            raise Inapplicable(
                f"what {min(missed)} of a block of this {type(model).__name__} is multiplied with was not found, so"
                f" '{self.way}' cannot be applied. 'magnitude' can."
            )
        return {name: _norm(squares) for name, squares in seen.sums.items()}


def _norm(squares: Tensor) -> Tensor:
    """Norms as a row beside the matrix; the same everywhere for an expert that was given nothing."""
    given = squares.any(-1, keepdim=True)
    if not torch.isfinite(squares).all():
        raise UserError("hidden states are not finite, so no weight can be told from another. Use 'magnitude'.")
    return torch.where(given, squares.sqrt(), 1.0).unsqueeze(-2)


def _top(scores: Tensor, share: float) -> Tensor:
    """The highest `share` of each row."""
    return highest(scores, round(share * scores.shape[-1]))


def _lowest(scores: Tensor, share: float) -> Tensor:
    """The lowest `share` of each row; of equals, those that come last."""
    return ~highest(scores, scores.shape[-1] - round(share * scores.shape[-1]))


def _smallest(matrix: Tensor, share: float) -> Tensor:
    """The smallest `share` of each matrix."""
    return _lowest(rows_of(matrix.abs()), share).reshape(matrix.shape)


def _without(matrix: Tensor, cut: Tensor) -> Tensor:
    return matrix.masked_fill(cut, 0.0)
