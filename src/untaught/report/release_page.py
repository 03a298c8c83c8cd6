"""The release page: one self-contained HTML file for people, drawn from a signed statement alone.

It repeats what was signed and proves nothing; it says so, and how to check the files themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .page import HERE, template
from .words import count

FILE = "index.html"


def report_of(folder: Path, run: Path) -> str | None:
    """Where a run's report stands, seen from a release in the run's own folder; elsewhere a link would lead nowhere."""
    page, own = run.resolve() / "report.html", folder.resolve()
    return os.path.relpath(page, own) if page.is_file() and own.is_relative_to(run.resolve()) else None


def render(statement: Mapping[str, Any], limits: Sequence[tuple[str, str]], report: str | None = None) -> str:
    """The page as text. `limits`: what a reader must not conclude, in short and at length. `report`: a link to it."""
    claim = statement["predicate"]
    own = [one for one in claim["evaluations"] if one["seed"] == claim["model"]["seed"]]
    return template("release_page.html.j2").render(
        claim=claim,
        model=claim["model"],
        study=claim["study"],
        root=statement["subject"][0]["digest"]["sha256"],
        kind=statement["predicateType"],
        hazard=[one for one in own if one["role"] == "hazard"],
        benign=[one for one in own if one["role"] != "hazard"],
        others=len({one["seed"] for one in claim["evaluations"]}) - 1,
        worst=[(attack, one) for attack in claim["attacks"] for one in attack["worst"]],
        unvalued=sum(point["value"] is None for attack in claim["attacks"] for point in attack["points"]),
        headline=headline(claim),
        reference=reference,
        number=number,
        span=span,
        spent=spent,
        told=told,
        limits=limits,
        report=report,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )


def headline(claim: Mapping[str, Any]) -> str:
    """The first hazard measure in one sentence: before any attack, and at the worst of all."""
    seed = claim["model"]["seed"]
    first = next((one for one in claim["evaluations"] if one["role"] == "hazard" and one["seed"] == seed), None)
    if first is None:
        return "No hazard was measured, so nothing is said of hazard."
    measure = (first["evaluation"], first["items"], first["metric"])
    reached = [
        (one["value"], attack["attack"], one["spent"])
        for attack in claim["attacks"]
        for one in attack["worst"]
        if (one["evaluation"], one["items"], one["metric"]) == measure
    ]
    start = f"{_words(first['metric'])} on {first['items']}: {number(first)} before any attack"
    if not reached:
        return f"{start}. No attack has a value, so nothing is known of how long that lasts."
    value, attack, price = max(reached, key=lambda one: one[0])
    return f"{start}, and at most {_figure(value)} after what was tried ({attack}, {spent(price)})."


def reference(claim: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """The same measure on the reference arm, for the same seed."""
    names = ("evaluation", "items", "metric", "seed")
    for arm in claim["references"]:
        for other in arm["results"]:
            if all(other[name] == one[name] for name in names):
                return f"{number(other)} in {arm['arm']}"
    return "none"


def number(one: Mapping[str, Any]) -> str:
    return "missing" if one["value"] is None else _figure(one["value"])


def span(one: Mapping[str, Any]) -> str:
    """Its 95% interval, or nothing."""
    return "" if one.get("low") is None else f"{_figure(one['low'])}\u2013{_figure(one['high'])}"


def spent(price: Mapping[str, float]) -> str:
    """`20 steps, 31k tokens`."""
    parts = [f"{count(price[name])} {name}" for name in ("steps", "tokens") if price[name]]
    return ", ".join(parts) or "no training"


def told(settings: Mapping[str, Any]) -> str:
    """An attack's settings that say something, in a line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value not in (None, "", [], {}))


def _words(metric: str) -> str:
    return metric.replace("_", " ").capitalize()


def _figure(value: float) -> str:
    return f"{value:.3g}"
