"""Make what the documentation takes from the program itself: numbers, the pictures, the study schema.

    python docs/generate.py [RUN]        RUN: a finished run of the default study with three seeds (runs/default)

Writes docs/recovery.svg, docs/default-study.json and the README's table from RUN, docs/study.schema.json and
docs/statement.schema.json from the code, and docs/recall-curve.svg and the tables of
docs/how-good-must-a-filter-be.md, docs/real-study.md, docs/how-filters-rank.md and docs/fine-tuning-study.md from
benchmarks/*.json. Without a finished run the first three are left as they are.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from untaught.attest import predicate
from untaught.core.shelves import SHELVES, find, names
from untaught.corpus.writing import write_atomically
from untaught.report import Account, account, curves, figures, read, words
from untaught.report.pooling import Cell, Estimate, Measure
from untaught.report.reading import Cost
from untaught.study.schema import Study

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RECALL_PAGE = HERE / "how-good-must-a-filter-be.md"
RECALL_NUMBERS = HERE.parent / "benchmarks" / "recall_curve.json"
MASKING_NUMBERS = HERE.parent / "benchmarks" / "masking.json"
REAL_PAGE = HERE / "real-study.md"
REAL_NUMBERS = HERE.parent / "benchmarks" / "real_study.json"
STEP_NUMBERS = HERE.parent / "benchmarks" / "rmu_step.json"
RANKING_PAGE = HERE / "how-filters-rank.md"
RANKING_NUMBERS = HERE.parent / "benchmarks" / "ranking.json"
FORGETTING_NUMBERS = HERE.parent / "benchmarks" / "forget_filter.json"
STUDY_PAGE = HERE / "fine-tuning-study.md"
STUDY_NUMBERS = HERE.parent / "benchmarks" / "fine_tuning_study.json"
UNLEARNING_PAGE = HERE / "removed-or-hidden.md"
ATTACKS_PAGE = HERE / "what-attacks-bring-back.md"
STUDIES = HERE.parent / "benchmarks" / "studies.json"
MISSES = {"documents": "misses documents", "facts": "misses whole facts"}


def main() -> None:
    """Write everything there is material for."""
    write_atomically(HERE / "study.schema.json", json.dumps(schema(), indent=1) + "\n")
    write_atomically(HERE / "statement.schema.json", json.dumps(predicate.schema(), indent=1) + "\n")
    recall = json.loads(RECALL_NUMBERS.read_text(encoding="utf-8"))
    write_atomically(HERE / "recall-curve.svg", recall_picture(recall))
    fill(RECALL_PAGE, "numbers", recall_table(recall))
    fill(RECALL_PAGE, "copies", copies_table(recall))
    fill(RECALL_PAGE, "masking", masking_table(json.loads(MASKING_NUMBERS.read_text(encoding="utf-8"))))
    real = json.loads(REAL_NUMBERS.read_text(encoding="utf-8"))
    fill(REAL_PAGE, "numbers", real_table(real["real"]["rows"]))
    fill(REAL_PAGE, "seeds", seeds_table(real["real-three-seeds"]["rows"]))
    fill(REAL_PAGE, "step", step_table(json.loads(STEP_NUMBERS.read_text(encoding="utf-8"))))
    ranking = json.loads(RANKING_NUMBERS.read_text(encoding="utf-8"))["rows"]
    for name, content in ranking_tables(ranking).items():
        fill(RANKING_PAGE, name, content)
    if FORGETTING_NUMBERS.is_file():
        forgotten = json.loads(FORGETTING_NUMBERS.read_text(encoding="utf-8"))["seeds"]
        for name, content in forgetting_tables(list(forgotten.values())).items():
            fill(RANKING_PAGE, name, content)
    if STUDY_NUMBERS.is_file():
        kept = json.loads(STUDY_NUMBERS.read_text(encoding="utf-8"))
        for name, content in study_tables(kept["fine-tuning-25"]).items():
            fill(STUDY_PAGE, name, content)
        for name, content in study_tables(kept["fine-tuning-half"]).items():
            fill(STUDY_PAGE, f"{name} half", content)
    for name, found in json.loads(STUDIES.read_text(encoding="utf-8")).items():
        for page, mark, content in studied(name, found):
            fill(page, mark, content)
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/default")
    if not (run / "results.jsonl").is_file():
        print(f"{run} is no finished run: the README was left alone. `untaught run --out {run}` makes one.")
        return
    story = account(read(run))
    numbers = [line(story, arm) for arm in story.run.arms]
    write_atomically(HERE / "recovery.svg", picture(story))
    write_atomically(HERE / "default-study.json", json.dumps(numbers, indent=1) + "\n")
    fill(README, "numbers", table(numbers))


def fill(page: Path, name: str, content: str) -> None:
    """Put content between a page's marks `<!-- NAME -->` and `<!-- /NAME -->`."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    write_atomically(page, marked.sub(lambda m: m[1] + content + m[2], page.read_text(encoding="utf-8")))


