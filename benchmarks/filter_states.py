"""What filters of fine-tuning data take to learn from a pool of any size: seconds and memory, from simulated states.

    python benchmarks/filter_states.py [--examples N] [--width D] [--harmful P] [--folder DIR]

States of one layer are drawn from a seed and written to a file a block at a time, as those of a model are: a few
directions in which all vary, noise, and a share of harmful examples that lie off along a direction of their own. Then
`saft` looks for its directions, `few_shot_ranker` for its space and its direction from 20 harmful and 100 clean
examples, and both score the whole pool. By default a million examples of width 4096: 16 GB of disk in `--folder`.

Printed, and kept beside this file when the size is the default: seconds of each part, and the most memory that the
process ever held (peak resident set), beside what all the states together would take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from untaught.core.ranking import auroc
from untaught.filters._directions import space, top, top_of_many
from untaught.filters._states import ROWS, States, gathered, ranks
from untaught.filters.few_shot_ranker import direction
from untaught.filters.saft import Projections

KEPT = Path(__file__).with_suffix(".json")
EXAMPLES, WIDTH = 1_000_000, 4096
FACTORS, HARM = 16, 12
KNOWN = (20, 100)


class Simulated:
    """Blocks of states, (examples, 1, width) in float32, and which examples are harmful."""

    def __init__(self, examples: int, width: int, share: float) -> None:
        self.examples, self.width, self.share = examples, width, share
        draws = np.random.default_rng(0)
        self.mean = draws.standard_normal(width, np.float32)
        self.factors = draws.standard_normal((FACTORS, width), np.float32) * np.linspace(1, 0.3, FACTORS)[:, None]
        self.factors = self.factors.astype(np.float32)
        self.off = (HARM * draws.standard_normal(width) / np.sqrt(width)).astype(np.float32)

    def block(self, seed: int, harmful: np.ndarray) -> np.ndarray:
        """States of some examples, always the same for a seed."""
        draws = np.random.default_rng([1, seed])
        rows = draws.standard_normal((len(harmful), self.width), np.float32)
        rows += draws.standard_normal((len(harmful), FACTORS), np.float32) @ self.factors + self.mean
        rows[harmful] += self.off
        return rows[:, None]

    def harmful(self, first: int) -> np.ndarray:
        """Which of a block are."""
        count = min(ROWS, self.examples - first)
        return np.random.default_rng([2, first]).random(count) < self.share

    def blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, self.examples, ROWS):
            yield self.block(first, self.harmful(first))

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([self.harmful(first) for first in range(0, self.examples, ROWS)])

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Known harmful and known clean states, none of the pool."""
        harmful = np.repeat([True, False], KNOWN)
        rows = self.block(self.examples, harmful)[:, 0].astype(np.float64)
        return rows[harmful], rows[~harmful]


def peak() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(name: str, work: Callable[[], object], found: dict[str, float]) -> object:
    """Do a piece of work, and keep how long it took."""
    began = time.perf_counter()
    done = work()
    found[name] = round(time.perf_counter() - began, 2)
    print(f"  {name:32s} {found[name]:10.2f} s   peak so far {peak():8.0f} MB", flush=True)
    return done


def saft(states: States) -> np.ndarray:
    """Scores by the direction in which the pool varies most."""
    if states.small:
        mean, directions = top(states.values[:, 0].astype(np.float64), 1)
    else:
        mean, directions = top_of_many(lambda: states.layer(0), 1, np.random.default_rng(3))
    return states.scores(Projections(mean, directions))


def few_shot(states: States, simulated: Simulated) -> np.ndarray:
    """Scores by the direction that parts the known examples."""
    inside = space(lambda: states.layer(0), 40, np.random.default_rng(4))
    found = direction(inside, *simulated.known(), 0.3)
    return states.scores(ranks(found[None], states))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--examples", type=int, default=EXAMPLES)
    asked.add_argument("--width", type=int, default=WIDTH)
    asked.add_argument("--harmful", type=float, default=0.1)
    asked.add_argument("--folder", help="where the states are written; the system's folder for temporary files")
    given = asked.parse_args()
    simulated = Simulated(given.examples, given.width, given.harmful)
    seconds: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}
    began = peak()
    print(f"{given.examples:,} examples of width {given.width:,}, {began:.0f} MB before")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        written: dict[str, States] = {}
        timed("write", lambda: written.update(states=gathered(simulated.blocks(), Path(folder))), seconds)
        states = written["states"]
        timed("saft", lambda: scores.update(saft=saft(states)), seconds)
        timed("few_shot_ranker", lambda: scores.update(few_shot_ranker=few_shot(states, simulated)), seconds)
        held = "memory" if states.small else "a file"
    labels = simulated.labels
    result = {
        "examples": given.examples,
        "width": given.width,
        "held_in": held,
        "all_states_mb": round(given.examples * given.width * 4 / 2**20),
        "peak_resident_mb": round(peak()),
        "before_mb": round(began),
        "seconds": seconds,
        "auroc": {name: round(auroc(own[labels], own[~labels]), 3) for name, own in scores.items()},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads",
        "versions": {"numpy": np.__version__},
    }
    print(json.dumps(result, indent=1))
    if (given.examples, given.width) == (EXAMPLES, WIDTH):
        KEPT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
