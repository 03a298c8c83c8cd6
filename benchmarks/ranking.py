"""How well filters of fine-tuning data rank harmful examples, on pools whose truth is known, and what labels buy.

    python benchmarks/ranking.py [--seeds N] [--features FILE] [--pools KIND ...]

SmolLM2-135M-Instruct reads pools of `untaught.corpus.pools` from the asset `answers` (320 examples, every kind, at 5,
10, 25 and 50% of hazard, `--seeds` pools each, of all parts). What a filter is told is one of:

    nothing     the pool
    clean       100 clean examples of the pool's kinds, no prompt of which is in the pool
    20 + 100    20 known-harmful examples beside these
    100 + 100   100 of them, where there are so many beside the pool
    100 of it   the labels of 100 examples of the pool by chance; it is measured on the others

Each gets AUROC, AUPRC, TPR at 1% FPR and recall at shares removed: mean and standard deviation over pools. SAFT stands
as published, without the fall-back that the filter has. With `--features`, what the model makes of the examples is kept
in a file from one run to the next. Kinds of pool that are not asked for stay in ranking.json beside this script; it
holds numbers and no text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from untaught import assets
from untaught.assets.fetching import fetch
from untaught.core import Corpus, Documents, Subject, UserError, Wrap, shelves
from untaught.core.ranking import auprc, auroc, tpr
from untaught.corpus.pools import Pool, beside, draw
from untaught.corpus.writing import write_atomically
from untaught.engine import compute, features, models
from untaught.engine.rig import Rig

KEPT = Path(__file__).parent / "ranking.json"
FILES = ("harmful", "safe", "benign")
USUAL = (0.05, 0.1, 0.25, 0.5)
KINDS = {
    "easy": USUAL,
    "mixed": USUAL,
    "hard": USUAL,
    "genre:recipes": (0.1, 0.25, 0.5),
    "genre:wikipedia": (0.1,),
}
"""What the clean part is, and the shares of hazard."""
MOST = 320
"""Ordinary examples of a genre: enough for a pool of it."""
REMOVED = (0.1, 0.2, 0.3, 0.5)
LAYERS = (0.4, 0.41, 0.5, 0.6, 0.7, 0.8)
"""Blocks that some filter looks at: read in one pass."""
FILTERS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("random", "random", "nothing", {}),
    ("length", "length", "nothing", {}),
    ("perplexity", "perplexity", "nothing", {}),
    ("SAFT, before the answer, k = 1", "saft", "nothing", {"k": 1}),
    ("SAFT, mean of the answer, k = 1", "saft", "nothing", {"k": 1, "pooling": "mean"}),
    ("SAFT, mean of the answer, k = 4", "saft", "nothing", {"k": 4, "pooling": "mean"}),
    ("SAFT, k by F1 on 100 labels", "saft", "100 of it", {"fallback": False}),
    ("reference_distance, Mahalanobis", "reference_distance", "clean", {}),
    ("reference_distance, neighbours", "reference_distance", "clean", {"kind": "neighbours"}),
    ("larf", "larf", "20 + 100", {}),
    ("few_shot_ranker", "few_shot_ranker", "20 + 100", {}),
    ("few_shot_ranker", "few_shot_ranker", "100 + 100", {}),
    ("probe", "probe", "100 of it", {}),
    ("tfidf", "tfidf", "20 + 100", {}),
    ("tfidf", "tfidf", "100 + 100", {}),
    ("tfidf", "tfidf", "100 of it", {}),
    ("ensemble", "ensemble", "20 + 100", {}),
)
"""A line of the table: its name, the filter, what it is told, settings."""
DRAWN = {"nothing": (0, 0), "clean": (0, 100), "20 + 100": (20, 100), "100 + 100": (100, 100)}


def examples() -> Documents:
    """All rated answers, and of each genre of ordinary ones the first `MOST` by the digest of their prompts."""
    folder = fetch("answers").folder
    docs = pa.concat_tables([pq.read_table(folder / f"{name}.parquet") for name in FILES]).sort_by("prompt")
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for row, group in enumerate(zip(docs["kind"].to_pylist(), docs["source"].to_pylist(), strict=True)):
        counts[group] += 1
        if group[0] != "benign" or counts[group] <= MOST:
            chosen.append(row)
    return docs.take(chosen)


def told(way: str, settings: Pool, docs: Documents, pool: Documents, rng: np.random.Generator) -> Corpus | None:
    """What a filter is handed; None where there is not enough of it."""
    hazard = flags(pool)
    if way == "100 of it":
        seen = rng.permutation(len(hazard))[:100]
        if len(set(hazard[seen].tolist())) < 2:
            return None
        return Corpus(*(pool.take(pa.array(np.sort(seen[hazard[seen] == side]))) for side in (True, False)), pool)
    rest = beside(settings, docs, pool)
    known, clean = DRAWN[way]
    of_hazard = np.flatnonzero(flags(rest))
    if known > len(of_hazard):
        return None
    column = {True: "source", False: "kind"}
    chosen: list[np.ndarray] = []
    for kind, share in settings.shares.items():
        names = np.array(rest[column[kind.startswith("genre:")]].to_pylist())
        there = np.flatnonzero((names == kind.removeprefix("genre:")) & ~flags(rest))
        if round(clean * share) > len(there):
            return None
        chosen.append(rng.permutation(there)[: round(clean * share)])
    sides = np.sort(rng.permutation(of_hazard)[:known]), np.sort(np.concatenate(chosen))
    return Corpus(*(rest.take(pa.array(side, pa.int64())) for side in sides), pool)


def flags(docs: Documents) -> np.ndarray:
    return docs["hazard"].to_numpy(zero_copy_only=False).astype(bool)


def ranked(name: str, way: str, more: Mapping[str, Any], corpus: Corpus, subject: Subject, seed: int) -> dict[str, Any]:
    """How a filter ranks the examples of a pool of which it was not told."""
    component = shelves.find("filters", name)(**more)
    rig = Rig(seed, f"filters/{name}", subject=lambda: subject)
    scores = component.fit(corpus, rig).measure(corpus.unlabelled)["score"].to_numpy()
    hazard, known = flags(corpus.unlabelled), np.zeros(len(scores), bool)
    if way == "100 of it":
        told = {id for side in (corpus.hazard, corpus.benign) for id in side["id"].to_pylist()}
        known = np.array([id in told for id in corpus.unlabelled["id"].to_pylist()])
    scores, hazard = scores[~known], hazard[~known]
    order = np.argsort(-scores, kind="stable")
    found = {f"recall_{share}": hazard[order[: round(share * len(order))]].sum() / hazard.sum() for share in REMOVED}
    sides = scores[hazard], scores[~hazard]
    logged = {key: value for key, value in rig.measured.items() if key.startswith("variance")}
    return {"auroc": auroc(*sides), "auprc": auprc(*sides), "tpr": tpr(*sides), **found, **logged}


def rows(docs: Documents, subject: Subject, seeds: int, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row a kind, contamination and line of the table."""
    for kind in kinds:
        for contamination in KINDS[kind]:
            settings = Pool(contamination=contamination, clean=kind, part=None)
            try:
                pools = [draw(settings, docs, np.random.default_rng(seed)) for seed in range(seeds)]
            except UserError as error:
                print(f"{kind} at {contamination:.0%}: {error}", flush=True)
                continue
            for pool in pools:
                features.features(subject, pool, LAYERS)
            for line, name, way, more in FILTERS:
                found = []
                for seed, pool in enumerate(pools):
                    corpus = told(way, settings, docs, pool, np.random.default_rng(1000 + seed))
                    if corpus is not None:
                        found.append(ranked(name, way, more, corpus, subject, seed))
                if found:
                    yield {"pool": kind, "hazard": contamination, "filter": line, "told": way, **over(found)}


