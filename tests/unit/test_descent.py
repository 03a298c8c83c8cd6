"""How a rate rises and falls, over which steps, and what becomes of a descent whose loss is no number."""

import copy
import math

import pytest
import torch
from pydantic import ValidationError

from untaught.core import Budget, Document, UserError, documents
from untaught.engine import batches, loop, scoring
from untaught.engine.checkpoints import Checkpoints
from untaught.engine.loop import Descent
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.lab.start import StartingModel

TEXTS = [f"The {thing} of {place} is {value}." for thing in ("river", "bell", "road") for place in ("Abburg", "Cadwick")
         for value in ("oran", "umbel")]  # fmt: skip
DOCS = documents(Document(f"d{i}", text) for i, text in enumerate(TEXTS))


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)


@pytest.fixture
def subject(start):
    return copy.deepcopy(start)


@pytest.fixture
def rates(monkeypatch):
    """What each step's rate was multiplied with."""
    seen, original = [], loop._move

    def move(optimisers, before, factor):
        seen.append(factor)
        original(optimisers, before, factor)

    monkeypatch.setattr(loop, "_move", move)
    return seen


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def factors(steps, **how):
    return [Descent(**how).factor(step, steps) for step in range(steps)]


def tuned(subject, rig, **how):
    return tune_on_text(subject, DOCS, rig, **{"batch_size": 2, "length": 32, "steps": 8, "lr": 1e-2} | how).model


# --------------------------------------------------------------------------------------------------------- schedules


def test_a_cosine_falls_from_all_to_nothing_and_is_half_way_in_the_middle():
    found = factors(10, schedule="cosine")
    assert found == pytest.approx([(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)])
    assert (found[0], found[5]) == (1.0, pytest.approx(0.5))
    assert found == sorted(found, reverse=True)
    assert Descent(schedule="cosine").factor(10, 10) == 0.0


def test_a_cosine_begins_to_fall_when_the_warm_up_is_over():
    found = factors(12, schedule="cosine", warmup=3)
    assert found[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])
    assert found[4:] == pytest.approx([(1 + math.cos(math.pi * step / 9)) / 2 for step in range(1, 9)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_is_so_many_steps_or_a_share_of_them(schedule):
    assert factors(40, schedule=schedule, warmup=0.1) == factors(40, schedule=schedule, warmup=4)
    assert factors(40, schedule=schedule, warmup=0.0) == factors(40, schedule=schedule)
    assert all(0 < factor <= 1 for factor in factors(3, schedule=schedule, warmup=50))


def test_the_schedules_there_were_are_what_they_were():
    assert factors(5) == [1.0] * 5
    assert factors(10, schedule="linear") == pytest.approx([1.0] * 6 + [1.0, 0.75, 0.5, 0.25])
    assert factors(4, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("wrong", [1.0, 2.5, -1, -0.1])
def test_a_warm_up_that_is_neither_steps_nor_a_share_is_refused(wrong):
    with pytest.raises(ValidationError):
        Descent(warmup=wrong)


@pytest.mark.parametrize(
    ("how", "taken"),
    [
        ({}, {2, 5}),
        ({"warmup": 3}, {2, 5}),
        ({"warmup": 0.25}, set()),
        ({"schedule": "cosine"}, set()),
        ({"schedule": "linear"}, set()),
    ],
)
def test_points_are_taken_on_the_way_only_where_they_are_what_shorter_runs_come_to(subject, how, taken):
    rig = Rig(0, "x", stops=(2, 5))
    tuned(subject, rig, **how)
    assert rig.snapshots.keys() == taken
    for stop in taken:
        alone = tuned(subject, Rig(0, "x", budget=Budget(steps=stop)), **how)
        assert equal(state(alone), state(rig.snapshots[stop][0]))


# ---------------------------------------------------------------------------------------------------- what is allowed


@pytest.mark.parametrize("how", [{"schedule": "cosine"}, {"schedule": "linear"}, {"warmup": 0.5}])
def test_a_rate_falls_over_the_steps_that_a_budget_allows(subject, rates, how):
    tuned(subject, Rig(0, "x", budget=Budget(steps=5)), **how)
    assert rates == factors(5, **how)


def test_a_budget_of_tokens_or_examples_says_how_long_a_rate_may_fall(subject, rates):
    whole = Rig(0, "x", budget=Budget(steps=5))
    tuned(subject, whole)
    for budget in (Budget(examples=11), Budget(tokens=whole.spent.tokens), Budget(tokens=whole.spent.tokens, steps=9)):
        rates.clear()
        rig = Rig(0, "x", budget=budget)
        tuned(subject, rig, schedule="cosine")
        assert rig.spent.steps == 5
        assert rates == factors(5, schedule="cosine")
    assert rig.spent.tokens == whole.spent.tokens


@pytest.mark.parametrize("budget", [Budget(tokens=0), Budget(examples=1), Budget(tokens=9, steps=0)])
def test_a_budget_that_allows_no_step_moves_nothing(subject, budget):
    rig = Rig(0, "x", budget=budget)
    assert equal(state(tuned(subject, rig, schedule="cosine")), state(subject.model))
    assert rig.spent.steps == 0


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 3), (1, 6), (1.1, 7), (50, 8)])
def test_epochs_end_a_descent_where_that_is_before_its_steps(subject, rates, epochs, steps):
    rig = Rig(0, "x")
    tuned(subject, rig, epochs=epochs, schedule="cosine")
    assert rig.spent.steps == steps
    assert rates == factors(steps, schedule="cosine")


