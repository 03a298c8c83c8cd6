"""Making a policy: from a hazard corpus and a benign one to stages with nothing left to learn, and how good they are.

    1. hold out          a share of both sides, by digest; nothing learns from it               (`holding.py`)
    2. for each stage    learn terms or a model from the rest
                         choose its threshold, where it says for what                           (`choosing.py`)
                         after the first: let a language model check the benign it flags        (`labelling.py`)
    3. measure           what the policy up to each stage flags of held-out documents that no threshold was chosen on

What came of it goes into the policy as `made`: digests of the files, sizes, the seed and numbers with exact intervals.
When filters are changed afterwards, `still: false` says that the numbers are about others.

A document that the labeller calls hazard is learned from as hazard. Of the held-out ones it is left out: only flagged
documents are asked about, so a recall that counted them would be a recall of what was found. One that is not asked
about, or that got no usable answer, keeps the label of its file.

Paper: O'Brien et al. 2025, "Deep Ignorance", arXiv 2508.06601, sections on the blocklist and on the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..attest import digest
from ..core import Corpus, Scorer, UserError, documents
from ..corpus.policy import Choose, Policy, Stage
from ..corpus.world import from_files, split
from ..engine.rig import Rig
from .choosing import Group, Scored, Setting, best, chosen, share, unreachable
from .holding import Parts, parted
from .labelling import Account, Client, selected
from .sampling import Sample

NOTHING = Corpus(documents([]), documents([]))
SAMPLED = 4000
"""Documents of the corpus that `choose: {removed: ...}` looks at."""


@dataclass
class Ready:
    """A policy with nothing left to learn, and its stages."""

    policy: Policy
    components: list[Any] = field(default_factory=list)
    scorers: list[Any] = field(default_factory=list)


@dataclass
class Bench:
    """What a policy is made and tried on."""

    out: Path
    learn: Corpus = NOTHING
    groups: dict[str, Group] = field(default_factory=dict)
    """`choose hazard`, `choose benign`, `check hazard`, `check benign`; of the corpus that is filtered, `choose` and
    `check`."""
    client: Client | None = None
    """The labeller."""
    rated: Account | None = None
    """What it said about terms."""

    def scored(self, name: str, scorer: Scorer) -> Scored:
        """How a group scores, where there is one."""
        return self.groups.get(name, Group(documents([]))).scored(scorer)


@dataclass(frozen=True)
class Fitted:
    """A model that a stage may have."""

    component: Any
    scorer: Any
    logged: dict[str, float]
    """What the filter itself noted."""


def ready(policy: Policy, folder: Path, out: Path, where: str, sampled: Callable[[int], Sample] | None) -> Ready:
    """Learn, choose and measure what the policy leaves open. Paths in it start at `folder`; models go to `out`."""
    policy = _normal(policy, where)
    given = [_given(policy, index, folder, where) for index in range(len(policy.filters))]
    bench, made = _bench(policy, folder, out, where, [one is None for _, one in given], sampled)
    done, rows = Ready(policy), []
    for index, stage in enumerate(policy.filters):
        place = f"{where}, filters.{index} ({stage.use})"
        with told(place):
            fitted, row = _stage(stage, *given[index], bench, place)
            escalate = stage.escalate and index + 1 < len(policy.filters)
            rows.append({"use": stage.use, **row, **_decided(bench, fitted.scorer, escalate=escalate)})
        done.components.append(fitted.component)
        done.scorers.append(fitted.scorer)
        if index == 0 and bench.client is not None:
            made["labeller"] = _labelled(policy, bench, bench.client, fitted.scorer)
    own_files(done.components, where)
    frozen = tuple(
        Stage(use=stage.use, escalate=stage.escalate, settings=component.changed())
        for stage, component in zip(policy.filters, done.components, strict=True)
    )
    made |= _standing(made, digest.of_json([stage.plain() for stage in frozen]), rows if bench.groups else None)
    gone = {"corpus": None, "choose": None, "labeller": None, "made": made or None}
    done.policy = policy.model_copy(update={"filters": frozen, **gone})
    return done


def _standing(made: Mapping[str, Any], filters: str, rows: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What was measured, and whether the filters are still those that were: numbers must not outlive their subject."""
    if rows is not None:
        return {"stages": rows, "filters_sha256": filters, "still": True}
    if "filters_sha256" not in made:
        return {}
    return {"still": made["filters_sha256"] == filters}