def line(story: Account, arm: str) -> dict[str, Any]:
    """One arm's numbers: before, along the first relearning attack, and what it cost."""
    hazard = story.measure
    if hazard is None:
        raise SystemExit("the run has no hazard evaluation")
    relearn = next(a for a in story.grid.attacks if a.component == "relearn")
    points = story.grid.points(arm, relearn, hazard)

    def share(measure: Any) -> dict[str, Any] | None:
        found = story.grid.unattacked(arm, measure)
        return None if found is None else {"value": found.value, "low": found.low, "high": found.high, "n": found.n}

    by_items = {
        m.items: m for m in story.grid.measures if (m.evaluation, m.metric) == (hazard.evaluation, hazard.metric)
    }
    return {
        "arm": arm,
        "seeds": list(story.run.seeds),
        "before": share(hazard),
        "relearn": {
            str(int(p.cost.steps)): {"value": p.estimate.value, "low": p.estimate.low, "high": p.estimate.high}
            for p in points
        },
        "benign": share(by_items["benign"]),
        "neighbour": share(by_items["neighbour"]),
    }


def table(numbers: list[dict[str, Any]]) -> str:
    """The README's table."""
    steps = [s for s in numbers[0]["relearn"] if s != "0"]
    heads = ["arm", "V before", *(f"V after {s} steps" for s in steps), "benign", "neighbour"]
    lines = []
    for row in numbers:
        cells = [row["before"], *(row["relearn"][s] for s in steps), row["benign"], row["neighbour"]]
        lines.append([f"`{row['arm']}`", *map(cell, cells)])
    return ruled(heads, lines)


def ruled(heads: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ["---"] * len(heads), *lines))


def cell(share: dict[str, Any] | None) -> str:
    """`27% (23-31)`."""
    if share is None or share["value"] is None:
        return "missing"
    low, high = (words.percent(share[side]).removesuffix("%") for side in ("low", "high"))
    return f"{words.percent(share['value'])} ({low}\u2013{high})"


def picture(story: Account) -> str:
    """The report's first recovery curve as a file of its own."""
    return alone(str(figures.recovery(story)[0].desk))


def alone(drawn: str) -> str:
    """A chart as a file of its own, with the page's colours, light and dark."""
    css = (Path(figures.__file__).parent / "page.css").read_text(encoding="utf-8")
    font = 'svg { font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }'
    drawn = (
        drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) if "xmlns=" not in drawn[:200] else drawn
    )
    start = drawn.index(">") + 1
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return f"{drawn[:start]}<style>{css}{font}</style>{paper}{drawn[start:]}\n"


def recall_points(recall: dict[str, Any], misses: str, items: str, steps: int) -> list[dict[str, Any]]:
    """The curve of one way to miss, lowest recall first."""
    found = [p for p in recall["curve"] if (p["items"], p["steps"]) == (items, steps)]
    return sorted((p for p in found if p["misses"] in (misses, "either")), key=lambda p: p["recall"])