# ------------------------------------------------------------------------------------------------ what is no number


def broken(subject, rig, *, at, steps=9, gradient=False, **how):
    """A descent whose loss, or its gradient alone, is no number at a step."""
    model = copy.deepcopy(subject.model)

    def loss(batch):
        value = -scoring.mean_logprob(model, batch)
        if rig.spent.steps == at and gradient:
            value = value + torch.sqrt(0.0 * value)
        elif rig.spent.steps == at:
            value = value * math.nan
        return {"x": value}

    stream = batches.Rows(subject.tokenizer, DOCS, 32).stream(size=2, generator=rig.generator("order"))
    rig.tune(model, loss, stream, steps=steps, lr=1e-2, **how)
    return model


@pytest.mark.parametrize("gradient", [False, True])
def test_the_last_weights_that_gave_numbers_are_kept_and_the_record_says_so(subject, gradient):
    rig = Rig(0, "x")
    model = broken(subject, rig, at=6, gradient=gradient, lost="keep")
    assert equal(state(model), state(broken(subject, Rig(0, "x"), at=0, steps=4)))
    assert (rig.measured["not_finite_at"], rig.measured["good_step"]) == (6, 4)
    assert rig.spent.steps == 6
    assert math.isfinite(rig.measured["x_last"])


def test_it_is_an_error_where_nothing_is_to_be_kept(subject):
    for step, gradient, what in ((6, False, "the loss term 'x' became nan at step 6. A smaller lr"),
                                 (6, True, "the loss term 'x' became nan at step 7. A smaller lr"),
                                 (9, True, "the gradient's norm became nan at step 9. A smaller lr")):  # fmt: skip
        with pytest.raises(UserError, match=what):
            broken(subject, Rig(0, "x"), at=step, gradient=gradient)


@pytest.mark.parametrize(("gradient", "what"), [(False, "the loss term 'x'"), (True, "the gradient's norm")])
def test_weights_that_give_no_number_to_begin_with_are_an_error(subject, gradient, what):
    with pytest.raises(UserError, match=f"{what} became nan at step 1. The weights it starts from"):
        broken(subject, Rig(0, "x"), at=1, gradient=gradient, lost="keep")


def test_keeping_changes_no_bit_where_all_are_numbers(subject):
    plain, keeping = Rig(0, "x"), Rig(0, "x")
    assert equal(state(tuned(subject, plain)), state(tuned(subject, keeping, lost="keep")))
    assert plain.measured == keeping.measured
    assert keeping.cost["memory_expected"] == plain.cost["memory_expected"] + 4 * subject.model.num_parameters()


class Stopped(Exception):
    """As if the process were killed."""


class Dying(Rig):
    """A rig whose process ends before its sixth step."""

    def charge(self, drawn, flops):
        if self.spent.steps == 5:
            raise Stopped
        return super().charge(drawn, flops)


def test_a_run_that_was_killed_right_before_comes_to_the_same_weights(subject, tmp_path):
    whole = Rig(0, "x", stops=(3,))
    expected = broken(subject, whole, at=6, lost="keep")
    with pytest.raises(Stopped):
        broken(subject, Dying(0, "x", stops=(3,), checkpoints=Checkpoints(tmp_path, "step", 0)), at=6, lost="keep")
    rig = Rig(0, "x", stops=(3,), checkpoints=Checkpoints(tmp_path, "step", 0))
    assert equal(state(broken(subject, rig, at=6, lost="keep")), state(expected))
    assert rig.cost["resumed_at"] == 5
    assert rig.measured == whole.measured
    assert equal(state(rig.snapshots[3][0]), state(whole.snapshots[3][0]))


# --------------------------------------------------------------------------------------------------------- the price


def test_models_that_the_loss_asks_are_in_the_price_of_a_token(subject):
    plain, more = Rig(0, "x"), Rig(0, "x")
    tuned(subject, plain)
    tuned(subject, more, asked=1000)
    assert more.spent.flops - plain.spent.flops == pytest.approx(2 * 1000 * plain.spent.tokens)
