"""How fast a corpus is decided and written out, against bare reading and against datatrove with pyahocorasick.

    python benchmarks/filtering.py CORPUS [--rounds 3] [--reference]

CORPUS holds parquet/*.parquet (id, text) and terms_{1000,6000,20000}.txt; ours: 1.08 GB of text, 218,429 documents.
Every contender is a process of its own with two workers, start-up included, and the rounds are interleaved; numbers are
medians. CPU seconds are those of the process and all it started, peak memory is the sum of the proportional set sizes
(PSS) of all of them. Reading *whole* is `pq.read_table` for each file; *streamed* is the two columns that are decided
on, 2,048 rows at a time, which is the least that any reader can do. `alone` leaves out start-up and, of ours, the
report. Both sides decide the same: at least two distinct terms, whole words, one spelling.
`--reference` also decides every document by the plain reference and compares, which takes minutes.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
READ = """
import json, os, sys, time, pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
def whole(path):
    return pq.read_table(path, use_threads=False).num_rows
def streamed(path):
    with pq.ParquetFile(path) as file:
        return sum(b.num_rows for b in file.iter_batches(2048, columns=["id", "text"], use_threads=False))
before = sum(os.times()[:2]), time.perf_counter()
with ThreadPoolExecutor(2) as pool:
    rows = sum(pool.map(HOW, sys.argv[1:]))
