"""`untaught filter`: a policy file and a corpus in, decisions and receipts out.

Fine-tuning data is first decided with nothing dropped, which gives every example its score; what would go is then held
against the gate and the contamination, and only thresholds are read anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..core import UserError, suggest
from ..core.files import change, read_yaml
from ..core.shelves import names
from ..corpus import auditing, receipts, running, shards, summary
from ..corpus.policy import Policy, Rules, held, rules
from ..corpus.writing import is_half, write_atomically
from . import estimating, fitting, making, presets, ranking, sampling

POLICY = "policy.yaml"
OURS = {
    *running.OURS, POLICY, summary.FILE, ".lock", "report.html", "classifier.npz", estimating.FILE, *auditing.FILES,
    fitting.GATE, fitting.CURVE, ranking.FILE,
}  # fmt: skip
"""What a filter folder may hold, besides what filters of fine-tuning data learned."""
LEARNED = (".npz", ".safetensors")
"""Ends of the names of that."""


@dataclass(frozen=True)
class Made:
    """A policy with nothing left to learn or to look up, and the rules it comes to."""

    policy: Policy
    rules: Rules
    fitting: fitting.Fitting | None = None
    """Of a policy about fine-tuning data: what is known of its filters."""


def read_policy(config: Path | None, out: Path, changes: Mapping[str, Any]) -> tuple[Policy, Path]:
    """A policy from its file, or that of an earlier run, and changes to it; and the folder its paths start from."""
    path = config or out / POLICY
    if config is None and not path.is_file() and not {"filters", "preset"} & changes.keys():
        raise UserError(
            f"there is no policy, and no {path} of an earlier run. Give one with --config FILE; the shortest is"
            " 'filters: [{use: blocklist, terms: terms.txt}]'."
        )
    table = read_yaml(path) if path.is_file() or config else {}
    if "preset" in changes:
        table["preset"] = changes["preset"]
    table = presets.expanded(table, path.name)
    for place, value in changes.items():
        if place != "preset":
            change(table, place, value)
    return Policy.settle(table, path.name), path.parent


def _silent(_: str) -> None:
    """Say nothing."""


def make(
    policy: Policy, folder: Path, out: Path, where: str = POLICY, *, data: Sequence[str] = (),
    say: Callable[[str], None] = _silent,
) -> Made:  # fmt: skip
    """Read what the policy names, learn and choose what it leaves open, and write `policy.yaml` into `out`.

    A policy about fine-tuning data is written when its filters have passed or failed: see `carry_out`.
    """
    if policy.examples:
        found = fitting.fit(policy, folder, out, where, _sources(data, policy), say)
        return Made(found.policy, found.rules, found)

    def sampled(count: int) -> sampling.Sample:
        return sampling.sample(_sources(data, policy), policy.reading, count, policy.seed)

    done = making.ready(policy, folder, out, where, sampled if data else None)
    _write_policy(done.policy, out)
    return Made(done.policy, rules(done.policy, done.components, done.scorers, out))


def estimate(data: Sequence[str], made: Made, out: Path, count: int) -> dict[str, Any]:
    """What the policy would remove and cost, told from a sample and written to `estimate.json`."""
    drawn = sampling.sample(_sources(data, made.policy), made.policy.reading, count, made.policy.seed)
    found = estimating.estimate(made.rules, drawn, made.policy.workers)
    estimating.write(found, out)
    return found


def _sources(data: Sequence[str], policy: Policy) -> list[shards.Source]:
    """The sources of a corpus, each with the text column."""
    sources = shards.sources(data)
    for source in sources:
        check_columns(source, policy)
    return sources


def _write_policy(policy: Policy, out: Path) -> None:
    """The policy as YAML; long lists on one line, as JSON, which is YAML too and quick to write."""
    table = policy.plain()
    stages = table.pop("filters")
    lines = ["# What this folder was filtered by, whole: it repeats the run.\n", yaml.safe_dump(table, sort_keys=False)]
    lines.append("filters:\n")
    for stage in stages:
        lines += [f"{'- ' if index == 0 else '  '}{name}: {json.dumps(value, ensure_ascii=False)}\n"
                  for index, (name, value) in enumerate(stage.items())]  # fmt: skip
    write_atomically(out / POLICY, "".join(lines))


def carry_out(
    data: Sequence[str], made: Made, out: Path, *, executor: str = "local", apply: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Filter a corpus by a policy that is made. Returns the summary, with how many sources were decided now."""
    sources = _sources(data, made.policy)
    doing = _executor(executor, made, out)
    if made.fitting is not None:
        return _carry_out_examples(sources, made, made.fitting, out, doing, apply=apply, quiet=quiet)
    with _bar(sources, apply=apply, quiet=quiet) as say:
        now = running.run(made.rules, sources, out, doing, apply=apply, say=say)
    return {**summary.summarise(sources, made.rules.digest, out), "decided_now": now}


