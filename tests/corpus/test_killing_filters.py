"""Killing filter runs: whatever the moment, what comes out in the end is what an undisturbed run gives, byte for byte.

A few seeded moments are tried here. `benchmarks/killing.py` tries a hundred, under every executor.
"""

import random
import shutil

import kills
import pytest

pytestmark = pytest.mark.skipif(shutil.which("ps") is None, reason="needs the command ps, to see what is left")


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_run_killed_at_random_moments_comes_to_the_same_end(executor, corpus, expected, tmp_path):
    rng, out = random.Random(7), tmp_path / "out"
    killed, (code, said) = kills.killed_until_done(corpus, out, executor, rng, most=30, limit=3)
    assert (code, killed) == (kills.TORN, 3), said
    assert "Traceback" not in said
    assert kills.differences(out, expected) == []
