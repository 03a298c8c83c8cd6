"""The desk: the verbs, and nothing else. Data goes to stdout, progress and messages to stderr."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from .attest.oms import Signer, Verifier
    from .attest.verifying import Verified
    from .corpus.shards import Reading
    from .study.rerunning import Rerun
    from .study.single import Graded

app = typer.Typer(
    help="Is hazardous knowledge gone from a model's weights, or only hidden in them?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODELS = ("torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "gguf")
"""What the extra `models` brings, and the core does without."""

ShowText = Annotated[bool, typer.Option("--show-text", help="Show text of the corpus on a filter's page.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; repeat at will.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file: `use: NAME`, its settings, `corpus`.")]
Follow = Annotated[bool, typer.Option("--follow", help="Read files behind symbolic links, as in a Hub cache.")]
Trust = Annotated[Path | None, typer.Option("--trust", help="Without a key: a trusted root other than Sigstore's.")]
StudyFile = Annotated[Path | None, typer.Argument(help="A study file; left out, the lab's default study.")]


def _place(given: str) -> Path:
    from . import assets

    return assets.path(given)


Model = Annotated[
    Path, typer.Argument(parser=_place, metavar="MODEL", help="A model folder with safetensors weights, or asset:NAME.")
]


@app.command()
def run(
    study: StudyFile = None,
    out: Out = None,
    executor: Annotated[str, typer.Option(help="processes, local (this process alone) or ray.")] = "processes",
    set_: Set = None,
    json_: AsJson = False,
) -> None:
    """Run a study, or what is not done of it yet, and draw its report."""
    from .core import ExitCode
    from .engine import parallel
    from .report import redraw
    from .report import summary as table
    from .study import results
    from .study.plan import plan as planned
    from .study.progress import Bar
    from .study.run import run as carry_out
    from .study.schema import load
    from .study.store import Store
    from .study.together import Unwatched

    what = planned(load(study, _changes(set_)))
    folder = out or Path("runs") / (study.stem if study else "default")
    store = Store()
    if parallel.rank() > 0:  # the first process writes the run folder, and tells
        carry_out(what, store, Unwatched(), executor)
        return
    with results.prepared(folder), Bar(what, store, quiet=json_) as bar:
        done = carry_out(what, store, bar, executor)
    rows = results.write(what, store, folder)
    for reason in results.inapplicable(what, store):
        _say(f"untaught: {reason}")
    page, missing = redraw(folder), results.missing_share(rows)
    if json_:
        _print_json(
            {"run": str(folder), "steps": len(what.steps), "done_now": done, "missing": missing, "rows": len(rows)}
        )
    else:
        _print(table(folder))
        _say(f"{done} of {len(what.steps)} steps were done now. The report is {page}.")
    if missing > what.study.missing:
        _say(f"{missing:.1%} of the marks are missing, and the study allows {what.study.missing:.1%}.")
        raise typer.Exit(ExitCode.INCOMPLETE)


@app.command()
def plan(study: StudyFile = None, set_: Set = None, json_: AsJson = False) -> None:
    """Print a study's steps, what is done of them, and what the rest is expected to cost."""
    from rich.table import Table

    from .study.plan import plan as planned
    from .study.progress import expected_memory, outlook
    from .study.schema import load
    from .study.store import Store

    what, store = planned(load(study, _changes(set_))), Store()
    lines, base = outlook(what, store), expected_memory(what.study)
    if json_:
        steps = [
            {"identity": s.identity, "kind": s.kind, "title": s.label, "done": store.record(s.identity) is not None}
            for s in what.steps
        ]
        _print_json({"steps": steps, "seconds_left": sum(line.seconds for line in lines), "base_model": base})
        return
    table = Table("kind", "steps", "done", "left: processor seconds", title=what.study.title)
    for line in lines:
        guess = " (a guess)" if line.guessed else ""
        table.add_row(line.kind, str(line.steps), str(line.done), f"{line.seconds:.0f}{guess}" if line.seconds else "-")
    _print(table)
    _print(f"{sum(line.seconds for line in lines):.0f} processor seconds left; {len(what.cells)} subjects to evaluate.")
    if base is not None:
        held = f"{base['bytes'] / 1e9:.2f} GB in {base['dtype']}"
        _print(f"The base model has {base['parameters']:,} parameters: {held} for each copy that is held at a time.")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, or a filter folder.")],
    show_text: ShowText = False,
    data: Annotated[list[str] | None, typer.Option(help="Corpus files, for --show-text; repeat at will.")] = None,
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="FORMAT", help="Hand results on: lm-eval, inspect, card or lm-eval-tasks."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="PLACE", help="With --export: a new folder.")] = None,
    json_: AsJson = False,
) -> None:
    """Draw the page of a run or a filter anew and print its summary, or hand results on. Loads no model."""
    from .core import UserError
    from .report import exporting, filter_reading, redraw, safety_tax
    from .report import summary as table

    if export is not None:
        _export(run, export, out, json_)
        return
    if out is not None:
        raise UserError(f"--out is for --export, and a page is drawn in its own folder. Leave --out {out} out.")
    if filter_reading.is_filter(run):
        _report_filter(run, data or (), show_text, json_)
        return
    if (run / exporting.ASKED).is_file():
        rows = exporting.rows(run)
        _print_json(rows) if json_ else _print_evaluation(rows)
        return
    if show_text or data:
        raise UserError(f"--show-text and --data are for a filter folder, and {run} is none. Leave them out.")
    page = redraw(run)
    if json_:
        _print_json({"page": str(page), "safety_tax": safety_tax.plain(run)})
    else:
        _print(table(run))
        _say(f"The report is {page}.")