# -- before ------------------------------------------------------------------------------------------------------------


def _normal(policy: Policy, where: str) -> Policy:
    """Every wish for a threshold as a stage's `choose`: the policy's own, and a classifier's `recall`."""
    stages = list(policy.filters)
    if policy.choose is not None:
        stages[-1] = stages[-1].model_copy(update={"choose": policy.choose})
    for index, stage in enumerate(stages):
        recall = stage.settings.get("recall")
        if policy.corpus is not None and recall is not None and stage.use == "classifier":
            if stage.choose is not None:
                raise UserError(f"{where}, filters.{index} has 'recall' and is to 'choose' too. Keep one of them.")
            rest = {name: value for name, value in stage.settings.items() if name not in ("recall", "held_out")}
            choose = Choose.settle({"recall": recall}, f"{where}, filters.{index}")
            stages[index] = stage.model_copy(update={"settings": rest, "choose": choose})
    for index, stage in enumerate(stages):
        if stage.choose is not None and stage.choose.removed is None and policy.corpus is None:
            raise UserError(
                f"{where}, filters.{index} is to choose a threshold, and the policy has no labelled documents to choose"
                " it on. Add 'corpus: {hazard: PATH, benign: PATH}', or choose by 'removed'."
            )
    if policy.labeller is not None and policy.corpus is None:
        raise UserError(f"{where} has a 'labeller' and no 'corpus' with documents to label. Add one, or remove it.")
    return policy.model_copy(update={"filters": tuple(stages)})


def _given(policy: Policy, index: int, folder: Path, where: str) -> tuple[Any, Any]:
    """A stage's component, and its scorer where it needs no labelled documents; None where it must learn."""
    stage = policy.filters[index]
    place = f"{where}, filters.{index}"
    component = stage.component("filters", place).resolved(folder)
    try:
        return component, component.fit(NOTHING, Rig(0, f"filters/{stage.use}"))
    except UserError as error:
        if policy.corpus is None:
            mend = " The policy has no 'corpus: {hazard: PATH, benign: PATH}' to learn from."
            raise UserError(f"{place} ({stage.use}): {error}{mend}") from None
        return component, None


@contextmanager
def told(place: str) -> Iterator[None]:
    """Say where an error came up."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(place) else f"{place}: {error}") from None


def _bench(
    policy: Policy, folder: Path, out: Path, where: str, learns: Sequence[bool],
    sampled: Callable[[int], Sample] | None,
) -> tuple[Bench, dict[str, Any]]:  # fmt: skip
    """What the stages learn from, are chosen and measured on; and the start of the policy's `made`."""
    bench, made = Bench(out), dict(policy.made or {})
    wishes = [stage.choose for stage in policy.filters if stage.choose is not None]
    if policy.corpus is not None:
        held_out = policy.held_out if any(learns) else 1.0
        choosing = any(wish.removed is None for wish in wishes)
        parts = parted(_pool(policy, folder), held_out, policy.seed, choosing=choosing)
        bench.learn, bench.groups = parts.learn, _groups(parts)
        bench.client = Client(policy.labeller, where) if policy.labeller else None
        preset = {"preset": made["preset"]} if "preset" in made else {}
        made = {**preset, "seed": policy.seed, "held_out": held_out, "corpus": _about(policy, folder, parts)}
    if any(wish.removed is not None for wish in wishes):
        if sampled is None:
            raise UserError(f"{where} chooses by the share that is removed, and there is no corpus to look at.")
        drawn = sampled(SAMPLED)
        bench.groups |= dict(zip(("choose", "check"), map(Group, drawn.halves()), strict=True))
        made["sample"] = {"documents": drawn.documents.num_rows, "blocks": drawn.blocks, "of_blocks": drawn.of_blocks}
    return bench, made


