"""What a policy would remove and cost, from a sample of the corpus, before the full pass.

Shares have Wilson's 95% interval for n / effect documents, n those sampled and `effect` what neighbours in a block cost
(`sampling.py`). The share of text removed is a ratio, R = removed bytes / all bytes, with the interval

    R +- 1.96 sqrt(effect n / (n - 1) * sum (removed_i - R bytes_i)^2) / sum bytes_i                (Cochran 1977, 6.4)

Cost is processor time, with code already compiled: reading a document, and deciding it, which is what the stages take
for the share that reaches them and the writing of decisions. Written out files are not in it, nor is what a GPU does.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..core.statistics import Z95, wilson
from ..corpus import deciding
from ..corpus.policy import Fitted, Rules
from ..corpus.writing import write_atomically
from .choosing import HERE, QUARANTINED, REMOVED, Group
from .sampling import Sample, effect

pc: Any = pyarrow.compute
FILE = "estimate.json"
WARM, PATIENCE = 8 * 2**20, 20.0
"""Bytes that a stage reads again to tell its speed once it is warm, unless that takes more than so many seconds."""


def estimate(rules: Rules, drawn: Sample, workers: int | None) -> dict[str, Any]:
    """What the rules would do with the corpus that a sample is drawn from."""
    sound = drawn.documents["cause"].is_null()
    table = drawn.documents.filter(sound)
    whole = drawn.blocks == drawn.of_blocks
    group, size = Group(table), pc.binary_length(table["text"]).to_numpy()
    block = np.arange(len(group)) if whole else table["block"].to_numpy()  # of all blocks, each document by itself
    stages, unread = [], drawn.documents.num_rows - len(group)
    for index, stage in enumerate(rules.stages):
        seen = group.here
        stages.append(_stage(group, stage, escalate=stage.escalate and index + 1 < len(rules.stages)))
        last = group.fate[seen]
        flagged = last == (HERE if stage.escalate and index + 1 < len(rules.stages) else REMOVED)
        stages[-1] |= _share(flagged, block[seen])
    removed, stuck = group.fate == REMOVED, int((group.fate == QUARANTINED).sum()) + unread
    alone = sum(stage["seconds_per_document"] * stage["seen"] for stage in stages)
    deciding_one = max(_through(rules, table, alone), alone) / max(len(group), 1)
    seconds = drawn.corpus * (drawn.seconds + deciding_one)
    hands = workers or os.cpu_count() or 1
    return {
        "sampled": {"documents": drawn.documents.num_rows, "blocks": drawn.blocks, "of_blocks": drawn.of_blocks},
        "corpus": {"documents": round(drawn.corpus), "exact": whole},
        "damaged": list(drawn.damaged),
        "stages": stages,
        "removed": {"documents": _share(removed, block), "text": _of_text(removed, size, block)},
        "quarantined": stuck,
        "cost": {
            "reading_seconds_per_document": _short(drawn.seconds),
            "deciding_seconds_per_document": _short(deciding_one),
            "processor_seconds": _short(seconds),
            "workers": hands,
            "hours_on_these_workers": _short(seconds / hands / 3600),
        },
    }


def _stage(group: Group, stage: Fitted, *, escalate: bool) -> dict[str, Any]:
    """Let a stage decide what reaches it, and time it."""
    seen = group.here
    table = group.documents.select(["id", "text"]).take(pa.array(seen))
    began = time.process_time()
    scored = group.scored(stage.scorer)
    seconds = time.process_time() - began
    group.decide(stage.scorer, scored, escalate=escalate)
    if len(seen):
        seconds = min(seconds, _warm(stage, table, seconds))
    return {"name": stage.name, "seen": len(seen), "seconds_per_document": _short(seconds / max(len(seen), 1))}


def _warm(stage: Fitted, table: pa.Table, seconds: float) -> float:
    """The least processor seconds that a stage takes for a table, once it knows that there is much to read."""
    times = -(-WARM // max(table.nbytes, 1))
    if seconds * times > PATIENCE:
        return seconds
    long = pa.concat_tables([table] * times).combine_chunks()
    return _least(lambda: stage.scorer.measure(long)) / times


def _through(rules: Rules, table: pa.Table, seconds: float) -> float:
    """The same for all stages as the full pass goes through them, its decisions written to a file and thrown away.

    Where the stages alone take long, the rest is nothing beside them.
    """
    times = -(-WARM // max(table.nbytes, 1))
    if seconds * times > PATIENCE or not table.num_rows:
        return seconds
    long = pa.concat_tables([table.select(["id", "text"])] * times).combine_chunks()
    name = pa.array(["sample"] * long.num_rows)

    def once() -> None:
        decided = deciding.decisions(rules.stages, long)
        with (
            tempfile.TemporaryDirectory() as place,
            deciding.Writer(Path(place) / "d.parquet", deciding.SCHEMA) as file,
        ):
            file.write(decided.append_column("source", name))

    return _least(once) / times


def _least(work: Callable[[], Any]) -> float:
    """The least processor seconds of three tries."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def _share(hit: np.ndarray, block: np.ndarray) -> dict[str, Any]:
    """A share of documents with Wilson's interval."""
    n = len(hit)
    if not n:
        return {"flagged": 0, "share": None, "low": None, "high": None}
    share, worth = float(hit.mean()), max(round(n / effect(hit, block)), 1)
    low, high = wilson(share, worth)
    return {"flagged": int(hit.sum()), "share": _short(share), "low": _short(low), "high": _short(high)}


