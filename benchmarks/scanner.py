"""How fast the blocklist reads text from memory, beside other engines, and whether it finds what it should.

    python benchmarks/scanner.py FOLDER [--documents N]

FOLDER holds `parquet/*.parquet` with columns `id` and `text`, and lists `terms_1000.txt`, `terms_6000.txt` and
`terms_20000.txt`; the first shard is read. Figures are MB of UTF-8 per CPU second on one thread. Slow engines see the
first N documents. What is not installed is skipped. Each engine says which documents have two distinct terms or more:

    scanner       ours: whole words in the one spelling of `_words.py`, all hits with their places, as a findings table
    plain         the same, read off the definition in Python
    hyperscan     caseless literals, then the edges of each hit in Python; ASCII, no other spelling
    ahocorasick   pyahocorasick on lower-cased text, then the edges of each hit in Python
    reading       pyarrow reads the column, no decision: the floor

Peers see fewer spellings, so what they flag differs a little; ours and plain must agree in every document and place.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from untaught.core import Corpus, documents
from untaught.engine.rig import Rig
from untaught.filters.blocklist import Blocklist

KEPT = Path(__file__).with_suffix(".json")
LISTS = (1_000, 6_000, 20_000)
ROUNDS = 5
Engine = Callable[[pa.Table], np.ndarray]


def speed(work: Callable[[], Any], size: float, rounds: int = ROUNDS) -> float:
    """MB per CPU second, the median of some rounds."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return size / float(np.median(seconds))


def megabytes(batch: pa.Table) -> float:
    return pc.sum(pc.binary_length(batch["text"])).as_py() / 1e6


def hyperscan(terms: list[str]) -> Engine:
    import hyperscan as engine

    database = engine.Database(mode=engine.HS_MODE_BLOCK)
    encoded = [term.encode() for term in terms]
    database.compile(
        expressions=encoded,
        ids=list(range(len(terms))),
        flags=[engine.HS_FLAG_CASELESS] * len(terms),
        literal=True,
    )
    word = [bytes([byte]).isalnum() for byte in range(256)]

    def flagged(batch: pa.Table) -> np.ndarray:
        found = []
        for text in batch["text"].to_pylist():
            data, seen = text.encode(), set()

            def hit(number: int, _: int, stop: int, *__: Any, data: bytes = data, seen: set[int] = seen) -> None:
                start = stop - len(encoded[number])
                if not (start and word[data[start]] and word[data[start - 1]]) and not (
                    stop < len(data) and word[data[stop - 1]] and word[data[stop]]
                ):
                    seen.add(number)

            database.scan(data, match_event_handler=hit)
            found.append(len(seen) >= 2)
        return np.array(found)

    return flagged


def ahocorasick(terms: list[str]) -> Engine:
    import ahocorasick as engine

    automaton = engine.Automaton()
    for term in terms:
        automaton.add_word(term, term)
    automaton.make_automaton()

    def flagged(batch: pa.Table) -> np.ndarray:
        found = []
        for text in batch["text"].to_pylist():
            lower, seen = text.lower(), set()
            for last, term in automaton.iter(lower):
                start = last + 1 - len(term)
                if not (start and term[0].isalnum() and lower[start - 1].isalnum()) and not (
                    term[-1].isalnum() and lower[last + 1 : last + 2].isalnum()
                ):
                    seen.add(term)
            found.append(len(seen) >= 2)
        return np.array(found)

    return flagged


def measured(folder: Path, some: int) -> dict[str, dict[str, float]]:
    """Engine to list to MB per CPU second; prints as it goes."""
    shard = sorted((folder / "parquet").glob("*.parquet"))[0]
    batch = pq.read_table(shard, columns=["id", "text"])
    part, size = batch.slice(0, some), megabytes(batch)
    found: dict[str, dict[str, float]] = {"reading": {"any": speed(lambda: read(shard), size)}}
    print(f"{batch.num_rows} documents, {size:.1f} MB; reading {found['reading']['any']:.0f} MB per CPU second")

    def tell(engine: str, number: int, value: float, flagged: np.ndarray) -> None:
        found.setdefault(engine, {})[str(number)] = round(value, 1)
        print(f"{engine:<12} {number:>6} terms {value:>8.1f} MB/s   {flagged.mean():6.2%} flagged", flush=True)

    for number in LISTS:
        listed = Blocklist(terms=str(folder / f"terms_{number}.txt"))
        began = time.process_time()
        scorer = listed.fit(Corpus(documents([]), documents([])), Rig(0))
        ours = scorer.measure(batch)
        print(f"{'':<12} {number:>6} terms, first batch, everything loaded: {time.process_time() - began:.2f} s")
        tell("scanner", number, speed(lambda s=scorer: s.measure(batch), size), ~scorer.keep(ours))
        if number == 6_000:
            began = time.process_time()
            plain = scorer.plain(batch)
            tell("plain", number, size / (time.process_time() - began), ~scorer.keep(plain))
            assert ours.equals(plain), "the scanner and the plain reading differ"
            print(f"{'':<12} the scanner and the plain reading agree in all {batch.num_rows} documents and all places")
        for name, make, seen in (("hyperscan", hyperscan, batch), ("ahocorasick", ahocorasick, part)):
            try:
                engine = make(list(scorer.terms))
            except ImportError:
                print(f"{name:<12} is not installed: skipped")
                continue
            tell(name, number, speed(lambda e=engine, s=seen: e(s), megabytes(seen), 3), engine(seen))
    return found


def read(shard: Path) -> pa.Table:
    return pq.read_table(shard, columns=["text"], use_threads=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=1_000)
    asked = parser.parse_args()
    speeds = measured(asked.folder, asked.documents)
    versions = {"python": platform.python_version()}
    for package in ("numba", "llvmlite", "numpy", "pyarrow", "hyperscan", "pyahocorasick"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    kept = {"unit": "MB per CPU second", "speeds": speeds, "machine": machine, "versions": versions}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
