"""When a fifth of the labels are wrong: is text that is routed to a slice better than text that is filtered?

    python benchmarks/routing.py [SEED ...]     seeds 0 1 2; about 8 minutes each on one core

The lab's world of the default study. A fifth of the hazard documents is labelled benign, and as many benign documents
are labelled hazard. Models, all from the same start:

    untouched   pretrained on everything
    oracle      pretrained on what is truly benign: nothing can be nearer to ignorance
    filtered    pretrained on what is labelled benign
    routed      `gradient_routing` on everything, with what is labelled hazard marked

Each is asked before and after 20 steps of relearning on the attacker's text. Writes routing.json beside this script: a
line for each model, and means over seeds with 95% intervals. Seeds that are not asked for stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from untaught.attacks.relearn import Relearn
from untaught.core import MASKED, Budget, Corpus, Subject, by_metric
from untaught.corpus.world import World, split
from untaught.corpus.writing import write_atomically
from untaught.engine.rig import Rig
from untaught.evaluations.multiple_choice import MultipleChoice
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel
from untaught.report.pooling import pool
from untaught.report.reading import Row
from untaught.training.gradient_routing import GradientRouting
from untaught.training.pretrain import Pretrain

KEPT = Path(__file__).parent / "routing.json"
WRONG, STEPS = 0.2, 20
ITEMS = ("hazard_held_out", "hazard_seen", "neighbour", "benign")


def labelled(documents: pa.Table, seed: int) -> np.ndarray:
    """Which documents are labelled hazard, a fifth of the truth's wrongly so or not."""
    truth = documents["hazard"].to_numpy(zero_copy_only=False).astype(bool)
    rng, said = np.random.default_rng(seed), truth.copy()
    missed = rng.permutation(np.flatnonzero(truth))[: round(WRONG * truth.sum())]
    said[missed] = False
    said[rng.permutation(np.flatnonzero(~truth))[: len(missed)]] = True
    return said


def marked(documents: pa.Table, said: np.ndarray) -> pa.Table:
    """Documents with those that are labelled hazard marked whole."""
    spans = [
        [{"start": 0, "stop": len(text)}] if hit else []
        for text, hit in zip(documents["text"].to_pylist(), said, strict=True)
    ]
    return documents.append_column("masked", pa.array(spans, MASKED))


def models(world: World, seed: int) -> dict[str, Subject]:
    """The four models of a seed."""
    documents = world.documents
    start, said = StartingModel().build(documents["text"].to_pylist(), seed), labelled(documents, seed)
    rows, routed = documents.filter(pa.array(~said)), split(marked(documents, said))
    return {
        "untouched": Pretrain().apply(start, split(documents), Rig(seed, "training/pretrain")),
        "oracle": Pretrain().apply(start, whole(split(documents).benign), Rig(seed, "training/pretrain")),
        "filtered": Pretrain().apply(start, split(rows), Rig(seed, "training/pretrain")),
        "routed": GradientRouting().apply(start, routed, Rig(seed, "training/gradient_routing")),
    }


def whole(benign: pa.Table) -> Corpus:
    """A corpus of benign text alone."""
    return Corpus(benign.slice(0, 0), benign)


def asked(subject: Subject, world: World, seed: int) -> list[dict[str, Any]]:
    """What a model knows, and what it knows of V after relearning."""
    rig = Rig(seed, "attacks/relearn", budget=Budget(steps=STEPS))
    after = Relearn().apply(subject, split(world.attack), rig)
    rows = []
    for model, items, steps in [*((subject, items, 0) for items in ITEMS), (after, ITEMS[0], STEPS)]:
        marks = MultipleChoice(items=items).grade(model, world.items[items])
        [found] = [row for row in by_metric(marks) if row["metric"] == "accuracy"]
        rows.append({"items": items, "steps": steps, **found})
    return rows


def means(kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over seeds with the report's intervals."""
    found = []
    for name in next(iter(kept.values())):
        for index, first in enumerate(next(iter(kept.values()))[name]):
            rows = [
                Row(arm=name, attack=None, evaluation="multiple_choice", role="hazard", seed=int(seed),
                    **{k: v for k, v in models[name][index].items() if k != "steps"})
                for seed, models in kept.items()
            ]  # fmt: skip
            e = pool(rows, share=True, of_seeds=len(kept))
            place = {"model": name, "items": first["items"], "steps": first["steps"]}
            found.append(place | {"value": e.value, "low": e.low, "high": e.high})
    return found


def main() -> None:
    """Make and ask the models of each seed."""
    torch.set_num_threads(1)
    for seed in [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]:
        world = Compounds().build(seed)
        found = {name: asked(subject, world, seed) for name, subject in models(world, seed).items()}
        kept = json.loads(KEPT.read_text())["seeds"] if KEPT.exists() else {}
        kept = dict(sorted((kept | {str(seed): found}).items()))
        write_atomically(KEPT, json.dumps({"wrong": WRONG, "means": means(kept), "seeds": kept}, indent=1) + "\n")
        for name, rows in found.items():
            print(seed, name, *(f"{r['items']}/{r['steps']} {r['value']:.0%}" for r in rows), flush=True)


if __name__ == "__main__":
    main()