def _export(run: Path, given: str, out: Path | None, json_: bool) -> None:
    from .report import card_results, exporting, inspect_logs, lm_eval_results

    place = exporting.check(given, out)
    makers = {"lm-eval": lm_eval_results.write, "inspect": inspect_logs.write, "card": card_results.write}
    if given == "lm-eval-tasks":
        from .study.tasks import write_tasks

        makers[given] = write_tasks
    written = exporting.export(run, place, makers[given])
    if json_:
        _print_json({"format": given, "out": str(place), "files": list(map(str, written))})
        return
    _print(str(place), markup=False)
    _say(f"{given}: {len(written)} files.")


def _report_filter(out: Path, data: Sequence[str], show_text: bool, json_: bool) -> None:
    from .core import UserError
    from .corpus.running import alone
    from .policies import auditing, filtering

    if show_text and not data:
        raise UserError(f"{out} holds no texts. Say where they are: untaught report {out} --show-text --data DATA.")
    with alone(out):
        reading = filtering.read_policy(None, out, {})[0].reading if show_text else None
        audit, page = _page(data, reading, out, anew=True)
    if json_:
        _print_json({"page": str(page), "audit": auditing.plain(audit)})
    else:
        _print(filtering.told({**(filtering.summary.read(out) or {}), "decided_now": 0}, out), markup=False)
        if audit is not None:
            _print(auditing.told(audit), markup=False)
        _say(f"The report is {page}.")


def _page(
    data: Sequence[str], reading: Reading | None, out: Path, *, anew: bool = False
) -> tuple[dict[str, Any] | None, Path]:
    """Work the labels out and draw a filter folder's page: with text, where it is said how that is read."""
    from .policies import auditing
    from .report import filter_page

    audit = auditing.refresh(out)
    if reading is None:
        return audit, filter_page.redraw(out) if anew else filter_page.update(out)
    return audit, filter_page.redraw(out, auditing.texts(data, reading, out, filter_page.examples(out)))


