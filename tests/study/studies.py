"""Small studies, and ways to run them: in this process, in another that can be killed, and by the command line."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from untaught.core.files import change
from untaught.study import results
from untaught.study.plan import plan
from untaught.study.run import run as carry_out
from untaught.study.schema import load
from untaught.study.store import Store

PRETRAIN = {"training": ["pretrain"]}
TERMS = ["precursor", "synthesis", "reagent", "trigger", "detonation", "charge"]
TINY = {
    "title": "A tiny study",
    "seeds": [0],
    "world": {
        **{"use": "compounds", "substances": 8, "towns": 8, "values": 8},
        **{"exposures": 2, "attack_exposures": 2, "labelled": 1.0},
    },
    "start": {"width": 32, "blocks": 2, "heads": 2, "vocabulary": 400},
    "workers": 1,
    "arms": {
        "untouched": PRETRAIN,
        "filtered": {"filters": [{"use": "blocklist", "terms": TERMS, "distinct": 1}], **PRETRAIN},
        "rmu": {"from": "untouched", "unlearning": [{"use": "rmu", "steps": 3}]},
    },
    "attacks": [
        {"use": "relearn", "batch_size": 2, "budget": {"steps": [0, 2, 4]}},
        {"use": "quantise", "bits": 4},
    ],
    "evaluations": [
        {"use": "multiple_choice", "items": "hazard_held_out"},
        {"use": "perplexity", "items": "benign_text"},
    ],
}
SMALLEST = TINY | {"arms": {"untouched": PRETRAIN}, "attacks": [], "evaluations": TINY["evaluations"][:1]}
"""One arm, no attack, one evaluation: three steps."""


def changed(table, **changes):
    """A copy of a table with settings changed by path; `__` stands for a dot."""
    table = copy.deepcopy(table)
    for path, value in changes.items():
        change(table, path.replace("__", "."), value)
    return table


def put(path, content):
    """Write a study, or text, or lines of JSON; make the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = yaml.safe_dump(content, sort_keys=False)
    elif isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class Nobody:
    """Hears how a run goes, and forgets it."""

    def started(self, steps):
        pass

    def progress(self, identity, done, total):
        pass

    def finished(self, steps):
        pass


def run(file, home, out, **changes):
    """Run a study file in this process: how many steps were done, and the rows."""
    what = plan(load(file, {path.replace("__", "."): value for path, value in changes.items()}))
    store = Store(home)
    done = carry_out(what, store, Nobody())
    return done, results.write(what, store, out)


def run_apart(file, home, out):
    """What a process that may be killed does."""
    run(Path(file), Path(home), Path(out))


def identities(file, **changes):
    """Identity of each step of a study by its label."""
    what = plan(load(file, {path.replace("__", "."): value for path, value in changes.items()}))
    return {step.label: step.identity for step in what.steps}


def timeless(rows):
    """Rows without what the clock and the memory meter said."""
    metered = ("seconds", "memory", "money")
    return [row | {"budget": {k: v for k, v in row["budget"].items() if k not in metered}} for row in rows]


def rows_of(out):
    """The rows of a run folder."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def records_of(home):
    """Each finished step's record file: which file it is, and when it was written."""
    found = {}
    for path in (home / "steps").glob("*/[0-9a-f]*/record.json"):
        stat = path.stat()
        found[path.parent.name] = (stat.st_ino, stat.st_mtime_ns)
    return found


def leftovers(home):
    """What an unfinished step leaves in the store."""
    return sorted(str(path) for path in (home / "steps").glob("*/.*"))


COMMAND = (sys.executable, "-W", "error", "-m", "untaught")


def environment(home):
    return os.environ | {"UNTAUGHT_HOME": str(home)}


def untaught(*words, home, cwd=None):
    """The command line, as a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, words)], env=environment(home), cwd=cwd, capture_output=True, text=True, check=False
    )
