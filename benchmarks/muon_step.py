"""What Muon costs in the lab's pretraining: torch's, which works in bfloat16, beside ours in float32, in the same run.

    python benchmarks/muon_step.py [--steps N] [--rounds N]

Both pretrain the lab's default model on the same batches; seconds a step are medians of rounds that take turns. Kept in
muon_step.json, with the next-token loss that each came to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from untaught.core import Corpus
from untaught.corpus.world import split
from untaught.corpus.writing import write_atomically
from untaught.engine import loop
from untaught.engine.muon import Muon
from untaught.engine.rig import Rig
from untaught.lab.compounds import Compounds
from untaught.lab.start import StartingModel
from untaught.training.pretrain import Pretrain

KEPT = Path(__file__).with_suffix(".json")
KINDS: dict[str, Any] = {"torch": torch.optim.Muon, "ours": Muon}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    world = Compounds().build(0)
    start = StartingModel().build(world.documents["text"].to_pylist(), 0)
    known = split(world.documents.slice(0, 5 * asked.steps))
    corpus = Corpus(known.hazard, known.benign)
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    loss: dict[str, float] = {}
    steps = 0
    for _ in range(asked.rounds):
        for name, kind in KINDS.items():
            rig, began = Rig(0, "training/pretrain"), time.perf_counter()
            with patch.object(loop, "Muon", kind), patch.dict(loop.AVERAGES, {kind: 1}):
                Pretrain().apply(start, corpus, rig)
            steps = rig.spent.steps
            seconds[name].append((time.perf_counter() - began) / steps)
            loss[name] = round(rig.measured["next_token_last"], 4)
    found: dict[str, Any] = {"seconds_a_step": {name: round(statistics.median(s), 4) for name, s in seconds.items()}}
    found["times_faster"] = round(found["seconds_a_step"]["torch"] / found["seconds_a_step"]["ours"], 1)
    found |= {"loss_last": loss, "steps": steps, "rounds": asked.rounds}
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    write_atomically(KEPT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