@app.command("filter")
def filter_(  # noqa: PLR0913, PLR0917 - a parameter for each option
    data: Annotated[list[str], typer.Argument(help="Corpus files, folders, or globs in quotes.")],
    out: Annotated[Path, typer.Option("--out", help="Filter folder: decisions, receipts, and what is written out.")],
    config: Annotated[Path | None, typer.Option("--config", help="Policy file; left out, that of --out.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Also write kept, removed and quarantined files.")] = False,
    executor: Annotated[str, typer.Option(help="local, processes, ray or datatrove.")] = "local",
    estimate: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only say what would go and what it costs, from N documents.")
    ] = None,
    audit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Draw N documents to label by hand, into audit.html and .csv."),
    ] = None,
    show_text: ShowText = False,
    upload: Annotated[str | None, typer.Option(help="Put what is kept into a dataset: hub:OWNER/NAME.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let all see what is uploaded; else it is private.")] = False,
    set_: Set = None,
    json_: AsJson = False,
) -> None:
    """Decide which documents of a corpus are removed, and keep a receipt of every decision."""
    from .core import ExitCode, UserError
    from .corpus import hub
    from .corpus.running import alone
    from .policies import auditing, filtering
    from .report import audit_page

    filtering.prepared(out, executor, data)
    if estimate is not None and (apply or upload or audit or show_text):
        raise UserError("--estimate decides nothing: leave out --apply, --upload, --audit and --show-text, or it.")
    policy, folder = filtering.read_policy(config, out, _changes(set_))
    if policy.examples and estimate is not None:
        raise UserError(
            "--estimate is for corpora: fine-tuning data is ranked whole, and curve.json says what each share would"
            " cost. Leave it out."
        )
    with alone(out):
        made = filtering.make(policy, folder, out, data=data, say=_say)
        if estimate is not None:
            found = filtering.estimate(data, made, out, estimate)
            _print_json(found) if json_ else _print(filtering.estimating.told(found, data), markup=False)
            return
        summary = filtering.carry_out(data, made, out, executor=executor, apply=apply or bool(upload), quiet=json_)
        if audit is not None:
            audit_page.write(out, auditing.draw(data, made.policy.reading, out, audit))
        labels, page = _page(data, made.policy.reading if show_text else None, out)
    if upload:
        _say(
            f"{hub.upload(out, upload, public=public)} holds what is kept, {'for all to see' if public else 'private'}."
        )
    if json_:
        _print_json({**summary, "page": str(page), "audit": auditing.plain(labels)})
    else:
        _print(filtering.told(summary, out), markup=False)
        if labels is not None:
            _print(auditing.told(labels), markup=False)
        _say(f"The report is {page}.")
    if problems := filtering.problems(summary, made.policy):
        for problem in problems:
            _say(problem)
        raise typer.Exit(ExitCode.INCOMPLETE)


@app.command()
def unlearn(model: Model, config: Config = None, out: Out = None, set_: Set = None, json_: AsJson = False) -> None:
    """Apply an unlearning method to a model folder and write the new model."""
    _intervene("unlearning", model, config, out, set_, json_)


@app.command()
def attack(model: Model, config: Config = None, out: Out = None, set_: Set = None, json_: AsJson = False) -> None:
    """Attack a model folder and write what comes out of it."""
    _intervene("attacks", model, config, out, set_, json_)


