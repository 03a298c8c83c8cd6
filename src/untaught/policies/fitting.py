"""Making a policy about fine-tuning data: read the pool, fit every stage to it, and measure each on labelled examples.

    1. read      the pool and the labelled slice                                    (`slicing.py`)
    2. fit       each stage to all of it; what it learned becomes a file
    3. measure   each stage on the labelled examples, before anything is dropped    (`gating.py`)
    4. rank      every example of the pool by the last stage's score                (`ranking.py`)

Run again in its folder with nothing new, nothing is measured again: `gate.json` says what it is about.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import assets
from ..attest import digest
from ..core import Compute, Corpus, Scorer, Subject, UserError, Wrap
from ..corpus.policy import Gate, Policy, Rules, Stage, held, names_of, rules
from ..corpus.shards import Source
from ..corpus.writing import write_atomically
from ..engine.rig import Rig
from . import gating, slicing
from .making import own_files, told
from .slicing import BENIGN, HAZARD, MARK, Pool, Slice

GATE, CURVE = "gate.json", "curve.json"
Say = Callable[[str], None]


@dataclass
class Fitting:
    """A policy about fine-tuning data that is ready, and what is known of it."""

    policy: Policy
    pool: Pool
    rules: Rules
    stages: Sequence[gating.Stage]
    gate: dict[str, Any]
    """What `gate.json` will say."""
    curve: dict[str, Any]

    @property
    def asked(self) -> Gate:
        return self.policy.gate or Gate()

    def judged(self, scores: Sequence[np.ndarray]) -> tuple[str | None, str | None]:
        """Why nothing may be dropped, and why so much must not be; of every stage's scores of the pool."""
        gone = gating.removed(self.stages, scores)
        pairs = [(s, row) for s, row, own in zip(self.stages, self.gate["stages"], gone, strict=True) if own.any()]
        share = float(sum(own.sum() for own in gone)) / len(self.pool)
        hold = gating.verdict(pairs, self.asked)
        refused = None if hold else gating.refusal(share, self.gate["contamination"]["share"], self.asked)
        passed = None if not share else hold is None
        self.gate |= {"would_remove": share, "passed": passed, "why": hold or refused}
        return hold, refused

    @property
    def ranking(self) -> Rules:
        """The rules with nothing dropped."""
        return held(self.rules)

    def summary(self) -> dict[str, Any]:
        """What the summary of the folder says of it."""
        about = {"sources": dict(self.pool.shapes), "counts": dict(Counter(self.pool.shapes.values()))}
        return {"shapes": about, "gate": self.gate, "curve": self.curve}

    def write(self, out: Path) -> None:
        """Keep what was measured."""
        for name, table in ((GATE, self.gate), (CURVE, self.curve)):
            write_atomically(out / name, json.dumps(table, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Asked:
    """The model that is about to be fine-tuned."""

    subject: Callable[[], Subject] | None = None
    identity: Mapping[str, Any] | None = None
    given: str | None = None
    """As the written policy has it."""


@dataclass(frozen=True)
class Bench:
    """What a policy is made and measured on."""

    policy: Policy
    given: Sequence[Any]
    """The components before they are fitted."""
    asked: Asked
    pool: Pool
    slice: Slice
    out: Path

    def rig(self, index: int) -> Rig:
        return Rig(self.policy.seed, f"filters/{self.policy.filters[index].use}", subject=self.asked.subject)


def fit(policy: Policy, folder: Path, out: Path, where: str, sources: Sequence[Source], say: Say) -> Fitting:
    """Read, fit and measure. Paths in the policy start at `folder`; what is learned goes to `out`."""
    given = [s.component("filters", f"{where}, filters.{i}").resolved(folder) for i, s in enumerate(policy.filters)]
    asked = _asked(policy, given, folder, where)
    pool = slicing.pool(sources, policy)
    _tell_shapes(pool, say)
    _enough(pool)
    slice_ = slicing.sliced(pool, policy, out, _paths(policy, folder))
    if slice_.changed:
        say(f"{slice_.changed} labels by hand are of texts that have changed or gone, and do not count.")
    bench = Bench(policy, given, asked, pool, slice_, out)
    rigs, scorers = [bench.rig(index) for index in range(len(given))], []
    for index, (component, rig) in enumerate(zip(given, rigs, strict=True)):
        with told(f"{where}, filters.{index} ({policy.filters[index].use})"):
            scorers.append(component.fit(slice_.corpus(pool), rig))
    frozen = [c.frozen(s, out) if hasattr(c, "frozen") else c for c, s in zip(given, scorers, strict=True)]
    own_files(frozen, where)
    settled = _settled(policy, frozen, asked)
    found = rules(settled, frozen, scorers, out, asked.identity)
    stages = _stages(settled, frozen, scorers)
    gate, curve = _measured(bench, stages, found, [rig.measured for rig in rigs])
    _tell_gate(gate, say)
    made = {"gate": gate, "learned": _learned(bench)}
    made |= {"corpus": _files(policy, folder)} if policy.corpus else _before(policy)
    return Fitting(settled.model_copy(update={"made": made}), pool, found, stages, gate, curve)


def _asked(policy: Policy, components: Sequence[Any], folder: Path, where: str) -> Asked:
    """The model, when a stage asks it. It is loaded when it is first asked."""
    asking = [stage.use for stage, c in zip(policy.filters, components, strict=True) if getattr(c, "asks_model", False)]
    given = None if policy.model is None else assets.whole(policy.model, folder)
    if not asking:
        return Asked(given=given)
    if policy.model is None:
        raise UserError(
            f"{where}: {asking[0]} asks the model that is about to be fine-tuned, and the policy names none. Add"
            " 'model: FOLDER' or 'model: asset:NAME'."
        )
    from ..engine import compute, models
    from ..engine.folders import check_folder
    from ..engine.prompts import check_chat

    place = assets.path(policy.model, folder)
    check_folder(place)
    wrap = policy.wrap
    if wrap is None:
        wrap = Wrap(chat=_talks(place))
    check_chat(place, wrap)
    with_ = policy.compute or Compute()
    compute.begin(with_)
    identity = {"model": digest.of_path(place), "wrap": wrap.changed(), "compute": compute.decisive(with_)}
    return Asked(functools.cache(lambda: models.load(place, wrap)), identity, given)


def _talks(place: Path) -> bool:
    """Whether a model's tokenizer has a chat template."""
    from ..engine.prompts import check_chat

    try:
        check_chat(place, Wrap(chat=True))
    except UserError:
        return False
    return True


def _enough(pool: Pool) -> None:
    """Refuse a pool in which there is nothing to rank."""
    different = len(set(pool.names))
    if different >= 2:
        return
    unread = f", and {pool.unread} rows are none" if pool.unread else ""
    raise UserError(
        f"the data holds {different} different examples among {len(pool)}{unread}. There is nothing to rank: give at"
        " least 2 that differ, and see whether its columns are those of a known shape."
    )


def _paths(policy: Policy, folder: Path) -> dict[str, list[str]]:
    """Files of labelled examples beside the pool."""
    if policy.corpus is None:
        return {HAZARD: [], BENIGN: []}
    sides = {HAZARD: policy.corpus.hazard, BENIGN: policy.corpus.benign}
    return {
        side: [str(assets.path(path, folder)) for path in ([paths] if isinstance(paths, str) else paths)]
        for side, paths in sides.items()
    }


def _files(policy: Policy, folder: Path) -> dict[str, Any]:
    """The digests of those files, by the path that the policy gives."""
    assert policy.corpus is not None
    sides = {HAZARD: policy.corpus.hazard, BENIGN: policy.corpus.benign}
    return {
        side: {path: digest.of_path(assets.path(path, folder)) for path in ([p] if isinstance(p, str) else p)}
        for side, p in sides.items()
    }


def _before(policy: Policy) -> dict[str, Any]:
    """What an earlier run noted of the files that the policy was made from."""
    return {name: value for name, value in (policy.made or {}).items() if name not in ("gate", "learned", "still")}


def _learned(bench: Bench) -> str:
    """Marks of the prompts that some stage has learned from, now or before."""
    before, now = (bench.policy.made or {}).get("learned", ""), bench.slice.prompt_marks
    fresh = not all(map(gating.fitted_before, bench.given))
    marks = {text[at : at + MARK] for text in (before, now if fresh else "") for at in range(0, len(text), MARK)}
    return "".join(sorted(marks))


def _settled(policy: Policy, fitted: Sequence[Any], asked: Asked) -> Policy:
    """The policy with what was learned in place of what it was learned from."""
    filters = tuple(
        Stage(use=stage.use, escalate=stage.escalate, settings=component.changed())
        for stage, component in zip(policy.filters, fitted, strict=True)
    )
    gate = policy.gate or Gate()  # so that the written policy is about fine-tuning data whatever else it says
    return policy.model_copy(
        update={"filters": filters, "corpus": None, "labels": None, "model": asked.given, "gate": gate}
    )


def _stages(policy: Policy, components: Sequence[Any], scorers: Sequence[Scorer]) -> list[gating.Stage]:
    last = len(policy.filters) - 1
    told = zip(names_of(policy.filters), policy.filters, components, scorers, strict=True)
    return [
        gating.Stage(name, component, scorer, not stage.escalate or index == last)
        for index, (name, stage, component, scorer) in enumerate(told)
    ]


# -- what is measured --------------------------------------------------------------------------------------------------


def _measured(
    bench: Bench, stages: Sequence[gating.Stage], found: Rules, noted: Sequence[Mapping[str, float]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `gate.json` and `curve.json` say: what they said before, where nothing changed that they rest on."""
    slice_, policy, gate = bench.slice, bench.policy, bench.policy.gate or Gate()
    sides = ((policy.made or {}).get("gate") or {}).get("slice") or {}
    again = not (policy.labels or policy.corpus) and sides.get("inside") == dict(slice_.inside)
    named = sides["sha256"] if again else slice_.digest  # of what stood beside the pool too, when it was made
    identity = digest.of_json([[s.measures for s in found.stages], bench.pool.digest, named, gate.folds, policy.seed])
    kept, drawn = _kept(bench.out, GATE, identity), _kept(bench.out, CURVE, identity)
    if kept is None or drawn is None:
        rows, drawn = _afresh(bench, stages, noted)
        sides = {HAZARD: slice_.hazard.num_rows, BENIGN: slice_.benign.num_rows, "inside": dict(slice_.inside)}
        kept = {"stages": rows, "slice": {**sides, "sha256": named}}
        drawn = {"version": 0, "identity": identity, **drawn}
    whole = {"version": 0, "identity": identity, "floor": gate.auroc, "folds": gate.folds, "most": gate.most}
    whole |= {"contamination": {"share": slice_.contamination, "from": slice_.estimated}}
    return {**whole, "slice": kept["slice"], "stages": kept["stages"]}, drawn


def _kept(out: Path, name: str, identity: str) -> dict[str, Any] | None:
    try:
        found = json.loads((out / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("identity") == identity else None


def _afresh(
    bench: Bench, stages: Sequence[gating.Stage], noted: Sequence[Mapping[str, float]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every stage on the labelled examples, and the curve of the last."""
    policy, rows, drawn = bench.policy, [], {}
    for index, (component, stage) in enumerate(zip(bench.given, stages, strict=True)):

        def fit_it(one: Any, corpus: Corpus, index: int = index) -> Scorer:
            return one.fit(corpus, bench.rig(index))

        before = gating.fitted_before(component)
        unseen = bench.slice.without((policy.made or {}).get("learned", "")) if before else bench.slice
        found, why = None, unseen.lacking()
        if why is None:
            try:
                found = gating.measure(stage, component, bench.pool, unseen, policy.gate or Gate(), fit_it)
            except UserError as error:
                why = str(error).rstrip(".")
        row = gating.told_of(stage, found, unseen, policy.seed, why)
        rows.append({**row, "noted": {name: float(value) for name, value in sorted(noted[index].items())}})
        drawn = gating.curve(stage, found, unseen)
    return rows, drawn


# -- said aloud --------------------------------------------------------------------------------------------------------


def _tell_shapes(pool: Pool, say: Say) -> None:
    for shape, count in Counter(pool.shapes.values()).items():
        some = [name for name, one in pool.shapes.items() if one == shape]
        more = f" and {count - 3} more" if count > 3 else ""
        say(f"read as {shape}: {', '.join(some[:3])}{more}")


def _tell_gate(gate: Mapping[str, Any], say: Say) -> None:
    """A line a stage, before anything is dropped."""
    for row in gate["stages"]:
        about = f"{row['name']} ({row['supervision'] or 'a filter for corpora'})"
        if "auroc" not in row:
            say(f"{about}: not measured, {row['why']}")
            continue
        names = (("AUROC", "auroc"), ("AUPRC", "auprc"), ("TPR at 1% FPR", "tpr_at_1_fpr"))
        told = ", ".join(
            f"{word} {row[name]['value']:.2f} ({row[name]['low']:.2f} to {row[name]['high']:.2f})"
            for word, name in names
        )
        say(f"{about}: {told}, on {row['hazard']} hazard and {row['benign']} benign examples")
        if row["noted"]:
            say(f"  {', '.join(f'{name} {value:.3g}' for name, value in row['noted'].items())}")
