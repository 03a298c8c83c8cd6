"""Who judged what models wrote, and how far each may be believed: said wherever a judge's scores are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .reading import Run

JUDGED_BY = ("scorer", "judge")
"""Settings of an evaluation that name its judge."""
KINDS = (("agreement", "AUROC"), ("accuracy", "accuracy"), ("kappa", "Cohen's kappa"))


@dataclass(frozen=True)
class Judge:
    """An evaluation's judge, with what was measured of it."""

    component: str
    told: Mapping[str, Any]


def judges(run: Run) -> tuple[Judge, ...]:
    """The judges of a run, each once."""
    found: list[Judge] = []
    for record in run.records:
        if record.kind == "preparation" and any(record.settings.get(name) for name in JUDGED_BY):
            one = Judge(str(record.component), record.measured)
            found += [] if one in found else [one]
    return tuple(found)


def believed(judge: Judge) -> str:
    """How well a judge agrees with people, and how often it gave no verdict.

    >>> believed(Judge("toxicity", {}))
    'toxicity: how well its judge agrees with people is unknown.'
    """
    told = judge.told
    unread = f" It gave no verdict on {told['unread']:.1%} of them." if "unread" in told else ""
    if told.get("agreement") is None:
        return f"{judge.component}: how well its judge agrees with people is unknown."
    numbers = ", ".join(
        f"{said} of {told[name]:.2f} ({told[f'{name}_low']:.2f} to {told[f'{name}_high']:.2f})"
        for name, said in KINDS
        if told.get(name) is not None
    )
    counts = (
        f"{int(told['rated_harmful'])} answers that people rated so and {int(told['rated_harmless'])} that they did not"
    )
    return f"{judge.component}: its judge tells {counts} apart with an {numbers}.{unread}"
