"""Stop: what a method may cost on benign text before it is ended."""

from __future__ import annotations

from pydantic import Field, model_validator

from .settings import Settings


class Stop(Settings):
    """A bound on the harm to benign text: `{kl: 0.05}`. A method is ended there and its last good weights are kept.

    With the same bound for all, methods are compared at equal benign cost.
    """

    kl: float | None = Field(default=None, ge=0)
    """Most nats a token by which the model's next-token distribution may differ from the given model's: KL(given ||
    now), mean over benign text."""
    loss: float | None = Field(default=None, ge=0)
    """Most nats a token by which the loss on benign text may rise above the given model's."""
    every: int = Field(default=5, ge=1)
    """Steps from one look to the next. There is one after the last step too."""
    documents: int = Field(default=32, ge=1)
    """Benign documents that are looked at, evenly spread over those that there are."""
    length: int = Field(default=128, ge=2)
    """Longest document in tokens; the rest of it is not seen."""

    @model_validator(mode="after")
    def _bounded(self) -> Stop:
        if self.kl is None and self.loss is None:
            raise ValueError("names no bound: give 'kl' or 'loss'")
        return self
