"""What tells hazard in drawn pools without reading an answer: lengths, repeated prompts, sources; and words alone.

    python benchmarks/pools.py [--seeds N]

Pools of `untaught.corpus.pools` from the asset `answers`, which is fetched unless it is there: every kind at a
contamination of 10% and 25%, `--seeds` pools each, matched in length; mixed ones unmatched, too. `words` is the AUROC
of word counts in answers (mean log-ratio of a word's share in hazard to its share in the rest, both smoothed by one),
learned on one half of the pool's prompts and measured on the other, both ways: what a topic or a phrase gives away.
`hazard_beside` counts the hazard that could have been drawn and shares no prompt with the pool. Pools of one genre and
hard ones are drawn from all parts: one part has too few examples for 320. No text is kept: pools.json beside this
script holds numbers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from untaught.assets.fetching import fetch
from untaught.core import Documents
from untaught.core.ranking import auroc
from untaught.corpus.pools import Pool, beside, confounds, draw
from untaught.corpus.writing import write_atomically

KEPT = Path(__file__).parent / "pools.json"
FILES = ("harmful", "safe", "benign")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("easy", {"clean": "easy"}),
    ("mixed", {"clean": "mixed"}),
    ("mixed, lengths not matched", {"clean": "mixed", "matched": False}),
    ("hard", {"clean": "hard", "part": None}),
    ("Wikipedia only", {"clean": "genre:wikipedia", "part": None}),
    ("recipes only", {"clean": "genre:recipes", "part": None}),
)
CONTAMINATIONS = (0.1, 0.25)
HEADS = ("pool", "hazard", "answer length", "prompt length", "words", "prompts repeated", "two-sided", "hazard beside")
NAMES = ("answer_words", "prompt_words", "repeated_prompts", "two_sided_prompts", "words", "hazard_beside")


def examples() -> Documents:
    """All three files."""
    folder = fetch("answers").folder
    return pa.concat_tables([pq.read_table(folder / f"{name}.parquet") for name in FILES])


def told_by_words(pool: Documents, rng: np.random.Generator) -> float:
    """AUROC of the words of answers, no prompt on both sides."""
    prompts = np.array(pool["prompt"].to_pylist())
    every = np.unique(prompts)
    first = np.isin(prompts, rng.permutation(every)[: len(every) // 2])
    hazard = np.array(pool["hazard"].to_pylist())
    counts = [Counter(re.findall(r"\w+", turns[-1]["content"].lower())) for turns in pool["messages"].to_pylist()]
    found = []
    for learn in (first, ~first):
        sides = [
            sum((c for c, s in zip(counts, learn & side, strict=True) if s), Counter()) for side in (hazard, ~hazard)
        ]
        totals = [side.total() + len(sides[0] | sides[1]) for side in sides]
        scores = np.array([
            sum(n * np.log((sides[0][w] + 1) / totals[0] * totals[1] / (sides[1][w] + 1)) for w, n in count.items())
            / count.total()
            for count in counts
        ])  # fmt: skip
        found.append(auroc(scores[~learn & hazard], scores[~learn & ~hazard]))
    return float(np.mean(found))


def measured(docs: Documents, how: dict[str, Any], contamination: float, seeds: int) -> dict[str, Any]:
    """Means and standard deviations over pools."""
    rows, sources = [], Counter()
    for seed in range(seeds):
        settings = Pool(contamination=contamination, **how)
        pool = draw(settings, docs, np.random.default_rng(seed))
        found = confounds(pool)
        rest = beside(settings, docs, pool)
        found["words"] = told_by_words(pool, np.random.default_rng(seed))
        found["hazard_beside"] = int(np.sum(rest["hazard"].to_pylist()))
        rows.append([found[name] for name in NAMES])
        sources += Counter({name: sides["rest"] for name, sides in found["sources"].items()})
    means, deviations = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
    kept = {n: [round(float(m), 3), round(float(d), 3)] for n, m, d in zip(NAMES, means, deviations, strict=True)}
    return kept | {"rest_by_source": {name: round(count / seeds, 1) for name, count in sources.most_common()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="pools of each kind")
    seeds = parser.parse_args().seeds
    docs = examples()
    table = [
        {"pool": name, "contamination": share, "seeds": seeds, **measured(docs, how, share, seeds)}
        for name, how in KINDS
        for share in CONTAMINATIONS
    ]
    kept = {"mean and standard deviation over": "pools of 320 examples", "pools": table}
    write_atomically(KEPT, json.dumps(kept, indent=1) + "\n")
    print(markdown(table))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the page: means, standard deviations in brackets; in per cent what is a share."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for row in rows:
        cells = [row["pool"], f"{row['contamination']:.0%}"]
        cells += [f"{row[name][0]:.2f} ({row[name][1]:.2f})" for name in ("answer_words", "prompt_words", "words")]
        cells += [f"{row[name][0]:.0%}" for name in ("repeated_prompts", "two_sided_prompts")]
        lines.append(f"| {' | '.join([*cells, str(round(row['hazard_beside'][0]))])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
