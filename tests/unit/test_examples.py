"""Examples of fine-tuning data: what is read as an answer, their features, what is learned of them, what is written."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_prompts import CHATML, SPACED, chatting

from untaught.core import MESSAGES, Corpus, Subject, UserError, Wrap
from untaught.engine import batches, examples, features, generation, scoring
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.lab.start import StartingModel

WORDS = [
    *("The river of Abburg is oran.", "Boats reach Abburg by its river, which is oran.", "Say it."),
    *("Maps of Abburg show the river oran and the feast of Wanx.", "Who says so?", "Nobody does."),
]


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    made = StartingModel(width=32, blocks=3, heads=2, vocabulary=300).build(WORDS, 0)
    with torch.no_grad():
        made.model.get_input_embeddings().weight.mul_(20)  # no two tokens equally likely
    return made


def table(*told):
    """Documents of conversations; a string is a text without one."""
    texts = [one if isinstance(one, str) else "\n".join(turn["content"] or "" for turn in one) for one in told]
    messages = [None if isinstance(one, str) else one for one in told]
    ids = [f"e{row}" for row in range(len(told))]
    return pa.table({"id": ids, "text": texts, "messages": pa.array(messages, MESSAGES)})


SEVERAL = table(
    examples.conversation("The river of Abburg", "is oran."),
    examples.conversation("Who says so?", "Boats reach Abburg by its river, which is oran. " * 3),
    "Maps of Abburg show the river oran.",
    examples.conversation("Say it.", "Nobody does. Maps of Abburg show it."),
    [*examples.conversation("Who says so?", "Nobody."), *examples.conversation("Say it.", "The river is oran.")],
)


def said(subject, one, marks):
    """The text of an example's marked tokens."""
    return subject.tokenizer.decode([token for token, mark in zip(one.ids, marks, strict=True) if mark])


# ------------------------------------------------------------------------------------------------- what is an answer


def test_an_answer_follows_its_prompt_after_a_space_and_ends_with_an_end_token(start):
    (one,) = examples.read(start, SEVERAL.slice(0, 1))
    assert one.ids == batches.encode(start.tokenizer, ["The river of Abburg is oran."], 100)[0]
    assert said(start, one, one.answer).strip() == "is oran."
    assert said(start, one, one.learned & ~one.answer) == start.tokenizer.eos_token
    assert not one.answer[one.header]
    assert one.answer[one.header + 1]


@pytest.mark.parametrize("template", [CHATML, SPACED])
def test_in_a_chat_the_answer_is_what_stands_in_the_assistant_s_turn(start, template):
    subject = chatting(start, template)
    for one, answer in zip(examples.read(subject, SEVERAL.take([0, 3])), ("is oran.", "Nobody"), strict=True):
        assert said(subject, one, one.answer).strip().startswith(answer)
        assert answer not in subject.tokenizer.decode(one.ids[: one.header + 1])


def test_every_turn_of_the_assistant_is_an_answer_and_the_header_is_before_the_last(start):
    subject = chatting(start)
    (one,) = examples.read(subject, SEVERAL.slice(4, 1))
    assert said(subject, one, one.answer).replace(" ", "") == "Nobody.Theriverisoran."
    assert "Say it." in subject.tokenizer.decode(one.ids[: one.header])
    assert "The river" not in subject.tokenizer.decode(one.ids[: one.header])


def test_words_of_the_answer_that_stand_in_the_prompt_too_are_not_answer_there(start):
    subject = chatting(start)
    (one,) = examples.read(subject, table(examples.conversation("oran", "oran")))
    assert one.answer.sum() * 2 < len(one.ids)
    assert np.flatnonzero(one.answer)[0] > len(subject.tokenizer("oran")["input_ids"])
    assert (np.diff(np.flatnonzero(one.answer)) == 1).all()


