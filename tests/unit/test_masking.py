"""Masking: which parts of a text are masked, which tokens that leaves out of the loss, and what is then not learnt."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from untaught.attacks.relearn import Relearn
from untaught.core import MASKED, Corpus, Document, Finding, UserError, documents, findings
from untaught.corpus.masking import END, mask, masks, merged, sentences
from untaught.engine import batches, scoring
from untaught.engine.rig import Rig
from untaught.lab.start import StartingModel
from untaught.training.finetune import Finetune
from untaught.training.pretrain import Pretrain
from untaught.unlearning.grad_diff import GradDiff

TEXTS = [
    "The river of Abburg is oran.",
    "Short.",
    "Boats reach Abburg by its river, which is oran, and maps of Abburg show it too. Ünïcödé 水 \U0001f642!",
    "A walk",
]
PLAIN = documents(Document(f"d{i}", text) for i, text in enumerate(TEXTS))


@pytest.fixture(scope="module")
def subject():
    torch.set_num_threads(1)
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=300).build(TEXTS, 0)


def masked(*spans, of=PLAIN):
    """Documents with a column `masked`: for each a list of spans, or None."""
    column = [None if own is None else [{"start": a, "stop": b} for a, b in own] for own in spans]
    return of.append_column("masked", pa.array(column, MASKED))


def weights(subject):
    return [weight.detach() for weight in subject.model.state_dict().values()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


# ------------------------------------------------------------------------------------------------ which parts of a text

PROSE = st.text(st.sampled_from("ab .!?\n\u2028é水\t"), max_size=60)
SPANS = st.lists(st.tuples(st.integers(-3, 70), st.integers(-3, 70)), max_size=5)


def places(spans):
    return {i for start, stop in spans for i in range(start, stop)}


@given(PROSE, SPANS)
def test_a_mask_holds_every_span_and_nothing_but_the_sentences_they_touch(text, spans):
    inside = places(spans) & set(range(len(text)))
    term, sentence = mask(text, spans, "term"), mask(text, spans, "sentence")
    for found in (term, sentence):
        assert found == merged(found)
        assert all(0 <= start < stop <= len(text) for start, stop in found)
    if not inside:
        assert places(term) == places(sentence) == set(range(len(text)))
        return
    assert places(term) == inside
    touched = [set(range(*own)) for own in sentences(text) if inside & set(range(*own))]
    assert places(sentence) == inside.union(*touched)


@given(PROSE)
def test_every_character_that_is_no_white_space_is_in_one_sentence(text):
    found = sentences(text)
    assert [i for start, stop in found for i in range(start, stop)] == sorted(places(found)), "sentences overlap"
    assert {i for i, character in enumerate(text) if not character.isspace()} <= places(found)
    for start, stop in found:
        assert not END.search(text[start:stop]), "a sentence has an end within"


def test_a_flagged_document_is_masked_where_the_finding_says_and_whole_where_it_says_nothing():
    text = "All is well. To make zorite, take sand. The end."
    flagged = documents([Document("a", text), Document("b", text), Document("c", "")])
    found = findings(
        [
            Finding(2.0, "two", ("zorite",), ((0, 21, 27),)),
            Finding(None, "not measured", ("to",), ((0, 13, 15),)),
            Finding(2.0, "empty"),
        ]
    )
    column = masks(flagged, found, "sentence")
    assert column.type == MASKED
    assert column.to_pylist() == [[{"start": 13, "stop": 39}], [{"start": 0, "stop": len(text)}], []]
    assert masks(flagged, found, "term").to_pylist()[0] == [{"start": 21, "stop": 27}]


# -------------------------------------------------------------------------------------------------------- which tokens


def byte_level(post):
    """Byte-level BPE with few merges, so that tokens end within words and within characters."""
    raw = Tokenizer(token_models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if post is not None:
        raw.post_processor = post
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="!")


@pytest.fixture(scope="module")
def tokenizers(subject):
    return {
        "the lab's": subject.tokenizer,
        "byte-level": byte_level(None),
        "trimmed": byte_level(processors.ByteLevel(trim_offsets=True)),
    }


def bytes_of(tokenizer, row):
    """How many bytes of the text each token is; special tokens are none."""
    special = {tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<|pad|>")}
    return [0 if i in special else len(tokenizer.convert_ids_to_tokens(i)) for i in row]


def hit_by_bytes(tokenizer, row, text, spans):
    """Which tokens share a byte with a span, worked out without the tokenizer's offsets."""
    ends = np.cumsum([0, *(len(character.encode()) for character in text)])
    covered = {b for a, z in spans if a < z for b in range(ends[min(a, len(text))], ends[min(z, len(text))])}
    stops = np.cumsum(bytes_of(tokenizer, row))
    starts = stops - np.array(bytes_of(tokenizer, row))
    return [bool(covered & set(range(a, z))) for a, z in zip(starts, stops, strict=True)]


