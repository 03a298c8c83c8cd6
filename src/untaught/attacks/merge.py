"""Merging: mix this arm's weights with a donor's, the ways that downloaders mix models.

With w the subject's weights, d the donor's, and t = d - w the donor's task vector:

    linear            (1 - share) w + share d
    slerp             (sin((1 - share) a) w + sin(share a) d) / sin a,     a the angle between w and d
    task_arithmetic   w + share t
    ties              w + share trim(t),     trim keeps the `density` of t that is largest in size, and sets 0 elsewhere
    dare              w + share (m / density) t,     m draws 1 with chance `density`, else 0

each for one parameter at a time, and for each expert. With a `base` b that both were made from, what they have learned
since is merged, u = w - b and v = d - b, as the papers have it:

    task_arithmetic   b + share (u + v)
    ties              b + share elect(trim(u), trim(v)),     elect takes of each weight the mean of the entries that are
                      not 0 and have the sign of their sum
    dare              b + share (m / density) u + share (n / density) v,     m and n draw 1 with chance `density`

Where w and d have no arc between them, as when one of them is 0,
slerp is linear. Up to a share of 1 `linear` and `task_arithmetic` are one line, which `interpolate` moves along too.

slerp: Shoemake 1985, "Animating Rotation with Quaternion Curves". task_arithmetic: Ilharco et al. 2022, arXiv
2212.04089. ties: Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708. dare: Yu et al. 2023, "Language Models are Super
Mario", arXiv 2311.03099.

Differs: without a `base` it is the subject, as when a downloader adds another's work to it: its own task vector is 0,
and in ties there is nothing to elect signs between. A donor's own skill and the defence that it lacks are added alike.
Trimming is for each parameter; in the paper it is over all of the model, and there `share` is 1 for ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..core import Corpus, Rig, Settings, Subject
from ._donor import mixed
from ._surgery import highest, rows_of

PARALLEL = 1e-6
"""Sine of an angle below which two parameters lie on one line."""


class Merge(Settings):
    """Mix with the donor."""

    donor: str = "untouched"
    """The arm to mix with."""
    way: Literal["linear", "slerp", "task_arithmetic", "ties", "dare"] = "slerp"
    """How. Only `dare` draws at random."""
    share: float = Field(default=0.5, ge=0)
    """How much of the donor: at 0 nothing changes. For linear and slerp at most 1, which is the donor. With a `base`,
    how much of what is merged: at 0 nothing is left but the base."""
    density: float = Field(default=0.2, gt=0, le=1)
    """For ties and dare: how much of the task vector is kept. Papers: 0.2 for ties, 0.1 or more for dare."""
    base: str | None = None
    """For task_arithmetic, ties and dare: the arm that subject and donor were both made from. None: the subject."""

    @model_validator(mode="after")
    def _share_between(self) -> Self:
        if self.way in ("linear", "slerp") and self.share > 1:
            raise ValueError(f"share is {self.share}, and '{self.way}' ends at the donor, at 1. 'extrapolate' goes on")
        return self

    @model_validator(mode="after")
    def _base_of_task_vectors(self) -> Self:
        if self.base is not None and self.way in ("linear", "slerp"):
            raise ValueError(f"'{self.way}' mixes two models and has no base. Choose task_arithmetic, ties or dare")
        return self

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject:
        generator = rig.generator("kept")

        def mix(own: Tensor, other: Tensor, base: Tensor | None = None) -> Tensor:
            if self.way == "linear":
                return own.lerp(other, self.share)
            if self.way == "slerp":
                return slerp(own, other, self.share)
            start, tasks = (own, [other - own]) if base is None else (base, [own - base, other - base])
            if self.way == "ties":
                task = elected([trimmed(task, self.density) for task in tasks])
            elif self.way == "dare":
                task = sum(dropped(task, self.density, generator) for task in tasks)
            else:
                task = sum(tasks)
            return start + self.share * task

        base = {} if self.base is None else {"base": self.base}
        return mixed(subject, rig, mix, donor=self.donor, **base)


def slerp(own: Tensor, other: Tensor, share: float) -> Tensor:
    """From one parameter towards another along the arc between them."""
    ours, theirs = rows_of(own), rows_of(other)
    long, length = (rows.norm(dim=-1, keepdim=True) for rows in (ours, theirs))
    unit, units = ours / long.clamp(min=1e-30), theirs / length.clamp(min=1e-30)
    angle = 2 * torch.atan2((unit - units).norm(dim=-1, keepdim=True), (unit + units).norm(dim=-1, keepdim=True))
    sine = angle.sin() * (long * length > 0)
    arc = ((1 - share) * angle).sin() / sine * ours + (share * angle).sin() / sine * theirs
    return torch.where(sine < PARALLEL, ours.lerp(theirs, share), arc).reshape(own.shape)


def trimmed(task: Tensor, density: float) -> Tensor:
    """A task vector with all but its largest entries 0."""
    rows = rows_of(task)
    kept = highest(rows.abs(), max(1, round(density * rows.shape[-1])))
    return (rows * kept).reshape(task.shape)


def dropped(task: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """A task vector with most entries 0 by chance, and the others made up for them."""
    kept = torch.rand(task.shape, generator=generator) < density
    return task * kept.to(task.device) / density


def elected(tasks: Sequence[Tensor]) -> Tensor:
    """Of each weight the mean of the task vectors that agree with the sign of their sum; 0 where none does."""
    stacked = torch.stack(list(tasks))
    agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