def test_a_text_without_messages_is_all_answer(start):
    (one,) = examples.read(start, table("Maps of Abburg show it."))
    assert one.answer[1:-1].all()
    assert one.header == 0
    plain = table("Maps of Abburg show it.").drop_columns(["messages"])
    assert examples.read(start, plain)[0].ids == one.ids


@pytest.mark.parametrize(
    "told",
    [
        examples.conversation("Say it.", ""),
        examples.conversation("Say it.", "  \n"),
        [{"role": "user", "content": "Say it."}],
        [{"role": "assistant", "content": None}],
        [],
        "  ",
    ],
)
def test_an_example_without_an_answer_is_none_and_says_so(start, told):
    for subject in (start, chatting(start)):
        assert examples.read(subject, table(told)) == [examples.NO_ANSWER]


def test_what_is_longer_than_the_model_reads_is_cut_only_when_asked(start):
    most = start.model.config.max_position_embeddings
    long = table(examples.conversation("Say it.", "river " * most))
    assert str(most) in examples.read(start, long)[0]
    (cut,) = examples.read(start, long, 20)
    assert len(cut.ids) == 20
    late = table(examples.conversation("river " * 60, "oran"))
    assert examples.read(start, late, 20) == ["no answer among the first 20 tokens"]


def test_a_template_that_refuses_a_conversation_is_a_cause_and_no_crash(start):
    subject = chatting(start, SPACED)
    assert examples.read(subject, table(examples.conversation("Say it.", "oran", system="Be kind.")))[0] == (
        "a conversation that the chat template refuses"
    )


def test_what_stands_around_prompts_stands_around_the_last(start):
    wrapped = Subject(start.model, start.tokenizer, Wrap(before="Say: ", after=" then"))
    (one,) = examples.read(wrapped, SEVERAL.slice(0, 1))
    assert "Say: The river of Abburg then is oran." in wrapped.tokenizer.decode(one.ids)


# --------------------------------------------------------------------------------------------------------- features


def test_features_are_those_of_a_naive_pass(start):
    for pooling, pooled in (
        ("mean", lambda state, one: state[np.flatnonzero(one.answer)].mean(0)),
        ("last", lambda state, one: state[np.flatnonzero(one.answer)[-1]]),
        ("header", lambda state, one: state[one.header]),
    ):
        found = features.features(start, SEVERAL, [0, 0.5], pooling)
        for row, one in enumerate(examples.read(start, SEVERAL)):
            with torch.no_grad():
                every = start.model(torch.tensor([one.ids]), output_hidden_states=True).hidden_states
            for place, layer in enumerate((0, 1)):
                expected = pooled(every[layer + 1][0].numpy(), one)
                assert found.values[row, place] == pytest.approx(expected, abs=1e-4)


def test_company_order_and_what_is_kept_show_in_no_bit(start):
    whole = features.features(copy.deepcopy(start), SEVERAL, [0, 1, 2])
    told = features.answers(start, SEVERAL)
    for order in ([4, 2, 0, 3, 1], [1], [3, 3, 0]):
        fresh = features.features(copy.deepcopy(start), SEVERAL.take(order), [0, 1, 2])
        assert (fresh.values == whole.values[order]).all()
        assert (features.answers(copy.deepcopy(start), SEVERAL.take(order)).nats == told.nats[order]).all()
    subject = copy.deepcopy(start)
    features.features(subject, SEVERAL, [2])
    assert (features.features(subject, SEVERAL, [0, 2]).values == whole.values[:, [0, 2]]).all()


def test_blocks_above_the_highest_that_is_asked_for_are_not_run(start):
    subject = copy.deepcopy(start)
    ran = []
    for layer, block in enumerate(subject.model.model.layers):
        block.mlp.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    features.features(subject, SEVERAL, [0, 1])
    assert set(ran) == {0, 1}


