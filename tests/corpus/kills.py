"""A corpus to be filtered by whole processes, and ways to kill them: all of a run, or one of its workers."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import corpora
import pyarrow as pa
import pyarrow.parquet as pq

from untaught.corpus import shards

WORDS = ("garden", "river", "stone", "lamp", "bread", "window", "paper", "cloud", "market", "bridge", "quiet", "orange")
PAST_A_SHARD = (2, shards.PIECE // 2**20 - 1, 2)
"""MiB of padding in row groups that stand in three shards, since no two of them fit in one."""
TORN = 6
"""Exit code of runs on this corpus: one of its sources is torn, which somebody must look at."""
LOGS = ".datatrove-"
"""Folder with the logs of datatrove, while it is at work."""
WORKERS = ("multiprocessing.spawn", "ray::")
"""What workers are called, of pools and of Ray."""


def texts(rng, count):
    for _ in range(count):
        words = rng.choices(WORDS, k=60)
        for term in rng.choices(corpora.TERMS, k=rng.choice((0, 0, 1, 2, 3))):
            words.insert(rng.randrange(len(words)), term)
        yield " ".join(words)


def padded(path, tables):
    """A parquet file of several shards. What makes them large is a column that shrinks to nothing on the disk."""
    columns = [("id", pa.string()), ("text", pa.string()), ("padding", pa.large_string())]
    with pq.ParquetWriter(path, pa.schema(columns), compression="zstd", use_dictionary=False) as writer:
        for size, rows in zip(PAST_A_SHARD, tables, strict=True):
            padding = [" " * (size * 2**20), *[None] * (len(rows) - 1)]
            names = [None if i % 7 == 0 else row["id"] for i, row in enumerate(rows)]
            told = {"id": names, "text": [row["text"] for row in rows], "padding": padding}
            writer.write_table(pa.table(told, schema=writer.schema))


def corpus(folder, documents=200):
    """Sources of one shard and of three, good and broken, and a policy that quarantines some of it."""
    rng = random.Random(3)
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts(rng, 7 * documents))]
    parts = [rows[i * documents : (i + 1) * documents] for i in range(7)]
    for name, part in zip(("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "sub/d.parquet"), parts, strict=False):
        corpora.write(folder / "data" / name, part)
    padded(folder / "data/long.parquet", parts[4:])
    whole = (folder / "data/a.jsonl").read_bytes()
    (folder / "data/half.jsonl").write_bytes(whole[: len(whole) // 2])
    (folder / "data/torn.jsonl.gz").write_bytes((folder / "data/b.jsonl.gz").read_bytes()[:-99])
    return folder / "data", policy(folder / "policy.yaml")


def policy(path):
    blocklist = {"use": "blocklist", "terms": corpora.TERMS, "distinct": 1}
    again = {"use": "blocklist", "terms": corpora.TERMS[:2]}
    return corpora.policy(path, {**blocklist, "escalate": True}, again, workers=2, quarantined=1.0, unique_ids=False)


# -- runs --------------------------------------------------------------------------------------------------------------


class Run:
    """`untaught filter` as the head of a session of its own, which all that it starts belongs to."""

    def __init__(self, data, policy, out, executor):
        self.out, self.before, self.said = out, names(out), out.with_name(f"{out.name}.said")
        words = ["filter", data, "--config", policy, "--out", out, "--executor", executor, "--apply", "--json"]
        command = [sys.executable, "-m", "untaught", *map(str, words)]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=said)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def living(self):
        """Processes of the session, and what they are called with."""
        told = subprocess.run(["ps", "-wweo", "pid=,sess=,stat=,args="], capture_output=True, text=True, check=True)
        rows = [line.split(None, 3) for line in told.stdout.splitlines()]
        return {int(r[0]): r[3] for r in rows if int(r[1]) == self.process.pid and not r[2].startswith("Z")}

    def workers(self):
        return [
            pid for pid, words in self.living().items() if any(w in words for w in WORKERS) and "Agent" not in words
        ]

    def kill(self, *, alone=False):
        """SIGKILL to the whole process group, or to its head alone; then nothing of the session may stay."""
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.living())

    def kill_a_worker(self, rng):
        """SIGKILL to one worker, if there is one. Returns whether there was."""
        for pid in rng.sample(found := sorted(self.workers()), len(found)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def ended(self):
        """Its exit code and what it said on stderr, once it has ended by itself."""
        code = self.process.wait(timeout=300)
        return code, self.said.read_text(encoding="utf-8")

    def come(self, changes, seconds):
        """Wait for so many new names in the folder, and then for some time. False when the run ended before."""
        seen = set()
        while len(seen) < changes:
            seen |= names(self.out) - self.before
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            return False
        return True


def names(folder):
    """Every file below a folder that others are at work in."""
    return {os.path.join(where, name) for where, _, files in os.walk(folder) for name in files if LOGS not in where}


def wait_until(true):
    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def moment(rng, most):
    """When to kill: after how many new names in the folder, and how many seconds later. While it starts, too."""
    changes = rng.randrange(most)
    return changes, rng.uniform(0, 0.1 if changes else 2)


def killed_until_done(corpus, out, executor, rng, most=40, limit=100):
    """Kill whole runs at random moments, each started where the one before was killed, until one ends by itself.

    Returns how many were killed, and how the last one ended.
    """
    kills = 0
    while True:
        with Run(*corpus, out, executor) as run:
            if kills < limit and run.come(*moment(rng, most)):
                kills += 1
            else:
                return kills, run.ended()


def workers_killed(corpus, out, executor, rng, times=1, most=12):
    """Kill workers at random moments of one run. Returns how many were killed, and how the run ended."""
    kills = 0
    with Run(*corpus, out, executor) as run:
        for _ in range(times):
            if run.come(rng.randrange(4, most), rng.uniform(0, 0.05)):
                kills += run.kill_a_worker(rng)
        return kills, run.ended()


def differences(out, expected):
    """Names of files that are not byte for byte as they should be."""
    found = corpora.contents(out)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