def _groups(parts: Parts) -> dict[str, Group]:
    return {
        f"{name} {side}": Group(getattr(part, side))
        for name, part in (("choose", parts.choose), ("check", parts.check))
        for side in ("hazard", "benign")
    }


def _pool(policy: Policy, folder: Path) -> Corpus:
    """The labelled corpus."""
    hazard, benign = _paths(policy, folder)
    text = policy.corpus.text_column if policy.corpus else "text"
    return split(from_files(hazard.values(), benign.values(), {}, text_column=text).documents)


def _paths(policy: Policy, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of each side, by the path that the policy gives."""
    if policy.corpus is None:
        return {}, {}
    sides = (policy.corpus.hazard, policy.corpus.benign)
    hazard, benign = ({path: folder / path for path in ([g] if isinstance(g, str) else g)} for g in sides)
    return hazard, benign


def _about(policy: Policy, folder: Path, parts: Parts) -> dict[str, Any]:
    """Which files the policy is made from, and how they were parted."""
    about: dict[str, Any] = {}
    for side, paths in zip(("hazard", "benign"), _paths(policy, folder), strict=True):
        sizes = {name: getattr(getattr(parts, name), side).num_rows for name in ("learn", "choose", "check")}
        about[side] = {"files": {name: digest.of_path(path) for name, path in paths.items()}, **sizes}
    return about


# -- a stage -----------------------------------------------------------------------------------------------------------


def _stage(stage: Stage, component: Any, given: Any, bench: Bench, place: str) -> tuple[Fitted, dict[str, Any]]:
    """The stage with nothing left to learn or to choose, and what is noted about it."""
    learned = {"learned": given is None}
    if stage.choose is None:
        fitted = _fitted(component, given, bench)
        return replace(fitted, component=_frozen(fitted, bench.out)), {**learned, **fitted.logged}
    setting = threshold_of(component, place)
    tried = [_fitted(one, given, bench) for one in _candidates(component, given, bench.learn)]
    scored = [(bench.scored("choose hazard", one.scorer), bench.scored("choose benign", one.scorer)) for one in tried]
    by_sample = stage.choose.removed is not None
    samples = [bench.scored("choose", one.scorer) if by_sample else None for one in tried]
    found = [chosen(stage.choose, *pair, sample, setting) for pair, sample in zip(scored, samples, strict=True)]
    first = best(stage.choose, found, scored[0][0].total if scored else 0)
    taken = found[first] if first is not None else None
    if first is None or taken is None:
        raise unreachable(stage.choose, scored, place, setting)
    value = int(taken.threshold) if setting.whole else taken.threshold
    settings = {**_frozen(tried[first], bench.out).changed(), setting.name: value}
    made = type(component).settle(settings, place)
    scorer = made.resolved(bench.out).fit(NOTHING if hasattr(made, "frozen") else bench.learn, Rig(0, stage.use))
    on = {name.partition(" ")[2] or "sample": len(g) for name, g in bench.groups.items() if name.startswith("choose")}
    note = {"chosen": {**stage.choose.wanted(), setting.name: value, "among": len(tried), "of": on}}
    return Fitted(made, scorer, {}), {**learned, **tried[first].logged, **note}


def _fitted(component: Any, given: Any, bench: Bench) -> Fitted:
    """A component fitted on what there is to learn from; the terms of a list that it makes are rated, if wanted."""
    if given is not None:
        return Fitted(component, given, {})
    rig = Rig(0, "filters")
    scorer = component.fit(bench.learn, rig)
    if bench.client is not None and bench.client.settings.rate_terms and hasattr(component, "terms"):
        made = component.frozen(scorer, bench.out)
        rated, bench.rated = bench.client.ask(bench.client.settings.terms_prompt, made.terms, "terms")
        terms = tuple(term for term, answer in zip(made.terms, rated, strict=True) if answer is not False)
        component = made.model_copy(update={"terms": terms})
        scorer = component.fit(NOTHING, rig)
    logged = {name: int(value) if float(value).is_integer() else value for name, value in rig.measured.items()}
    return Fitted(component, scorer, logged)


def _frozen(fitted: Fitted, out: Path) -> Any:
    """The settings that need no labelled documents."""
    if not hasattr(fitted.component, "frozen"):
        return fitted.component
    return fitted.component.frozen(fitted.scorer, out)


def _candidates(component: Any, given: Any, learn: Corpus) -> Iterator[Any]:
    """The models that a stage may have: those that the filter offers, or the one there is."""
    if given is None and hasattr(component, "choices"):
        yield from component.choices(learn)
    else:
        yield component


def threshold_of(component: Any, place: str) -> Setting:
    """The setting from which on a filter flags: the first of its `thresholds`."""
    names = getattr(component, "thresholds", ())
    if not names:
        raise UserError(f"{place} has no threshold that could be chosen. Remove its 'choose'.")
    return Setting(names[0], isinstance(getattr(component, names[0]), int))


def _decided(bench: Bench, scorer: Scorer, *, escalate: bool) -> dict[str, Any]:
    """Let the stage decide on every group. Returns what it flags of those that nothing was chosen on."""
    row: dict[str, Any] = {}
    for name, group in bench.groups.items():
        flagged = group.decide(scorer, group.scored(scorer), escalate=escalate)
        part, _, side = name.partition(" ")
        if part == "check":
            row[side or "sample"] = share(flagged, len(group))
    if row.get("hazard") and row.get("benign"):
        both = row["hazard"]["flagged"] + row["benign"]["flagged"]
        row["precision"] = share(row["hazard"]["flagged"], both)
    return row


def own_files(components: Sequence[Any], where: str) -> None:
    """Refuse two stages that would keep what they learned in one file."""
    named = [getattr(c, name, None) for c in components for name in ("model", "fitted")]
    models = [place for place in named if isinstance(place, str) and not Path(place).is_absolute()]
    if doubled := next((place for place in models if models.count(place) > 1), None):
        raise UserError(f"{where} trains two models that would both be called '{doubled}'. Train one of them first.")


# -- labels ------------------------------------------------------------------------------------------------------------


def _labelled(policy: Policy, bench: Bench, client: Client, scorer: Scorer) -> dict[str, Any]:
    """Check the benign documents that the first stage flags, and move or leave out those that are hazard."""
    groups = {"learn": Group(bench.learn.benign)}
    groups |= {name: bench.groups[name] for name in ("choose benign", "check benign")}
    places = [(name, int(place)) for name, group in groups.items() for place in _flagged(group, scorer)]
    texts = [groups[name].documents["text"][place].as_py()[: client.settings.characters] for name, place in places]
    asked = selected(texts, client.settings.most, policy.seed)
    answers, account = client.ask(client.settings.prompt, [texts[index] for index in asked], "documents")
    hazard = [places[index] for index, answer in zip(asked, answers, strict=True) if answer]
    for name, group in groups.items():
        stays = np.ones(len(group), bool)
        stays[[place for other, place in hazard if other == name]] = False
        if name == "learn":
            moved, rest = (group.documents.filter(pa.array(mask)) for mask in (~stays, stays))
            bench.learn = Corpus(pa.concat_tables([bench.learn.hazard, moved]), rest)
        else:
            bench.groups[name] = Group(group.documents.filter(pa.array(stays)), group.fate[stays])
    about = {"endpoint": client.settings.endpoint, "model": client.settings.model}
    about |= _prompt("prompt", client.prompt(client.settings.prompt))
    about |= {"flagged": len(places), **account.plain()}
    if bench.rated is None:
        return about
    return {
        **about,
        **_prompt("terms_prompt", client.prompt(client.settings.terms_prompt)),
        "terms": bench.rated.plain(),
    }


def _prompt(name: str, text: str) -> dict[str, Any]:
    return {name: text, f"{name}_sha256": sha256(text.encode()).hexdigest()}


def _flagged(group: Group, scorer: Scorer) -> np.ndarray:
    """Places of the documents that a first stage flags."""
    scored = Group(group.documents).scored(scorer)
    valid = np.flatnonzero(~np.isnan(scored.scores))
    return valid[~scorer.keep(scored.table.take(pa.array(valid)))]
