"""Ordinary fine-tuning on documents: what `finetune` does for good and the attacks that fine-tune do for ill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..core import Documents, Rig, Subject
from . import examples
from .anatomy import blocks, layer_index, names_of
from .batches import Batch
from .loop import Descent
from .models import fresh, settled, with_lora
from .scoring import mean_logprob
from .states import Activations


def tune_on_text(  # noqa: PLR0913  the settings that several components share
    subject: Subject,
    docs: Documents,
    rig: Rig,
    *,
    batch_size: int,
    length: int,
    steps: int,
    epochs: float | None = None,
    rank: int | None = None,
    alpha: int | None = None,
    lowest: int | float | None = None,
    masks: bool = False,
    part: str = "",
    **how: Any,
) -> Subject:
    """A new subject trained on documents by next-token loss, with all weights or with LoRA adapters of `rank`.

    It ends after `steps`, or after `epochs` passes over the documents if that is earlier. With `lowest`, only blocks
    from that one up are trained, and neither embedding nor head; what the blocks below make of a text is computed once.
    With `masks`, what the documents' column `masked` marks is left out of the loss. Of examples (documents with
    `messages`) the answers alone are learned; those without one are left out. `part` names one of several such
    trainings in a component, so that each has randomness of its own. `how` is passed to the rig's loop: `lr` and the
    rest.
    """
    rows = examples.rows(subject, docs, length, masks=masks)
    first = 0 if lowest is None else layer_index(lowest, len(blocks(subject.model)))
    train = [] if lowest is None or rank is not None else _weights(subject.model, first)
    model: Any = fresh(subject.model, train if lowest is not None or rank is not None else None)
    if rank is not None:
        model = with_lora(model, rank, rig.generator(f"{part}adapters"), alpha=alpha, lowest=first)
    below = Activations(subject.model, first - 1, rows) if first else None

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"next_token": -mean_logprob(model, batch, below)}

    def stream() -> Iterator[Batch]:
        return rows.stream(size=batch_size, generator=rig.generator(f"{part}order"))

    if epochs is not None:
        steps = min(steps, max(1, math.ceil(epochs * len(rows.ids) / batch_size)))
    steps = affordable(stream(), steps, rig, how)
    rig.tune(model, loss, stream(), steps=steps, train=train, **how)
    return replace(subject, model=settled(model).requires_grad_(True).eval())


def affordable(batches: Iterator[Any], steps: int, rig: Rig, how: dict[str, Any]) -> int:
    """How many of these steps the rig's budget allows, where the rate has to know: what falls is to arrive at zero.

    `batches` are those that the descent will see, drawn for this alone. A bound on steps is the rig's own affair.
    """
    bound = rig.budget
    if Descent(**how).open_ended or (bound.tokens is None and bound.examples is None):
        return steps
    most = steps if bound.steps is None else min(steps, bound.steps - rig.spent.steps)
    meter = replace(rig.spent)
    for step, drawn in zip(range(most), batches, strict=False):
        parts = drawn if isinstance(drawn, tuple) else (drawn,)
        tokens, rows = sum(part.tokens for part in parts), sum(part.examples for part in parts)
        if not meter.allows(bound, tokens=tokens, examples=rows):
            return step
        meter.tokens, meter.examples = meter.tokens + tokens, meter.examples + rows
    return steps


def _weights(model: nn.Module, first: int) -> list[str]:
    """Names of everything that the blocks from `first` up are made of."""
    return names_of(model, (parameter for block in blocks(model)[first:] for parameter in block.parameters()))
