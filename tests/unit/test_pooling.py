"""Pooling attacks that were repeated: they say more of one arm, and nothing more of other seeds."""

import pytest
from report_fixture import row, write_run

from untaught.report import read
from untaught.report.pooling import grid, pool
from untaught.report.reading import Row


def parsed(lines):
    return [Row(**line) for line in lines]


def attacked(value, seed, attack_seed, **other):
    return row("a", value, attack="relearn", steps=5, seed=seed, attack_seed=attack_seed, **other)


def test_repeated_attacks_count_once_for_their_seed():
    """The control takes them as independent: nine values whose interval is far too narrow."""
    values = {0: (0.30, 0.32, 0.31), 1: (0.50, 0.51, 0.49), 2: (0.70, 0.69, 0.71)}
    lines = [attacked(v, s, a, n=4000) for s, own in values.items() for a, v in enumerate(own)]
    found = pool(parsed(lines), share=True, of_seeds=3)
    means = pool(parsed([attacked(sum(own) / 3, s, 0, n=4000) for s, own in values.items()]), share=True)
    assert (found.value, found.low, found.high) == pytest.approx((means.value, means.low, means.high))
    assert (found.seeds, found.of_seeds, found.complete) == (3, 3, True)
    assert (found.n, found.missing) == (9 * 4000, 0)
    naive = pool(parsed([line | {"seed": i} for i, line in enumerate(lines)]), share=True)
    assert naive.high - naive.low < 0.6 * (found.high - found.low)


def test_an_attack_repeated_without_any_difference_changes_nothing():
    for seeds in (1, 2, 3):
        once = [attacked(0.4 + s / 10, s, 0) for s in range(seeds)]
        again = [line | {"attack_seed": a} for line in once for a in range(5)]
        one, five = pool(parsed(once), share=True), pool(parsed(again), share=True)
        assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high))


def test_with_one_seed_the_interval_is_an_attacks_own_and_holds_every_attack():
    close = pool(parsed([attacked(0.5, 0, 0), attacked(0.52, 0, 1)]), share=True)
    alone = pool(parsed([attacked(0.51, 0, 0)]), share=True)
    assert close.high - close.low == pytest.approx(alone.high - alone.low, rel=0.01)
    apart = pool(parsed([attacked(0.1, 0, 0), attacked(0.9, 0, 1)]), share=True)
    assert apart.value == pytest.approx(0.5)
    assert apart.low <= 0.1
    assert apart.high >= 0.9


def test_an_attack_seed_without_a_value_is_counted_and_pulls_nothing():
    found = pool(
        parsed([attacked(0.4, 0, 0), attacked(None, 0, 1), attacked(0.6, 1, 0), attacked(0.6, 1, 1)]), share=True
    )
    assert found.value == pytest.approx(0.5)
    assert (found.seeds, found.missing, found.complete) == (2, 120, False)
    nothing = pool(parsed([attacked(None, 0, a) for a in (0, 1)]), share=True)
    assert (nothing.value, nothing.low, nothing.seeds, nothing.of_seeds) == (None, None, 0, 1)


def test_numbers_without_an_interval_stay_without_one():
    lines = [attacked(v, 0, a, metric="nats_per_token", low=None, high=None) for a, v in enumerate((2.0, 3.0))]
    found = pool(parsed(lines), share=False)
    assert (found.value, found.low, found.high) == (2.5, None, None)
    wide = pool(parsed([line | {"low": line["value"] - 1, "high": line["value"] + 2} for line in lines]), share=False)
    assert (wide.low, wide.high) == (1.5, 4.5)


def test_attack_seeds_of_one_budget_meet_at_one_point(tmp_path):
    lines = [row("a", 0.2, seed=s) for s in (0, 1)]
    lines += [
        row("a", 0.2 + steps / 100 + a / 1000, attack="relearn", steps=steps, seed=s, attack_seed=a)
        for s in (0, 1) for a in (3, 4) for steps in (0, 5, 20)
    ]  # fmt: skip
    run = read(write_run(tmp_path / "run", lines, seeds=(0, 1)))
    assert run.attack_seeds == (3, 4)
    cells = [cell for cell in grid(run).cells if cell.attack]
    assert [cell.cost.steps for cell in cells] == [0, 5, 20]
    assert [round(cell.estimate.value, 4) for cell in cells] == [0.2035, 0.2535, 0.4035]
    assert {cell.estimate.of_seeds for cell in cells} == {2}