def over(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each number, over pools."""
    spread = {"ddof": 1} if len(found) > 1 else {}
    names = [name for name in found[0] if all(name in one for one in found)]
    numbers = {name: np.array([one[name] for one in found]) for name in names}
    both = {name: (float(v.mean()), float(v.std(**spread))) for name, v in numbers.items()}
    return {"pools": len(found)} | {name: [round(mean, 3), round(sd, 3)] for name, (mean, sd) in both.items()}


def kept(file: Path | None, subject: Subject, work: Callable[[], None]) -> None:
    """Do work with the features of an earlier run, and keep those there are after it."""
    memory = features._Kept.of(subject.model)
    if file is not None and file.is_file():
        with np.load(file) as saved:
            for kind in ("states", "nats"):
                keys = [(bytes.fromhex(name), what) for name, what in saved[f"{kind}_of"].tolist()]
                whole = [(name, int(what) if what.isdigit() else what) for name, what in keys]
                memory.add(dict(zip(whole, saved[kind], strict=True)))
    work()
    if file is not None:
        parts = {}
        for kind, nats in (("states", False), ("nats", True)):
            own = {key: value for key, value in memory.items() if (key[1] == features.NATS) == nats}
            parts[f"{kind}_of"] = np.array([[name.hex(), str(what)] for name, what in own])
            parts[kind] = np.stack(list(own.values()))
        np.savez(file, **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--pools", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    compute.begin(compute.Compute(device="cpu"))
    docs = examples()
    subject = models.load(assets.path("asset:smollm2"), Wrap(chat=True))
    began, found = time.perf_counter(), []

    def work() -> None:
        for row in rows(docs, subject, given.seeds, given.pools):
            found.append(row)
            print(*(row[name] for name in ("pool", "hazard", "filter", "told")), row["auroc"], row["tpr"], flush=True)

    kept(given.features, subject, work)
    before = json.loads(KEPT.read_text(encoding="utf-8"))["rows"] if KEPT.exists() else []
    found += [row for row in before if row["pool"] not in given.pools]
    found.sort(key=lambda row: list(KINDS).index(row["pool"]))
    about = {"examples": docs.num_rows, "seeds": given.seeds, "seconds": round(time.perf_counter() - began)}
    write_atomically(KEPT, json.dumps({**about, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