def _of_text(hit: np.ndarray, size: np.ndarray, block: np.ndarray) -> dict[str, Any]:
    """The share of text in some documents."""
    n, whole = len(hit), float(size.sum())
    if n < 2 or not whole:
        return {"share": None, "low": None, "high": None}
    gone = np.where(hit, size, 0)
    share = float(gone.sum()) / whole
    spread = math.sqrt(effect(hit, block) * n / (n - 1) * float(((gone - share * size) ** 2).sum())) / whole
    low, high = max(share - Z95 * spread, 0.0), min(share + Z95 * spread, 1.0)
    return {"share": _short(share), "low": _short(low), "high": _short(high)}


def _short(value: float) -> float:
    """Four digits: a sample tells no more."""
    return float(f"{value:.4g}")


def write(found: Mapping[str, Any], out: Path) -> None:
    """Keep the estimate beside the policy."""
    write_atomically(out / FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def told(found: Mapping[str, Any], data: Sequence[str]) -> str:
    """The estimate in a few lines."""
    sampled, corpus, cost = found["sampled"], found["corpus"], found["cost"]
    about = "" if corpus["exact"] else "about "
    lines = [
        f"{', '.join(data)}: {sampled['documents']} of {about}{corpus['documents']} documents looked at,"
        f" from {sampled['blocks']} of {sampled['of_blocks']} blocks"
    ]
    for stage in found["stages"]:
        took = f"{stage['seconds_per_document'] * 1000:.3g} ms a document"
        lines.append(f"  {stage['name']:<12} sees {stage['seen']}, flags {_percent(stage)}; {took}")
    removed = found["removed"]
    lines.append(f"  removed      {_percent(removed['documents'])} of documents, {_percent(removed['text'])} of text")
    if found["quarantined"]:
        lines.append(f"  quarantined  {found['quarantined']} of those looked at")
    if found["damaged"]:
        lines.append(f"  damaged      {', '.join(found['damaged'])}")
    hours = cost["hours_on_these_workers"]
    wall = f"{hours:.3g} hours" if hours >= 1 else f"{hours * 3600:.3g} seconds"
    lines.append(
        f"  cost         {cost['processor_seconds']:.3g} processor seconds, {wall} with {cost['workers']} workers;"
        " start-up and written out files not counted"
    )
    return "\n".join(lines)


def _percent(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "none"
    return f"{found['share']:.2%} ({found['low']:.2%} to {found['high']:.2%})"
