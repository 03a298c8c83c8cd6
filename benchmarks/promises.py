"""Time what the README promises, on this machine, and keep the numbers beside this script.

    python benchmarks/promises.py [--test]     --test times `make test` in a fresh clone instead

Each figure is printed beside its promise. Whole processes are timed, start-up included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "promises.json"
UNTAUGHT = str(Path(sys.executable).parent / "untaught")


def seconds(command: list[str], *, home: str | None = None, cwd: Path = ROOT) -> float:
    """Wall-clock seconds of one whole process that must succeed."""
    began = time.perf_counter()
    env = os.environ | ({"UNTAUGHT_HOME": home} if home else {})
    subprocess.run(command, check=True, cwd=cwd, env=env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def of_the_program() -> dict[str, tuple[float, float]]:
    """Name to (promised, measured) seconds."""
    found = {"untaught --help, best of 5": (0.3, min(seconds([UNTAUGHT, "--help"]) for _ in range(5)))}
    with tempfile.TemporaryDirectory() as home:
        demo = [UNTAUGHT, "run", "--set", "seeds=[0]", "--out", f"{home}/run"]
        found["the demo's study, one seed, nothing cached"] = (300.0, seconds(demo, home=home))
        found["the same study again"] = (10.0, seconds(demo, home=home))
    return found


def of_the_tests() -> dict[str, tuple[float, float]]:
    """The same for `make test` in a fresh clone of what is committed."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        return {"make test in a fresh clone, set-up included": (1200.0, seconds(["make", "test"], cwd=clone))}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true")
    found = of_the_tests() if parser.parse_args().test else of_the_program()
    for name, (promised, measured) in found.items():
        verdict = "kept" if measured <= promised else "BROKEN"
        print(f"{name:<48} {measured:8.2f} s   promised within {promised:g} s   {verdict}")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    kept |= {name: {"promised": p, "seconds": round(m, 2), "machine": machine} for name, (p, m) in found.items()}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