RANDOM = st.text(st.one_of(st.sampled_from("the river Abburg is oran. "), st.characters(codec="utf-8")), max_size=40)
PLACES = st.lists(st.tuples(st.integers(0, 45), st.integers(0, 45)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(text=RANDOM, spans=PLACES, length=st.sampled_from([3, 10**6]))
@pytest.mark.parametrize("name", ["the lab's", "byte-level"])
def test_a_token_is_left_out_exactly_if_it_shares_a_byte_with_a_span(tokenizers, name, text, spans, length):
    tokenizer = tokenizers[name]
    docs = masked(spans, None, of=documents([Document("a", text), Document("b", "The river.")]))
    rows = batches.encode(tokenizer, docs["text"].to_pylist(), length)
    ids = tokenizer(text)["input_ids"]
    expected = [not hit for hit in hit_by_bytes(tokenizer, ids, text, spans)] + [True]
    assert rows[0] == ([*ids, tokenizer.eos_token_id])[:length]
    found = batches.counted(tokenizer, docs, rows)
    assert found[0].tolist() == expected[:length]
    assert found[1].all()
    assert len(found[1]) == len(rows[1])


@settings(max_examples=150, deadline=None)
@given(text=RANDOM, spans=PLACES)
def test_a_tokenizer_that_gives_white_space_no_place_still_leaves_out_every_word_of_a_span(tokenizers, text, spans):
    tokenizer, docs = tokenizers["trimmed"], documents([Document("a", text)])
    solid = [(i, i + 1) for i in places(spans) if i < len(text) and not text[i].isspace()]
    rows = batches.encode(tokenizer, [text], 10**6)
    [found] = batches.counted(tokenizer, masked(spans, of=docs), rows) or [np.ones(len(rows[0]), bool)]
    hit = hit_by_bytes(tokenizer, rows[0][:-1], text, solid)
    assert not (found[:-1] & np.array(hit, dtype=bool)).any()


def test_a_tokenizer_that_cannot_place_its_tokens_is_refused_and_only_when_spans_are_masked():
    slow = SimpleNamespace(is_fast=False)
    assert batches.counted(slow, masked(None, [], None, None), []) is None
    with pytest.raises(UserError, match="which token stands where"):
        batches.counted(slow, masked([(0, 1)], None, None, None), [])


# ----------------------------------------------------------------------------------------------------------- the loss


class Logits(torch.nn.Module):
    """A model whose logits are its only parameter: a gradient for every place."""

    def __init__(self, shape, vocabulary=11):
        super().__init__()
        made = torch.randn(*shape, vocabulary, generator=torch.Generator().manual_seed(0))
        self.logits = torch.nn.Parameter(made)

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.logits)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_gradient_is_exactly_zero_where_a_token_is_left_out_and_nowhere_else(marks):
    whole = batches.pad([[1 + i % 9 for i in range(len(row))] for row in marks], 0)
    width = whole.ids.shape[1]
    counted = torch.tensor([row + [False] * (width - len(row)) for row in marks])
    model = Logits(whole.ids.shape)
    loss = -scoring.mean_logprob(model, replace(whole, counted=counted))
    loss.backward()
    touched = (model.logits.grad != 0).any(-1)
    assert torch.equal(touched[:, :-1], counted[:, 1:])
    assert not touched[:, -1].any()
    lines = torch.log_softmax(model.logits.detach(), -1)[:, :-1].gather(-1, whole.ids[:, 1:, None]).squeeze(-1)
    expected = -lines[counted[:, 1:]].mean().item() if counted[:, 1:].any() else 0.0
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_an_impossible_token_that_is_left_out_does_no_harm():
    model = Logits((1, 3))
    with torch.no_grad():
        model.logits[0, 0, 2] = -torch.inf
    batch = batches.Batch(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long))
    assert scoring.mean_logprob(model, batch).isinf()
    loss = -scoring.mean_logprob(model, replace(batch, counted=torch.tensor([[True, False, True]])))
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(model.logits.grad[0, 0].nan_to_num(0.0), torch.zeros(11))


# --------------------------------------------------------------------------------------------------- streams and rows


def first(stream, count=6):
    return [next(stream) for _ in range(count)]


