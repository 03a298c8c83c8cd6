"""What the three conditions of `open_book` cost beside the one with the item's own text, and what keeping costs.

    python benchmarks/open_book.py MODEL ITEMS [--rounds N] [--texts N]

MODEL is a folder of a causal language model, ITEMS a file of items with texts: those of `untaught fetch smollm2` and
`untaught fetch elements` (`items/hazard_open_book.parquet`). One thread, one process, the ways in turn; figures are CPU
seconds, the median of some rounds:

    with text       each question after its own text, and nothing else
    three           `open_book`: the same, after another's text, and with none
    three, kept     the same, with what the model said kept in a new folder
    three, again    the same, from that folder
    apart           the three one after the other, so that they share nothing

With `--texts`, one item of each text is asked, and its text is followed by others up to so many: a passage of a usual
length that is the item's own. Kept by the number of texts; 1 is the items as they are, of which two share a text.

The share of the time that keeping takes is from a count of its own: it is too small for a difference of two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
import transformers

from untaught.core import Compute, Subject
from untaught.corpus.world import read_any_items
from untaught.engine import compute, models, remembering, scoring
from untaught.engine.choices import graded
from untaught.evaluations.open_book import OpenBook

KEPT = Path(__file__).with_suffix(".json")
TARGET = 1.6


class Watch:
    """CPU seconds by name, the shares of keeping among them."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self.keeping = 0.0

    def time(self, name, call, *given):
        began = time.process_time()
        found = call(*given)
        self.taken.setdefault(name, []).append(time.process_time() - began)
        return found

    def counted(self, method):
        def call(notes, *given):
            began = time.process_time()
            try:
                return method(notes, *given)
            finally:
                self.keeping += time.process_time() - began

        return call


def once(subject: Subject, rows: list[dict], prompts: dict, watch: Watch, folder: Path) -> dict[str, list]:
    """Every way once."""

    def asked(*names):
        return graded(subject, rows, {name: prompts[name] for name in names}, batch_size=256)["value"].to_pylist()

    def kept():
        with remembering.kept(folder, subject.model, weights="the benchmark's"):
            return asked(*prompts)

    found = {"with text": watch.time("with text", asked, "accuracy_with_text")}
    found["three"] = watch.time("three", asked, *prompts)
    before = watch.keeping
    found["three, kept"] = watch.time("three, kept", kept)
    watch.taken.setdefault("keeping alone", []).append(watch.keeping - before)
    found["three, again"] = watch.time("three, again", kept)
    found["apart"] = watch.time("apart", lambda: [mark for name in prompts for mark in asked(name)])
    return found


def lengthened(items: pa.Table, count: int) -> pa.Table:
    """One item of each text, whose text is followed by the next `count` - 1 others: a passage of its own."""
    texts = items["context"].to_pylist()
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    order = sorted(first, key=lambda text: first[text])
    chosen = items.take(pa.array([first[text] for text in order]))
    passages = [" ".join((order + order)[place : place + count]) for place in range(len(order))]
    return chosen.set_column(items.schema.get_field_index("context"), "context", pa.array(passages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1)
    asked = parser.parse_args()
    compute.begin(Compute(device="cpu", dtype="float32", threads=1))
    subject, watch = models.load(asked.model), Watch()
    items = read_any_items(asked.items, where="items")
    items = lengthened(items, asked.texts) if asked.texts > 1 else items
    texts = items["context"].to_pylist()
    rows, prompts = OpenBook(items=str(asked.items)).asked(items)
    scoring._widest(subject)
    with (
        patch.object(remembering.Notes, "find", watch.counted(remembering.Notes.find)),
        patch.object(remembering.Notes, "keep", watch.counted(remembering.Notes.keep)),
        patch.object(remembering.Notes, "put_by", watch.counted(remembering.Notes.put_by)),
    ):
        for _ in range(asked.rounds):
            with tempfile.TemporaryDirectory() as folder:
                found = once(subject, rows, prompts, watch, Path(folder))
            assert found["three"] == found["three, kept"] == found["three, again"]
    seconds = {name: round(float(np.median(taken)), 4) for name, taken in watch.taken.items()}
    ratio, keeping = seconds["three"] / seconds["with text"], seconds["keeping alone"] / seconds["three, kept"]
    agreed = sum(one == other for one, other in zip(found["three"], found["apart"], strict=True))
    for name, taken in seconds.items():
        print(f"{name:<14} {taken:>8.3f} s")
    print(f"three conditions cost {ratio:.2f} of one (aim: below {TARGET}); keeping takes {keeping:.2%} of the time")
    print(f"{agreed} of {len(found['three'])} marks are the same where the conditions are asked apart")
    kept = {
        "unit": "CPU seconds, one thread, median",
        "rounds": asked.rounds,
        "items": len(rows),
        "texts": asked.texts,
        "tokens_of_a_text": round(float(np.mean([len(subject.tokenizer(text)["input_ids"]) for text in texts]))),
        "model": f"{subject.model.config.model_type}, {subject.model.num_parameters() / 1e6:.0f} million parameters",
        "seconds": seconds,
        "three_beside_one": round(ratio, 3),
        "share_of_keeping": round(keeping, 5),
        "marks_alike_asked_apart": f"{agreed} of {len(found['three'])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    before = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    KEPT.write_text(json.dumps(before | {str(asked.texts): kept}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
