"""The machines: scores against naive computations, the one loop, the meter, and what may be loaded."""

import copy
import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from untaught.attest import digest
from untaught.core import Budget, Document, Subject, UserError, Wrap, documents
from untaught.engine import anatomy, batches, choices, models, scoring, states
from untaught.engine.loop import Descent
from untaught.engine.muon import Muon, orthogonal
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.lab.start import StartingModel

TEXTS = [
    "The river of Abburg is oran.",
    "Short.",
    "Boats reach Abburg by its river, which is oran, and maps of Abburg show it too.",
    "A walk",
]
DOCS = documents(Document(f"d{i}", text) for i, text in enumerate(TEXTS))


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=3, heads=2, vocabulary=300).build(TEXTS, 0)


@pytest.fixture
def subject(start):
    return copy.deepcopy(start)


def naive(model, row):
    """Log-probability of each token after the first, one forward pass, no padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row])).logits[0].double()
    return [torch.log_softmax(logits[i], -1)[token].item() for i, token in enumerate(row[1:])]


def sharpen(subject, scale=20.0):
    """Weights far enough from zero that no two tokens are equally likely."""
    with torch.no_grad():
        subject.model.get_input_embeddings().weight.mul_(scale)
    return subject


# -------------------------------------------------------------------------------------------------------- scoring


def test_token_logprobs_are_those_of_a_naive_computation_whatever_the_batch(subject):
    sharpen(subject)
    rows = batches.encode(subject.tokenizer, TEXTS, 512)
    together = scoring.token_logprobs(subject.model, batches.pad(rows, batches.pad_id(subject.tokenizer))).detach()
    for row, line in zip(rows, together, strict=True):
        alone = scoring.token_logprobs(subject.model, batches.pad([row], 0)).detach()[0]
        expected = torch.tensor(naive(subject.model, row), dtype=torch.float32)
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(line[: len(row) - 1], expected, atol=1e-5, rtol=1e-5)
        assert not line[len(row) - 1 :].any(), "padding has a score"


def test_what_padding_is_filled_with_does_not_matter(subject):
    rows = batches.encode(subject.tokenizer, TEXTS, 512)
    one, other = (scoring.mean_logprob(subject.model, batches.pad(rows, filler)).item() for filler in (0, 7))
    assert one == other
    tokens = [nats for row in rows for nats in naive(subject.model, row)]
    assert one == pytest.approx(sum(tokens) / len(tokens), abs=1e-5)


def test_a_completion_is_scored_token_by_token_after_its_wrapped_prompt(subject):
    sharpen(subject)
    wrapped = Subject(subject.model, subject.tokenizer, Wrap(before="Say: ", after=" then"))
    pairs = [("The river of Abburg is", " oran"), ("A walk", " by the river, which is oran."), ("", " x")]
    for asked in (subject, wrapped):
        for size in (1, 2, 64):
            found = scoring.completions(asked, pairs, batch_size=size)
            for (prompt, completion), scored in zip(pairs, found, strict=True):
                whole = asked.tokenizer(asked.wrap.around(prompt) + completion)["input_ids"]
                head = asked.tokenizer(asked.wrap.around(prompt))["input_ids"]
                expected = naive(asked.model, whole)[len(head) - 1 :]
                assert whole[: len(head)] == head
                assert scored.tokens == len(whole) - len(head) == len(expected)
                assert scored.nats == pytest.approx(sum(expected), abs=1e-4)
                assert scored.nats_per_token == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_completions_of_nothing_are_nothing(subject):
    assert scoring.completions(subject, []) == []


def test_text_nats_are_the_sum_over_a_text_cut_at_its_length(subject):
    for length in (4, 512):
        found = scoring.text_nats(subject, TEXTS, length=length, batch_size=3)
        for row, scored in zip(batches.encode(subject.tokenizer, TEXTS, length), found, strict=True):
            assert scored.tokens == len(row) - 1
            assert scored.nats == pytest.approx(sum(naive(subject.model, row)), abs=1e-4)


def test_a_text_with_nothing_to_score_is_missing_and_not_perfect(subject):
    subject.tokenizer.backend_tokenizer.post_processor = None  # as a tokenizer that starts texts with nothing
    bare, whole = scoring.text_nats(subject, ["", "The river"])
    assert (bare.nats, bare.nats_per_token) == (None, None)
    assert whole.nats is not None
    [alone] = scoring.completions(subject, [("", "T")])
    assert (alone.nats, alone.tokens) == (None, 1)


def test_what_the_wrap_puts_before_a_text_is_given_and_not_scored(subject):
    [plain] = scoring.text_nats(subject, ["The river is long."])
    wrapped = replace(subject, wrap=Wrap(before="Maps of towns.\n"))
    [given] = scoring.text_nats(wrapped, ["The river is long."])
    assert given.tokens == plain.tokens
    assert given.nats != plain.nats


def values_of(subject, prompts, options, answers, batch_size=8):
    """Grade one question a prompt, all with the same options."""
    items = [{"id": str(i), "choices": options, "answer": answer} for i, answer in enumerate(answers)]
    return choices.graded(subject, items, {"accuracy": prompts}, batch_size=batch_size)["value"].to_pylist()


def test_a_question_that_cannot_be_asked_is_missing(subject):
    assert values_of(subject, [None, "A"], ["b", "c"], [0, 0])[0] is None


def test_a_broken_model_has_no_scores(subject):
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[0, 0] = torch.nan
    assert {c.nats for c in scoring.completions(subject, [("A", " b"), ("C", " d")])} == {None}
    assert {c.nats_per_token for c in scoring.text_nats(subject, TEXTS)} == {None}
    assert values_of(subject, ["A"], ["b", "c"], [0]) == [None]


def test_the_right_option_is_the_likeliest_per_token(subject):
    sharpen(subject)
    options = ["oran", "a walk", "by its river, which"]
    likeliest = max(
        range(3), key=lambda i: scoring.completions(subject, [("Abburg is", f" {options[i]}")])[0].nats_per_token
    )
    found = values_of(subject, ["Abburg is"] * 3, options, [0, 1, 2], batch_size=2)
    assert found == [float(i == likeliest) for i in range(3)]


def test_hidden_is_what_the_model_says_its_block_gives_and_no_later_block_runs(subject):
    batch = batches.pad(batches.encode(subject.tokenizer, TEXTS, 512), 0)
    with torch.no_grad():
        whole = models.fresh(subject.model).model  # the library leaves hooks of its own on a model asked this way
        every = whole(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
        ran = []
        handles = [
            block.mlp.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
            for index, block in enumerate(anatomy.blocks(subject.model))
        ]
        for layer in (0, 1):
            found = states.hidden(subject.model, batch, layer)
            torch.testing.assert_close(found, every.hidden_states[layer + 1], atol=1e-6, rtol=1e-6)
    for handle in handles:
        handle.remove()
    assert ran == [0, 0, 1]
    assert not any(module._forward_hooks for module in subject.model.modules())


def test_hidden_lets_gradients_through_and_takes_its_hook_away_after_an_error(subject):
    batch = batches.pad([[1, 2, 3]], 0)
    states.hidden(subject.model, batch, 0).sum().backward()
    assert anatomy.blocks(subject.model)[0].mlp.down_proj.weight.grad is not None
    assert anatomy.blocks(subject.model)[1].mlp.down_proj.weight.grad is None
    with pytest.raises(IndexError):
        states.hidden(subject.model, batches.pad([[10**6]], 0), 0)
    assert not any(module._forward_hooks for module in subject.model.modules())


def test_states_are_kept_and_stand_on_one_another_without_changing_a_bit(subject):
    rows = batches.Rows(subject.tokenizer, DOCS, 64)
    low = states.Activations(subject.model, 0, rows)
    high = states.Activations(subject.model, 1, rows, below=low)
    stream = rows.stream(size=3, generator=torch.Generator().manual_seed(0))
    for batch in (next(stream) for _ in range(3)):
        for layer, kept in ((1, high), (0, low)):
            with torch.no_grad():
                plain = states.hidden(subject.model, batch, layer)
            real = batch.mask.bool()
            torch.testing.assert_close(kept.of(batch)[real], plain[real], atol=1e-6, rtol=1e-6)
    ran = []
    with anatomy.blocks(subject.model)[0].mlp.register_forward_pre_hook(lambda *_: ran.append(0)):
        high.of(batch), low.of(batch), states.hidden(subject.model, batch, 1, low)
    assert not ran, "what is kept was computed again"


# -------------------------------------------------------------------------------------------------------- batches


def test_encoding_starts_and_ends_a_text_and_cuts_it(subject):
    end = subject.tokenizer.eos_token_id
    rows = batches.encode(subject.tokenizer, TEXTS, 512)
    assert all(row[0] == row[-1] == end for row in rows)
    assert [len(row) for row in batches.encode(subject.tokenizer, TEXTS, 3)] == [3, 3, 3, 3]
    assert batches.encode(subject.tokenizer, [], 3) == []


def test_packing_loses_only_what_does_not_fill_a_row(subject):
    ids = [token for row in batches.encode(subject.tokenizer, TEXTS, 512) for token in row]
    rows, counted = batches.pack(subject.tokenizer, DOCS, 7)
    assert counted is None
    assert rows.flatten().tolist() == ids[: len(ids) // 7 * 7]
    with pytest.raises(UserError, match="fewer than one row of 1000"):
        batches.pack(subject.tokenizer, DOCS, 1000)


def test_a_stream_shows_every_document_once_before_any_twice(subject):
    stream = batches.Rows(subject.tokenizer, DOCS, 64).stream(size=3, generator=torch.Generator().manual_seed(0))
    rows = [
        tuple(ids[mask.bool()].tolist())
        for _ in range(8)
        for b in [next(stream)]
        for ids, mask in zip(b.ids, b.mask, strict=True)
    ]
    for first in range(0, 24, 4):
        assert len(set(rows[first : first + 4])) == 4
    assert len({tuple(rows[first : first + 4]) for first in range(0, 24, 4)}) > 1, "the order never changes"


def test_a_stream_of_no_documents_is_an_error_and_not_a_hang(subject):
    with pytest.raises(UserError, match="no documents"):
        next(batches.Rows(subject.tokenizer, documents([]), 8).stream(size=2, generator=torch.Generator()))


def test_tokens_are_counted_without_padding():
    batch = batches.pad([[1, 2, 3], [4]], 0)
    assert (batch.tokens, batch.examples, tuple(batch.ids.shape)) == (4, 2, (2, 3))


# ------------------------------------------------------------------------------------------------------- the loop


def next_token(model):
    return lambda batch: {"next_token": -scoring.mean_logprob(model, batch)}


def text_stream(subject, rig, size=2):
    return batches.Rows(subject.tokenizer, DOCS, 32).stream(size=size, generator=rig.generator("order"))


def test_the_rate_rises_over_the_warmup_and_falls_over_the_last_part():
    constant = Descent()
    assert {constant.factor(step, 10) for step in range(10)} == {1.0}
    linear = Descent(schedule="linear", decay=0.4, warmup=4)
    found = [linear.factor(step, 20) for step in range(20)]
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(found[4:13]) == {1.0}
    assert found[12:] == pytest.approx([1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert all(0 < Descent(schedule="linear", warmup=50).factor(step, 3) <= 1 for step in range(3))


def test_the_loop_descends_logs_its_terms_and_meters_what_it_spends(subject):
    rig = Rig(0, "x", budget=Budget(steps=20))
    rig.tune(subject.model, next_token(subject.model), text_stream(subject, rig), steps=100, lr=1e-2)
    assert (rig.spent.steps, rig.spent.examples) == (20, 40)
    assert rig.measured["next_token_last"] < rig.measured["next_token_first"] - 0.5
    assert rig.spent.flops == 6 * subject.model.num_parameters() * rig.spent.tokens
    assert not subject.model.training


def test_a_budget_of_tokens_or_examples_stops_before_the_step_that_would_break_it(subject):
    for budget in (Budget(tokens=60), Budget(examples=5)):
        rig = Rig(0, "x", budget=budget)
        rig.tune(subject.model, next_token(subject.model), text_stream(subject, rig), steps=100)
        assert 0 < rig.spent.steps < 100
        assert rig.spent.allows(budget)


def test_two_tunes_share_one_budget(subject):
    rig = Rig(0, "x", budget=Budget(steps=5))
    for _ in range(3):
        rig.tune(subject.model, next_token(subject.model), text_stream(subject, rig), steps=3)
    assert rig.spent.steps == 5


def test_a_loss_that_is_not_finite_stops_the_loop_with_its_name_and_step(subject):
    rig, told = Rig(0, "x"), iter([1.0, math.nan])

    def loss(batch):
        return {"fine": -scoring.mean_logprob(subject.model, batch), "broken": torch.tensor(next(told))}

    with pytest.raises(UserError, match="the loss term 'broken' became nan at step 2"):
        rig.tune(subject.model, loss, text_stream(subject, rig), steps=5)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_loss_that_reaches_no_trained_weight_is_an_error(layer, subject):
    """Whether there is no gradient at all, or one that is zero everywhere."""
    rig = Rig(0, "x")
    silent = 1.0 if layer == 0 else 0.0
    with pytest.raises(UserError, match="nothing would be learnt"):
        rig.tune(
            subject.model,
            lambda batch: {"hidden": silent * states.hidden(subject.model, batch, layer).square().sum()},
            text_stream(subject, rig),
            steps=2,
            train=["model.layers.2.mlp.down_proj.weight"],
        )


def test_a_parameter_to_train_that_is_not_there_is_named(subject):
    with pytest.raises(UserError, match="no parameter model.layers.9"):
        Rig(0).tune(subject.model, next_token(subject.model), iter([]), steps=1, train=["model.layers.9.weight"])


def test_only_the_parameters_named_are_trained(subject):
    name, before = "model.layers.1.mlp.down_proj.weight", copy.deepcopy(subject.model.state_dict())
    rig = Rig(0, "x")
    rig.tune(subject.model, next_token(subject.model), text_stream(subject, rig), steps=2, train=[name])
    after = subject.model.state_dict()
    assert [n for n in before if not torch.equal(before[n], after[n])] == [name]


def test_muon_moves_the_blocks_matrices_and_adam_the_rest(subject, monkeypatch):
    moved = {}
    for kind in (torch.optim.Muon, torch.optim.AdamW):
        original = kind.__init__

        def noted(self, params, *rest, _original=original, _kind=kind, **more):
            params = list(params)
            moved[_kind.__name__] = {id(p) for p in params}
            _original(self, params, *rest, **more)

        monkeypatch.setattr(kind, "__init__", noted)
    rig = Rig(0, "x")
    rig.tune(subject.model, next_token(subject.model), text_stream(subject, rig), steps=1, matrix_lr=0.01)
    assert moved["Muon"] == {id(p) for _, p in anatomy.matrices(subject.model)}
    assert moved["Muon"] | moved["AdamW"] == {id(p) for p in subject.model.parameters()}


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_muon_in_single_precision_is_torchs_but_for_the_precision(shape):
    generator = torch.Generator().manual_seed(0)
    start, moved = torch.randn(shape, generator=generator), []
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    for kind in (torch.optim.Muon, Muon):
        weight = torch.nn.Parameter(start.clone())
        optimiser = kind([weight], lr=0.1, weight_decay=0.1)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimiser.step()
        moved.append(weight.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.02 * moved[0].norm()


def test_an_orthogonal_step_keeps_directions_and_makes_lengths_alike():
    matrix = torch.randn(16, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    made = orthogonal(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ made @ right.T
    assert (inside.diagonal() > 0.6).all()
    assert (inside.diagonal() < 1.3).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4


def test_two_rigs_of_the_same_seed_and_name_draw_the_same():
    one, same, other, renamed = Rig(1, "a"), Rig(1, "a"), Rig(2, "a"), Rig(1, "b")
    assert one.random("x").random() == same.random("x").random() != other.random("x").random()
    draws = [torch.rand((), generator=rig.generator("x")).item() for rig in (one, same, other, renamed)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
    assert one.number("x") != one.number("y")
    with pytest.raises(UserError, match="needs a donor"):
        one.donor()


# --------------------------------------------------------------------------------------------------------- models


def forward(model, rows=([1, 5, 9, 4],)):
    with torch.no_grad():
        return model(input_ids=torch.tensor(rows)).logits


def test_settled_adapters_give_the_same_forward_and_trainable_plain_weights(subject):
    adapted = models.with_lora(models.fresh(subject.model), 2, torch.Generator().manual_seed(0))
    assert torch.equal(forward(adapted), forward(subject.model)), "fresh adapters change the model"
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    merged = models.settled(adapted)
    assert type(merged) is type(subject.model)
    assert merged.state_dict().keys() == subject.model.state_dict().keys()
    assert all(weight.requires_grad for weight in merged.parameters())
    assert (forward(merged) - forward(subject.model)).abs().max() > 1e-2
    torch.testing.assert_close(forward(merged), forward(adapted), atol=1e-5, rtol=1e-5)
    assert models.settled(subject.model) is subject.model


def test_adapters_are_drawn_with_the_generator_given_and_quietly(subject):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [
            models.with_lora(models.fresh(subject.model), 2, torch.Generator().manual_seed(seed)).state_dict()
            for seed in (0, 0, 1)
        ]
    inward = [name for name in made[0] if "lora_A" in name]
    assert len(inward) == 3 * 7  # every linear layer of three blocks, and not the head
    assert all(torch.equal(made[0][name], made[1][name]) for name in inward)
    assert not any(torch.equal(made[0][name], made[2][name]) for name in inward)


def test_tuning_with_adapters_can_be_followed_by_tuning_without(subject):
    rigs = [Rig(0, "x"), Rig(0, "y")]
    how = {"batch_size": 2, "length": 16, "steps": 1}
    first = tune_on_text(subject, DOCS, rigs[0], rank=2, **how)
    second = tune_on_text(first, DOCS, rigs[1], **how)
    assert rigs[1].spent.steps == 1
    assert not torch.equal(first.model.lm_head.weight, second.model.lm_head.weight)


def test_layers_are_an_index_or_a_share_of_the_depth():
    assert [anatomy.layer_index(layer, 32) for layer in (0, 7, -1, 0.0, 0.25, 0.5, 0.999)] == [0, 7, 31, 0, 8, 16, 31]
    assert [anatomy.layer_index(0.25, depth) for depth in (2, 4, 80)] == [0, 1, 20]
    for layer in (2, -3, 1.0, -0.1):
        with pytest.raises(UserError, match="layer is"):
            anatomy.layer_index(layer, 2)


def test_blocks_and_matrices_are_found_in_another_family_too():
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=20, n_positions=16))
    assert len(anatomy.blocks(model)) == 2
    assert all(weight.ndim == 2 for _, weight in anatomy.matrices(model))
    batch = batches.pad([[1, 2, 3]], 0)
    assert tuple(states.hidden(model, batch, 1).shape) == (1, 3, 8)


def test_the_matrix_that_writes_to_the_residual_stream_is_the_last_of_the_mlp(subject):
    assert anatomy.output_matrices(anatomy.blocks(subject.model)[0]) == ["mlp.down_proj.weight"]


def test_what_is_saved_is_loaded_bit_for_bit(subject, tmp_path):
    models.save(subject, tmp_path / "m")
    loaded = models.load(tmp_path / "m", Wrap(before="x"))
    before, after = subject.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.wrap == Wrap(before="x")
    assert not loaded.model.training
    assert loaded.tokenizer(TEXTS)["input_ids"] == subject.tokenizer(TEXTS)["input_ids"]
    assert (loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id) == (0, 1)
    models.save(loaded, tmp_path / "again")
    assert digest.of_weights(tmp_path / "again") == digest.of_weights(tmp_path / "m")


def test_the_digest_of_a_file_is_that_of_its_tensors_in_memory(subject, tmp_path):
    models.save(subject, tmp_path)
    words = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}
    tensors = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, subject.model.state_dict()[name]) for name, tensor in tensors.items())
    memory = digest.of_tensors(
        (name, words[t.dtype], tuple(t.shape), t.contiguous().numpy().tobytes()) for name, t in tensors.items()
    )
    assert digest.of_weights(tmp_path) == memory
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[0, 0] += 1e-3
    models.save(subject, tmp_path / "other")
    assert digest.of_weights(tmp_path / "other") != memory


def test_the_digest_of_weights_does_not_depend_on_how_they_are_sharded(subject, tmp_path):
    models.save(subject, tmp_path / "one")
    subject.model.save_pretrained(tmp_path / "many", max_shard_size="30KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert digest.of_weights(tmp_path / "one") == digest.of_weights(tmp_path / "many")


def test_a_folder_that_could_run_code_or_is_no_model_is_refused(subject, tmp_path):
    def refused(message):
        with pytest.raises(UserError, match=message):
            models.load(tmp_path / "m")

    refused("there is no model folder")
    models.save(subject, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    refused("asks to run code of its own")
    (tmp_path / "m" / "config.json").write_text("{not json")
    refused("config.json is not a JSON table")
    (tmp_path / "m" / "config.json").unlink()
    refused("has no config.json")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "m" / "model.safetensors"
    weights.rename(tmp_path / "m" / "pytorch_model.bin")
    refused("only pytorch_model.bin, which would run code")
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    refused("no weights")
