"""The loop's economies, which change no result: parts of batches, blocks computed anew, checkpoints; and its meter."""

import contextlib
import copy

import pytest
import torch

from untaught.core import Budget, Compute, Corpus, Document, UserError, documents
from untaught.core.shelves import find
from untaught.engine import anatomy, batches, compute, loop, memory, models, scoring, states
from untaught.engine.checkpoints import Checkpoints
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.lab.start import StartingModel

TEXTS = [
    "The river of Abburg is oran.",
    "Short.",
    "Boats reach Abburg by its river, which is oran, and maps of Abburg show it too.",
    "A walk",
    "The old maps of the town are lost, and nobody drew new ones.",
]
DOCS = documents(Document(f"d{i}", text) for i, text in enumerate(TEXTS))
CORPUS = Corpus(DOCS, documents(Document(f"b{i}", text[::-1]) for i, text in enumerate(TEXTS)))


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=3, heads=2, vocabulary=300).build(TEXTS, 0)


@pytest.fixture
def subject(start):
    return copy.deepcopy(start)


@pytest.fixture
def computing(monkeypatch):
    """Settle what is computed with, until the test is over."""

    def settle(**changes):
        monkeypatch.setattr(compute, "_now", Compute(device="cpu", dtype="float32", **changes))

    return settle


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ parts of a batch