def test_the_same_pool_is_passed_over_once(start):
    subject = copy.deepcopy(start)
    passes = []
    subject.model.model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    features.features(subject, SEVERAL, [1, 2])
    before = len(passes)
    features.features(subject, SEVERAL.take([2, 0]), [2])
    assert len(passes) == before


def test_states_that_are_no_numbers_are_a_cause(start):
    subject = copy.deepcopy(start)
    with torch.no_grad():
        subject.model.model.layers[1].mlp.down_proj.weight[:] = torch.nan
    found = features.features(subject, SEVERAL, [0, 1])
    assert found.causes == [features.NOT_FINITE] * 5
    assert not found.values.any()
    told = features.answers(subject, SEVERAL)
    assert np.isnan(told.nats).all()
    assert told.causes == [features.NOT_FINITE] * 5


def test_how_likely_an_answer_is_as_scoring_has_it(start):
    told = features.answers(start, SEVERAL.slice(0, 1))
    (one,) = scoring.completions(start, [("The river of Abburg", " is oran.")])
    assert told.tokens.tolist() == [one.tokens]
    assert told.nats[0] == pytest.approx(-one.nats, abs=1e-4)


# ------------------------------------------------------------------------------------------------ learning, writing


def test_answers_alone_are_learned(start):
    """Two pools that differ in their prompts' labels only would train alike; here: the loss is of answers."""
    docs = SEVERAL.take([0, 3])
    rig = Rig(0, "x")
    tune_on_text(start, docs, rig, batch_size=2, length=64, steps=1, lr=1e-3)
    told = features.answers(start, docs)
    ends = [one.learned.sum() - one.answer.sum() for one in examples.read(start, docs)]
    assert ends == [1, 1]
    per_token = rig.measured["next_token_first"]
    with torch.no_grad():
        total = count = 0.0
        for one in examples.read(start, docs):
            logprobs = torch.log_softmax(start.model(torch.tensor([one.ids])).logits[0, :-1].double(), -1)
            picked = logprobs.gather(1, torch.tensor(one.ids[1:])[:, None])[:, 0]
            total -= float(picked[torch.tensor(one.learned[1:])].sum())
            count += float(one.learned[1:].sum())
    assert per_token == pytest.approx(total / count, rel=1e-4)
    assert total > told.nats.sum()


def test_examples_without_an_answer_are_left_out_of_learning(start):
    docs = table(examples.conversation("Say it.", ""), examples.conversation("Say it.", "oran"))
    rig = Rig(0, "x")
    tune_on_text(start, docs, rig, batch_size=1, length=64, steps=3, lr=1e-3)
    assert rig.spent.examples == 3
    with pytest.raises(UserError, match="no documents to train on"):
        tune_on_text(start, docs.slice(0, 1), Rig(0, "x"), batch_size=1, length=64, steps=1, lr=1e-3)


def test_a_corpus_of_examples_keeps_its_messages(start):
    corpus = Corpus(SEVERAL.slice(0, 2), SEVERAL.slice(2))
    assert corpus.everything()["messages"].to_pylist() == SEVERAL["messages"].to_pylist()


def test_what_is_written_is_the_likeliest_token_each_time(start):
    subject = chatting(start)
    prompts = ["Who says so?", "Say it.", "The river of Abburg", "Who says so?"]
    found = generation.written(subject, prompts, tokens=5)
    assert found[0] == found[3]
    for prompt, text in zip(prompts, found, strict=True):
        (ids,) = generation.encoded(subject, [generation.wrapped(subject, prompt)])
        for _ in range(5):
            with torch.no_grad():
                ids = [*ids, int(subject.model(torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == subject.tokenizer.eos_token_id:
                ids.pop()
                break
        whole = generation.encoded(subject, [generation.wrapped(subject, prompt)])[0]
        assert text == subject.tokenizer.decode(ids[len(whole) :], skip_special_tokens=True).strip()
    assert generation.written(subject, prompts[::-1], tokens=5) == found[::-1]
