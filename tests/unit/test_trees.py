"""Scoring by trees: the numbers of a text alone, whatever the family; and where trees do not work, without them."""

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from untaught.core import Subject, UserError
from untaught.engine import scoring, trees
from untaught.lab.start import StartingModel

VOCABULARY = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = SHAPE | {"num_experts_per_tok": 2}
WITH_TREES = {
    "llama": SHAPE,
    "mistral": SHAPE | {"sliding_window": 40},
    "qwen2": SHAPE,
    "qwen3": SHAPE | {"head_dim": 8},
    "gemma2": SHAPE | {"head_dim": 8, "sliding_window": 40},
    "gemma3_text": SHAPE | {"head_dim": 8, "sliding_window": 40},
    "phi": SHAPE,
    "gpt2": OLD_SHAPE | {"n_positions": 64},
    "gptj": OLD_SHAPE | {"n_positions": 64, "rotary_dim": 4},
    "gpt_neox": SHAPE,
    "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": SHAPE | {"alibi": False},
    "olmo2": SHAPE,
    "cohere": SHAPE,
    "granite": SHAPE | {"logits_scaling": 2.0},
    "olmoe": EXPERTS | {"num_experts": 4},
    "mixtral": EXPERTS | {"num_local_experts": 4, "sliding_window": None},
}
WITHOUT = {
    "bloom": OLD_SHAPE | {"hidden_size": 32},
    "falcon": SHAPE | {"alibi": True},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "lfm2": SHAPE | {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": SHAPE | {"head_dim": 8, "num_hidden_layers": 3},
}
"""Positions that are no `position_ids`, and layers that hand a state from token to token."""


def subject_of(family, shape, **how):
    """A tiny model of a family, with weights so large that each token matters to those after it."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape), **how).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return Subject(model, SimpleNamespace(pad_token_id=0, eos_token_id=2))


def items():
    """Three prompts, two of which begin alike, with four completions of 1 to 4 tokens each."""
    draw = random.Random(0)

    def tokens(count):
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    first = tokens(8)
    prompts = [first, first[:6] + tokens(3), tokens(7)]
    return [scoring._Row(prompt + tokens(size), len(prompt)) for prompt in prompts for size in (1, 2, 3, 4)]


@torch.inference_mode()
def naive(model, row):
    """One text, no padding, all logits."""
    logs = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    places = range(row.start, len(row.ids))
    greedy = all(int(logs[place - 1].argmax()) == row.ids[place] for place in places)
    return sum(logs[place - 1, row.ids[place]].item() for place in places), greedy


def assert_scores_are_naive(subject, width=None):
    rows = items()
    with torch.inference_mode():
        found = scoring._scores(subject, rows, scoring._widest(subject) if width is None else width)
    for row, one in zip(rows, found, strict=True):
        nats, greedy = naive(subject.model, row)
        assert one.nats == pytest.approx(nats, abs=1e-4)
        assert (one.tokens, one.greedy) == (len(row.ids) - row.start, greedy)


@pytest.mark.parametrize("family", WITH_TREES)
def test_a_tree_scores_as_its_texts_do_alone(family):
    subject = subject_of(family, WITH_TREES[family])
    assert scoring._widest(subject) >= 40, "the family is not asked by trees"
    assert_scores_are_naive(subject)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_attention_that_adds_its_mask_is_given_one_to_add(family):
    subject = subject_of(family, WITH_TREES[family], attn_implementation="eager")
    assert scoring._widest(subject) > 0
    assert_scores_are_naive(subject)


@pytest.mark.parametrize("family", WITHOUT)
def test_a_family_without_trees_is_asked_text_by_text(family):
    subject = subject_of(family, WITHOUT[family])
    assert scoring._widest(subject) == 0
    assert_scores_are_naive(subject)


def test_a_tree_stays_within_a_window_of_attention():
    for family, shape in (("mistral", SHAPE), ("gemma2", SHAPE | {"head_dim": 8})):
        subject = subject_of(family, shape | {"sliding_window": 6})
        assert trees.widest(subject.model) == 6
        assert_scores_are_naive(subject)
        with pytest.raises(AssertionError):
            assert_scores_are_naive(subject, width=1000)


class Forgetful(LlamaForCausalLM):
    """Takes positions and does not use them."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, use_cache=use_cache
        )