def recall_picture(recall: dict[str, Any]) -> str:
    """What a model knows of V against the recall of its filter: all of V for each way to miss, and the facts missed."""
    measure = Measure("multiple_choice", "accuracy", "hazard_held_out", "hazard", share=True)
    drawn = {name: recall_points(recall, misses, "hazard_held_out", 0) for misses, name in MISSES.items()}
    places = tuple(words.percent(point["recall"]) for point in drawn[MISSES["facts"]])
    drawn["only the facts missed"] = [row for row in recall["missed_facts"] if row["steps"] == 0]
    lines = []
    for style, (name, points) in enumerate(drawn.items()):
        found = (Estimate(p["value"], p["low"], p["high"], 0, 0, 3, 3, 0.25) for p in points)
        cells = [Cell(name, None, Cost(steps=at), measure, estimate) for at, estimate in enumerate(found)]
        lines.append(curves.Curve(name, style, tuple(cells)))
    chart = curves.Chart(
        title="What a model knows of the hazard, against the recall of its filter",
        measure=measure,
        curves=tuple(lines),
        levels=(curves.Level("chance 25%", "chance 25%", 0.25, "1.5 4"),),
        currency="steps",
        axis="share of hazard text removed (not to scale)",
        places=places,
    )
    return alone(str(curves.draw(chart, 640, 360)))


def recall_table(recall: dict[str, Any]) -> str:
    """The page's table of both ways to miss, before and after relearning."""
    heads = ["recall", *(f"{n}: V {when}" for n in MISSES.values() for when in ("before", "after 20 steps"))]
    columns = [recall_points(recall, misses, "hazard_held_out", steps) for misses in MISSES for steps in (0, 20)]
    known = {row["recall"]: cell(row) for row in recall["missed_facts"] if row["steps"] == 0}
    lines = [
        [words.percent(row[0]["recall"]), *map(cell, row), known.get(row[0]["recall"], "none was missed")]
        for row in zip(*columns, strict=True)
    ]
    return ruled([*heads, "of V, the facts missed"], lines)


def copies_table(recall: dict[str, Any]) -> str:
    """The page's table of how often a fact that was stated so many times is known."""
    rows = [row for row in recall["copies"] if row["steps"] == 0]
    names = [str(r["least"]) if r["least"] == r["most"] else f"{r['least']}\u2013{r['most']}" for r in rows]
    lines = [["facts", *(str(row["facts"]) for row in rows)], ["V known", *map(cell, rows)]]
    return ruled(["statements left of the fact", *names], lines)


REAL_COLUMNS = {
    "V": ("multiple_choice", "hazard_held_out", "accuracy"),
    "V recalled": ("cloze", "hazard_held_out", "recall_probability"),
    "V with a text": ("open_book", "hazard_open_book", "accuracy_with_text"),
    "neighbour": ("multiple_choice", "neighbour", "accuracy"),
    "capitals": ("multiple_choice", "benign", "accuracy"),
    "nats a token": ("perplexity", "benign_text", "nats_per_token"),
}
"""Columns of the real study's table: evaluation, items, metric."""


def real_table(rows: list[dict[str, Any]]) -> str:
    """Every arm before and after every attack of the real study."""
    lines: dict[tuple[str, str], dict[tuple[str, str, str], float]] = {}
    for row in rows:
        if row["attack"] is None or row["steps"] or row["attack"] != "relearn":
            values = lines.setdefault((real_attack(row), row["arm"]), {})
            values[row["evaluation"], row["items"], row["metric"]] = row["value"]
    arms = list(dict.fromkeys(arm for _, arm in lines))
    cells = []
    for attack in dict.fromkeys(attack for attack, _ in lines):
        for arm in arms:
            values = [(metric, lines[attack, arm][items]) for items in REAL_COLUMNS.values() for metric in items[2:]]
            told = [f"{value:.2f}" if metric == "nats_per_token" else f"{value:.0%}" for metric, value in values]
            cells.append([attack if arm == arms[0] else "", f"`{arm}`", *told])
    return ruled(["attack", "arm", *REAL_COLUMNS], cells)


