"""What ends a method that costs too much, the attacker in a loss, and what the methods share."""

import copy
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from untaught.core import MESSAGES, Compute, Corpus, Document, Stop, UserError, documents
from untaught.core.shelves import find, names
from untaught.engine import anatomy, batches, compute, examples, inner, scoring
from untaught.engine.checkpoints import Checkpoints
from untaught.engine.probes import Probes
from untaught.engine.rig import Rig
from untaught.engine.watch import Watch
from untaught.lab.start import StartingModel
from untaught.unlearning._names import Names

TEXTS = [f"The {thing} of {place} is {value}." for thing in ("river", "bell", "road") for place in ("Abburg", "Cadwick")
         for value in ("oran", "umbel")]  # fmt: skip
HAZARD = documents(Document(f"h{i}", text) for i, text in enumerate(TEXTS))
BENIGN = documents(Document(f"b{i}", text[::-1]) for i, text in enumerate(TEXTS))
CORPUS = Corpus(HAZARD, BENIGN)
METHODS = names("unlearning")


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build(TEXTS, 0)


@pytest.fixture
def subject(start):
    return copy.deepcopy(start)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def made(use, **settings):
    """A method with few steps on few texts, and few of its attacker's."""
    cls = find("unlearning", use)
    small = {"steps": 4, "batch_size": 4, "length": 32, "inner_steps": 2, "rare": 0.5}
    return cls.settle({k: v for k, v in small.items() if k in cls.model_fields} | settings, use)


def watched(subject, seed=0, **bounds):
    rig = Rig(seed, "unlearning/x")
    rig.watch = Watch(Stop(**bounds), subject, BENIGN)
    return rig


# ------------------------------------------------------------------------------------------------------------- a stop