def _carry_out_examples(
    sources: Sequence[shards.Source], made: Made, known: fitting.Fitting, out: Path, doing: running.Doing, *,
    apply: bool, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Score everything, hold what would go against the gate and the contamination, then decide."""
    about, now, fresh = ranking.identity(made.rules, known.pool), 0, False
    ranked = ranking.read(out, about)
    if ranked is None:
        with _bar(sources, apply=False, quiet=quiet) as say:
            now = running.run(known.ranking, sources, out, doing, say=say)
        ranked, fresh = ranking.write(known.ranking, known.pool, sources, out, about), True
    hold, refused = known.judged(ranking.scores(made.rules, ranked))
    if refused is not None and not fresh:
        raise UserError(refused)  # what was decided before stands
    known.write(out)
    _write_policy(made.policy, out)
    stands = held(made.rules) if hold or refused else made.rules
    if refused is None:
        with _bar(sources, apply=apply, quiet=quiet) as say:
            now = max(now, running.run(stands, sources, out, doing, apply=apply, say=say))
    done = summary.summarise(sources, stands.digest, out, more=known.summary())
    if refused is not None:
        raise UserError(refused)
    return {**done, "decided_now": now}


@contextmanager
def _bar(sources: Sequence[shards.Source], *, apply: bool, quiet: bool) -> Iterator[Callable[[running.Task], None]]:
    """How far a run is, in bytes of its sources, on stderr. Silent when that is no terminal."""
    console = Console(stderr=True)
    size = {source: source.path.stat().st_size for source in sources}
    parts = {source: len(shards.cut(source)) for source in sources}
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=quiet or not console.is_terminal
    ) as progress:
        kinds = {"decide": "deciding", **({"apply": "writing"} if apply else {})}
        lines = {kind: progress.add_task(label, total=sum(size.values())) for kind, label in kinds.items()}

        def say(task: running.Task) -> None:
            if task.kind in lines:
                progress.advance(lines[task.kind], size[task.source] / (parts[task.source] if task.shard else 1))

        yield say


def check_columns(source: shards.Source, policy: Policy) -> None:
    """Refuse a source without the text column before anything is spent. Damage is found when it is decided."""
    try:
        if policy.examples:
            shards.shape_of(source, policy.reading)
        else:
            shards.columns_of(source, policy.reading)
    except shards.Damaged:
        return


def _executor(name: str, made: Made, out: Path) -> running.Doing:
    workers = made.policy.workers
    if made.policy.model is not None:  # one copy of it, in this process
        if name != "local":
            raise UserError(f"a policy with a 'model' is carried out in one process. Leave out --executor {name}.")
        return running.local(made.rules, workers if all(stage.lock_free for stage in made.rules.stages) else 1)
    if name == "ray":
        return running.on_ray(workers)
    if name == "datatrove":
        return running.on_datatrove(workers, out)
    return running.local(made.rules, workers, processes=name == "processes")


def prepared(out: Path, executor: str, data: Sequence[str]) -> None:
    """Refuse a folder with something else in it than an earlier run or within the corpus; and an unknown executor."""
    if executor not in running.EXECUTORS:
        raise UserError(f"there is no executor '{executor}'.{suggest(executor, running.EXECUTORS)}")
    if out.is_file() or (out.is_dir() and not {p.name for p in out.iterdir() if not _passing(p)} <= OURS):
        raise UserError(f"{out} is a file, or a folder with something else in it. Give another with --out.")
    around = [given for given in data if Path(given).is_dir() and out.resolve().is_relative_to(Path(given).resolve())]
    if around:
        raise UserError(f"{out} lies within {around[0]}: what is written would be read as corpus. Give another --out.")


def _passing(path: Path) -> bool:
    """Whether a file is half written, what a filter learned, or the lock of an office program on `audit.csv`."""
    learned = path.suffix in LEARNED and path.name.startswith(tuple(names("filters")))
    return learned or is_half(path) or path.name.startswith((".~lock.audit", "~$audit"))


def told(summary: Mapping[str, Any], out: Path) -> str:
    """The summary in a few lines."""
    read = summary["read"]
    lines = [f"{out}: {read} documents read, {summary['decided_now']} of {len(summary['sources'])} sources decided now"]
    for decision in receipts.DECISIONS:
        share = f" ({summary[decision] / read:.2%})" if read else ""
        by = ", ".join(f"{stage} {n[decision]}" for stage, n in summary["stages"].items() if decision in n)
        lines.append(f"  {decision:<12} {summary[decision]}{share}{f'    {by}' if by else ''}")
    return "\n".join([*lines, f"  root         {summary['root']}"])


def problems(summary: Mapping[str, Any], policy: Policy) -> list[str]:
    """What a user must look at, a line each: nothing is left out or taken in without a word."""
    gate = summary.get("gate") or {}
    found = [gate["why"]] if gate.get("why") else []
    found += [f"{name} is {why}: none of it was decided, kept or removed." for name, why in summary["damaged"].items()]
    if summary["quarantined"] > policy.quarantined * summary["read"]:
        why = ", ".join(f"{reason} ({n})" for reason, n in summary["reasons"].get("quarantined", {}).items())
        found.append(
            f"{summary['quarantined']} of {summary['read']} documents are quarantined, and the policy allows"
            f" {policy.quarantined:.1%}: {why}. Mend them, or allow more with --set quarantined=SHARE."
        )
    doubled = summary["duplicate_ids"]
    if policy.unique_ids and doubled["documents"]:
        some = ", ".join(doubled["ids"][:3])
        found.append(
            f"{doubled['documents']} documents have an id that another has, such as {some}. All were decided, each by"
            " its row. Give them ids of their own, or say that it is known with --set unique_ids=false."
        )
    return found