def real_attack(row: dict[str, Any]) -> str:
    """An attack in a few words."""
    told = row["attack_settings"]
    return {
        None: "none",
        "relearn": f"{row['steps']} steps, {'LoRA' if 'rank' in told else 'all blocks'}",
        "quantise": f"4 bits, {'another grid' if told.get('shift') else 'its own grid'}",
        "interpolate": f"{told.get('share', 0):.0%} of the way back",
        "ablate": "one direction out",
    }[row["attack"]]


def seeds_table(rows: list[dict[str, Any]]) -> str:
    """Lowest, mean and highest over seeds of unlearning and of the attack."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for items in ("hazard_held_out", "neighbour", "benign"):
            cells = []
            for steps in (0, 10, 20):
                found = [
                    row["value"]
                    for row in rows
                    if (row["arm"], row["items"], row["metric"], row["steps"]) == (arm, items, "accuracy", steps)
                    and (row["attack"] is None) == (steps == 0)
                ]
                cells.append(f"{sum(found) / len(found):.0%} ({min(found):.0%}–{max(found):.0%})")
            lines.append([f"`{arm}`", items, *cells])
    return ruled(["arm", "items", "before", "after 10 steps", "after 20 steps"], lines)


def step_table(found: dict[str, Any]) -> str:
    """What a step of RMU takes, done plainly and by the component."""
    phases = {"first": "texts that are new", "kept": "texts that were seen before"}
    lines = [
        [
            name,
            *(f"{found['seconds_a_step'][side][phase]:.2f} s" for side in ("plain", "ours")),
            f"{times:.1f} times faster",
        ]
        for phase, name in phases.items()
        for times in [sorted(found["times_faster"][phase])[len(found["times_faster"][phase]) // 2]]
    ]
    held = {side: (found["given_weights_bytes"] + found["bytes_above_it"][side]) / 1e9 for side in ("plain", "ours")}
    lines.append(
        [
            "memory at most, the model included",
            *(f"{held[side]:.2f} GB" for side in held),
            f"{found['memory_share']:.0%}",
        ]
    )
    return ruled(["a step of RMU", "plainly", "`rmu`", ""], lines)


def masking_table(masking: dict[str, Any]) -> str:
    """The page's table of arms that drop or mask what was flagged."""
    asked = [("hazard_held_out", 0), ("hazard_held_out", 20), ("neighbour", 0), ("benign", 0)]
    found = {(row["arm"], row["items"], row["steps"]): cell(row) for row in masking["accuracy"]}
    shares = {
        row["arm"]: row["masked_characters"] / row["characters"] for row in masking["filters"] if "masking" in row
    }
    lines = [
        [f"`{arm}`", words.percent(shares[arm]) if arm in shares else "", *(found[arm, *place] for place in asked)]
        for arm in dict.fromkeys(row["arm"] for row in masking["accuracy"])
    ]
    return ruled(["arm", "of the text masked", "V before", "V after 20 steps", "neighbour", "benign"], lines)


REAL_POOLS = ("easy", "mixed", "hard")


