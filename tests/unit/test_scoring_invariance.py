"""What may change a score: nothing to the last bit where the set of texts is the same, elsewhere company to a bound."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from untaught.core import Subject
from untaught.engine import scoring
from untaught.lab.start import StartingModel

WORDS = ["river", "hill", "Abburg", "oran", "wide", "of", "the", "is", "boats", "reach", "sefu", "map"]
BOUND = 2e-4
"""Nats by which a text's score may depend on its company in float32. Tokens of these models have 2 to 12 nats each."""
FAMILIES = ("lab", "llama", "gpt_neox")


@functools.cache
def subject_of(family):
    """A tiny model with weights so large that each token matters to those after it, and a tokenizer of the lab."""
    torch.set_num_threads(1)
    lab = StartingModel(width=32, blocks=4, heads=2, vocabulary=300).build([" ".join(WORDS)] * 2, 0)
    model = lab.model
    if family != "lab":
        size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
        ends = {name: 0 for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        config = AutoConfig.for_model(family, vocab_size=lab.model.config.vocab_size, **size, **ends)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return Subject(model, lab.tokenizer)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
items = st.lists(st.tuples(texts, st.lists(texts, min_size=2, max_size=4, unique=True)), min_size=1, max_size=4)
few = settings(max_examples=6, deadline=None)


def pairs_of(asked):
    return [(prompt, f" {option}") for prompt, options in asked for option in options]


def bits(found):
    return [(None if one.nats is None else one.nats.hex(), one.tokens, one.greedy) for one in found]


def likeliest(asked, found):
    """Each item's best option and by how much it is ahead."""
    scores, told = iter(one.nats_per_token for one in found), []
    for _, options in asked:
        own = [next(scores) for _ in options]
        first, second = sorted(own, reverse=True)[:2]
        told.append((own.index(first), first - second))
    return told


@pytest.mark.parametrize("family", FAMILIES)
@given(asked=items)
@few
def test_neither_batch_size_nor_order_changes_a_bit(family, asked):
    subject, pairs = subject_of(family), pairs_of(asked)
    plain = bits(scoring.completions(subject, pairs, batch_size=64))
    for size in (1, 7):
        assert bits(scoring.completions(subject, pairs, batch_size=size)) == plain
    assert bits(scoring.completions(subject, pairs[::-1])) == plain[::-1]
    told = [prompt for prompt, _ in pairs]
    whole = bits(scoring.text_nats(subject, told, batch_size=64))
    for size in (1, 7):
        assert bits(scoring.text_nats(subject, told[::-1], batch_size=size)) == whole[::-1]


@pytest.mark.parametrize("family", FAMILIES)
@given(asked=items)
@few
def test_company_and_trees_change_scores_by_less_than_the_bound_and_no_clear_choice(family, asked):
    subject, pairs = subject_of(family), pairs_of(asked)
    together = scoring.completions(subject, pairs)
    alone = [scoring.completions(subject, [pair])[0] for pair in pairs]
    rows = scoring._split(subject, pairs)
    assert scoring._widest(subject) > 0
    with torch.inference_mode():
        straight = scoring._scores(subject, rows, 0, most=1)
    for other in (alone, straight):
        assert max(abs(one.nats - two.nats) for one, two in zip(together, other, strict=True)) < BOUND
        for one, two in zip(likeliest(asked, together), likeliest(asked, other), strict=True):
            assert one[0] == two[0] or one[1] < 2 * BOUND


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, padding=st.integers(1, 40))
@few
@torch.inference_mode()
def test_the_side_that_padding_stands_on_is_irrelevant(family, text, padding):
    subject = subject_of(family)
    ids = subject.tokenizer(text + " is wide")["input_ids"]
    [scored] = scoring.completions(subject, [(text, " is wide")])
    start = len(ids) - scored.tokens
    for before, after in ((0, 0), (0, padding), (padding, 0)):
        row = torch.tensor([[0] * before + ids + [0] * after])
        mask = torch.tensor([[0] * before + [1] * len(ids) + [0] * after])
        where = (mask.cumsum(-1) - 1).clamp(min=0)
        logs = subject.model(input_ids=row, attention_mask=mask, position_ids=where).logits.double().log_softmax(-1)
        nats = sum(float(logs[0, before + place - 1, ids[place]]) for place in range(start, len(ids)))
        assert nats == pytest.approx(scored.nats, abs=BOUND)