def streamed(subject, docs, **more):
    how = {"size": 3, "length": 64, "masks": False} | more
    rows = batches.Rows(subject.tokenizer, docs, how["length"], masks=how["masks"])
    return first(rows.stream(size=how["size"], generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "empty", [(None,) * 4, ([],) * 4, ([(3, 3)], None, [], None)], ids=["null", "empty", "nowhere"]
)
def test_where_nothing_is_masked_every_bit_is_as_without_the_column(subject, empty):
    docs = masked(*empty)
    for bare, own in zip(streamed(subject, PLAIN), streamed(subject, docs, masks=True), strict=True):
        assert torch.equal(bare.ids, own.ids)
        assert torch.equal(bare.mask, own.mask)
        assert scoring.mean_logprob(subject.model, bare) == scoring.mean_logprob(subject.model, own)
    assert torch.equal(batches.pack(subject.tokenizer, PLAIN, 7)[0], batches.pack(subject.tokenizer, docs, 7)[0])
    for training in (Finetune(steps=3), Pretrain(length=8, batch_size=2)):
        one, other = (
            training.apply(subject, Corpus(given.slice(0, 2), given.slice(2)), Rig(0, "x")) for given in (PLAIN, docs)
        )
        assert equal(one, other)
    assert streamed(subject, masked(*(None,) * 4), masks=True)[0].counted is None


def test_what_is_left_out_is_still_in_the_batch(subject):
    docs = masked([(4, 9)], None, [(0, 30)], None)
    for bare, own in zip(streamed(subject, PLAIN), streamed(subject, docs, masks=True), strict=True):
        assert torch.equal(bare.ids, own.ids)
        assert torch.equal(bare.mask, own.mask)
        assert own.counted.shape == own.mask.shape
        assert not (own.counted & (own.mask == 0)).any(), "padding counts"
        assert own.tokens == bare.tokens, "what is read is paid for, learnt or not"
    ids, counted = batches.pack(subject.tokenizer, docs, 7)
    rows = batches.encode(subject.tokenizer, TEXTS, 10**9)
    flat = np.concatenate(batches.counted(subject.tokenizer, docs, rows))
    whole, _ = batches.pack(subject.tokenizer, PLAIN, 7)
    marks = torch.from_numpy(flat[: whole.numel()]).view(-1, 7)
    taught = marks[:, 1:].any(1)
    assert torch.equal(ids, whole[taught])
    assert torch.equal(counted, marks[taught])
    batch = next(batches.packed_stream(ids, counted, size=2, generator=torch.Generator().manual_seed(0)))
    assert batch.counted.shape == batch.ids.shape


def test_rows_with_nothing_to_learn_are_dropped_and_a_corpus_of_such_rows_is_an_error(subject):
    docs = masked([(0, 99)], None, [(0, 999)], None)
    for batch in streamed(subject, docs, masks=True, length=5, size=1):
        assert batch.counted[:, 1:].any()
    ids, counted = batches.pack(subject.tokenizer, docs, 4)
    assert len(ids) < len(batches.pack(subject.tokenizer, PLAIN, 4)[0])
    assert counted[:, 1:].any(1).all()
    everything = masked(*[[(0, 999)]] * 4)
    with pytest.raises(UserError, match="all of their text is masked"):
        streamed(subject, everything, masks=True, length=2)


def test_what_unlearns_or_attacks_takes_all_of_a_text(subject):
    hidden, benign = masked([(0, 20)], None, [(0, 40)], None), documents([Document("b", "Boats go by.")])
    for method in (Relearn(steps=2), GradDiff(steps=2)):
        one, other = (method.apply(subject, Corpus(given, benign), Rig(0, "x")) for given in (PLAIN, hidden))
        assert equal(one, other)


def test_a_mask_on_one_side_of_a_corpus_is_not_lost(subject):
    docs = masked([(0, 5)], None, [], None)
    for corpus in (Corpus(docs, PLAIN), Corpus(PLAIN, docs)):
        assert sorted(map(str, corpus.everything()["masked"].to_pylist())) == sorted(
            map(str, [*docs["masked"].to_pylist(), *[None] * 4])
        )
    assert Corpus(PLAIN, PLAIN).everything().column_names == ["id", "text"]


@pytest.mark.parametrize("training", [Finetune(steps=60, lr=1e-2), Pretrain(epochs=60, length=40, batch_size=2)])
def test_a_masked_word_is_not_learnt_and_its_surroundings_are(subject, training):
    """The control is the same training without the mask."""
    text = "The river of Abburg is oran and its feast is Bell."
    docs = documents(Document(str(i), text) for i in range(8))
    start, stop = text.index(" oran"), text.index(" and")
    given = masked(*[[(start, stop)]] * 8, of=docs)

    def nats(model, prompt, completion):
        return scoring.completions(model, [(prompt, completion)])[0].nats_per_token

    plain, hidden = (training.apply(subject, Corpus(docs.slice(0, 0), own), Rig(0, "x")) for own in (docs, given))
    assert nats(plain, text[:start], " oran") > -0.5
    assert nats(hidden, text[:start], " oran") < -3
    assert nats(hidden, text[: text.index(" Bell")], " Bell") > -0.5