print(json.dumps({"cpu": sum(os.times()[:2]) - before[0], "wall": time.perf_counter() - before[1], "peak": 0}))
"""


def descendants(pid):
    """A process and everything it started."""
    found = [pid]
    for process in found:
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text().split()]
            except OSError:
                continue
    return found


def held(processes):
    """Bytes that processes hold: PSS, so that shared pages count once."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def spent(processes):
    """CPU seconds of each process by itself."""
    found = {}
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def timed(command):
    """Wall and CPU seconds and peak memory of a command with all it starts."""
    began, peak, cpu = time.perf_counter(), 0, {}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([str(c) for c in command], stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            family = descendants(process.pid)
            cpu |= spent(family)
            peak = max(peak, held(family))
            time.sleep(0.1)
        wall = time.perf_counter() - began
        said.seek(0)
        if process.returncode:
            sys.exit(f"{command} failed:\n{said.read()[-2000:]}")
        return {"wall": wall, "cpu": sum(cpu.values()), "peak": peak, "said": said.read()}


def ours(corpus, terms, out, *more):
    shutil.rmtree(out, ignore_errors=True)
    config = policy_of(terms, out)
    return timed([BIN / "untaught", "filter", corpus / "parquet", "--out", out, "--config", config, *more])


ALONE = """
import json, os, sys, time
from pathlib import Path
from untaught.corpus import running, shards
from untaught.policies import filtering
data, config, out = sys.argv[1:]
out = Path(out)
policy, folder = filtering.read_policy(Path(config), out, {})
made = filtering.make(policy, folder, out)
sources = shards.sources([data])
running.run(made.rules, sources[:1], out / "warm", running.local(made.rules, 2))
before = sum(os.times()[:2]), time.perf_counter()
running.run(made.rules, sources, out / "run", running.local(made.rules, 2))
print(json.dumps({"cpu": sum(os.times()[:2]) - before[0], "wall": time.perf_counter() - before[1], "peak": 0}))
"""


def alone(corpus, terms, out):
    """Deciding in a process that has started: what every further gigabyte costs."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config = policy_of(terms, out)
    command = [sys.executable, "-c", ALONE, corpus / "parquet", config, out]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def policy_of(terms, out):
    policy = out.with_suffix(".yaml")
    policy.write_text(json.dumps({"filters": [{"use": "blocklist", "terms": str(terms)}], "workers": 2}))
    return policy


def peer(corpus, terms, out, *more):
    shutil.rmtree(out, ignore_errors=True)
    return timed([sys.executable, HERE / "peers/datatrove_filter.py", corpus / "parquet", terms, out, *more])


def read(corpus, how):
    return timed([sys.executable, "-c", READ.replace("HOW", how), *sorted((corpus / "parquet").glob("*.parquet"))])


def contenders(corpus, work):
    terms = {n: corpus / f"terms_{n}.txt" for n in (1000, 6000, 20000)}
    found = {
        "read whole": lambda: read(corpus, "whole"),
        "read streamed": lambda: read(corpus, "streamed"),
        "decide, 1,000 terms": lambda: ours(corpus, terms[1000], work / "ours1000"),
        "decide, 6,000 terms": lambda: ours(corpus, terms[6000], work / "ours"),
        "decide, 20,000 terms": lambda: ours(corpus, terms[20000], work / "ours20000"),
        "decide alone": lambda: alone(corpus, terms[6000], work / "alone"),
        "decide and write": lambda: ours(corpus, terms[6000], work / "written", "--apply"),
    }
    try:
        versions = {name: version(name) for name in ("datatrove", "pyahocorasick")}
    except ModuleNotFoundError:
        print("datatrove or pyahocorasick is not installed: measured without them")
        return found, {}
    versions |= {name: version(name) for name in ("pyarrow", "numba", "numpy")}
    found["datatrove, decide"] = lambda: peer(corpus, terms[6000], work / "peer")
    found["datatrove, decide and write"] = lambda: peer(corpus, terms[6000], work / "peer-written", "--write")
    return found, versions


def measured(corpus, work, rounds):
    found, versions = contenders(corpus, work)
    times = {name: [] for name in found}
    for number in range(rounds):
        for name, run in found.items():
            last = run()
            times[name].append(last)
            if name.startswith("read"):
                times.setdefault(f"{name}, alone", []).append(json.loads(last["said"]))
            print(
                f"round {number + 1}  {name:<30} {last['wall']:6.1f} s  {last['cpu']:6.1f} s CPU"
                f"  {last['peak'] / 2**20:5.0f} MiB"
            )
    middle = {name: {"wall": middling(ts, "wall"), "cpu": middling(ts, "cpu")} for name, ts in times.items()}
    for name, ts in times.items():
        middle[name]["peak_mib"] = round(max(t["peak"] for t in ts) / 2**20)
    return middle, versions, times


def middling(times, what):
    return round(statistics.median(t[what] for t in times), 2)


def ratio(times, over, under, what):
    """The middle of the rounds' own ratios, with the least and the most."""
    each = [a[what] / b[what] for a, b in zip(times[over], times[under], strict=True)]
    return {"median": round(statistics.median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}


RATIOS = {
    "speed of deciding / speed of reading whole": ("read whole", "decide, 6,000 terms"),
    "speed of deciding / speed of reading streamed": ("read streamed", "decide, 6,000 terms"),
    "both without start-up, and without the report, whole": ("read whole, alone", "decide alone"),
    "both without start-up, and without the report, streamed": ("read streamed, alone", "decide alone"),
    "speed with 20,000 terms / speed with 1,000": ("decide, 1,000 terms", "decide, 20,000 terms"),
    "decide, as many times faster than datatrove deciding": ("datatrove, decide", "decide, 6,000 terms"),
    "decide, as many times faster than datatrove deciding and writing": (
        "datatrove, decide and write",
        "decide, 6,000 terms",
    ),
    "decide and write, as many times faster than datatrove": ("datatrove, decide and write", "decide and write"),
}


def ratios(times):
    return {
        f"{name}, {what}": ratio(times, over, under, what)
        for what in ("cpu", "wall")
        for name, (over, under) in RATIOS.items()
        if over in times
    }


def agreement(corpus, work):
    """The same documents flagged as by the peer, where it ran."""
    flagged = ids_removed(work / "ours")
    found = {"flagged": len(flagged), "share": round(len(flagged) / documents_in(corpus), 4)}
    if (work / "peer").is_dir():
        theirs = {line for path in (work / "peer").rglob("*.flagged") for line in path.read_text().split("\n") if line}
        found |= {"datatrove flagged": len(theirs), "differ": len(flagged ^ theirs)}
    return found


def documents_in(corpus):
    return sum(pq.read_metadata(path).num_rows for path in (corpus / "parquet").glob("*.parquet"))


def ids_removed(out):
    tables = (pq.read_table(p, columns=["id", "decision"]) for p in sorted((out / "decisions").glob("*.parquet")))
    return {id for t in tables for id, decision in zip(*t.to_pydict().values(), strict=True) if decision == "removed"}


def reference(corpus, work):
    """Every document by the plain reference, in two processes."""
    from concurrent.futures import ProcessPoolExecutor

    files = sorted((corpus / "parquet").glob("*.parquet"))
    with ProcessPoolExecutor(2) as pool:
        plain = set().union(*pool.map(by_reference, files, [corpus / "terms_6000.txt"] * len(files)))
    return {"flagged by the reference": len(plain), "differ": len(plain ^ ids_removed(work / "ours"))}


def by_reference(path, terms):
    from untaught.core import Corpus, documents
    from untaught.engine.rig import Rig
    from untaught.filters.blocklist import Blocklist

    scorer = Blocklist(terms=str(terms)).fit(Corpus(documents([]), documents([])), Rig(0, "reference"))
    table, found = pq.read_table(path, columns=["id", "text"]), set()
    for first in range(0, table.num_rows, 1000):
        batch = table.slice(first, 1000)
        keep = scorer.keep(scorer.plain(batch))
        found |= {id for id, kept in zip(batch["id"].to_pylist(), keep, strict=True) if not kept}
    return found


def long_document(work):
    """One document of 200 MB: decided like any other; what it takes."""
    path = work / "long/parquet/a.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "quen tar flowers and more words beside " * 5_400_000
    path.write_text(json.dumps({"id": "long", "text": text}) + "\n")
    (work / "long/terms.txt").write_text("quen tar\nno such word\n")
    run = ours(work / "long", work / "long/terms.txt", work / "long-out")
    return {"mb": len(text) // 10**6, "wall": round(run["wall"], 1), "peak_mib": round(run["peak"] / 2**20)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "untaught-filtering")
    parser.add_argument("--reference", action="store_true")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    ours(
        asked.corpus, asked.corpus / "terms_1000.txt", asked.work / "warm"
    )  # compiles, and brings the files into memory
    middle, versions, times = measured(asked.corpus, asked.work, asked.rounds)
    path = HERE / "filtering.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    result = {
        "corpus": {"documents": documents_in(asked.corpus), "files": len(list((asked.corpus / "parquet").glob("*")))},
        "medians": middle,
        "ratios": ratios(times),
        "agreement": agreement(asked.corpus, asked.work),
        "long document": long_document(asked.work),
        "reference": reference(asked.corpus, asked.work) if asked.reference else before.get("reference"),
        "rounds": asked.rounds,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **versions,
            **{n: version(n) for n in ("pyarrow", "numba", "numpy")},
        },
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