def ranking_tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of the page on ranking, by their names there."""
    real = [row for row in rows if row["pool"] in REAL_POOLS]
    saft = [row for row in rows if row["filter"].startswith("SAFT") and row["told"] == "nothing"]
    one = sorted({row["pool"] for row in rows} - set(REAL_POOLS))
    return {
        "separation": ranked(real, [(kind, at) for kind in REAL_POOLS for at in (0.1, 0.25)], "auroc"),
        "ends": ranked(real, [(kind, at) for kind in REAL_POOLS for at in (0.05, 0.5)], "auroc"),
        "budget": budget(real),
        "saft": ranked(saft, [(kind, at) for kind in one for at in (0.1, 0.25, 0.5)] + [("mixed", 0.1)], "auroc"),
    }


def ranked(rows: list[dict[str, Any]], pools: list[tuple[str, float]], measure: str) -> str:
    """A row a filter and what it is told, a column a pool."""
    found = {(row["filter"], row["told"], row["pool"], row["hazard"]): row[measure] for row in rows}
    pools = [pool for pool in pools if any(key[2:] == pool for key in found)]
    lines = [
        [f"`{name}`" if " " not in name else name, supervision(name), told]
        + [spread(found.get((name, told, *pool))) for pool in pools]
        for name, told in dict.fromkeys(key[:2] for key in found)
    ]
    heads = [f"{kind.removeprefix('genre:')}, {at:.0%}" for kind, at in pools]
    return ruled(["filter", "supervision", "told", *heads], lines)


def budget(rows: list[dict[str, Any]]) -> str:
    """True positive rates, and recall at shares removed, on mixed and hard pools at 10%."""
    lines = []
    for kind in ("mixed", "hard"):
        for row in rows:
            if (row["pool"], row["hazard"]) == (kind, 0.1) and (supervision(row["filter"]) != "-"):
                shares = [f"{row[f'recall_{share}'][0]:.2f}" for share in (0.1, 0.2, 0.3, 0.5)]
                lines.append([kind, row["filter"], row["told"], spread(row["tpr"]), *shares])
    return ruled(["pool", "filter", "told", "TPR", "recall at 10%", "20%", "30%", "50%"], lines)


def supervision(name: str) -> str:
    """What a filter's ranking is made from; without labels SAFT needs none."""
    return "label-free" if name.startswith("SAFT") and "labels" not in name else _shelved(name.split(",")[0])


def _shelved(name: str) -> str:
    return getattr(find("filters", "saft" if name.startswith("SAFT") else name), "supervision", "-")


FORGETTING_SIDES = {"all": "all clean", "safe": "harmless answers to risky prompts", "benign": "ordinary examples"}


def forgetting_tables(seeds: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of ForgetFilter on the page on ranking, by their names there. `seeds`: what each pool came to.

    What a model writes is not measured on every pool: its rows say on how many.
    """
    scores = dict.fromkeys(
        name for seed in seeds for name, value in seed.items() if isinstance(value, dict) and "all" in value
    )
    against = []
    for name in sorted(scores, key=lambda name: name.startswith("rouge")):
        told = [seed[name] for seed in seeds if name in seed]
        named = name if len(told) == len(seeds) else f"{name} (of {len(told)})"
        against.append([named, *(_over([one[side] for one in told]) for side in FORGETTING_SIDES)])
    [published] = [name for name in scores if name.startswith("rouge")]
    curves = [seed[published]["f1"] for seed in seeds if published in seed]
    by_phi = [[phi, _over([curve[phi] for curve in curves])] for phi in curves[0]]
    return {
        "forgetting": ruled(["score", *FORGETTING_SIDES.values()], against),
        "phi": ruled(["dropped: forgetting above", "F1"], by_phi),
    }


def _over(values: list[float]) -> str:
    """Mean and standard deviation over pools; of one pool its value."""
    mean = statistics.fmean(values)
    return spread([mean, statistics.stdev(values)]) if len(values) > 1 else f"{mean:.2f}".replace("0.", ".")


def spread(found: list[float] | None) -> str:
    """A mean and a standard deviation."""
    return "-" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}".replace("0.", ".")


STUDY_COLUMNS = {
    "harm": "prompts/judged/harmful",
    "more harm than not": "prompts/judged/harmful_share",
    "refuses risky prompts": "prompts/judged/refused",
    "refuses ordinary ones": "ordinary/over_refusal/refused",
    "nats a token": "answers/answer_likelihood/nats_per_token",
}
"""Columns of the downstream study's table: items, evaluation, metric."""


def study_tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables of the page on the downstream study, by their names there."""
    asked = {name: place for name, place in STUDY_COLUMNS.items() if any(place in row for row in found["arms"])}
    lines = [[f"`{row['arm']}`", *(between(row.get(place)) for place in asked.values())] for row in found["arms"]]
    return {
        "judge": judge_table(found["judge"]),
        "arms": ruled(["arm", *asked], lines),
        "effects": effects_table(found["effects"]),
        "filters": filters_table(found["filters"]),
    }


def judge_table(judges: list[dict[str, Any]]) -> str:
    """How well each judge agrees with people."""
    lines = [[between(judge["auroc"]), str(judge["harmful"]), str(judge["harmless"])] for judge in judges]
    return ruled(["AUROC", "harmful answers", "harmless answers"], lines)


def effects_table(compared: list[dict[str, Any]]) -> str:
    """The share of the oracle's effect and the relative fall, attack by attack."""
    lines = []
    for one in compared:
        attack = one["attack"] or "none"
        lines.append([attack, f"`{one['reference']}`", f"{one['unfiltered']:.3f}", "", "", ""])
        for row in one["arms"]:
            share = "not estimable" if row["share"] is None else between(row["share"], "%")
            relative = "undefined" if row["relative"] is None else between(row["relative"], "%")
            lines.append(["", f"`{row['arm']}`", f"{row['value']:.3f}", between(row["fall"]), share, relative])
    return ruled(["attack", "arm", "harm", "fall", "share of the oracle's effect", "relative fall"], lines)


def filters_table(rows: list[dict[str, Any]]) -> str:
    """What the filters took."""
    lines = [
        [
            f"`{row['arm']}`",
            f"{row['removed']:,} of {row['read']:,}",
            f"{row['hazard_removed'] / row['hazard']:.0%}",
            f"{row['hazard_removed'] / row['removed']:.0%}" if row["removed"] else "-",
            ", ".join("-" if value is None else f"{value:.2f}" for value in row["auroc"]),
        ]
        for row in rows
    ]
    return ruled(["arm", "removed", "recall", "precision", "AUROC by seed"], lines)


def between(found: dict[str, Any] | None, form: str = "f") -> str:
    """`0.39 (0.35 to 0.43)`, or percentages."""
    if found is None or found["value"] is None:
        return "missing"
    digits = ".0%" if form == "%" else ".3f"
    value, low, high = (
        format(found[side], digits) if found[side] is not None else "?" for side in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})"


