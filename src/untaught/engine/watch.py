"""A watch on what unlearning costs: how far a model is from the given one on benign text.

    kl      mean over tokens of  sum over the vocabulary of p_given (log p_given - log p_now)
    loss    mean over tokens of  log p_given(token) - log p_now(token)

Both in nats a token, both 0 for the given model, over every token but the first of a fixed set of benign documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import Documents, Stop, Subject, UserError
from .compute import device
from .examples import rows
from .scoring import distributions

if TYPE_CHECKING:
    from .rig import Rig

AT_ONCE = 4
"""Documents that are looked at together: a whole vocabulary for each of their tokens is in memory."""


class Watch:
    """Looks at a model, and says whether it is within bounds."""

    def __init__(self, stop: Stop, given: Subject, benign: Documents) -> None:
        """`given` is the model that a method starts from; it must stay as it is."""
        if benign.num_rows == 0:
            raise UserError("'stop' looks at benign text, and there is none. Give some in 'corpus.benign'.")
        count = min(stop.documents, benign.num_rows)
        chosen = benign.take([index * benign.num_rows // count for index in range(count)])
        read = rows(given, chosen, stop.length)
        self.stop, self.given = stop, given.model
        self._batches = [
            read.batch(range(first, min(first + AT_ONCE, len(read.ids)))) for first in range(0, len(read.ids), AT_ONCE)
        ]
        self.over = False
        """A method was ended: whatever it would still do is not done."""
        self._good: dict[str, Tensor] = {}

    @torch.no_grad()
    def cost(self, model: Any) -> dict[str, float]:
        """`benign_kl` and `benign_loss`: how far a model is from the given one."""
        training = model.training
        model.eval()
        kl = loss = tokens = 0.0
        for batch in self._batches:
            before, now = (distributions(one, batch) for one in (self.given, model))
            ids, weight = batch.to(device()).ids[:, 1:, None], batch.to(device()).weight
            far = (before.exp() * (before - now)).sum(-1)
            rise = (before.gather(-1, ids) - now.gather(-1, ids)).squeeze(-1)
            kl, loss = (total + float((one * weight).sum()) for total, one in ((kl, far), (loss, rise)))
            tokens += float(weight.sum())
        model.train(training)
        return {"benign_kl": kl / max(tokens, 1.0), "benign_loss": loss / max(tokens, 1.0)}

    def within(self, cost: dict[str, float]) -> bool:
        """Whether a cost is one that may be paid. What is no number is not."""
        bounds = {"benign_kl": self.stop.kl, "benign_loss": self.stop.loss}
        return all(
            math.isfinite(cost[name]) and cost[name] <= most for name, most in bounds.items() if most is not None
        )

    @torch.no_grad()
    def begin(self, moving: Mapping[str, Tensor]) -> None:
        """Take weights as good: those that a method starts from, or that it goes on from."""
        self._good = {name: weight.detach().clone() for name, weight in moving.items()}

    def look(self, model: Any, moving: Mapping[str, Tensor], rig: Rig) -> bool:
        """Whether a model is within bounds. If so its weights are the good ones, and the record says so."""
        cost = self.cost(model)
        if good := self.within(cost):
            self.begin(moving)
            rig.log(**cost, good_step=float(rig.spent.steps))
        return good

    @torch.no_grad()
    def undo(self, moving: Mapping[str, Tensor]) -> None:
        """Put back what was good, for good."""
        self.over = True
        for name, weight in moving.items():
            weight.copy_(self._good[name])