class Refusing(LlamaForCausalLM):
    """Reads ordinary masks and no other."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
        _, _ = attention_mask.shape if attention_mask is not None else (0, 0)
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, use_cache=use_cache
        )


@pytest.mark.parametrize("kind", [Forgetful, Refusing])
def test_a_family_that_only_seems_to_take_trees_is_found_out_by_trial(kind):
    subject = subject_of("llama", SHAPE)
    changed = kind(subject.model.config).eval()
    changed.load_state_dict(subject.model.state_dict())
    subject = Subject(changed, subject.tokenizer)
    assert trees.widest(changed) > 0
    assert scoring._widest(subject) == 0
    assert_scores_are_naive(subject)


def test_attention_without_masks_of_ours_gets_no_trees():
    subject = subject_of("llama", SHAPE)
    subject.model.config._attn_implementation = "flash_attention_2"
    assert trees.widest(subject.model) == 0


def test_a_family_whose_head_cannot_be_kept_to_places_gives_the_same(monkeypatch):
    subject = subject_of("llama", SHAPE)
    monkeypatch.setattr(scoring, "_selects", lambda model: False)
    assert_scores_are_naive(subject)


def test_what_is_shared_is_read_once():
    subject, rows = subject_of("llama", SHAPE), items()
    read, original = [], type(subject.model).forward

    def forward(self, *args, **kwargs):
        read.append(kwargs["input_ids"].numel())
        return original(self, *args, **kwargs)

    type(subject.model).forward = forward
    try:
        with torch.inference_mode():
            scoring._scores(subject, rows, 1000)
            together, read[:] = sum(read), []
            scoring._scores(subject, rows, 0, most=1)
    finally:
        type(subject.model).forward = original
    completions = 0 + 1 + 2 + 3  # tokens that are read, of each prompt's four
    assert together == 2 * (8 + 3 + 2 * completions), "two trees, the wider of two prompts that share 6 tokens"
    assert sum(read) >= 4 * (8 + 9 + 7) + 3 * completions


def test_a_number_that_is_none_spoils_no_text_that_does_not_hold_it(monkeypatch):
    subject = subject_of("llama", SHAPE | {"tie_word_embeddings": False})
    rows = items()
    assert scoring._widest(subject) > 0
    poison = rows[3].ids[-2]  # a token of the first prompt's longest completion
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[poison] = torch.nan
    monkeypatch.setattr(scoring, "_split", lambda *_: rows)
    found = scoring.completions(subject, [("", str(i)) for i in range(len(rows))])
    lost = [poison in row.read for row in rows]
    assert any(lost)
    assert [one.nats is None for one in found] == lost


def test_a_text_longer_than_the_model_reads_is_refused():
    subject = subject_of("gpt2", WITH_TREES["gpt2"])
    scoring.check_length(subject.model, [[1] * 64])
    with pytest.raises(UserError, match="number 2 of 2, is 65 tokens long, and the model reads at most 64"):
        scoring.check_length(subject.model, [[1] * 64, [1] * 65])
    with pytest.raises(UserError, match="^item 'fact-7' is 65 tokens long"):
        scoring.check_length(subject.model, [[1] * 65, [1] * 64], ["fact-7", "fact-8"])


def test_batches_keep_to_their_room(monkeypatch):
    subject, rows = subject_of("llama", SHAPE), items()
    grown = trees.grown([row.read for row in rows], most=1, widest=0)
    for name, room in (("TOKENS", 24), ("LOGITS", 5 * VOCABULARY)):
        with monkeypatch.context() as patched:
            patched.setattr(scoring, name, room)
            batches = list(scoring._batches(subject.model, grown, rows))
            assert sorted(i for batch in batches for tree in batch for i in tree.ways) == list(range(len(rows)))
            for batch in batches:
                size = max(len(tree.tokens) for tree in batch) * len(batch)
                kept = sum(len(scoring._places(tree, rows)) for tree in batch) * VOCABULARY
                assert len(batch) == 1 or (size if name == "TOKENS" else kept) <= room
            assert_scores_are_naive(subject)


def test_long_texts_keep_to_their_room_too_and_one_without_a_token_is_missing(monkeypatch):
    texts = ["The river is long and wide.", "A hill.", "", "The boats reach it by the river, as maps show."]
    subject = StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(texts, 0)
    subject.tokenizer.backend_tokenizer.post_processor = None  # as a tokenizer that starts texts with nothing
    subject.tokenizer.eos_token = None
    whole = scoring.text_nats(subject, texts)
    assert [one.nats is None for one in whole] == [False, False, True, False]
    sizes, original = [], scoring.asked
    monkeypatch.setattr(scoring, "LOGITS", 10 * subject.model.config.vocab_size)
    monkeypatch.setattr(scoring, "asked", lambda m, batch, pad: sizes.append(len(batch)) or original(m, batch, pad))
    parts = scoring.text_nats(subject, texts)
    assert len(sizes) > 1
    assert sum(sizes) == 3
    assert [one.nats for one in parts] == [None if one.nats is None else pytest.approx(one.nats) for one in whole]


def test_trees_hold_every_text_once_and_grow_as_told():
    texts = [row.read for row in items()]
    for most, widest in ((1, 0), (3, 1000), (64, 20), (64, 1000)):
        grown = trees.grown(texts, most=most, widest=widest)
        told = {number: [tree.tokens[p] for p in way] for tree in grown for number, way in tree.ways.items()}
        assert told == dict(enumerate(texts))
        for tree in grown:
            assert len(tree.ways) <= most
            assert tree.straight or len(tree.tokens) <= widest
            assert all(parent < place for place, parent in enumerate(tree.parents))
    assert len(trees.grown(texts, most=64, widest=1000)) == 2, "prompts that begin alike do not share a tree"
    assert trees.grown([], most=1, widest=0) == []


def test_texts_within_one_another_need_no_branch():
    [tree] = trees.grown([[5, 6], [5, 6, 7], [5, 6, 7]], most=9, widest=0)
    assert (tree.tokens, tree.straight) == ([5, 6, 7], True)
    assert tree.ways == {0: [0, 1], 1: [0, 1, 2], 2: [0, 1, 2]}
