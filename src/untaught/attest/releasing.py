"""What a release says of itself in other formats, all of it from the signed statement.

    README.md         a model card as the Hub reads it: results in its front matter, worst cases, limits in plain words
    mlbom.cdx.json    CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json), the model with its files, data and results
    croissant.json    Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html), of filtered data

They repeat numbers and sign nothing: what holds is the statement, and that only as its signature is verified. No
licence is named, since a statement knows none.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..core import UserError
from .evidence import kept_of, of_filtered
from .predicate import Attack, Estimate, Filter, Predicate, Result, Statement, Worst
from .statement import manifest_of

CARD, BOM, CROISSANT = "model-card.md", "mlbom.cdx.json", "croissant.json"
LIMITS = (
    (
        "It does not say that the model is safe.",
        "A signature says who claims what about which bytes. It does not make the numbers true.",
    ),
    (
        "It does not say what was not tried.",
        "Another attack, or a larger budget, may bring back what these did not.",
    ),
    (
        "It says nothing of models made from this one.",
        "Quantised, merged or tuned weights are other weights, with numbers of their own.",
    ),
    (
        "It says nothing of other questions.",
        "Items were asked in the way that the study says. What other questions would show was not measured.",
    ),
    ("Missing is not zero.", "A value that could not be computed is missing: nobody knows it."),
)
"""What a reader must not conclude, in short and at length."""


def prepared(folder: Path, force: bool) -> Path:
    """A folder for a release; a `UserError` where something would be written over that is there."""
    try:
        if not force and folder.exists() and (there := next(folder.iterdir(), None)):
            raise UserError(f"{folder} has {there.name} in it. Give an empty folder, or write over it with --force.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written: {error.strerror}. Give another --release.") from None
    return folder


def exports(statement: Statement, filtered: Sequence[Path] = ()) -> dict[str, str]:
    """Every export of a statement by its file's name; Croissant for filter folders, numbered if there are several."""
    found = {CARD: card(statement), BOM: json.dumps(bom(statement), indent=1, ensure_ascii=False) + "\n"}
    for number, folder in enumerate(filtered, start=1):
        name = CROISSANT if len(filtered) == 1 else f"croissant-{number}.json"
        found[name] = json.dumps(croissant(folder), indent=1, ensure_ascii=False) + "\n"
    return found


# -- the model card ----------------------------------------------------------------------------------------------------


def card(statement: Statement) -> str:
    """A model card. It does not name the root digest, so that it can be one of the files that are signed."""
    claim = statement.predicate
    found = [
        listed(one.evaluation, one.items, one.metric, f"{one.metric}, seed {one.seed}", one.value, one.task)
        for one in claim.evaluations
        if one.value is not None and one.seed == claim.model.seed
    ]
    model, title = claim.model, plain(claim.study.title)
    parts = [
        f"{front_matter(model.name, found)}\n# {plain(model.name)}\n",
        f"The arm `{plain(model.arm)}`, seed {model.seed}, of the study \u201c{title}\u201d. Weights"
        f" `{model.weights}`. Everything on this card is in the signed statement that comes with it.\n",
        "## Before any attack\n",
        ruled(("evaluation", "items", "metric", "seed", "value", "scored"), map(_line, claim.evaluations)),
        "## After the worst attacks\n",
        _worst(claim.attacks),
        "## What was filtered out of its text\n",
        _filters(claim.filters),
        "## What it does not say\n",
        "".join(f"- **{short}** {long}\n" for short, long in LIMITS),
        "## Verify it\n",
        "```sh\nuntaught verify MODEL --statement STATEMENT --key PUBLIC_KEY --policy POLICY\n```\n",
    ]
    return "\n".join(parts)


def front_matter(name: str, results: Sequence[dict[str, Any]]) -> str:
    """Front matter as the Hub reads it (https://huggingface.co/docs/hub/model-cards)."""
    front = {
        "library_name": "transformers",
        "tags": ["untaught", "tamper-resistance", "data-filtering", "unlearning"],
        "model-index": [{"name": name, "results": list(results)}],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=110)}---\n"


def listed(
    evaluation: str, items: str, metric: str, called: str, value: float, revision: str | None = None
) -> dict[str, Any]:
    """One result of a model index. Of a value that is missing there is none."""
    return {
        "task": {"type": "text-generation", "name": evaluation},
        "dataset": {"type": f"untaught/{items}", "name": items, **({"revision": revision} if revision else {})},
        "metrics": [{"type": metric, "name": called, "value": value}],
    }


def _line(one: Result) -> tuple[str, ...]:
    scored = f"{one.n} of {one.n + one.missing}"
    return one.evaluation, one.items, one.metric, str(one.seed), _number(one), scored


def _worst(attacks: Iterable[Attack]) -> str:
    lines = [
        (attack.attack, one.items, one.metric, f"{one.value:.4g}", _spent(one), str(one.seed))
        for attack in attacks
        for one in attack.worst
    ]
    if not lines:
        return "No attack was tried, so nothing is known of how long this lasts.\n"
    return ruled(("attack", "items", "metric", "highest value", "spent", "seed"), lines)


