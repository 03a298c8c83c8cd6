"""Filters on features of real answers: a mixed pool of 320 examples at 25% hazard as SmolLM2 reads it, without a text.

`data/answers-features.npz` holds 40 principal components of the mean state over the answer at blocks 14, 17 and 20, in
half precision, of a pool and of 140 known examples beside it; which are harmful, their kinds, and ids of the asset
`answers`. The answers that people rated are PyRIT's (MIT); `benchmarks/ranking.py` measures the same on whole states.
"""

from pathlib import Path

import numpy as np
import pytest

from untaught.core.ranking import auroc
from untaught.filters._directions import Space, top
from untaught.filters._states import Ranks, States, ranks
from untaught.filters.few_shot_ranker import direction
from untaught.filters.probe import Probe, best
from untaught.filters.saft import Projections

FILE = Path(__file__).parent / "data" / "answers-features.npz"
WHOLE = Space(np.zeros(40), np.ones(40), np.eye(40))
"""The components as they are."""


@pytest.fixture(scope="module")
def real():
    with np.load(FILE, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def sides(real, hazard, benign, seed):
    """Known examples, as many of each kind as are wanted, by chance."""
    draws = np.random.default_rng(seed)
    known = real["features"][real["known"]].astype(float)
    harmful = real["harmful"][real["known"]]
    return (known[draws.permutation(np.flatnonzero(kind))[:n]] for kind, n in ((harmful, hazard), (~harmful, benign)))


def pool(real):
    return real["features"][~real["known"]].astype(np.float32), real["harmful"][~real["known"]]


def separated(scores, harmful):
    return auroc(scores[harmful], scores[~harmful])


def few_shot(real, seed):
    states, harmful = pool(real)
    hazard, benign = sides(real, 20, 100, seed)
    found = np.stack([direction(WHOLE, hazard[:, i], benign[:, i], 0.3) for i in range(3)])
    return separated(ranks(found, States(states))(states.astype(float)), harmful)


def test_twenty_harmful_and_a_hundred_clean_examples_rank_a_real_pool(real):
    found = [few_shot(real, seed) for seed in range(5)]
    assert np.mean(found) >= 0.73
    assert min(found) > 0.6


def test_labels_that_are_dealt_by_chance_rank_nothing(real):
    """The control: the same with labels of no meaning."""
    found = []
    for seed in range(10):
        mixed = dict(real)
        known = np.flatnonzero(real["known"])
        mixed["harmful"] = real["harmful"].copy()
        mixed["harmful"][known] = np.random.default_rng(seed).permutation(real["harmful"][known])
        found.append(few_shot(mixed, seed))
    assert 0.35 < np.mean(found) < 0.65


def test_a_hundred_labels_of_the_pool_rank_the_rest_of_it(real):
    states, harmful = pool(real)
    states = states.astype(float)
    found = []
    for seed in range(5):
        seen = np.zeros(len(harmful), bool)
        seen[np.random.default_rng(seed).permutation(len(harmful))[:100]] = True
        scores = np.mean([ridge_scores(states[:, i], harmful, seen) for i in range(3)], 0)
        found.append(separated(scores[~seen], harmful[~seen]))
    assert np.mean(found) >= 0.78


def ridge_scores(states, harmful, seen):
    weights, *_ = best(states[seen], np.where(harmful[seen], 1.0, -1.0), Probe().penalties)
    return states @ weights


@pytest.mark.parametrize("k", [1, 4])
def test_saft_does_not_find_harm_in_a_pool_of_several_genres(real, k):
    """Chance, or below it: what varies most is genre, and the square rewards whichever is rarest."""
    states, harmful = pool(real)
    for layer in range(3):
        mean, directions = top(states[:, layer].astype(float), k)
        scores = Projections(mean, directions)(states[:, [layer]].astype(float))
        assert separated(scores, harmful) < 0.65


def test_mean_ranks_are_of_all_layers(real):
    states, _ = pool(real)
    one = ranks(np.eye(40)[[0, 1, 2]], States(states))
    assert isinstance(one, Ranks)
    assert one.reference.shape == (3, len(states))
