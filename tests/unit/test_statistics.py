"""Statistics in one place: comparisons paired by item, and what they may say with three seeds."""

import itertools
import math

import numpy as np
import pytest

from untaught.core.paired import compare, fact, holm, mcnemar, spread
from untaught.core.statistics import newcombe, of_means, over_seeds, resampled, student_t, student_t95


def answers(rights, seed=0):
    """One seed's items by number, right or not; None is missing."""
    return {(seed, f"q{i}"): None if right is None else float(right) for i, right in enumerate(rights)}


# -- intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "inside", "point"),
    [
        (1, 0.6, 1.37638),
        (2, 0.6, 1.06066),
        (2, 0.95, 4.30265),
        (9, 0.6, 0.88340),
        (30, 0.6, 0.85377),
        (30, 0.95, 2.04227),
    ],
)
def test_students_t_has_the_published_values_of_power_too(freedom, inside, point):
    assert student_t(freedom, inside) == pytest.approx(point, rel=3e-4)


@pytest.mark.parametrize(("freedom", "inside"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_a_point_that_does_not_exist_is_an_error(freedom, inside):
    with pytest.raises(ValueError, match="no point"):
        student_t(freedom, inside)


def test_two_seeds_span_what_they_are_and_three_get_students_t():
    assert over_seeds([0.3, 0.5]) == (0.3, 0.5)
    half = student_t95(2) * 0.1 / math.sqrt(3)
    assert over_seeds([0.4, 0.5, 0.6]) == pytest.approx((0.5 - half, 0.5 + half))
    with pytest.raises(ValueError, match="no seeds"):
        over_seeds([])


def test_halves_of_independent_means_add_as_squares():
    assert of_means([0.3, 0.4]) == pytest.approx(0.25)
    assert of_means([]) == 0.0


def test_newcombes_difference_by_hand():
    assert newcombe((0.9, 0.87, 0.94), (0.8, 0.77, 0.84)) == pytest.approx((0.1, 0.05, 0.15))


def test_resampling_is_the_same_each_time_and_its_first_is_the_mean():
    values, there = np.array([[[1.0, 0.0, 1.0]]]), np.array([[1.0, 0.0, 1.0]])
    drawn = resampled(values, there, 50)
    assert drawn[0, 0] == 1.0
    assert np.array_equal(drawn, resampled(values, there, 50), equal_nan=True)


# -- McNemar and many comparisons ----------------------------------------------------------------------------------


def test_mcnemars_exact_p_is_the_binomials_by_enumeration():
    for gained, lost in ((0, 5), (2, 10), (4, 4), (0, 0), (1, 0)):
        n, fewer = gained + lost, min(gained, lost)
        heads = [sum(flips) for flips in itertools.product((0, 1), repeat=n)]
        tail = sum(h <= fewer for h in heads) / len(heads)
        at = sum(h == fewer for h in heads) / len(heads)
        exact, middle = mcnemar(gained, lost)
        assert exact == pytest.approx(min(1.0, 2 * tail))
        assert middle == pytest.approx(min(1.0, min(1.0, 2 * tail) if not n else 2 * tail - at))
        assert mcnemar(lost, gained) == (exact, middle)


def test_mcnemar_of_thousands_is_still_a_number():
    assert mcnemar(5000, 5000)[0] == 1.0
    assert 0 < mcnemar(4700, 5300)[0] < 1e-8


def test_less_than_none_is_an_error():
    with pytest.raises(ValueError, match="less than 0"):
        mcnemar(-1, 3)


def test_holm_is_between_nothing_and_bonferroni_and_keeps_the_order():
    chances = [0.03, 0.001, None, 0.2, 0.04]
    corrected = holm(chances)
    assert corrected[2] is None
    known = [(p, q) for p, q in zip(chances, corrected, strict=True) if p is not None]
    assert all(p <= q <= min(1.0, 4 * p) for p, q in known)
    assert [q for _, q in sorted(known)] == sorted(q for _, q in known)
    assert corrected[1] == pytest.approx(0.004)
    assert holm([]) == []


# -- paired by item ------------------------------------------------------------------------------------------------


def test_a_difference_is_of_the_items_that_both_answered_and_the_rest_is_counted():
    found = compare(answers([1, 1, 0, None, 1]), answers([0, 1, 0, 1, None]), share=True)
    assert found.value == pytest.approx(1 / 3)
    assert (found.n, found.missing, found.seeds, found.facts) == (3, (1, 1), 1, 3)
    assert (found.gained, found.lost) == (1, 0)


def test_an_item_that_one_was_not_asked_is_missing_and_a_value_that_is_no_number_too():
    found = compare(answers([1, 1]), {**answers([1]), (0, "q9"): math.nan}, share=True)
    assert (found.n, found.missing) == (1, (1, 2))


def test_without_a_pair_there_is_no_value_and_of_nothing_an_error():
    found = compare(answers([None, 1]), answers([1, None]), share=True)
    assert (found.value, found.low, found.high, found.detectable, found.n) == (None, None, None, None, 0)
    with pytest.raises(ValueError, match="no values"):
        compare({}, {}, share=True)


def test_one_fact_of_one_seed_has_a_value_and_no_interval():
    found = compare(answers([1]), answers([0]), share=True)
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_one_seed_is_the_paired_t_interval_over_items():
    own, other = [1.0, 2.5, 2.0, 4.0], [0.5, 2.0, 2.2, 3.0]
    apart = np.subtract(own, other)
    half = student_t95(3) * apart.std(ddof=1) / 2
    found = compare(
        {(0, f"q{i}"): v for i, v in enumerate(own)}, {(0, f"q{i}"): v for i, v in enumerate(other)}, share=False
    )
    assert (found.low, found.high) == pytest.approx((apart.mean() - half, apart.mean() + half))


def test_what_seeds_share_drops_out_and_what_they_do_not_widens():
    draws = np.random.default_rng(0)
    base = draws.random((3, 200))
    arm = base - 0.1 + draws.normal(0, 0.01, (3, 200))

    def as_values(table):
        return {(s, f"q{i}"): float(v) for (s, i), v in np.ndenumerate(table)}

    alike = compare(as_values(arm), as_values(base + 5 * np.arange(3)[:, None] * 0), share=False)
    moved = compare(
        as_values(arm + 5 * np.arange(3)[:, None]), as_values(base + 5 * np.arange(3)[:, None]), share=False
    )
    assert moved.value == pytest.approx(alike.value)
    assert (moved.low, moved.high) == pytest.approx((alike.low, alike.high))
    uneven = compare(as_values(arm + 0.05 * np.arange(3)[:, None]), as_values(base), share=False)
    assert uneven.high - uneven.low > 10 * (alike.high - alike.low)


def test_wordings_of_one_fact_count_once():
    """Control: the same answers, taken as so many facts, make an interval that is narrower by the root of four."""
    draws = np.random.default_rng(1)
    lost = draws.random(100) < 0.2
    once = {(0, f"f{i}::{w}"): 0.0 if lost[i] else 1.0 for i in range(100) for w in range(4)}
    apart = {(s, item.replace("::", "/")): v for (s, item), v in once.items()}
    fact_wise, item_wise = (compare(own, dict.fromkeys(own, 1.0), share=True) for own in (once, apart))
    assert (fact_wise.facts, item_wise.facts) == (100, 400)
    assert fact_wise.lost == lost.sum()
    ratio = (fact_wise.high - fact_wise.low) / (item_wise.high - item_wise.low)
    assert ratio == pytest.approx(2, rel=0.03)
    assert fact("river/Odaburg") == "river/Odaburg"


def test_items_that_all_seeds_lose_alike_are_items_and_not_more():
    """Each seed loses the same 20 of 100 items: three seeds know no more of other items than one does."""
    own = [0.0] * 20 + [1.0] * 80
    one = compare(answers(own), answers([1] * 100), share=True)
    three = [{k: v for s in range(3) for k, v in answers(side, s).items()} for side in (own, [1] * 100)]
    found = compare(*three, share=True)
    assert (found.low, found.high) == pytest.approx((one.low, one.high), rel=0.01)


def test_no_change_seen_is_not_taken_for_none():
    """The rule of three: of n items without a change, 3 / n may still change."""
    for seeds in (1, 3):
        rights = {k: v for s in range(seeds) for k, v in answers([1] * 100, s).items()}
        found = compare(rights, rights, share=True)
        assert (found.low, found.high) == pytest.approx((-3 / (100 * seeds), 3 / (100 * seeds)))
        assert found.detectable > found.high
    assert compare(rights, rights, share=False).high == 0.0


def test_an_interval_of_shares_ends_at_one():
    found = compare(
        {(s, "a"): 1.0 for s in range(2)} | {(0, "b"): 0.0},
        {(s, "a"): 0.0 for s in range(2)} | {(0, "b"): 0.0},
        share=True,
    )
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_order_changes_nothing():
    draws = np.random.default_rng(2)
    own, other = ({(s, f"q{i}"): float(draws.random() < 0.8) for s in range(3) for i in range(50)} for _ in range(2))
    turned = [dict(reversed(side.items())) for side in (own, other)]
    assert compare(own, other, share=True) == compare(*turned, share=True)


def studies(draws, count, *, true, seed_effect, items=200, seeds=3):
    """Differences of simulated studies, (count, seeds, facts, 2): answers near 97%, facts asked twice, hard ones hard
    for both arms, seeds that differ.
    """

    def normal(scale, *shape):
        return scale * draws.standard_normal((count, *shape))

    facts = items // 2
    shared = normal(0.7, 1, facts, 1) + normal(0.5, 1, facts, 2)
    point, whole = 1.8807936, math.sqrt(0.7**2 + 0.5**2 + 0.5**2)  # 97% of a normal lie below the point
    other = shared + normal(0.5, seeds, facts, 2) + point * whole
    at = {0.0: point, -0.03: 1.5547736}[true]  # 94% do
    mine = (
        shared + normal(0.5, seeds, facts, 2) + normal(seed_effect, seeds, 1, 1) + at * math.hypot(whole, seed_effect)
    )
    return (mine > 0).astype(float) - (other > 0)


def test_the_interval_holds_the_truth_in_about_95_of_100_studies_and_the_items_alone_do_not():
    """A fixed draw of 400 studies; benchmarks/coverage.py has more settings, and what else was tried."""
    draws, held, naive = np.random.default_rng(8), [], []
    for true, seed_effect in ((0.0, 0.0), (0.0, 0.2), (-0.03, 0.0), (-0.03, 0.2)):
        for sums in studies(draws, 100, true=true, seed_effect=seed_effect).sum(3):
            value, half, _ = spread(sums, np.full(sums.shape, 2), share=True)
            held.append(abs(value - true) <= half)
            alone = sums.sum(0) / (2 * sums.shape[0])
            naive.append(abs(value - true) <= 1.96 * alone.std(ddof=1) / math.sqrt(len(alone)))
    assert 0.93 <= np.mean(held) <= 0.97
    assert np.mean(naive) < 0.9