def _spent(one: Worst) -> str:
    told = {name: getattr(one.spent, name) for name in ("steps", "tokens")}
    return ", ".join(f"{number:.4g} {name}" for name, number in told.items() if number) or "no training"


def _filters(filters: Iterable[Filter]) -> str:
    lines = [
        (" then ".join(one.filters), f"{one.read:,}", f"{one.removed:,}", f"{one.quarantined:,}", _number(one.recall))
        for one in filters
    ]
    if not lines:
        return "Nothing, or nothing that the statement tells of.\n"
    return ruled(("filters", "read", "removed", "quarantined", "recall"), lines)


def _number(one: Estimate | None) -> str:
    if one is None or one.value is None:
        return "missing"
    return f"{one.value:.4g}" + ("" if one.low is None or one.high is None else f" ({one.low:.4g}\u2013{one.high:.4g})")


def ruled(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *([plain(cell) for cell in line] for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plain(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    table = {ord(sign): f"\\{sign}" for sign in "|`*[]#"} | {ord("<"): "&lt;", ord(">"): "&gt;", ord("&"): "&amp;"}
    return " ".join(text.split()).translate(table)


# -- CycloneDX ---------------------------------------------------------------------------------------------------------


def bom(statement: Statement) -> dict[str, Any]:
    """A machine-learning bill of materials."""
    claim, root = statement.predicate, statement.root
    data = [_data(number, one) for number, one in enumerate(claim.filters, start=1)]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{e.path}",
            "name": e.path,
            "hashes": [{"alg": "SHA-256", "content": e.sha256}],
        }
        for e in manifest_of(statement).entries
    ]
    told = {"root": root, "weights": claim.model.weights, "arm": claim.model.arm, "seed": claim.model.seed}
    told |= {"study": claim.study.digest, "predicate": statement.kind}
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{root}",
        "name": claim.model.name,
        "modelCard": {
            "modelParameters": {"datasets": [{"ref": one["bom-ref"]} for one in data]},
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(claim))},
            "considerations": {"technicalLimitations": [" ".join(limit) for limit in LIMITS]},
        },
        "components": files,
        "properties": [{"name": f"untaught:{name}", "value": str(value)} for name, value in told.items()],
    }
    tool = {"type": "application", "name": "untaught", "version": __version__}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{statement.kind}/{root}')}",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model},
        "components": data,
    }


def _metrics(claim: Predicate) -> Iterable[dict[str, Any]]:
    """Values before any attack, then the worst under each; what is missing is left out."""
    for one in claim.evaluations:
        if one.value is not None:
            place = f"{one.evaluation} of {one.items}, seed {one.seed}, before any attack"
            ends = (
                {}
                if one.low is None
                else {"confidenceInterval": {"lowerBound": str(one.low), "upperBound": str(one.high)}}
            )
            yield {"type": one.metric, "value": str(one.value), "slice": place, **ends}
    for attack in claim.attacks:
        for one in attack.worst:
            place = f"{one.evaluation} of {one.items}, seed {one.seed}, worst after {attack.attack}, {_spent(one)}"
            yield {"type": one.metric, "value": str(one.value), "slice": place}


def _data(number: int, one: Filter) -> dict[str, Any]:
    told = {"policy": one.policy, "root": one.root, "filters": ", ".join(one.filters)}
    told |= {name: str(getattr(one, name)) for name in ("read", "kept", "removed", "quarantined")}
    return {
        "type": "data",
        "bom-ref": f"data:{number}:{one.root}",
        "name": f"text kept by {' then '.join(one.filters) or 'no filter'}",
        "data": [{"type": "dataset", "name": "text a model was trained on"}],
        "properties": [{"name": f"untaught:{name}", "value": value} for name, value in told.items()],
    }


# -- Croissant ---------------------------------------------------------------------------------------------------------

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "md5": "cr:md5",
}


def croissant(folder: Path) -> dict[str, Any]:
    """What a filter folder kept, as a data set: its files once they were written out, and how they were chosen."""
    told = of_filtered(folder)
    protocol = f"{told.read:,} documents were read; {' then '.join(told.filters)} kept {told.kept:,}, removed"
    protocol += f" {told.removed:,} and quarantined {told.quarantined:,}. Policy {told.policy}, receipts {told.root}."
    recall = told.recall
    bound = "not known" if recall is None or recall.low is None else f"at least {recall.low:.2%} (95% interval)"
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": folder.resolve().name,
        "description": f"Text that a filter kept. {protocol}",
        "version": "1.0.0",
        "rai:dataPreprocessingProtocol": [protocol],
        "rai:dataLimitations": [f"Recall of hazard documents: {bound}. What was not removed may hold hazard."],
        "distribution": [_file(name, known) for name, known in sorted(kept_of(folder).items())],
    }


def _file(name: str, known: dict[str, Any]) -> dict[str, Any]:
    kinds = {".parquet": "application/x-parquet", ".jsonl": "application/jsonlines", ".gz": "application/gzip"}
    kind = next((kind for end, kind in kinds.items() if name.endswith(end)), "application/octet-stream")
    size = f"{known['bytes']} B"
    return {
        **{"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name},
        **{"contentSize": size, "encodingFormat": kind, "sha256": known["sha256"]},
    }
