"""What it costs to score examples by a model's states, beside a plain pass to the deepest block that is needed.

    python benchmarks/scoring_examples.py [--rounds N] [--examples N]

SmolLM2-135M-Instruct (`untaught fetch smollm2 answers`) and examples of the asset `answers`. One thread, one process,
the ways in turn, processor seconds, the median of some rounds:

    plain N     the peer: token ids that are there already, sorted by length, N a batch, through a model that has been
                cut off above the deepest block that the filter looks at; nothing is done with what comes out
    ours        `measure` of a fitted few_shot_ranker: the chat template, tokens, the pass, states at its blocks, scores
    all blocks  the peer's best batch size through the whole model with its head: what early ending saves

Both must give the same states within 0.001.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import nn

from untaught import assets
from untaught.core import Compute, Corpus, Documents, Wrap
from untaught.corpus.pools import Pool, eligible
from untaught.engine import compute, examples, features, models
from untaught.engine.batches import pad, pad_id
from untaught.engine.rig import Rig
from untaught.filters.few_shot_ranker import FewShotRanker

KEPT = Path(__file__).with_suffix(".json")
KNOWN = 30
"""Examples of each side that the ranker is fitted on."""


def cut(model: Any, deepest: int) -> Any:
    """The same weights without the blocks above one, and without the head."""
    short = copy.copy(model.model)
    short._modules = dict(short._modules)
    short.layers = nn.ModuleList(list(model.model.layers)[: deepest + 1])
    short.norm = nn.Identity()
    return short


@torch.inference_mode()
def plain(run: Callable[..., Any], rows: Sequence[Sequence[int]], size: int, filler: int) -> list[torch.Tensor]:
    """The last outputs for each row."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    found: dict[int, torch.Tensor] = {}
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        batch = pad([rows[i] for i in chosen], filler)
        out = run(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)[0]
        found.update({index: out[line, : len(rows[index])] for line, index in enumerate(chosen)})
    return [found[index] for index in range(len(rows))]


def side(docs: Documents, hazard: bool) -> Documents:
    return docs.filter(np.array([flag == hazard for flag in docs["hazard"].to_pylist()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=1000)
    asked = parser.parse_args()
    compute.begin(Compute(device="cpu", dtype="float32", threads=1))
    subject = models.load(assets.path("asset:smollm2"), Wrap(chat=True))
    parts = [pq.read_table(assets.path(f"asset:answers/{name}.parquet")) for name in ("harmful", "safe", "benign")]
    docs = eligible(Pool(part=None), pa.concat_tables(parts))
    every = docs.slice(0, min(asked.examples, docs.num_rows))
    known = Corpus(side(docs, True).slice(0, KNOWN), side(docs, False).slice(0, KNOWN), every.slice(0, 4 * KNOWN))
    ranker = FewShotRanker()
    scorer = ranker.fit(known, Rig(0, "filters", subject=lambda: subject))
    deepest = max(features.depths(subject, ranker.layers))
    read = [one for one in examples.read(subject, every) if isinstance(one, examples.Example)]
    rows, filler = [one.ids for one in read], pad_id(subject.tokenizer)
    short = cut(subject.model, deepest)

    def ours() -> None:
        features._models.clear()
        scorer.measure(every)

    ways: dict[str, Callable[[], Any]] = {
        f"plain {size}": (lambda size=size: plain(short, rows, size, filler)) for size in (1, 4, 8, 16, 32)
    } | {"ours": ours, "all blocks": lambda: plain(subject.model, rows, 8, filler)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            taken[name].append(time.process_time() - began)
    seconds = {name: float(np.median(found)) for name, found in taken.items()}
    best = min((name for name in seconds if name.startswith("plain")), key=seconds.__getitem__)
    states = features.features(subject, every, [deepest], "last").values[:, 0]
    apart = max(
        float(np.abs(out[np.flatnonzero(one.answer)[-1]].numpy() - state).max())
        for out, one, state in zip(plain(short, rows, 8, filler), read, states, strict=True)
    )
    for name, found in seconds.items():
        print(f"{name:<12} {found:8.1f} s   {found / seconds[best]:.2f} of {best}")
    print(f"states differ by at most {apart:.1e}")
    assert apart < 1e-3 * max(1.0, float(np.abs(states).max()))
    kept = {
        "unit": "processor seconds, one thread, the median of rounds",
        "examples": len(rows),
        "tokens": sum(map(len, rows)),
        "deepest_block": deepest,
        "rounds": asked.rounds,
        "seconds": {name: round(found, 2) for name, found in seconds.items()},
        "ours_to_the_best_plain_pass": round(seconds["ours"] / seconds[best], 3),
        "ours_to_all_blocks": round(seconds["ours"] / seconds["all blocks"], 3),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