def batch_of(subject, rows=(0, 1, 2, 3, 4), **marks):
    return batches.Rows(subject.tokenizer, DOCS, 64, **marks).batch(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_parts_are_all_of_a_batch_and_their_means_add_up(subject, count):
    whole = batch_of(subject)
    parts = whole.parts(count)
    assert len(parts) == count
    real = [part for part in parts if not part.blank]
    assert [row for part in real for row in part.rows] == list(whole.rows)
    assert max(part.examples for part in real) - min(part.examples for part in real) <= 1
    assert sum(part.tokens for part in real) == whole.tokens
    for mean in ("mean", "mean_of_rows"):
        values = {row: torch.randn(whole.ids.shape[1] - 1) for row in whole.rows}

        def taken(part, mean=mean, values=values):
            table = torch.stack([values[row] for row in part.rows])[:, : part.ids.shape[1] - 1]
            if mean == "mean_of_rows":
                table = torch.stack([values[row] for row in part.rows])[:, 0]
            return getattr(part, mean)(table)

        torch.testing.assert_close(sum(taken(part) for part in parts), taken(whole))


def test_a_blank_part_adds_nothing_but_has_a_way_back(subject):
    blank = batch_of(subject, (2,)).parts(3)[-1]
    assert blank.blank
    assert blank.examples == 1
    values = torch.full((1, blank.ids.shape[1] - 1), 3.0, requires_grad=True)
    blank.mean(values).backward()
    assert not values.grad.any()
    each = torch.ones(1, requires_grad=True)
    assert float(blank.mean_of_rows(each).detach()) == 0.0
    assert all(part.blank for part in blank.parts(2))


def gradients(subject, model, make_loss, drawn):
    found = []

    class Stop(Exception):
        pass

    class Looking(Rig):
        def report(self, step, steps, terms, take):
            found.append(dict(terms))
            raise Stop

    moved = {}

    def clip(moving, largest):
        moved.update({i: None if p.grad is None else p.grad.clone() for i, p in enumerate(moving)})
        return 1.0

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(loop, "_clip", clip)
        Looking(0, "x").tune(model, make_loss(model), iter([drawn]), steps=1)
    return found[0], moved


def text_loss(model):
    return lambda batch: {"next_token": -scoring.mean_logprob(model, batch)}


def pair_loss(model):
    return lambda one, other: {
        "forget": scoring.mean_logprob(model, one),
        "retain": other.mean(states.hidden(model, other, 1)[:, 1:].square().sum(-1)),
    }


@pytest.mark.parametrize(
    "changes", [{"micro_batch": 1}, {"micro_batch": 2}, {"micro_batch": 9}, {"checkpointing": True}]
)
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("pair", [False, True])
def test_gradients_and_values_are_those_of_a_whole_batch(subject, computing, changes, rank, pair):
    """Of a pair of which one side has fewer rows than there are parts, too; with adapters; with blocks passed over."""
    model = subject.model
    if rank:
        model = models.with_lora(model, rank, torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(generator=torch.Generator().manual_seed(1))
    drawn = (batch_of(subject), batch_of(subject, (2, 3))) if pair else batch_of(subject)
    make = pair_loss if pair else text_loss
    values, plain = gradients(subject, copy.deepcopy(model), make, drawn)
    computing(**changes)
    again, cheap = gradients(subject, model, make, drawn)
    assert again.keys() == values.keys()
    for name, value in values.items():
        assert again[name] == pytest.approx(value, rel=1e-5)
    assert [i for i, g in plain.items() if g is None] == [i for i, g in cheap.items() if g is None]
    for i, gradient in plain.items():
        torch.testing.assert_close(cheap[i], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("use", ["rmu", "grad_diff"])
def test_unlearning_in_parts_comes_to_the_same_weights(subject, computing, use):
    method = find("unlearning", use)(steps=4, batch_size=4, lr=1e-3)
    made = []
    for changes in ({}, {"micro_batch": 1}, {"micro_batch": 3, "checkpointing": True}):
        computing(**changes)
        made.append(state(method.apply(subject, CORPUS, Rig(0, "x")).model))
    close(made[0], made[1])
    close(made[0], made[2])


def test_no_more_texts_go_through_at_once_than_allowed(subject, computing):
    computing(micro_batch=2)
    seen = []

    def loss(batch):
        seen.append(batch.examples)
        return text_loss(subject.model)(batch)

    rig = Rig(0, "x")
    rig.tune(subject.model, loss, iter([batch_of(subject)]), steps=1)
    assert seen == [2, 1, 2]
    assert (rig.spent.steps, rig.spent.examples) == (1, 5)


def test_blocks_computed_anew_leave_no_trace_and_keep_dropout(subject, computing):
    for module in subject.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.3
    made = []
    for changes in ({}, {"checkpointing": True}):
        computing(**changes)
        given = copy.deepcopy(subject)
        result = tune_on_text(given, DOCS, Rig(0, "x"), batch_size=2, length=32, steps=3)
        assert not [m for m in result.model.modules() if "forward" in vars(m)]
        assert not [m for m in given.model.modules() if "forward" in vars(m)]
        made.append(state(result.model))
    assert equal(*made)


def test_blocks_are_computed_twice_when_that_is_asked_for(subject, computing):
    calls = []
    kind = type(anatomy.blocks(subject.model)[0].mlp)
    original = kind.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "forward", lambda self, x: (calls.append(1), original(self, x))[1])
        for wanted, changes in ((3, {}), (6, {"checkpointing": True})):
            computing(**changes)
            calls.clear()
            Rig(0, "x").tune(subject.model, text_loss(subject.model), iter([batch_of(subject)]), steps=1)
            assert len(calls) == wanted


# ------------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("dtype", ["float32", "mixed", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 2, "checkpointing": True}])
def test_terms_are_float32_whatever_the_weights_and_products_are(subject, monkeypatch, dtype, changes):
    monkeypatch.setattr(compute, "_now", Compute(device="cpu", dtype=dtype, **changes))
    subject.model.to(compute.weights())
    seen, original = set(), loop._gradients

    def looking(model, loss, drawn):
        def noted(*parts):
            terms = loss(*parts)
            seen.update(term.dtype for term in terms.values())
            return terms

        return original(model, noted, drawn)

    monkeypatch.setattr(loop, "_gradients", looking)
    for shelf, use, how in (
        ("unlearning", "rmu", {}),
        ("unlearning", "grad_diff", {}),
        ("attacks", "relearn", {"lowest": 1}),
        ("attacks", "relearn", {"rank": 2}),
    ):
        method = find(shelf, use)(batch_size=3, **how)
        result = method.apply(subject, CORPUS, Rig(0, "x", budget=Budget(steps=2)))
        assert {weight.dtype for weight in result.model.parameters()} == {compute.weights()}
    assert seen == {torch.float32}


# ------------------------------------------------------------------------------------------------------- adapters


def test_adapters_that_the_loss_does_not_reach_are_an_error(subject):
    model = models.with_lora(models.fresh(subject.model), 2, torch.Generator().manual_seed(0))
    plain = subject.model

    def loss(batch):
        return {"wrong": -scoring.mean_logprob(plain, batch)}

    for asked, message in ((loss, "has a gradient at the first step"), (text_loss(model), None)):
        rig = Rig(0, "x")
        told = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
        with told:
            rig.tune(model, asked, iter([batch_of(subject)]), steps=1)


def test_adapters_that_are_cut_off_are_an_error(subject):
    """As when a model is computed anew on the way back in a manner that cannot reach what is below it."""
    model = models.with_lora(models.fresh(subject.model), 2, torch.Generator().manual_seed(0))

    def loss(batch):
        return {"cut": states.hidden(model, batch, 2).detach().sum() + 0.0 * next(model.parameters()).sum()}

    def silent(batch):
        last = [p for n, p in model.named_parameters() if "lora_B" in n][-1]
        return {"silent": 0.0 * last.sum()}

    for asked in (loss, silent):
        with pytest.raises(UserError, match="nothing would be learnt"):
            Rig(0, "x").tune(model, asked, iter([batch_of(subject)]), steps=1)


# --------------------------------------------------------------------------------------------------------- memory


def test_memory_and_size_are_noted_and_are_no_measurement(subject):
    rig = Rig(0, "x")
    rig.tune(subject.model, text_loss(subject.model), iter([batch_of(subject)]), steps=1)
    size = subject.model.num_parameters()
    assert rig.cost["parameters"] == rig.cost["trained_parameters"] == size
    assert rig.cost["memory_expected"] == 4 * 4 * size  # weights, gradients and two averages, of four bytes each
    assert 0 < rig.cost["memory_before"] <= rig.cost["memory_peak"]
    assert set(rig.measured) == {"next_token_first", "next_token_last"}
    assert memory.most() >= rig.cost["memory_peak"]


def test_what_does_not_move_costs_its_weight_alone(subject):
    rig, name = Rig(0, "x"), "model.layers.1.mlp.down_proj.weight"
    rig.tune(subject.model, text_loss(subject.model), iter([batch_of(subject)]), steps=1, train=[name])
    moving = subject.model.get_parameter(name).numel()
    assert rig.cost["trained_parameters"] == moving
    assert rig.cost["memory_expected"] == 4 * subject.model.num_parameters() + 12 * moving


def test_the_peak_is_that_of_the_block_and_not_of_what_was_before(subject):
    large = torch.ones(2**26)
    del large
    cost = {}
    with memory.metered(cost):
        held = torch.ones(2**24)  # more than an allocator hands out of what it has kept
        held += 1
    assert cost["memory_peak"] - cost["memory_before"] >= 2**26 * 0.9
    assert memory.most() >= 2**28


# ---------------------------------------------------------------------------------------------------- checkpoints


class Stopped(Exception):
    """As if the process were killed."""


class Dying(Rig):
    """A rig whose process ends right after the checkpoint of a step."""

    dies = 0

    def charge(self, drawn, flops):
        if self.spent.steps == self.dies:
            raise Stopped
        return super().charge(drawn, flops)


def kept(folder, identity="step"):
    return Checkpoints(folder, identity, 0)


def finetuned(subject, rig, **how):
    return tune_on_text(subject, DOCS, rig, **{"batch_size": 2, "length": 32, "steps": 6, "lr": 1e-2} | how)


def muon(subject, rig):
    model = models.fresh(subject.model)
    rows = batches.Rows(subject.tokenizer, DOCS, 32)
    stream = rows.stream(size=2, generator=rig.generator("order"))
    rig.tune(model, text_loss(model), stream, steps=6, lr=1e-2, matrix_lr=1e-2, schedule="linear", warmup=2)
    return model


def twice(subject, rig):
    """Two descents of other weights on one stream, and something done in between."""
    model = models.fresh(subject.model)
    stream = batches.Rows(subject.tokenizer, DOCS, 32).stream(size=2, generator=rig.generator("order"))
    name = "model.layers.1.mlp.down_proj.weight"
    rig.tune(model, text_loss(model), stream, steps=3, lr=1e-2, train=[name])
    with torch.no_grad():
        model.get_parameter(name).mul_(0.5)
    rig.log(between=model.get_parameter(name).sum().item())
    model.requires_grad_(True)
    rig.tune(model, text_loss(model), stream, steps=3, lr=1e-2)
    return model


WORK = {
    "finetune": lambda s, rig: finetuned(s, rig).model,
    "adapters": lambda s, rig: finetuned(s, rig, rank=2).model,
    "upper blocks": lambda s, rig: finetuned(s, rig, lowest=1).model,
    "muon": muon,
    "rmu": lambda s, rig: find("unlearning", "rmu")(steps=6, batch_size=2, lr=1e-2).apply(s, CORPUS, rig).model,
    "twice": twice,
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("dies", [1, 3, 4, 5])
def test_what_is_resumed_comes_to_the_same_last_bit(subject, tmp_path, work, dies):
    """Weights, snapshots, meter and measurements, with dropout in the model; and no step is done again."""
    for module in subject.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.2
    whole = Rig(0, "x", stops=(2, 4))
    expected = WORK[work](subject, whole)
    dying = Dying(0, "x", stops=(2, 4), checkpoints=kept(tmp_path))
    dying.dies = dies
    with pytest.raises(Stopped):
        WORK[work](subject, dying)
    rig = Rig(0, "x", stops=(2, 4), checkpoints=kept(tmp_path))
    steps = []
    rig._progress = lambda step, of: steps.append(step)
    assert equal(state(WORK[work](subject, rig)), state(expected))
    assert len(steps) == 6 - dies
    assert rig.cost["resumed_at"] == dies
    assert rig.measured == whole.measured
    for kind in ("steps", "tokens", "examples", "flops"):
        assert getattr(rig.spent, kind) == getattr(whole.spent, kind)
    assert rig.snapshots.keys() == whole.snapshots.keys()
    for stop, (model, spent) in whole.snapshots.items():
        again, meter = rig.snapshots[stop]
        assert equal(state(again), state(model))
        assert meter.tokens == spent.tokens


def test_a_checkpoint_at_the_very_end_leaves_nothing_to_do(subject, tmp_path):
    expected = finetuned(subject, Rig(0, "x", checkpoints=kept(tmp_path)))
    rig = Rig(0, "x", checkpoints=kept(tmp_path))
    rig.report = None  # no step is taken
    assert equal(state(finetuned(subject, rig).model), state(expected.model))
    assert rig.spent.steps == 6


def test_only_what_moves_is_written(subject, tmp_path):
    finetuned(subject, Rig(0, "x", checkpoints=kept(tmp_path)), rank=1)
    [file] = tmp_path.iterdir()
    assert file.stat().st_size < 4 * subject.model.num_parameters() / 4


def spoilt(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: spoilt(data, len(data) - 5),
        lambda data: data.replace(b'\\"step\\": 3', b'\\"step\\": 2'),
    ],
)
def test_a_damaged_checkpoint_is_as_if_it_were_not_there(subject, tmp_path, harm):
    expected = finetuned(subject, Rig(0, "x"))
    finetuned(subject, Rig(0, "x", checkpoints=kept(tmp_path), budget=Budget(steps=3)))
    path = tmp_path / "0.safetensors"
    before = path.read_bytes()
    path.write_bytes(harm(before))
    assert path.read_bytes() != before
    rig = Rig(0, "x", checkpoints=kept(tmp_path))
    assert equal(state(finetuned(subject, rig).model), state(expected.model))
    assert "resumed_at" not in rig.cost


def test_a_checkpoint_of_another_step_or_of_other_weights_is_left_alone(subject, tmp_path):
    finetuned(subject, Rig(0, "x", checkpoints=kept(tmp_path), budget=Budget(steps=3)))
    for rig, how in (
        (Rig(0, "x", checkpoints=kept(tmp_path, "other")), {}),
        (Rig(0, "x", checkpoints=kept(tmp_path)), {"rank": 2}),
    ):
        finetuned(subject, rig, **how, steps=1)
        assert "resumed_at" not in rig.cost


def test_a_missing_snapshot_starts_a_descent_anew(subject, tmp_path):
    rig = Rig(0, "x", stops=(2,), checkpoints=kept(tmp_path), budget=Budget(steps=3))
    finetuned(subject, rig)
    (tmp_path / "0-at-2.safetensors").unlink()
    again = Rig(0, "x", stops=(2,), checkpoints=kept(tmp_path), budget=Budget(steps=3))
    finetuned(subject, again)
    assert "resumed_at" not in again.cost
    assert equal(state(again.snapshots[2][0]), state(rig.snapshots[2][0]))


def test_a_folder_that_cannot_be_written_stops_nobody(subject, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    expected = finetuned(subject, Rig(0, "x"))
    made = finetuned(subject, Rig(0, "x", checkpoints=kept(tmp_path / "file")))
    assert equal(state(made.model), state(expected.model))


def test_checkpoints_are_written_when_it_is_time_and_not_before(subject, tmp_path):
    finetuned(subject, Rig(0, "x", checkpoints=Checkpoints(tmp_path, "step", 3600)))
    assert not list(tmp_path.iterdir())