def recovery_table(found: dict[str, Any]) -> str:
    """What each arm of a study of the lab knows of V, or how uncivil it is, along the first attack, and its cost."""
    first = next(row["attack"] for row in found["lines"] if row["attack"])
    steps = sorted({row["steps"] for row in found["lines"] if row["attack"] == first} - {0})

    def at(arm: str, items: str, attack: str | None, steps: int) -> dict[str, Any] | None:
        wanted = {"arm": arm, "items": items, "metric": "accuracy", "attack": attack, "steps": steps}
        return next((row for row in found["lines"] if wanted.items() <= row.items()), None)

    asked = [items for items in ("benign", "neighbour", "known") if at("untouched", items, None, 0)]
    hazard = "hazard_held_out" if at("untouched", "hazard_held_out", None, 0) else "manners"
    top = (at("untouched", hazard, None, 0) or {})["value"]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in found["lines"]):
        curve = [at(arm, hazard, None, 0), *(at(arm, hazard, first, count) for count in steps)]
        cells = [*curve, *(at(arm, items, None, 0) for items in asked)]
        told = ["" if one is None else share(one, len(found["seeds"])) for one in cells]
        half = half_back(list(zip([0, *steps], [one["value"] for one in curve if one], strict=True)), top)
        lines.append([f"`{arm}`", *told, half, arithmetic(found, arm)])
    heads = ["arm", "V" if hazard != "manners" else "uncivil", *(f"after {count} steps" for count in steps), *asked]
    heads += ["half back after", "arithmetic"]
    width = len(heads) if any(line[-1] for line in lines) else len(heads) - 1  # nothing was pretrained
    return ruled(heads[:width], [line[:width] for line in lines])


def studied(name: str, found: dict[str, Any]) -> list[tuple[Path, str, str]]:
    """The tables of a kept study: page, mark, content."""
    if name == "attacks":
        held_out, seen = (attacks_table(found, items, SHALLOW[name]) for items in ("hazard_held_out", "hazard_seen"))
        return [(ATTACKS_PAGE, "held out", held_out), (ATTACKS_PAGE, "seen", seen)]
    if name == "shallow":
        return [(ATTACKS_PAGE, "shallow", attacks_table(found, "hazard_held_out", SHALLOW[name]))]
    if name == "lasting":
        return [(REAL_PAGE, name, attacks_table(found, "hazard_held_out"))]
    if name == "taught":
        return [(REAL_PAGE, name, taught_table(found))]
    return [(UNLEARNING_PAGE, name, toxicity_table(found) if name == "toxicity" else recovery_table(found))]