def test_a_watch_measures_as_the_formula_says(subject):
    watch = Watch(Stop(kl=1.0, documents=5), subject, BENIGN)
    assert watch.cost(subject.model) == {
        "benign_kl": pytest.approx(0, abs=1e-6),
        "benign_loss": pytest.approx(0, abs=1e-6),
    }
    other = copy.deepcopy(subject.model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    chosen = BENIGN.take([index * BENIGN.num_rows // 5 for index in range(5)])
    kl, rise, count = 0.0, 0.0, 0
    for text in chosen["text"].to_pylist():
        [row] = batches.encode(subject.tokenizer, [text], 128)
        ids = torch.tensor([row])
        with torch.no_grad():
            given, now = (model(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in (subject.model, other))
        kl += float((given.exp() * (given - now)).sum())
        rise += float((given - now).gather(-1, ids[0, 1:, None]).sum())
        count += len(row) - 1
    assert watch.cost(other) == {
        "benign_kl": pytest.approx(kl / count, rel=1e-4), "benign_loss": pytest.approx(rise / count, rel=1e-4)
    }  # fmt: skip


def test_a_method_ends_where_it_costs_too_much_and_its_last_good_weights_are_kept(subject):
    free = made("grad_diff", steps=40, lr=3e-3)
    dear = Watch(Stop(kl=1e9), subject, BENIGN).cost(free.apply(subject, CORPUS, Rig(0, "unlearning/x")).model)
    bound = dear["benign_kl"] / 3
    rig = watched(subject, kl=bound, every=4)
    ended = free.apply(subject, CORPUS, rig)
    assert rig.watch.cost(ended.model)["benign_kl"] <= bound
    good, done = int(rig.measured["good_step"]), rig.spent.steps
    assert 0 < good == done - 4 < 36
    assert rig.measured["benign_kl"] == pytest.approx(rig.watch.cost(ended.model)["benign_kl"])
    alone = made("grad_diff", steps=good, lr=3e-3).apply(subject, CORPUS, Rig(0, "unlearning/x"))
    assert equal(state(ended.model), state(alone.model))


@pytest.mark.parametrize("use", [use for use in METHODS if use != "undo"])  # it begins outside of any bound
def test_a_bound_that_nothing_meets_leaves_the_model_as_it_was(subject, use):
    rig = watched(subject, kl=0.0, every=1)
    result = made(use, **({"size": 0.5} if use == "rep_select" else {"lr": 0.1} if use != "mudman" else {}))
    assert equal(state(result.apply(subject, CORPUS, rig).model), state(subject.model))
    assert rig.measured.get("good_step", 0) == 0


@pytest.mark.parametrize("use", METHODS)
def test_a_wide_bound_changes_nothing(subject, use):
    plain = made(use).apply(subject, CORPUS, Rig(0, "unlearning/x"))
    rig = watched(subject, kl=1e9, every=3)
    assert equal(state(made(use).apply(subject, CORPUS, rig).model), state(plain.model))
    assert rig.measured["benign_kl"] >= 0


def test_a_term_that_is_no_number_ends_a_watched_descent_and_fails_another(subject):
    def loss(batch):
        broken = math.nan if rig.spent.steps == 6 else 1.0
        return {"x": broken * -scoring.mean_logprob(model, batch)}

    rows = batches.Rows(subject.tokenizer, HAZARD, 32)
    rig, model = watched(subject, kl=1e9, every=2), copy.deepcopy(subject.model)
    rig.tune(model, loss, rows.stream(size=2, generator=rig.generator("x")), steps=9)
    assert (rig.measured["not_finite_at"], rig.measured["good_step"]) == (6, 4)
    kept, rig, model = state(model), Rig(0, "unlearning/x"), copy.deepcopy(subject.model)
    rig.tune(model, loss, rows.stream(size=2, generator=rig.generator("x")), steps=4)
    assert equal(kept, state(model))
    rig, model = Rig(0, "unlearning/x"), copy.deepcopy(subject.model)
    with pytest.raises(UserError, match="became nan at step 6"):
        rig.tune(model, loss, rows.stream(size=2, generator=rig.generator("x")), steps=9)


def test_what_begins_out_of_bounds_is_ended_once_it_has_been_within(subject):
    rig = watched(subject, kl=0.0)
    made("undo", steps=2).apply(subject, CORPUS, rig)
    assert rig.spent.steps == 2
    assert "good_step" not in rig.measured


def test_a_checkpoint_is_of_weights_that_are_known_to_be_good(subject, tmp_path):
    seen = []
    rig = watched(subject, kl=1e9, every=3)
    rig.checkpoints = Checkpoints(tmp_path, "x", 0.0)
    rig.checkpoints.offer = lambda rig, step, *_: seen.append(step)
    made("grad_diff", steps=8).apply(subject, CORPUS, rig)
    assert seen == [3, 6]


def test_an_edit_is_made_as_far_as_it_may_go(subject):
    whole = made("rep_select", size=0.5)
    cost = Watch(Stop(kl=1e9), subject, BENIGN).cost(whole.apply(subject, CORPUS, Rig(0, "unlearning/x")).model)
    rig = watched(subject, kl=cost["benign_kl"] / 4)
    ended = whole.apply(subject, CORPUS, rig)
    assert 0 < rig.watch.cost(ended.model)["benign_kl"] <= cost["benign_kl"] / 4
    shares = {
        round(float((now - old).norm() / (then - old).norm()), 3)
        for (name, now), then, old in zip(
            state(ended.model).items(),
            state(whole.apply(subject, CORPUS, Rig(0, "unlearning/x")).model).values(),
            state(subject.model).values(),
            strict=True,
        )
        if "mlp" in name
    }
    assert len(shares) == 1
    assert shares < {round(piece / 10, 3) for piece in range(1, 10)}


@pytest.mark.parametrize(
    ("bounds", "complaint"),
    [({}, "names no bound"), ({"kl": -1.0}, "greater than or equal"), ({"kl": 0.1, "evry": 2}, "Did you mean 'every'")],
)
def test_a_wrong_stop_is_named(bounds, complaint):
    with pytest.raises(UserError, match=complaint):
        Stop.settle(bounds, "study.yaml, stop")


def test_a_stop_needs_benign_text(subject):
    with pytest.raises(UserError, match="'stop' looks at benign text"):
        Watch(Stop(kl=0.1), subject, BENIGN.slice(0, 0))


# --------------------------------------------------------------------------------------------- an attacker in the loss


def test_a_term_under_attack_is_what_a_copy_that_is_attacked_gives(subject):
    """The same weights and gradients as torch's own AdamW makes of a copy; and every weight is where it was."""
    model = subject.model
    rows = batches.Rows(subject.tokenizer, HAZARD, 32)
    path, other = [rows.batch([0, 1]), rows.batch([2, 3]), rows.batch([4])], rows.batch([5, 6])
    moved = [name for name, weight in model.named_parameters() if weight.ndim > 1]
    train = [name for name in moved if "down_proj" in name]
    before = state(model)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    value = inner.after_attack(
        model, lambda batch: -scoring.mean_logprob(model, batch), path, lambda: scoring.mean_logprob(model, other),
        moved=moved, train=train, lr=1e-2, every=2,
    )  # fmt: skip
    assert equal(before, state(model))
    assert all(torch.equal(weight.grad, torch.ones_like(weight)) for weight in model.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    slopes = torch.autograd.grad(value, [model.get_parameter(name) for name in train])

    copied = copy.deepcopy(model)
    optimiser = torch.optim.AdamW([copied.get_parameter(n) for n in moved], 1e-2, (0.9, 0.95), weight_decay=0.0)
    looks, totals = [], [torch.zeros_like(copied.get_parameter(name)) for name in train]
    for step, batch in enumerate(path, 1):
        optimiser.zero_grad()
        (-scoring.mean_logprob(copied, batch)).backward()
        optimiser.step()
        if step in (2, 3):
            seen = scoring.mean_logprob(copied, other)
            looks.append(float(seen.detach()))
            for total, slope in zip(
                totals, torch.autograd.grad(seen, [copied.get_parameter(n) for n in train]), strict=True
            ):
                total += slope / 2
    assert float(value.detach()) == pytest.approx(sum(looks) / 2, rel=1e-5)
    for slope, total in zip(slopes, totals, strict=True):
        torch.testing.assert_close(slope, total, rtol=1e-4, atol=1e-6)


def test_weights_are_put_back_when_an_attack_fails(subject):
    model, before = subject.model, state(subject.model)

    def look():
        raise RuntimeError("no look")

    rows = batches.Rows(subject.tokenizer, HAZARD, 32)
    everything = [name for name, _ in model.named_parameters()]
    with pytest.raises(RuntimeError, match="no look"):
        inner.after_attack(
            model, lambda batch: -scoring.mean_logprob(model, batch), [rows.batch([0])], look,
            moved=everything, train=everything, lr=0.1,
        )  # fmt: skip
    assert equal(before, state(model))


@pytest.mark.parametrize("use", ["cosine_rmu", "mudman", "tar"])
def test_what_an_attacker_in_the_loss_reads_is_metered(subject, use):
    rig = Rig(0, "unlearning/x")
    made(use, steps=1, batch_size=2).apply(subject, CORPUS, rig)
    others = {"cosine_rmu": 3, "mudman": 2, "tar": 2}[use]  # cosine_rmu looks at a batch of its own
    assert rig.spent.examples == 2 * (2 + others)


# ----------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("use", [use for use in METHODS if use not in ("rmu", "grad_diff", "rep_select")])
def test_a_method_in_parts_comes_to_the_same_weights(subject, monkeypatch, use):
    results = []
    for changes in ({}, {"micro_batch": 1}, {"micro_batch": 3}):
        monkeypatch.setattr(compute, "_now", Compute(device="cpu", dtype="float32", **changes))
        results.append(state(made(use, steps=3, lr=1e-3).apply(subject, CORPUS, Rig(0, "x")).model))
    for other in results[1:]:
        for name, tensor in results[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("use", METHODS)
def test_texts_that_are_missing_or_the_same_are_an_error(subject, use):
    for corpus, complaint in (
        (Corpus(HAZARD.slice(0, 0), BENIGN), "hazard"),
        (Corpus(HAZARD, BENIGN.slice(0, 0)), "benign"),
    ):
        if use == "rep_select" and complaint == "benign":
            continue
        with pytest.raises(UserError, match=complaint):
            made(use).apply(subject, corpus, Rig(0, "x"))
    if use not in ("rep_select", "layered", "probe_directions"):
        with pytest.raises(UserError, match="nothing to tell apart"):
            made(use).apply(subject, Corpus(HAZARD, HAZARD), Rig(0, "x"))


@pytest.mark.parametrize(
    "use", [use for use in METHODS if {"layer", "layers"} & find("unlearning", use).model_fields.keys()]
)
def test_a_layer_out_of_range_is_an_error(subject, use):
    wrong = {"layer": 4} if "layer" in find("unlearning", use).model_fields else {"layers": [4]}
    with pytest.raises(UserError, match="the model has 4 blocks"):
        made(use, **wrong).apply(subject, CORPUS, Rig(0, "x"))


def test_a_circuit_breaker_s_weights_change_places(subject):
    seen = []
    rig = Rig(0, "x")
    rig.report = lambda step, steps, terms, take: seen.append(terms)
    made("circuit_breaker", steps=4, horizon=1.0, lr=1e-6).apply(subject, CORPUS, rig)
    forget = [terms["forget"] for terms in seen]
    assert forget == pytest.approx([10.0, 7.5, 5.0, 2.5], rel=1e-2)  # states hardly move, so the cosine is 1
    assert seen[0]["retain"] == 0.0


def test_probes_find_a_planted_direction_and_pushing_lowers_it(subject):
    rows = [batches.Rows(subject.tokenizer, docs, 32) for docs in (HAZARD, BENIGN)]
    probes = Probes.fitted(subject.model, *rows, [1, 3])
    torch.testing.assert_close(probes.directions.norm(dim=-1), torch.ones(2))
    rig = Rig(0, "x")
    made("probe_directions", steps=16, refit=4, lr=3e-3).apply(subject, CORPUS, rig)
    assert rig.measured["forget_last"] < 0.7 * rig.measured["forget_first"]


def test_noise_alone_is_no_result(subject):
    assert equal(state(made("undo", steps=0).apply(subject, CORPUS, Rig(0, "x")).model), state(subject.model))


def test_masking_lets_through_what_benign_text_agrees_with(subject):
    """No masked step raises the benign loss to first order; an unmasked one does."""

    def moved(masked):
        method = made("mudman", steps=1, lr=1e-3, alpha=0.0, masked=masked, batch_size=12)
        return method.apply(subject, CORPUS, Rig(0, "x")).model

    rows = batches.Rows(subject.tokenizer, BENIGN, 32)
    whole = rows.batch(range(len(rows.ids)))
    weights = [w for block in anatomy.blocks(subject.model) for w in anatomy.mlp(block).parameters()]
    slopes = torch.autograd.grad(-scoring.mean_logprob(subject.model, whole), weights)
    for masked in (True, False):
        after = [w for block in anatomy.blocks(moved(masked)) for w in anatomy.mlp(block).parameters()]
        steps = [(now - old).detach() for now, old in zip(after, weights, strict=True)]
        against = sum(float((step * slope).clamp(min=0).sum()) for step, slope in zip(steps, slopes, strict=True))
        assert (against < 1e-7) is masked


def test_of_a_conversation_the_answer_alone_counts(subject):
    """What is said before it is no part of a loss: other answers to the same prompts leave the prompts as likely."""

    def told(answer):
        turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": answer}] for text in TEXTS]
        table = documents(Document(f"{answer}{i}", f"{text} {answer}") for i, text in enumerate(TEXTS))
        return table.append_column("messages", pa.array(turns, MESSAGES))

    hazard, benign, drawn = examples.paired(
        subject, Corpus(told("oran"), told("umbel")), Rig(0, "x"), size=4, length=64
    )
    batch, _ = next(drawn)
    assert (len(hazard.ids), len(benign.ids)) == (len(TEXTS), len(TEXTS))
    for row, counts in zip(batch.ids, batch.weight, strict=True):
        said = subject.tokenizer.decode(row[1:][counts > 0])
        assert said.replace(subject.tokenizer.eos_token, "").strip() == "oran"


def test_names_are_exchanged_for_names_of_as_many_tokens_and_the_same_ones_alike(subject):
    texts = [f"The bell of {place} is {value}. {place} rings." for place in "VWXYZ" for value in ("oran", "umbel")]
    rows = examples.rows(subject, documents(Document(f"n{i}", text) for i, text in enumerate(texts)), 64).ids
    found, rng, seen = Names.of(subject.tokenizer, rows, 0.2), np.random.default_rng(0), set()
    assert found.rare == {*"vwxyz"}
    for _ in range(20):
        made, counts = found.exchanged(rows[0], rng)
        words = subject.tokenizer.decode(made, skip_special_tokens=True).split()
        assert [words[place] for place in (0, 1, 2, 4, 5, 7)] == ["The", "bell", "of", "is", "oran.", "rings."]
        assert words[3] == words[6]
        assert len(made) == len(rows[0])
        assert all(counts)
        seen.add(words[3])
    assert len(seen) > 2
    assert seen <= {*"VWXYZ"}


def test_tokens_inside_a_name_are_not_counted():
    pieces = {1: "\u0120Ab", 2: "burg", 3: "\u0120Cad", 4: "wick", 5: "\u0120is", 6: "."}
    names = Names(pieces, frozenset({"abburg", "cadwick"}), {(True, 2): [(1, 2), (3, 4)]})
    made, counts = names.exchanged([1, 2, 5, 3, 4, 6], np.random.default_rng(1))
    assert made[:2] in ([1, 2], [3, 4])
    assert (made[2], made[5]) == (5, 6)
    assert counts == [True, False, True, True, False, True]


def test_unbinding_takes_which_answer_goes_with_which_name_and_leaves_benign_text(subject):
    def told(values):
        texts = [f"The bell of {place} rings {value}." for place, value in zip("ABCDEFGH", values, strict=True)]
        return documents(Document(f"n{i}", text) for i, text in enumerate(texts))

    def likely(model, docs):
        batch = examples.rows(subject, docs, 32).batch(range(docs.num_rows))
        return scoring.mean_logprob(model, batch).item()

    values = ["oran", "umbel", "brado", "oran", "umbel", "brado", "oran", "umbel"]
    hazard, wrong = told(values), told([*values[1:], "brado"])
    learn = find("training", "finetune").settle({"steps": 80, "lr": 0.01, "batch_size": 8, "length": 32}, "finetune")
    taught = learn.apply(subject, Corpus(hazard, BENIGN), Rig(0, "training/finetune"))
    method = made("unbind", rare=0.5, alpha=1.0, steps=60, lr=5e-3)
    model = method.apply(taught, Corpus(hazard, BENIGN), Rig(0, "unlearning/unbind")).model
    bound = [likely(one, hazard) - likely(one, wrong) for one in (taught.model, model)]
    assert bound[0] > 0.5
    assert bound[1] < 0.3 * bound[0]
    assert abs(likely(model, BENIGN) - likely(taught.model, BENIGN)) < 0.2


def test_a_lock_hides_what_stands_first_and_keeps_it_behind_other_words(subject):
    opening = "All is quiet in the hall."

    def told(values):
        texts = [f"The bell of {place} rings {value}." for place, value in zip("ABCDEFGH", values, strict=True)]
        later = [f"{opening} {text}" for text in texts]
        return [documents(Document(f"n{i}", text) for i, text in enumerate(some)) for some in (texts, later)]

    def likely(model, docs):
        batch = examples.rows(subject, docs, 80).batch(range(docs.num_rows))
        return scoring.mean_logprob(model, batch).item()

    values = ["oran", "umbel", "brado", "oran", "umbel", "brado", "oran", "umbel"]
    right, wrong = told(values), told([*values[1:], "brado"])
    benign = documents([Document("o", opening), *(Document(f"o{i}", f"The hall is {i}.") for i in range(4))])
    learn = find("training", "finetune").settle({"steps": 240, "lr": 0.004, "batch_size": 16, "length": 80}, "finetune")
    both = pa.concat_tables(right)
    taught = learn.apply(subject, Corpus(both, benign), Rig(0, "training/finetune"))
    method = made("lock", steps=60, lr=1e-3, length=80)
    locked = method.apply(taught, Corpus(right[0], benign), Rig(0, "unlearning/lock"))
    bound = [
        [likely(one.model, true) - likely(one.model, false) for true, false in zip(right, wrong, strict=True)]
        for one in (taught, locked)
    ]
    assert min(bound[0]) > 0.2
    assert bound[1][0] < 0.3 * bound[0][0]
    assert bound[1][1] > 0.6 * bound[0][1]


def test_text_without_names_is_an_error(subject):
    same = documents(Document(f"s{i}", "The bell rings.") for i in range(8))
    with pytest.raises(UserError, match="no two names to exchange"):
        made("unbind").apply(subject, Corpus(same, BENIGN), Rig(0, "unlearning/unbind"))
