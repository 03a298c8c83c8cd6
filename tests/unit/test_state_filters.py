"""Filters that look at states: each equal to a naive computation, what they cannot see, and what is refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from untaught.core import MESSAGES, Corpus, UserError, shelves
from untaught.core.ranking import auroc
from untaught.engine import examples, features
from untaught.engine.anatomy import layer_index
from untaught.engine.rig import Rig
from untaught.filters import _directions, _states
from untaught.filters._directions import space, standard, top, top_of_many
from untaught.filters._examples import names, threshold
from untaught.filters._states import KNOTS, gathered, knots, mean_rank
from untaught.filters.ensemble import Ensemble, Member
from untaught.filters.few_shot_ranker import FewShotRanker
from untaught.filters.larf import Larf
from untaught.filters.probe import Probe, best
from untaught.filters.reference_distance import ReferenceDistance
from untaught.filters.saft import Saft

DEPTH, WIDTH = 2, 24
BOTH = {"layers": (0, 1)}
ONE = {"layers": (1,)}
MADE = {
    "saft": Saft(layer=1, k=1),
    "few_shot_ranker": FewShotRanker(**BOTH, components=WIDTH),
    "probe": Probe(**BOTH),
    "larf": Larf(layer=1),
    "reference_distance": ReferenceDistance(**BOTH, components=WIDTH),
    "reference_distance, neighbours": ReferenceDistance(**BOTH, components=WIDTH, kind="neighbours"),
    "ensemble": Ensemble(
        members=(
            Member(use="few_shot_ranker", settings={"layers": [0, 1]}),
            Member(use="larf", settings={"layer": 1}),
            Member(use="few_shot_ranker", settings={"layers": [0], "components": 3}),
        )
    ),
}
EVERY = pytest.mark.parametrize("name", MADE)
LABELLED = pytest.mark.parametrize("name", [name for name in MADE if name != "saft"])


class Planted:
    """States that were made up, looked up by what an example says: no model is asked."""

    def __init__(self, monkeypatch):
        self.states = {}
        monkeypatch.setattr(features, "depths", lambda subject, layers: [layer_index(one, DEPTH) for one in layers])
        monkeypatch.setattr(features, "features", self.features)

    def features(self, subject, docs, layers, pooling="mean", length=None):
        found = [self.states[text][list(layers)] for text in docs["text"].to_pylist()]
        values = np.array(found, np.float32).reshape(docs.num_rows, len(layers), WIDTH)
        causes = [None if np.isfinite(row).all() else features.NOT_FINITE for row in values]
        values[[cause is not None for cause in causes]] = 0
        return features.Features(values, causes)

    def table(self, name, rows):
        """Documents whose states are these rows, (n, width) the same on every layer or (n, layers, width)."""
        rows = np.asarray(rows, np.float32)
        rows = np.repeat(rows[:, None], DEPTH, 1) if rows.ndim == 2 else rows
        texts = [f"{name} {n}" for n in range(len(rows))]
        self.states.update(zip(texts, rows, strict=True))
        return pa.table({"id": texts, "text": texts})

    def values(self, docs):
        return np.array([self.states[text] for text in docs["text"].to_pylist()], np.float64)


@pytest.fixture
def planted(monkeypatch):
    return Planted(monkeypatch)


def rig():
    return Rig(0, "filters/x", subject=lambda: None)


def scores(scorer, docs):
    return scorer.measure(docs)["score"].to_numpy().astype(float)


def gaussians(seed, *counts, shift=3.0, nuisance=0.0):
    """Rows of several kinds: of the first, `shift` further along coordinate 0; all along coordinate 1 by `nuisance`."""
    draws = np.random.default_rng(seed)
    made = []
    for kind, count in enumerate(counts):
        rows = draws.standard_normal((count, WIDTH))
        rows[:, 0] += shift * (kind == 0)
        rows[:, 1] *= 1 + nuisance
        made.append(rows)
    return made


def world(planted, seed=0, **how):
    """A pool of 40 harmful and 160 clean examples, and 20 and 60 that are known."""
    hazard, benign, known_hazard, known_benign = gaussians(seed, 40, 160, 0, 60, **how)
    known_hazard = gaussians(seed + 1, 20, **how)[0]
    pool = planted.table("pool", np.concatenate([hazard, benign]))
    return Corpus(planted.table("bad", known_hazard), planted.table("good", known_benign), pool)


HITS = np.repeat([True, False], [40, 160])


def separated(scorer, corpus):
    found = scores(scorer, corpus.unlabelled)
    return auroc(found[HITS], found[~HITS])


def by_content(docs):
    order = np.argsort(np.array(names(docs), object), kind="stable")
    return docs.take(order)


# -- SAFT --------------------------------------------------------------------------------------------------------------


def ten_lines(rows, ordered, k):
    """SAFT in numpy: `rows` are scored by the directions of `ordered`."""
    mean = ordered.mean(0)
    directions = np.linalg.svd(ordered - mean, full_matrices=False)[2][:k]
    squares = []
    for direction in directions:
        squares.append(((rows - mean) * direction).sum(1) ** 2)
    return np.mean(np.stack(squares, 1), 1)


@pytest.mark.parametrize("k", [1, 4])
def test_saft_is_ten_lines_of_numpy_bit_for_bit(planted, k):
    corpus = world(planted)
    found = scores(Saft(layer=1, k=k).fit(Corpus(*[corpus.hazard.slice(0, 0)] * 2, corpus.unlabelled), rig()),
                   corpus.unlabelled)  # fmt: skip
    rows = planted.values(corpus.unlabelled)[:, 1]
    wanted = ten_lines(rows, planted.values(by_content(corpus.unlabelled))[:, 1], k)
    assert np.array_equal(found, wanted)


def saft_auroc(planted, hazard, benign):
    pool = planted.table("saft", np.concatenate([hazard, benign]))
    scorer = Saft(layer=1, k=1).fit(Corpus(pool.slice(0, 0), pool.slice(0, 0), pool), rig())
    found = scores(scorer, pool)
    return auroc(found[: len(hazard)], found[len(hazard) :]), found


def test_saft_finds_a_tenth_and_is_blind_to_a_half(planted):
    rare, _ = saft_auroc(planted, *gaussians(0, 40, 360, shift=8))
    half, _ = saft_auroc(planted, *gaussians(0, 200, 200, shift=8))
    assert rare > 0.99
    assert 0.4 < half < 0.6, "at one half both kinds are as far from the mean"


def test_one_outlier_takes_the_direction_of_saft(planted):
    hazard, benign = gaussians(0, 40, 360, shift=6)
    before, _ = saft_auroc(planted, hazard, benign)
    benign[0, 2] = 500
    after, found = saft_auroc(planted, hazard, benign)
    assert before > 0.99
    assert found.argmax() == len(hazard)
    assert after < 0.7


def test_what_parts_two_kinds_beats_what_varies_most_where_something_else_varies_ten_times_as_much(planted):
    corpus = world(planted, shift=4, nuisance=np.sqrt(10 * (1 + 16 * 0.2 * 0.8)) - 1)
    varied = planted.values(corpus.unlabelled)[:, 1].var(0)
    assert varied[1] > 8 * varied[0]
    blind = separated(Saft(layer=1, k=1, fallback=False).fit(corpus, rig()), corpus)
    for name in ("few_shot_ranker", "probe"):
        assert separated(MADE[name].fit(corpus, rig()), corpus) > 0.95
    assert blind < 0.65


# -- directions --------------------------------------------------------------------------------------------------------


def test_directions_of_many_are_those_of_few_where_the_spectrum_has_a_gap():
    rows = np.random.default_rng(0).standard_normal((900, 40)) * np.where(np.arange(40) < 4, [9, 8, 7, 6] * 10, 1) + 3
    turned = rows @ np.linalg.qr(np.random.default_rng(1).standard_normal((40, 40)))[0]
    mean, exact = top(turned, 4)
    near, found = top_of_many(lambda: iter(np.array_split(turned, 7)), 4, np.random.default_rng(2))
    np.testing.assert_allclose(near, mean, atol=1e-12)
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_directions_of_many_rows_take_memory_for_a_block(monkeypatch):
    def blocks():
        for block in range(40):
            yield np.random.default_rng(block).standard_normal((500, 64))

    monkeypatch.setattr(_directions, "EXACT", 0)
    tracemalloc.start()
    top_of_many(blocks, 4, np.random.default_rng(0))
    space(blocks, 10, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 500 * 64 * 8, "all rows would be ten times as much"


def test_a_space_of_many_is_that_of_few(monkeypatch):
    draws = np.random.default_rng(0)
    rows = draws.standard_normal((600, 1)) * draws.standard_normal(30) + 0.1 * draws.standard_normal((600, 30)) + 5
    exact = space(lambda: iter([rows]), 1, np.random.default_rng(3))
    monkeypatch.setattr(_directions, "EXACT", 0)
    found = space(lambda: iter(np.array_split(rows, 3)), 1, np.random.default_rng(3))
    np.testing.assert_allclose(found.basis, exact.basis, atol=1e-6)
    np.testing.assert_allclose((rows - exact.mean) / exact.scale @ exact.basis.T, exact.inside(rows), atol=1e-9)
    inside = exact.inside(rows) @ np.ones(1)
    np.testing.assert_allclose(np.ptp(rows @ exact.outside(np.ones(1)) - inside), 0, atol=1e-9)


def test_a_coordinate_that_never_varies_does_no_harm():
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32).astype(np.float64)
    rows[:, 2] = np.float32(0.1)
    mean, scale, count = standard(lambda: iter(np.array_split(rows, 4)))
    assert count == 50
    assert (np.abs((rows - mean) / scale)[:, 2] < 1e-6).all()
    np.testing.assert_allclose(np.delete(scale, 2), np.delete(rows.std(0), 2), atol=1e-12)
    assert standard(lambda: iter([np.ones((3, 2))]))[1].tolist() == [1, 1]


def test_states_in_a_file_are_those_in_memory(tmp_path, monkeypatch):
    blocks = [np.random.default_rng(n).standard_normal((n, 2, 8)).astype(np.float32) for n in (5, 0, 7)]
    held = gathered(iter(blocks), tmp_path)
    monkeypatch.setattr(_states, "HELD", 100)
    monkeypatch.setattr(_states, "ROWS", 5)
    filed = gathered(iter(blocks), tmp_path)
    assert (held.small, filed.small) == (True, False)
    whole = np.concatenate(blocks)
    for states in (held, filed):
        assert np.array_equal(np.concatenate(list(states.blocks())), whole)
        assert np.array_equal(np.concatenate(list(states.layer(1))), whole[:, 1])


def test_a_pool_in_a_file_gives_the_same_ranking(planted, monkeypatch):
    corpus = world(planted, shift=30)
    before = {name: scores(MADE[name].fit(corpus, rig()), corpus.unlabelled) for name in MADE}
    monkeypatch.setattr(_states, "HELD", 100)
    for name, wanted in before.items():
        found = scores(MADE[name].fit(corpus, rig()), corpus.unlabelled)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


# -- ranks and thresholds ----------------------------------------------------------------------------------------------


def test_ranks_of_a_large_pool_are_told_by_some_of_its_scores():
    own = np.random.default_rng(0).standard_normal((25_000, 2)) ** 3
    some = knots(own)
    assert some.shape == (2, KNOTS)
    assert (some[:, 0] == own.min(0)).all()
    assert (some[:, -1] == own.max(0)).all()
    exact = mean_rank(own, np.sort(own, 0).T)
    assert np.abs(mean_rank(own, some) - exact).max() < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_a_share_drops_the_most_that_it_allows_and_ties_together(seed):
    draws = np.random.default_rng(seed)
    own = draws.integers(0, 2 + 5 * seed, 57) / 7
    for share in (0, 0.01, 0.1, 1 / 3, 0.5, 0.99, 1):
        edge = threshold(None, share, own)
        dropped = own >= edge
        assert dropped.sum() <= share * len(own) + 1e-9
        more = own >= own[~dropped].max() if not dropped.all() else dropped
        assert more.sum() > share * len(own) or dropped.all()


@EVERY
def test_a_share_of_the_pool_is_dropped(planted, name):
    corpus = world(planted)
    for share in (0.0, 0.1, 0.5):
        scorer = MADE[name].model_copy(update={"removed": share}).fit(corpus, rig())
        dropped = int((~scorer.keep(scorer.measure(corpus.unlabelled))).sum())
        assert dropped <= share * 200
        assert dropped >= share * 200 - 3, "ranks of a pool of 200 have few ties"


@EVERY
def test_without_a_share_or_a_threshold_nothing_is_dropped(planted, name):
    corpus = world(planted)
    if name == "saft":
        corpus = replace(corpus, hazard=corpus.hazard.slice(0, 0))
    scorer = MADE[name].fit(corpus, rig())
    assert scorer.threshold is None
    assert scorer.keep(scorer.measure(corpus.unlabelled)).all()


@EVERY
def test_a_threshold_drops_from_it_on(planted, name):
    corpus = world(planted)
    found = scores(MADE[name].fit(corpus, rig()), corpus.unlabelled)
    if name == "saft":
        corpus = replace(corpus, hazard=corpus.hazard.slice(0, 0))
        found = scores(MADE[name].fit(corpus, rig()), corpus.unlabelled)
    edge = float(np.sort(found)[150])
    scorer = MADE[name].model_copy(update={"threshold": edge}).fit(corpus, rig())
    assert (scorer.keep(scorer.measure(corpus.unlabelled)) == (found < edge)).all()


# -- each against a naive computation ----------------------------------------------------------------------------------


def ranked(own, reference):
    """Mean over layers of the share of the reference that is lower, half of what is equal."""
    own, reference = np.asarray(own)[..., None], np.asarray(reference)[:, None, :]
    return ((reference < own).mean(-1) + (reference == own).mean(-1) / 2).mean(0)


def test_the_few_shot_ranker_is_its_formula(planted):
    corpus = world(planted)
    found = scores(FewShotRanker(**BOTH, components=10, shrinkage=0.2).fit(corpus, rig()), corpus.unlabelled)
    pool, hazard, benign = (planted.values(part) for part in (corpus.unlabelled, corpus.hazard, corpus.benign))
    layers = []
    for layer in range(DEPTH):
        mean, scale = pool[:, layer].mean(0), pool[:, layer].std(0)
        x, bad, good = ((part[:, layer] - mean) / scale for part in (pool, hazard, benign))
        basis = np.linalg.eigh(np.cov(x.T))[1][:, -10:]
        x, bad, good = x @ basis, bad @ basis, good @ basis
        spread = (np.cov(bad.T, bias=True) + np.cov(good.T, bias=True)) / 2
        shrunk = 0.8 * spread + 0.2 * np.trace(spread) / 10 * np.eye(10)
        layers.append(x @ np.linalg.inv(shrunk) @ (bad.mean(0) - good.mean(0)))
    np.testing.assert_allclose(found, ranked(layers, layers), atol=1e-12)


def test_the_probe_takes_the_penalty_that_does_best_on_what_is_left_out():
    draws = np.random.default_rng(0)
    rows, targets = draws.standard_normal((18, 30)), np.where(np.arange(18) < 5, 1.0, -1.0)
    rows[:, 0] += targets
    penalties = (0.01, 1.0, 30.0)
    level = np.square(rows - rows.mean(0)).sum() / 18

    def fitted(kept, penalty):
        x, y = rows[kept], targets[kept]
        gram = (x - x.mean(0)).T @ (x - x.mean(0)) + penalty * level * np.eye(30)
        weights = np.linalg.solve(gram, (x - x.mean(0)).T @ (y - y.mean()))
        return weights, y.mean() - x.mean(0) @ weights

    left_out = {}
    for penalty in penalties:
        others = [fitted(np.arange(18) != row, penalty) for row in range(18)]
        left_out[penalty] = np.array([rows[row] @ w + b for row, (w, b) in enumerate(others)])
    wanted = min(penalties, key=lambda one: np.square(left_out[one] - targets).mean())
    weights, penalty, said = best(rows, targets, penalties)
    assert penalty == wanted
    np.testing.assert_allclose(said, left_out[wanted], atol=1e-9)
    np.testing.assert_allclose(weights, fitted(np.arange(18) >= 0, wanted)[0], atol=1e-9)


def test_larf_is_a_mean_of_cosines_less_another(planted):
    corpus = world(planted)
    found = scores(Larf(layer=1).fit(corpus, rig()), corpus.unlabelled)
    pool, hazard, benign = (planted.values(part)[:, 1] for part in (corpus.unlabelled, corpus.hazard, corpus.benign))

    def cosines(rows, known):
        lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(known, axis=1)
        return (rows @ known.T / lengths).mean(1)

    np.testing.assert_allclose(found, cosines(pool, hazard) - cosines(pool, benign), atol=1e-12)


@pytest.mark.parametrize("kind", ["mahalanobis", "neighbours"])
def test_a_reference_distance_is_its_formula(planted, kind):
    corpus = world(planted)
    how = {"components": 6, "shrinkage": 0.4, "k": 3, "kind": kind}
    found = scores(ReferenceDistance(**BOTH, **how).fit(corpus, rig()), corpus.unlabelled)
    pool, clean = planted.values(corpus.unlabelled), planted.values(corpus.benign)
    layers = []
    for layer in range(DEPTH):
        mean, scale = pool[:, layer].mean(0), pool[:, layer].std(0)
        x, good = ((part[:, layer] - mean) / scale for part in (pool, clean))
        basis = np.linalg.eigh(np.cov(x.T))[1][:, -6:]
        x, good = x @ basis, good @ basis
        spread = np.cov(good.T, bias=True)
        inverse = np.linalg.inv(0.6 * spread + 0.4 * np.trace(spread) / 6 * np.eye(6))
        apart = x - good.mean(0)
        pairs = np.linalg.norm(x[:, None] - good[None], axis=-1)
        near = np.sort(pairs, 1)[:, :3].mean(1)
        layers.append(np.einsum("ni,ij,nj->n", apart, inverse, apart) if kind == "mahalanobis" else near)
    np.testing.assert_allclose(found, ranked(layers, layers), atol=1e-12)


def test_a_reference_distance_needs_no_harmful_example(planted):
    corpus = world(planted)
    hazard, benign = gaussians(7, 40, 160, shift=0)
    pool = planted.table("elsewhere", np.concatenate([hazard + 2, benign]))
    blind = replace(corpus, hazard=corpus.hazard.slice(0, 0), unlabelled=pool)
    for name in ("reference_distance", "reference_distance, neighbours"):
        assert separated(MADE[name].fit(blind, rig()), blind) > 0.95
    with pytest.raises(UserError, match="0 examples are known to be clean"):
        MADE["reference_distance"].fit(replace(corpus, benign=corpus.benign.slice(0, 0)), rig())


def test_an_ensemble_is_the_mean_of_its_members_ranks(planted):
    corpus = world(planted)
    made = MADE["ensemble"]
    found = scores(made.fit(corpus, rig()), corpus.unlabelled)
    parts = [scores(member.made().fit(corpus, rig()), corpus.unlabelled) for member in made.members]
    np.testing.assert_allclose(found, ranked(parts, parts), atol=1e-12)


def test_an_ensemble_says_what_it_and_its_members_saw(planted):
    used = rig()
    MADE["ensemble"].fit(world(planted), used)
    assert -1 <= used.measured["agreement"] <= 1
    assert used.measured["members"] == 3
    assert {"few_shot_ranker_harmful", "larf_harmful", "few_shot_ranker-2_components"} <= used.measured.keys()
    assert used.measured["few_shot_ranker-2_components"] == 3


def test_an_ensemble_demands_what_its_members_do(planted):
    def of(*uses):
        return Ensemble(members=[{"use": use} for use in uses])

    assert of("reference_distance").supervision == "label-free"
    assert of("reference_distance", "larf").supervision == "label-light"
    assert of("larf", "probe", "reference_distance").supervision == "supervised"
    assert of("blocklist").supervision == "supervised", "it does not say"
    assert of("larf").asks_model
    assert not of("blocklist").asks_model
    assert Ensemble.supervision == "label-light"
    assert not Ensemble.sees_truth
    with pytest.raises(UserError, match="no component 'larff'.*Did you mean 'larf'"):
        of("larff").fit(world(planted), rig())
    with pytest.raises(UserError, match=r"member of the ensemble \(filters.larf\) has no setting 'layr'"):
        Ensemble(members=[{"use": "larf", "layr": 3}]).fit(world(planted), rig())


def test_what_one_member_cannot_measure_has_no_score(planted):
    corpus = world(planted)
    whole = MADE["ensemble"].fit(corpus, rig())
    broken = planted.table("broken", np.ones((2, WIDTH)))
    planted.states["broken 0"][0] = np.nan  # a layer that one member does not look at
    found = whole.measure(broken).to_pylist()
    assert found[0]["score"] is None
    assert found[0]["reason"] == f"few_shot_ranker: {features.NOT_FINITE}"
    assert found[1]["score"] is not None


# -- order, files ------------------------------------------------------------------------------------------------------


def turned(docs):
    return docs.take(np.random.default_rng(0).permutation(docs.num_rows))


@EVERY
def test_neither_order_nor_ids_change_a_bit_of_what_is_learned(planted, tmp_path, name):
    corpus = world(planted)
    other = Corpus(*(turned(side) for side in (corpus.hazard, corpus.benign, corpus.unlabelled)))
    sides = [other.hazard, other.benign, other.unlabelled]
    other = Corpus(*(side.set_column(0, "id", [[f"x{n}" for n in range(side.num_rows)]]) for side in sides))
    made = MADE[name].model_copy(update={"removed": 0.1})
    written = []
    for place, given in enumerate((corpus, corpus, other)):
        folder = tmp_path / str(place)
        folder.mkdir()
        settled = made.frozen(made.fit(given, rig()), folder)
        written.append((settled, {path.name: path.read_bytes() for path in folder.iterdir()}))
    assert written[0] == written[1] == written[2]
    assert written[0][1]


@EVERY
def test_what_was_learned_needs_no_pool(planted, tmp_path, name):
    corpus = world(planted)
    made = MADE[name].model_copy(update={"removed": 0.1})
    scorer = made.fit(corpus, rig())
    settled = made.frozen(scorer, tmp_path)
    again = type(made).settle(settled.changed(), "a policy").resolved(tmp_path)
    nothing = Corpus(*[corpus.unlabelled.slice(0, 0)] * 3)
    other = again.fit(nothing, rig())
    found = scorer.measure(corpus.unlabelled)
    assert other.measure(corpus.unlabelled).equals(found)
    assert (other.keep(found) == scorer.keep(found)).all()
    assert other.threshold == scorer.threshold


@EVERY
def test_a_file_that_is_not_what_was_learned_is_refused(planted, tmp_path, name):
    corpus = world(planted)
    gone = MADE[name].model_copy(update={"fitted": str(tmp_path / "gone.npz")})
    with pytest.raises(UserError, match=r"gone\.npz, cannot be read.*Fit it again"):
        gone.fit(corpus, rig())
    (tmp_path / "other.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"other\.npz is not what a filter learned"):
        MADE[name].model_copy(update={"fitted": str(tmp_path / "other.npz")}).fit(corpus, rig())


def test_the_members_of_an_ensemble_keep_files_of_their_own(planted, tmp_path):
    corpus = world(planted)
    made = MADE["ensemble"]
    settled = made.frozen(made.fit(corpus, rig()), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "ensemble.npz",
        "ensemble-few_shot_ranker-few_shot_ranker.npz",
        "ensemble-few_shot_ranker-2-few_shot_ranker.npz",
        "ensemble-larf-larf.npz",
    }
    assert settled.members[2].settings["fitted"] == "ensemble-few_shot_ranker-2-few_shot_ranker.npz"
    assert settled.members[2].settings["components"] == 3
    assert hash(settled) == hash(settled.model_copy())


# -- what is refused ---------------------------------------------------------------------------------------------------


@LABELLED
def test_no_labels_where_some_are_needed_is_an_error(planted, name):
    corpus = world(planted)
    none = replace(corpus, hazard=corpus.hazard.slice(0, 0), benign=corpus.benign.slice(0, 0))
    with pytest.raises(UserError, match=r"0 examples are known to be (harmful|clean).*'corpus\.\w+'.*label_column"):
        MADE[name].fit(none, rig())


@LABELLED
def test_labels_of_one_kind_are_an_error(planted, name):
    corpus = world(planted)
    with pytest.raises(UserError, match="0 examples are known to be clean"):
        MADE[name].fit(replace(corpus, benign=corpus.benign.slice(0, 0)), rig())
    if not name.startswith("reference"):
        with pytest.raises(UserError, match="0 examples are known to be harmful"):
            MADE[name].fit(replace(corpus, hazard=corpus.hazard.slice(0, 0)), rig())


@pytest.mark.parametrize("name", ["few_shot_ranker", "probe", "larf", "ensemble"])
def test_kinds_that_are_one_and_the_same_are_an_error(planted, name):
    corpus = world(planted)
    same = corpus.benign.take([0] * 5)
    with pytest.raises(UserError, match="the 5 examples known to be harmful and the 5 known to be clean are one"):
        MADE[name].fit(replace(corpus, hazard=same, benign=same), rig())


@EVERY
@pytest.mark.parametrize("rows", [[0], [3] * 7])
def test_a_pool_of_one_example_is_an_error(planted, name, rows):
    corpus = world(planted)
    one = replace(corpus, unlabelled=corpus.unlabelled.take(rows))
    with pytest.raises(UserError, match="the pool has 1 different examples.*at least 2"):
        MADE[name].model_copy(update={"removed": 0.1}).fit(one, rig())


@pytest.mark.parametrize("layer", [2, -3, 1.5])
@pytest.mark.parametrize("name", [name for name in MADE if name != "ensemble"])
def test_a_layer_out_of_range_is_an_error(planted, name, layer):
    made = MADE[name]
    which = {"layers": (0, layer)} if hasattr(made, "layers") else {"layer": layer}
    with pytest.raises(UserError, match=f"layer is {layer}"):
        made.model_copy(update=which).fit(world(planted), rig())


@EVERY
def test_an_example_whose_states_are_no_numbers_has_no_score_and_is_not_learned_from(planted, name):
    corpus = world(planted)
    bad = planted.table("broken", np.full((3, WIDTH), np.nan))
    before = MADE[name].fit(corpus, rig())
    sides = (corpus.hazard, corpus.benign, corpus.unlabelled)
    scorer = MADE[name].fit(Corpus(*(pa.concat_tables([side, bad]) for side in sides)), rig())
    found = scorer.measure(bad)
    assert found["score"].null_count == 3
    assert all(features.NOT_FINITE in reason for reason in found["reason"].to_pylist())
    assert np.array_equal(scores(scorer, corpus.unlabelled), scores(before, corpus.unlabelled))


@EVERY
def test_a_pool_or_labels_without_states_are_an_error(planted, name):
    corpus = world(planted)
    bad = planted.table("broken", np.full((3, WIDTH), np.nan))
    with pytest.raises(UserError, match=r"of 3 examples of the pool 0 can be looked at.*not finite"):
        MADE[name].model_copy(update={"removed": 0.1}).fit(replace(corpus, unlabelled=bad), rig())
    if name != "saft":
        with pytest.raises(UserError, match=r"known to be clean: the example 'broken \d' cannot be learned from"):
            MADE[name].fit(replace(corpus, benign=bad), rig())


@pytest.mark.parametrize("name", ["few_shot_ranker", "probe", "larf"])
def test_a_pool_may_be_small_or_absent(planted, name):
    corpus = world(planted)
    for rows in (0, 4):
        few = replace(corpus, unlabelled=corpus.unlabelled.slice(38, rows))
        assert separated(MADE[name].fit(few, rig()), corpus) > 0.9
    few = replace(corpus, unlabelled=corpus.unlabelled.slice(38, 4))
    scorer = MADE[name].model_copy(update={"removed": 0.5}).fit(few, rig())
    assert (~scorer.keep(scorer.measure(few.unlabelled))).sum() == 2, "a share of the pool, not of what is known"


# -- with a model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject():
    from untaught.lab.start import StartingModel

    words = [f"{a}{b}" for a in "bdgk" for b in "aeiou"]
    texts = [" ".join(words[(n * k) % 20] for k in range(1, 9)) + "." for n in range(20)]
    return StartingModel(width=16, blocks=2, heads=2, vocabulary=300).build(texts, 0)


def said(*pairs):
    told = [None if answer is None else examples.conversation(prompt, answer) for prompt, answer in pairs]
    texts = [prompt if answer is None else f"{prompt}\n{answer}" for prompt, answer in pairs]
    return pa.table({"id": [str(n) for n in range(len(pairs))], "text": texts, "messages": pa.array(told, MESSAGES)})


@EVERY
def test_an_example_without_an_answer_or_too_long_has_no_score(subject, name):
    words = [f"{a}{b}" for a in "bdgk" for b in "aeiou"]
    pool = said(*[(f"{one} {two}", f"{two} {three}") for one, two, three in zip(words, words[3:], words[7:])])  # noqa: B905
    odd = said((words[0], " "), (words[0], words[1] * 600), ("", None))
    scorer = MADE[name].fit(Corpus(pool.slice(0, 4), pool.slice(4, 5), pool), Rig(0, subject=lambda: subject))
    found = scorer.measure(pa.concat_tables([pool, odd])).to_pylist()
    assert all(row["score"] is not None for row in found[:-3])
    assert [row["score"] for row in found[-3:]] == [None] * 3
    assert "without an answer" in found[-3]["reason"]
    assert "more than the 512 tokens" in found[-2]["reason"]
    if "length" in type(MADE[name]).model_fields:
        cut = MADE[name].model_copy(update={"length": 64})
        scorer = cut.fit(Corpus(pool.slice(0, 4), pool.slice(4, 5), pool), Rig(0, subject=lambda: subject))
        assert scorer.measure(odd)["score"].null_count == 2


def test_a_model_of_which_a_weight_is_no_number_is_an_error(subject):
    import copy

    broken = replace(subject, model=copy.deepcopy(subject.model))
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    pool = said(*[(f"ba {word}", f"da {word}") for word in ("be", "bi", "bo", "bu")])
    for name, made in MADE.items():
        with pytest.raises(UserError, match="not finite"):
            made.model_copy(update={"removed": 0.1}).fit(
                Corpus(pool.slice(0, 2), pool.slice(2, 2), pool), Rig(0, subject=lambda: broken)
            )
        assert name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("saft", "label-light"),
        ("few_shot_ranker", "label-light"),
        ("probe", "supervised"),
        ("larf", "label-light"),
        ("reference_distance", "label-free"),
        ("ensemble", "label-light"),
    ],
)
def test_each_says_what_its_ranking_is_made_from(name, wanted):
    made = shelves.find("filters", name)
    assert made.supervision == made().supervision == wanted
