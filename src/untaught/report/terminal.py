"""The same story as a short table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import controls, effects, judges, safety_tax, words
from .pooling import Estimate, Measure
from .reading import read
from .tables import heading as named
from .verdicts import Account, Standing, account


def summary(run: Path) -> RenderableType:
    """A finished run as a `rich` table: arms by what they knew, what came back and what it cost elsewhere.

    Below stand the safety tax where the run has marks, a table of the shares of an oracle's effect where there is one
    among the arms, and a line for each judge and for each kind of attacks that failed their controls.
    """
    story = account(read(run))
    compared = [one for one in effects.comparisons(story) if not one.attack]
    told = [
        *map(judges.believed, judges.judges(story.run)),
        controls.set_apart(story.controls),
        controls.idle(story.controls),
    ]
    lines = [Text(line) for line in told if line]
    taxed = safety_tax.taxes(story)
    if not compared and not lines and not taxed:
        return table(story)
    costs = [taxes(taxed)] if taxed else []
    return Group(table(story), *lines, *costs, *(shares(one) for one in compared))


def taxes(found: Sequence[safety_tax.Tax]) -> Table:
    """What each arm does worse on benign items than the one that it was made from."""
    made = Table(title=Text("the safety tax"), caption=Text(f"{safety_tax.summed_up(found)} 95% intervals."))
    for heading in ("arm", "against", "what it costs", "McNemar's p"):
        made.add_column(Text(heading), justify="right" if heading.startswith("McNemar") else "left")
    for measure, lines in safety_tax.by_measure(found):
        made.add_row(Text(named(measure)), Text(""), Text(""), Text(""), style="bold")
        for tax in lines:
            told = "; ".join(part for part in (safety_tax.sentence(tax), safety_tax.counted(tax)[1]) if part)
            made.add_row(Text(tax.arm), Text(tax.against), Text(told), Text(safety_tax.chance(tax)))
    return made


def shares(compared: effects.Comparison) -> Table:
    """What each arm achieves of what the oracle does."""
    made = Table(title=Text(f"the share of the oracle's effect: {compared.measure.metric} on {compared.measure.items}"))
    made.caption = Text(effects.possible(compared))
    for heading in effects.HEADINGS:
        made.add_column(Text(heading), justify="left" if heading == "arm" else "right")
    for line in effects.lines(compared):
        made.add_row(*map(Text, line))
    return made


def table(story: Account) -> Table:
    """Arms by: hazard before, highest under attack and which, then one column for each set of benign items."""
    made = Table(title=Text(story.run.title), caption=Text(_caption(story)))
    made.add_column("arm")
    for heading in ("hazard\nbefore", "highest\nafter attack"):
        made.add_column(Text(heading), justify="right")
    made.add_column("by")
    benign = benign_measures(story)
    for measure in benign:
        made.add_column(Text(measure.items, overflow="fold"), justify="right")
    standings = {standing.arm: standing for standing in story.standings}
    for arm in story.run.arms:
        cells = [*_hazard(standings.get(arm), story.measure)]
        cells += [_number(story.grid.unattacked(arm, measure), measure) for measure in benign]
        made.add_row(Text(arm), *cells)
    return made


def benign_measures(story: Account) -> list[Measure]:
    """Plain accuracy on each benign item set: one column each."""
    return [m for m in story.grid.measures if m.role == "benign" and m.metric == "accuracy"]


def _hazard(standing: Standing | None, measure: Measure | None) -> tuple[Text, Text, Text]:
    if standing is None or measure is None:
        return Text("not measured"), Text(""), Text("")
    if standing.highest is None:
        return _number(standing.before, measure), Text("not attacked"), Text("")
    return (
        _number(standing.before, measure),
        _number(standing.highest.estimate, measure),
        Text(standing.highest.where),
    )


def _number(estimate: Estimate | None, measure: Measure) -> Text:
    if estimate is None:
        return Text("not measured")
    span = words.interval(estimate, measure)
    plain = words.number(estimate.value, measure) + (f" ({span})" if span else "")
    return Text(plain if estimate.complete else f"{plain}\n{words.scored(estimate)}")


def _caption(story: Account) -> str:
    seeds = f"{len(story.run.seeds)} seed" + ("" if len(story.run.seeds) == 1 else "s")
    if (attacks := len(story.run.attack_seeds)) > 1:
        seeds += f", the mean of {attacks} attack seeds each"
    level = "no chance level" if story.chance is None else f"chance {words.percent(story.chance)}"
    hazard = f"hazard: {story.measure.metric} on {story.measure.items}; " if story.measure else ""
    return f"{hazard}95% intervals over {seeds}; {level}"
