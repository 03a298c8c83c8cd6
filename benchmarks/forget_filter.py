"""ForgetFilter on SmolLM2: how well what is forgotten tells harmful answers, by steps, by safe set, by measure.

    python benchmarks/forget_filter.py [SEED ...] [--likelihood]      20 minutes a seed on one core

A mixed pool of 160 examples for each seed, 30% of them hazard (`untaught.corpus.pools`, from the asset `answers`, both
assets are fetched unless they are there). The model is tuned on it for 40 steps, and from there on 160 safe answers to
risky prompts that are not in the pool (`matched`), or on 160 ordinary examples (`mismatched`: what a safe set of
another kind comes to, and the control `generic` of the filter). AUROC of hazard against all else, against harmless
answers to risky prompts (`safe`) and against ordinary examples (`benign`), after 5, 10, 20 and 40 of these steps; of
what a model writes (ROUGE-1) after 20, with F1 by phi; and of plain perplexity before and after the pool was learned.

Seeds that are not asked for stay in the file. No text is kept: forget_filter.json beside this script holds numbers, of
which `make docs` makes the tables of docs/how-filters-rank.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from untaught.assets.fetching import fetch
from untaught.core import Corpus, Documents, Subject, Wrap
from untaught.core.ranking import auroc
from untaught.corpus.pools import Pool, beside, draw
from untaught.corpus.writing import write_atomically, write_documents
from untaught.engine import models
from untaught.engine.generation import answered
from untaught.engine.rig import Rig
from untaught.filters._rouge import rouge_1
from untaught.filters.forget_filter import ForgetFilter, answers, first_line, nats

KEPT = Path(__file__).parent / "forget_filter.json"
POOL = Pool(size=160, contamination=0.3, clean="mixed")
KNOWN = 160
"""Examples to tune on after the pool."""
NOISY, STOPS, WRITTEN, TOKENS = 40, (5, 10, 20, 40), 20, 48
PHIS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
LENGTH = 256


class Looked(dict):
    """In place of a rig's snapshots: what is seen of each, so that no model is held."""

    def __init__(self, look: Callable[[int, Any], Any]) -> None:
        super().__init__()
        self.look = look

    def __setitem__(self, stop: int, taken: tuple[Any, Any]) -> None:
        super().__setitem__(stop, self.look(stop, taken[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--likelihood", action="store_true")
    asked = parser.parse_args()
    folder = fetch("answers").folder
    docs = pa.concat_tables([pq.read_table(folder / f"{name}.parquet") for name in ("harmful", "safe", "benign")])
    subject = models.load(fetch("smollm2").folder, Wrap(chat=True))
    for seed in asked.seeds:
        found = run(subject, docs, seed, writes=not asked.likelihood)
        kept = (json.loads(KEPT.read_text())["seeds"] if KEPT.exists() else {}) | {str(seed): found}
        whole = {"pool": POOL.changed(), "noisy_steps": NOISY, "known": KNOWN, "tokens": TOKENS}
        ordered = dict(sorted(kept.items(), key=lambda pair: int(pair[0])))
        write_atomically(KEPT, json.dumps(whole | {"seeds": ordered}, indent=1) + "\n")


def run(subject: Subject, docs: Documents, seed: int, *, writes: bool) -> dict[str, Any]:
    """All numbers of one pool."""
    rng, began = np.random.default_rng(seed), time.perf_counter()
    pool = draw(POOL, docs, rng)
    rest = beside(POOL.model_copy(update={"part": None}), docs, pool)
    sets = {name: some(rest, kind, rng) for name, kind in (("matched", "safe"), ("mismatched", "benign"))}
    texts = pool.select(["id", "text", "messages"])
    hazard = np.array(pool["hazard"].to_pylist())

    def look(stop: int, model: Any) -> Any:
        now = Subject(model, subject.tokenizer, subject.wrap)
        said = recalled(now, texts) if writes and stop == NOISY + WRITTEN else None
        print(f"seed {seed}: {stop} steps, {time.perf_counter() - began:.0f} s", flush=True)
        return likely(now, texts), said

    stops = [NOISY + t + extra for t in STOPS for extra in (0, STOPS[-1])]
    rig = Rig(seed, "filters/forget_filter", subject=lambda: subject, stops=stops)
    rig.snapshots = Looked(look)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.parquet") for name in sets}
        for name, table in sets.items():
            write_documents(table, paths[name])
        settings = ForgetFilter(
            noisy_steps=NOISY, steps=STOPS[-1], length=LENGTH, safe=paths["matched"], generic=paths["mismatched"]
        )
        sides = [texts.filter(pa.array(side)) for side in (hazard, ~hazard)]
        scorer = settings.fit(Corpus(*sides, texts), rig)
    first, before = likely(subject, texts), likely(scorer.before, texts)
    kinds = np.array(pool["kind"].to_pylist())
    found: dict[str, Any] = {"counts": {name: int((kinds == name).sum()) for name in sorted(set(kinds.tolist()))}}
    found["known"] = {name: table.num_rows for name, table in sets.items()}
    found["shared_prompts"] = len(
        set(pool["prompt"].to_pylist()) & {p for t in sets.values() for p in t["prompt"].to_pylist()}
    )
    found["nats"] = {"before": round(float(-first.mean()), 3), "learned": round(float(-before.mean()), 3)}
    found["perplexity before"], found["perplexity learned"] = (told(-x, hazard, kinds) for x in (first, before))
    for name, extra in (("matched", 0), ("mismatched", STOPS[-1])):
        for t in STOPS:
            lost = before - rig.snapshots[NOISY + extra + t][0]
            found[f"likelihood, {name}, {t} steps"] = told(lost, hazard, kinds)
    if writes:
        had = recalled(scorer.before, texts)
        lost = had - rig.snapshots[NOISY + WRITTEN][1]
        found[f"rouge, matched, {WRITTEN} steps"] = told(lost, hazard, kinds) | {"f1": by_phi(lost, hazard)}
        found["rouge learned"] = means(had, kinds)
    found["noted"] = {
        name: round(float(rig.measured[name]), 4) for name in ("slice_auroc", "control_auroc", "baseline_auroc")
    }
    return found | {"seconds": round(time.perf_counter() - began)}


def some(rest: Documents, kind: str, rng: np.random.Generator) -> Documents:
    """So many examples of a kind by chance."""
    rows = [row for row, one in enumerate(rest["kind"].to_pylist()) if one == kind]
    return rest.take(pa.array(rng.permutation(rows)[:KNOWN], pa.int64())).select(["id", "text", "messages", "prompt"])


def likely(subject: Subject, docs: Documents) -> np.ndarray:
    """Log-probability of each answer per token."""
    found, causes = nats(subject, docs, LENGTH)
    assert not any(causes), f"an example of the pool cannot be measured: {next(filter(None, causes))}"
    return found


def recalled(subject: Subject, docs: Documents) -> np.ndarray:
    """ROUGE-1 of what the model writes."""
    said, causes = answered(subject, docs, tokens=TOKENS, length=LENGTH)
    assert not any(causes), "an example of the pool cannot be answered"
    return np.array([rouge_1(gold, first_line(text)) for gold, text in zip(answers(docs), said, strict=True)])


def told(scores: np.ndarray, hazard: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """AUROC of hazard against all else, and against each kind; the mean of each kind."""
    against = {"all": ~hazard, "safe": kinds == "safe", "benign": kinds == "benign"}
    return {side: round(auroc(scores[hazard], scores[some]), 4) for side, some in against.items()} | {
        "means": means(scores, kinds)
    }


def means(scores: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    return {kind: round(float(scores[kinds == kind].mean()), 4) for kind in sorted(set(kinds.tolist()))}


def by_phi(lost: np.ndarray, hazard: np.ndarray) -> dict[str, float]:
    """F1 of dropping what lost more than phi, as published; and of dropping everything."""
    found = {str(phi): round(f1(lost > phi, hazard), 4) for phi in PHIS}
    return found | {"everything": round(f1(np.ones(len(lost), bool), hazard), 4)}


def f1(dropped: np.ndarray, hazard: np.ndarray) -> float:
    return float(2 * (dropped & hazard).sum() / (dropped.sum() + hazard.sum()))


if __name__ == "__main__":
    main()