def _intervene(
    shelf: str, model: Path, config: Path | None, out: Path | None, set_: list[str] | None, json_: bool
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from .engine.compute import begin
    from .study.single import intervene, read_job

    job, folder = read_job(config, _changes(set_))
    begin(job.compute)
    console = Console(stderr=True)
    with Progress(console=console, disable=json_ or not console.is_terminal) as bar:
        line = bar.add_task(job.use, total=None)
        made = intervene(
            shelf, model, job, folder, out or Path(f"{model.resolve().name}-{job.use}"),
            lambda done, total: bar.update(line, completed=done, total=total),
        )  # fmt: skip
    if json_:
        _print_json(made)
    else:
        spent = made["spent"]
        _print(f"{made['model']}: weights {made['weights'][:16]}, {spent['steps']} steps, {spent['tokens']} tokens")
        if "wrap" in made:
            _say(f"what now stands around every prompt: {made['wrap']}; untaught evaluate asks with it")
        if (good := made["measured"].get("good_step")) is not None:
            kl = made["measured"]["benign_kl"]
            _say(f"stop: the weights after step {good:.0f} were kept, {kl:.3g} nats of KL a token away on benign text.")
        if peak := made["cost"].get("memory_peak"):
            before, expected = (made["cost"].get(f"memory_{when}", 0.0) for when in ("before", "expected"))
            _say(
                f"memory: {before / 1e9:.2f} GB before, {peak / 1e9:.2f} GB at most; training was reckoned to need"
                f" {expected / 1e9:.2f} GB."
            )


@app.command()
def evaluate(model: Model, config: Config = None, out: Out = None, set_: Set = None, json_: AsJson = False) -> None:
    """Grade a model folder on files of items, and keep its marks in --out where that is given."""
    from .core import ExitCode
    from .core.files import check_new
    from .engine.compute import begin
    from .study.single import evaluate_all, read_jobs, write_evaluation

    jobs, folder = read_jobs(config, _changes(set_))
    if out is not None:
        check_new(out)
    begin(jobs[0].compute)
    graded = evaluate_all(model, jobs, folder)
    rows = [row for one in graded for row in one.rows]
    if out is not None:
        write_evaluation(out, model, jobs, graded)
    if json_:
        _print_json(rows)
    else:
        _print_evaluation(rows)
        for metric, item, why in _lost(graded):
            _say(f"missing: {metric} of item '{item}'{why}")
    if out is not None:
        _say(f"The results are in {out}: untaught report {out} --export FORMAT --out PLACE hands them on.")
    if any(row["missing"] for row in rows):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _print_evaluation(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each evaluation: value, interval, chance, how many were scored, and what stood around the prompts."""
    from itertools import groupby

    from rich.table import Table
    from rich.text import Text

    from .report.judges import Judge, believed

    for (use, items), own in groupby(rows, key=lambda row: (row["evaluation"], row["items"])):
        told = list(own)
        table = Table("metric", "value", "95% interval", "chance", "scored", "missing", title=Text(f"{use}: {items}"))
        for row in told:
            interval = "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
            cells = [_number(row["value"]), interval, _number(row["chance"]), str(row["n"]), str(row["missing"])]
            table.add_row(row["metric"], *cells)
        _print(table)
        if subjects := told[0].get("subjects"):
            _print(_listed(subjects), markup=False)
        _print(_around(told[0]), markup=False)
        if (judge := told[0].get("judge")) is not None:
            _print(believed(Judge(use, judge)), markup=False)


def _listed(subjects: Mapping[str, int]) -> str:
    """What items are about, always all of it: a subset of a benchmark goes by its whole name too often."""
    return f"{len(subjects)} subjects: {', '.join(f'{name} ({count})' for name, count in subjects.items())}"


def _around(row: Mapping[str, Any]) -> str:
    """What stood around every prompt, in a line or two."""
    wrap = {name: value for name, value in (row.get("wrap") or {}).items() if value not in ("", None, False)}
    if not wrap:
        return "Nothing stands around the prompts."
    if (chat := row.get("chat")) is None:
        return f"Around every prompt: {json.dumps(wrap, ensure_ascii=False)}"
    return f"The chat template is {chat['template'][:16]}; the model is handed {json.dumps(chat['handed'])}"


def _lost(graded: Sequence[Graded]) -> Iterator[tuple[str, str, str]]:
    """The first item of each metric that is missing, and why."""
    for one in graded:
        lost = [mark for mark in one.marks.to_pylist() if mark["value"] is None]
        first = {mark["metric"]: mark for mark in reversed(lost)}
        for metric, mark in reversed(first.items()):
            yield metric, mark["item"], f", {mark['note']}" if mark["note"] else ""


@app.command()
def sign(  # noqa: PLR0913, PLR0917 - a parameter for each option
    model: Model,
    run: Annotated[Path, typer.Option("--run", help="The run folder that evaluated and attacked this model.")],
    out: Annotated[Path, typer.Option("--out", help="The signed statement to write.")],
    key: Annotated[Path | None, typer.Option("--key", help="Private key, a PEM file: Ed25519 or ECDSA.")] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign by Sigstore with an identity token, in place of a key.")
    ] = False,
    token: Annotated[
        Path | None, typer.Option("--token", help="With --keyless: file of the token; else from the surroundings.")
    ] = None,
    trust: Trust = None,
    of: Annotated[
        Path | None, typer.Option("--of", help="The model that was measured, where MODEL was made from it since.")
    ] = None,
    transform: Annotated[
        str | None, typer.Option(help="With --of, how: 'adapter folded', quantised, merged or converted.")
    ] = None,
    filtered: Annotated[list[Path] | None, typer.Option(help="Filter folder of its text; repeat at will.")] = None,
    reference: Annotated[list[str] | None, typer.Option(help="Arm to hold it against; repeat at will.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write a model card into MODEL first, to be signed.")] = False,
    release: Annotated[Path | None, typer.Option(help="Folder for the page, the card, ML-BOM and Croissant.")] = None,
    follow: Follow = False,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    json_: AsJson = False,
) -> None:
    """Sign what a run measured of a model: a statement, and beside it a signature of its files."""
    from .attest import oms, releasing, signing
    from .attest.statement import Claim, edges
    from .report import release_page

    claim = Claim(run, edges(of, transform), tuple(filtered or ()), tuple(reference or ()))
    pages = releasing.prepared(release, force) if release else None
    write = releasing.card if card else None
    done = signing.sign(model, claim, _signer(key, keyless, token, trust), out, card=write, follow=follow, force=force)
    if pages is not None:
        made = releasing.exports(done.statement, claim.filtered)
        report = release_page.report_of(pages, run)
        made[release_page.FILE] = release_page.render(done.statement.plain(), releasing.LIMITS, report)
        for name, content in made.items():
            oms.write(pages / name, content.encode())
    told = done.statement.predicate
    if json_:
        _print_json({
            "statement": str(done.file), "signature": str(done.bundle), "root": done.statement.root,
            "arm": told.model.arm, "seed": told.model.seed, "evaluations": len(told.evaluations),
            "attacks": len(told.attacks), "filters": len(told.filters),
            "release": None if pages is None else str(pages),
        })  # fmt: skip
        return
    counts = f"{len(told.evaluations)} values, {len(told.attacks)} attacks, {len(told.filters)} filters"
    root = done.statement.root[:16]
    _print(f"{done.file}: {told.model.arm}, seed {told.model.seed}; {counts}; root {root}", markup=False)
    if done.by:
        _say(f"Signed by {done.by}: say so to whoever verifies, with --identity and --issuer.")
    beside = "which model_signing can verify too" if done.interchangeable else "of a kind model_signing does not know"
    _say(f"{done.bundle} is the signature of the files, {beside}.")
    if pages is not None:
        _say(f"The release page is {pages / release_page.FILE}.")


@app.command()
def verify(  # noqa: PLR0913, PLR0917 - a parameter for each option
    model: Model,
    statement: Annotated[Path, typer.Option("--statement", help="The signed statement, or a signature of files.")],
    key: Annotated[Path | None, typer.Option("--key", help="The signer's public key, a PEM file.")] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", help="Who must have signed by Sigstore: an address or a URI.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="With --identity: the provider that vouches for it, a URL.")
    ] = None,
    trust: Trust = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="YAML file of what you demand.")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run folder, to hold it against the statement.")] = None,
    rerun: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --run: ask N items again, drawn by chance.")
    ] = None,
    draw: Annotated[int | None, typer.Option(min=0, help="With --rerun: draw as this number says.")] = None,
    filtered: Annotated[
        list[Path] | None, typer.Option(help="Filter folder, to hold it against the statement; repeat at will.")
    ] = None,
    follow: Follow = False,
    json_: AsJson = False,
) -> None:
    """Check a model folder against a signed statement, and the statement against what you demand. Needs no torch."""
    from .attest import verifying
    from .attest.policy import Policy
    from .core import UserError
    from .core.files import read_yaml

    if rerun is not None and run is None:
        raise UserError("--rerun needs the marks to compare with: give --run, the run folder of the statement.")
    demands = Policy.read(read_yaml(policy), policy.name) if policy else None
    with _refusing(json_):
        by = _verifier(key, identity, issuer, trust)
        found = verifying.verify(model, statement, by, demands, run, filtered=filtered or (), follow=follow)
    again = _rerun(model, found, run, rerun, draw) if run is not None and rerun is not None else None
    problem = verifying.problem(found, str(policy))
    if again is not None and problem is None:
        problem = again.problem(demands.rerun_differ_at_most if demands else 0.0)
    if json_:
        told = verifying.plain(found, problem)
        _print_json(told if again is None else {**told, "rerun": again.plain()})
    else:
        for line in [*verifying.lines(found), *([] if again is None else [again.words()])]:
            _print(line, markup=False)
    if problem is not None:
        raise problem


def _rerun(model: Path, found: Verified, run: Path, count: int, draw: int | None) -> Rerun:
    import secrets

    from .core import UserError
    from .study.rerunning import rerun

    if found.statement is None:
        raise UserError("a signature of files says nothing of evaluations, so none can be asked again.")
    return rerun(model, found.statement.predicate, run, count, secrets.randbelow(2**32) if draw is None else draw)


@contextlib.contextmanager
def _refusing(json_: bool) -> Iterator[None]:
    """With `json_`, say what is refused on stdout too, for programs."""
    from .attest.refusals import Refused

    try:
        yield
    except Refused as error:
        if json_:
            _print_json({"verified": False, "code": int(error.code), "message": str(error)})
        raise


@app.command()
def inspect(model: Model, json_: AsJson = False) -> None:
    """List what a downloaded model folder contains that could run code, or that is malformed. Loads nothing."""
    from rich.table import Table

    from .attest.inspecting import inspect as look

    found = look(model)
    refused = [one for one in found if one.severity == "refuse"]
    if json_:
        rows = [{name: getattr(one, name) for name in ("path", "kind", "severity", "reason")} for one in found]
        _print_json({"safe": not refused, "found": rows})
    else:
        table = Table("file", "what", "", "why")
        for one in found:
            table.add_row(*map(_cell, (one.path, one.kind, one.severity, one.reason)))
        if found:
            _print(table)
        _say(
            f"{model}: {len(refused)} of {len(found)} things found are refused."
            if found
            else f"{model}: nothing of note."
        )
    if refused:
        from .core import ExitCode

        raise typer.Exit(ExitCode.WRONG_INPUT)


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(text)


def _verifier(key: Path | None, identity: str | None, issuer: str | None, trust: Path | None) -> Verifier:
    """A public key, or an identity for whom an issuer vouches: the one that is given."""
    from .attest import keyless
    from .attest.keys import load_public
    from .core import UserError

    if key is not None and identity is None and issuer is None and trust is None:
        return load_public(key)
    if key is not None or not identity or not issuer:
        raise UserError(
            "say whom you believe, and one only: --key PUBLIC_KEY, or --identity WHO with --issuer URL for what was"
            " signed by Sigstore."
        )
    return keyless.Verifier(identity, issuer, trust)


def _signer(key: Path | None, keyless: bool, token: Path | None, trust: Path | None) -> Signer:
    """A private key, or whoever an identity token is of: the one that is asked for, and never the other."""
    from .attest.keyless import signer
    from .core import UserError

    if key is not None and not keyless and token is None and trust is None:
        return _private(key)
    if key is not None or not keyless:
        raise UserError("say what to sign with, and one only: --key PRIVATE_KEY, or --keyless by Sigstore.")
    return signer(token, trust)


def _private(key: Path) -> Signer:
    """A private key; its passphrase is taken from the environment, or asked for where somebody can answer."""
    import os

    from .attest.keys import load_private
    from .attest.signing import PASSPHRASE, is_encrypted
    from .core import UserError

    if not is_encrypted(key):
        return load_private(key)
    given = os.environ.get(PASSPHRASE)
    if given is None and not sys.stdin.isatty():
        raise UserError(f"the private key {key} is encrypted. Put its passphrase into the variable {PASSPHRASE}.")
    if given is None:
        given = str(typer.prompt(f"Passphrase of {key}", hide_input=True, err=True))
    return load_private(key, given.encode())


@app.command()
def fetch(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ASSET]...", help="Names, hub:OWNER/NAME@REVISION, model folders or GGUF files; none: a list."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it will be called; one asset only.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace what is there.")] = False,
    json_: AsJson = False,
) -> None:
    """Fetch models and data by name, check them, and keep them with where they came from."""
    from rich.console import Console

    from .assets.fetching import fetch as get
    from .core import UserError

    if not what:
        _list_assets(json_)
        return
    if name and len(what) > 1:
        raise UserError(f"--name {name} names one asset, and {len(what)} were given. Fetch them one by one.")
    console, found = Console(stderr=True), []
    for given in what:
        if json_ or not console.is_terminal:
            done = get(given, name=name, again=again)
        else:
            with console.status(given) as line:
                done = get(given, name=name, again=again, tell=line.update)
        about = done.provenance
        found.append({"asset": about.asset, "folder": str(done.folder), "fetched": done.now, "licence": about.licence})
        if not json_:
            _say(f"{about.asset}: {'fetched' if done.now else 'there already, and intact'}. Licence: {about.licence}.")
            _print(str(done.folder), markup=False)
    if json_:
        _print_json(found)


def _list_assets(json_: bool) -> None:
    from rich.table import Column, Table

    from .assets.listing import listed

    rows = listed()
    if json_:
        _print_json(rows)
        return
    table = Table(Column("asset", no_wrap=True), "MB", "to download", "there", "licence", "what")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row.values()))
    _print(table)


@app.command("list")
def list_(shelf: Annotated[str | None, typer.Argument(help="A shelf.")] = None, json_: AsJson = False) -> None:
    """List the components on a shelf, or on all of them."""
    from .core.shelves import SHELVES, names, summary

    found = {s: {name: summary(s, name) for name in names(s)} for s in ([shelf] if shelf else SHELVES)}
    if json_:
        _print_json(found)
        return
    for title, components in found.items():
        _print(f"[bold]{title}[/bold]")
        for name, line in components.items():
            _print(f"  {name:<18} {line}")


@app.command()
def show(
    component: Annotated[str, typer.Argument(help="A component's name, or SHELF/NAME where two shelves have it.")],
    json_: AsJson = False,
) -> None:
    """Show what a component does and what can be set."""
    from .core import UserError, suggest
    from .core.shelves import SHELVES, find, names, source, text

    of, _, component = component.rpartition("/")
    shelves = [shelf for shelf in SHELVES if component in names(shelf) and of in ("", shelf)]
    if not shelves:
        known = [name for shelf in SHELVES for name in names(shelf)]
        raise UserError(f"there is no component '{component}'.{suggest(component, known)}")
    for shelf in shelves:
        settings = find(shelf, component)
        if json_:
            _print_json({"shelf": shelf, "file": str(source(shelf, component)), "schema": settings.model_json_schema()})
            continue
        _print(f"[bold]{component}[/bold], on the shelf {shelf}\n")
        _print(text(shelf, component), markup=False)
        _print("\n[bold]settings[/bold]")
        for name, field in settings.model_fields.items():
            default = json.dumps(field.get_default(call_default_factory=True), default=str)
            _print(f"  {name} = {default}    {' '.join((field.description or '').split())}", markup=False)


@app.command()
def new(
    shelf: Annotated[str, typer.Argument(help="A shelf.")],
    name: Annotated[str, typer.Argument(help="The new component's name: lower case, words joined by '_'.")],
    out: Out = None,
    json_: AsJson = False,
) -> None:
    """Write the skeleton of a component: one file, to be filled in."""
    from .study.skeleton import write

    path = write(shelf, name, out)
    if json_:
        _print_json({"file": str(path)})
    else:
        _print(str(path), markup=False)


def _changes(given: list[str] | None) -> dict[str, Any]:
    """`--set PATH=VALUE`, the value read as YAML."""
    import yaml

    from .core import UserError

    changes: dict[str, Any] = {}
    for text in given or []:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UserError(f"--set {text} should be PATH=VALUE, such as --set seeds=[0].")
        try:
            changes[path] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {path}: '{value}' is not a YAML value.") from None
    return changes


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print(what: Any, *, markup: bool = True) -> None:
    from rich.console import Console

    Console(soft_wrap=isinstance(what, str), highlight=False).print(what, markup=markup)


def _print_json(what: Any) -> None:
    typer.echo(json.dumps(what, indent=1, ensure_ascii=False))


def _say(message: str) -> None:
    typer.echo(message, err=True)


def main() -> None:
    """Run a verb. Wrong input is a message and exit code 2; anything else that is raised is our bug."""
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        sys.unraisablehook = lambda _: None  # what Ctrl-C cuts off half-way would complain as it goes
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        app()
    except BaseException as error:
        if stopped:  # whatever Ctrl-C was turned into on its way here
            _say("untaught: stopped. What is finished is kept: run again to go on.")
            sys.exit(128 + signal.SIGINT)
        if not isinstance(error, Exception):
            raise  # a verb's own exit code
        from .core import ExitCode, UserError

        lacking = error.name if isinstance(error, ModuleNotFoundError) else None
        if lacking in MODELS:
            error = UserError(f"this verb needs {lacking}, of the extra 'models': pip install 'untaught[models]'.")
        if not isinstance(error, UserError):
            raise
        from .engine import parallel

        if parallel.rank() > 0:
            time.sleep(3)  # if the first process met it too, it tells, and the launcher ends this one meanwhile
        _say(f"untaught: {error}")
        sys.exit(getattr(error, "code", ExitCode.WRONG_INPUT))  # what refuses to verify has a code of its own


if __name__ == "__main__":
    main()