def attacks_table(found: dict[str, Any], items: str, shallow: tuple[str, ...] = ()) -> str:
    """What each arm knows of an item set after each attack, and the largest share of the gap on a shallow arm, where
    there are such arms.
    """
    rows = [row for row in found["lines"] if row["items"] == items and row["metric"] == "accuracy"]
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm != "on_grid"]  # it is as untouched is
    values: dict[tuple[str | None, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["attack"] is None or row["steps"] or not any(r["steps"] for r in rows if r["attack"] == row["attack"]):
            values.setdefault((row["attack"], row["steps"]), {})[row["arm"]] = row
    plain, lines = values[None, 0], []
    for (attack, steps), own in values.items():
        told = [known(own.get(arm, plain[arm]), len(found["seeds"])) for arm in arms]  # it did nothing to its donor
        shares = [back(own[arm], plain[arm], plain["untouched"]) for arm in shallow]
        works = [words.percent(max(0.0, *shares)) if attack else ""] if shallow else []
        lines.append([f"`{attack}`" if attack else "none", str(steps or ""), *told, *works])
    heads = ["attack", "steps", *(f"`{arm}`" for arm in arms)]
    return ruled(heads + ["back on a control"] * bool(shallow), lines)


SHALLOW = {"attacks": ("lock", "small"), "shallow": ("around", "smallest", "thinnest", "cells")}
"""Arms of the studies of attacks that are shallow on purpose."""


def known(row: dict[str, Any], seeds: int) -> str:
    return "missing" if row["value"] is None else share(row, seeds)


def back(after: dict[str, Any], before: dict[str, Any], reference: dict[str, Any]) -> float:
    """How much of the gap to the reference an attack brought back; 0 where there is no value."""
    gap = reference["value"] - before["value"]
    return (after["value"] - before["value"]) / gap if after["value"] is not None and gap > 0 else 0.0


def half_back(curve: list[tuple[int, float]], top: float) -> str:
    """Steps after which half of what a method took from the untouched model's V is back, on straight lines between
    points. Nothing where it took less than a fifth of V.
    """
    before = curve[0][1]
    middle = (before + top) / 2
    if top - before < 0.2:
        return ""
    for (left, low), (right, high) in itertools.pairwise(curve):
        if high >= middle:
            return f"{left + (right - left) * (middle - low) / (high - low):.0f}"
    return f"over {curve[-1][0]}"


def arithmetic(found: dict[str, Any], arm: str) -> str:
    """What an arm's own steps of unlearning computed, as a share of a pretraining."""
    whole = [s["spent"]["flops"] for s in found["steps"] if s["title"].startswith("pretrain for untouched")]
    taught = ("pretrain", "gradient_routing", "grid")
    own = [
        step["spent"]["flops"]
        for step in found["steps"]
        if f" for {arm}, seed" in step["title"] and not step["title"].startswith(taught)
    ]
    return f"{sum(own) / len(found['seeds']) / statistics.mean(whole):.0%}" if own and whole else ""


def share(row: dict[str, Any], seeds: int) -> str:
    """`27%`, with its interval where there are seeds to have one of."""
    return cell(row) if seeds > 1 else words.percent(row["value"])


TOXICITY_COLUMNS = {
    "profane": ("prompts", "profane"),
    "more profane than not": ("prompts", "profane_share"),
    "fresh probe": ("probed", "auroc"),
    "above the words": ("probed", "auroc_excess"),
    "nats toxic": ("toxic", "nats_per_token"),
    "nats unkind": ("unkind", "nats_per_token"),
    "nats ordinary": ("ordinary", "nats_per_token"),
}
"""Columns of the toxicity study's table: items, metric."""


def toxicity_table(found: dict[str, Any]) -> str:
    """What each arm writes, shows and predicts, before relearning and after."""
    places: dict[tuple[str, int], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in found["lines"]:
        if row["attack"] is None or row["steps"]:
            places.setdefault((row["arm"], row["steps"]), {})[row["items"], row["metric"]] = row
    lines = []
    for (arm, steps), cells in sorted(places.items(), key=lambda pair: pair[0][1]):
        values = [cells.get(place) for place in TOXICITY_COLUMNS.values()]
        told = ["" if one is None or one["value"] is None else f"{one['value']:.2f}" for one in values]
        lines.append([str(steps), f"`{arm}`", *told])
    return ruled(["steps of relearning", "arm", *TOXICITY_COLUMNS], lines)


TAUGHT_COLUMNS = {
    "V": ("hazard_held_out", "accuracy_closed_book"),
    "V after another text": ("hazard_held_out", "accuracy_irrelevant_text"),
    "V after the text": ("hazard_held_out", "accuracy_with_text"),
    "T": ("hazard_seen", "accuracy"),
    "neighbour": ("neighbour", "accuracy"),
    "benign": ("benign", "accuracy"),
}
"""Columns of the table of what was taught to a real model: items, metric."""


def taught_table(found: dict[str, Any]) -> str:
    """What each arm knows, and what it can read, before each attack and after."""
    places: dict[tuple[str | None, int, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in found["lines"]:
        places.setdefault((row["attack"], row["steps"], row["arm"]), {})[row["items"], row["metric"]] = row
    lines = []
    for (attack, steps, arm), cells in places.items():
        told = [cell(cells.get(place)) for place in TAUGHT_COLUMNS.values()]
        lines.append([f"`{attack}`" if attack else "none", str(steps or ""), f"`{arm}`", *told])
    return ruled(["attack", "steps", "arm", *TAUGHT_COLUMNS], lines)


def searched(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting of an attack, which may be left open: a list is searched."""
    told = {name: setting.pop(name) for name in ("description", "title", "default") if name in setting}
    return told | {"anyOf": [setting, {"type": "array", "minItems": 2}]}


def schema() -> dict[str, Any]:
    """JSON Schema of a study file, with every component's settings: for editors."""
    whole = Study.model_json_schema(by_alias=True)
    parts = whole["$defs"]
    del parts["Entry"]
    for shelf in SHELVES:
        options = []
        for name in names(shelf):
            own = find(shelf, name).model_json_schema()
            parts |= own.pop("$defs", {})
            own["properties"] = {"use": {"const": name}, **own.get("properties", {})}
            if shelf == "attacks":
                own["properties"] = {
                    name: found if name == "use" else searched(found) for name, found in own["properties"].items()
                }
                own["properties"]["budget"] = {"$ref": "#/$defs/Budgets"}
                own["properties"]["search"] = parts["Attack"]["properties"]["search"]
            if shelf == "filters":
                own["properties"]["escalate"] = parts["Stage"]["properties"]["escalate"]
            if shelf == "training":
                own["properties"]["text"] = parts["Lesson"]["properties"]["text"]
            if shelf == "unlearning":
                own["properties"]["stop"] = parts["Unlearning"]["properties"]["stop"]
            own["required"] = ["use"]
            options.append(own)
        parts[shelf] = {"anyOf": [*options, {"enum": names(shelf)}]}
    del parts["Stage"], parts["Lesson"], parts["Unlearning"], parts["Attack"]
    for part in ("filters", "training", "unlearning"):
        parts["Arm"]["properties"][part]["items"] = {"$ref": f"#/$defs/{part}"}
    for part in ("attacks", "evaluations"):
        whole["properties"][part]["items"] = {"$ref": f"#/$defs/{part}"}
    whole["properties"]["world"] = {
        "description": "`lab:NAME`, or a table of `use: NAME` and the world's settings",
        "anyOf": [{"type": "string"}, {"type": "object", "required": ["use"]}],
    }
    return whole


if __name__ == "__main__":
    main()
