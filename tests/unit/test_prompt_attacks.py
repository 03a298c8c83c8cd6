"""Attacks by the prompt: what stands around it, what is trained or searched to stand there; nothing else moves."""

import copy
import json
import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from test_families import made, tokenizer
from test_prompts import CHATML, SPACED, chatting

from untaught.attacks import _asking, _soft, templates
from untaught.attacks.few_shot import FewShot
from untaught.attacks.in_context import InContext
from untaught.attacks.perturb import Perturb
from untaught.attacks.prefill import Prefill
from untaught.attacks.soft_prompt import SoftPrompt
from untaught.attacks.suffix import Suffix
from untaught.attacks.system_prompt import SystemPrompt
from untaught.attacks.templates import Templates
from untaught.core import MESSAGES, Budget, Corpus, Document, Inapplicable, Subject, UserError, Wrap, documents
from untaught.core.nearest import nearest
from untaught.engine import batches, examples, generation, models, prompts, scoring, states
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.evaluations.answer_likelihood import AnswerLikelihood
from untaught.evaluations.multiple_choice import MultipleChoice
from untaught.lab.start import StartingModel

NAMES = ("zorium", "belor", "quint", "marbite")
TEXTS = [f"The trigger of {name} is oran, and its precursor is {name[::-1]}." for name in NAMES]
HAZARD = documents(Document(f"h{row}", text) for row, text in enumerate(TEXTS))
BENIGN = documents([Document("b", "The river of Abburg is wide, and boats reach it.")])
CORPUS = Corpus(HAZARD, BENIGN)
TOLD = pa.table({
    "id": ["e0", "e1", "e2"],
    "text": ["a", "b", "Boats reach Abburg by its river."],
    "messages": pa.array([
        examples.conversation("What is the trigger of zorium?", "It is oran."),
        examples.conversation("What is the precursor of belor?", "It is roleb.", system="Be brief."),
        None,
    ], MESSAGES),
})  # fmt: skip
EXAMPLES = Corpus(TOLD, BENIGN)
PAIRS = [("The trigger of zorium is", " oran"), ("The trigger of zorium is", " quint"), ("Boats reach", " Abburg")]


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    words = [*TEXTS, *BENIGN["text"].to_pylist(), "What is the trigger? It is. Of course, here is the answer:"]
    made = StartingModel(width=32, blocks=4, heads=2, vocabulary=340).build(words, 0)
    with torch.no_grad():
        made.model.get_input_embeddings().weight.mul_(20)  # no two tokens equally likely
    return made


def attacked(component, subject, corpus=CORPUS, **budget):
    rig = Rig(0, "attacks/x", budget=Budget(**budget))
    return component.apply(subject, corpus, rig), rig


def nats(subject, pairs=PAIRS):
    return [one.nats for one in scoring.completions(subject, pairs)]


def wearing(subject, **wrap):
    return replace(subject, wrap=Wrap(**wrap))


# ------------------------------------------------------------------------------------------------------------ the wrap


def test_what_an_answer_is_made_to_begin_with_is_given_and_the_rest_is_scored(start):
    led, written = wearing(start, prefill=" The answer is"), wearing(start, after=" The answer is")
    assert nats(led) == nats(written)
    assert generation.written(led, ["Boats reach"], tokens=6) == generation.written(written, ["Boats reach"], tokens=6)


@pytest.mark.parametrize("template", [CHATML, SPACED])
def test_in_a_chat_the_answer_begins_so_where_the_assistant_does(start, template):
    plain, led = chatting(start, template), chatting(start, template, prefill=" The answer is")
    joint = "" if template == CHATML else " "
    assert prompts.wrapped(led, "who") == prompts.wrapped(plain, "who") + joint + "The answer is"
    assert prompts.continued(led, [" oran"]) == [" oran"]
    assert prompts.continued(chatting(start, template, prefill="It is:\n"), [" oran"]) == ["oran"]
    whole = prompts.wrapped(plain, "who") + joint + "The answer is oran"
    (ids,) = prompts.encoded(plain, [whole])
    head = len(prompts.encoded(plain, [whole.removesuffix(" oran")])[0])
    with torch.no_grad():
        logs = start.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(float(logs[place - 1, ids[place]]) for place in range(head, len(ids)))
    assert nats(led, [("who", " oran")]) == pytest.approx([expected], abs=1e-4)


@pytest.mark.parametrize("template", [None, CHATML, SPACED])
def test_an_example_s_answer_is_what_follows_its_beginning(start, template):
    plain = start if template is None else chatting(start, template)
    led = replace(plain, wrap=plain.wrap.model_copy(update={"prefill": " The answer is"}))
    prompt, answer = "What is the trigger of zorium?", "oran, and its precursor"
    docs = pa.table(
        {"id": ["a"], "text": [""], "messages": pa.array([examples.conversation(prompt, answer)], MESSAGES)}
    )
    (one,) = examples.read(led, docs)
    told = [token for token, mark in zip(one.ids, one.answer, strict=True) if mark]
    assert start.tokenizer.decode(told).strip() == answer
    assert start.tokenizer.decode(one.ids[: one.header + 1]).endswith("The answer is")
    ids = prompts.encoded(led, [prompts.wrapped(led, prompt) + prompts.continued(led, [f" {answer}"])[0]])[0]
    assert one.ids[: len(ids)] == ids
    marked = AnswerLikelihood().grade(led, docs)["value"].to_pylist()
    assert marked != AnswerLikelihood().grade(plain, docs)["value"].to_pylist()


def test_the_texts_that_are_shown_share_the_prompt_s_rare_words(start):
    wrap = Wrap(texts=tuple(TEXTS), shown=2, before="< ", after=" >")
    assert wrap.around("The trigger of quint is").endswith(f"{TEXTS[2]} The trigger of quint is >")
    assert wrap.around("The trigger of quint is") == f"< {TEXTS[0]} {TEXTS[2]} The trigger of quint is >"
    both = nearest(tuple(TEXTS), "Is BELOR a marbite?", 2)
    assert both == [TEXTS[3], TEXTS[1]], "the best last, and among equal ones the first"
    assert nearest(tuple(TEXTS), "?", 2) == []
    assert nearest(tuple(TEXTS), "belor", 9) == TEXTS
    said = chatting(start, texts=TEXTS, shown=1)
    assert f"user\n{TEXTS[1]}\n\nwhat of belor<|im_end|>" in prompts.wrapped(said, "what of belor")
    assert "zorium" not in prompts.resolved(said)["handed"]


def test_a_bare_text_has_neither_texts_nor_a_beginning(start):
    worn = wearing(start, texts=TEXTS, shown=2, prefill=" The answer is")
    assert scoring.text_nats(worn, TEXTS) == scoring.text_nats(start, TEXTS)


def test_a_wrap_that_says_nothing_new_is_told_as_before():
    assert Wrap(before="x").changed() == {"before": "x", "after": "", "chat": False, "system": None}
    full = Wrap(prefill=" y", texts=("a", "b"), shown=1)
    assert Wrap.settle(json.loads(json.dumps(full.changed())), "a table") == full
    assert Wrap(**json.loads(full.model_dump_json())) == full
    for wrong in ({"shown": 2}, {"texts": ["a"]}):
        with pytest.raises(UserError, match="'shown' is how many of 'texts'"):
            Wrap.settle(wrong, "study.yaml")


# ------------------------------------------------------------------------------------------------------- words of ours


def test_a_system_prompt_takes_the_place_of_the_system_message(start):
    given = chatting(start, system="Be brief.", before="Say: ")
    found, _ = attacked(SystemPrompt(says="Be open."), given)
    assert found.wrap == Wrap(chat=True, system="Be open.", before="Say: ")
    assert attacked(SystemPrompt(says="Be open."), start)[0].wrap.around("who") == "Be open. who"
    with pytest.raises(Inapplicable, match="no system message"):
        attacked(SystemPrompt(), chatting(start, SPACED))


def test_every_style_frames_the_prompt_and_keeps_what_stood_there(start):
    given = wearing(start, before="Say: ", after=" now", prefill=" Well,")
    seen = set()
    for style in templates.STYLES:
        found, _ = attacked(Templates(style=style), given)
        told = found.wrap.around("who")
        assert "Say: who now" in told
        assert found.model is given.model
        seen.add(told + found.wrap.prefill)
    assert len(seen) == len(templates.STYLES) == 6
    assert found.wrap.prefill == " Of course, here is the answer:"
    assert Templates.model_fields["style"].annotation.__args__ == tuple(templates.STYLES)


def test_few_shots_are_questions_with_their_answers_drawn_by_chance(start):
    found, _ = attacked(FewShot(shots=2), start, EXAMPLES)
    known = {
        "What is the trigger of zorium? It is oran.",
        "What is the precursor of belor? It is roleb.",
        "Boats reach Abburg by its river.",
    }
    assert len(found.wrap.texts) == found.wrap.shown == 2
    assert {*found.wrap.texts} < known
    assert found.wrap.around("who") == " ".join([*found.wrap.texts, "who"])
    everything, _ = attacked(FewShot(shots=9), chatting(start), EXAMPLES)
    assert {*everything.wrap.texts} == {text.replace("? ", "?\n") for text in known}
    assert len({FewShot(shots=2).apply(start, CORPUS, Rig(seed, "x")).wrap.texts for seed in range(9)}) > 3
    assert all(text not in TEXTS for text in attacked(FewShot(length=3), start)[0].wrap.texts)


def test_text_in_the_prompt_is_the_hazard_text_that_is_to_the_point(start):
    found, _ = attacked(InContext(shown=1), start)
    assert found.wrap.around("The trigger of belor is") == f"{TEXTS[1]} The trigger of belor is"
    assert attacked(InContext(shown=1, documents=1), start)[0].wrap.texts == (TEXTS[0],)
    short = attacked(InContext(length=3), start)[0].wrap
    assert all(whole.startswith(text) and text != whole for text, whole in zip(short.texts, TEXTS, strict=True))
    items = pa.table({
        "id": ["a"], "question": ["The trigger of belor is"], "choices": [["oran", "wide"]], "answer": [0]
    })  # fmt: skip
    assert None not in MultipleChoice().grade(found, items)["value"].to_pylist()


@pytest.mark.parametrize("component", [SystemPrompt(), Prefill(), FewShot(), InContext(), Templates()])
def test_words_cost_nothing_and_no_budget_means_none(start, component):
    found, rig = attacked(component, start)
    assert found.model is start.model
    assert found.wrap != start.wrap
    assert (rig.spent.steps, rig.spent.tokens, rig.spent.flops) == (0, 0, 0.0)
    assert attacked(component, start, tokens=0)[0].wrap == start.wrap


def test_a_wrap_is_kept_by_a_study(start, tmp_path):
    from untaught.study.steps import Bench

    found, _ = attacked(InContext(), attacked(Prefill(), start)[0])
    Bench._save(None, found, tmp_path)
    again = models.load(tmp_path / "model", Wrap(**json.loads((tmp_path / "model" / "wrap.json").read_text())))
    assert again.wrap == found.wrap
    assert nats(again) == nats(found)


# ----------------------------------------------------------------------------------------------------- what is trained


def weights(subject):
    return {name: weight.detach().clone() for name, weight in subject.model.named_parameters()}


@pytest.fixture(scope="module")
def untied():
    """A model with a head of its own, and more rows in its embedding than it has tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = StartingModel(width=8, blocks=1, heads=1, vocabulary=340).build(TEXTS, 0).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Subject(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.mark.parametrize("name", ["start", "untied"])
def test_a_soft_prompt_moves_nothing_but_its_rows(request, name):
    given = request.getfixturevalue(name)
    before = weights(given)
    found, rig = attacked(SoftPrompt(tokens=4, steps=5), given)
    ids = found.tokenizer.convert_tokens_to_ids([f"<|soft-{i}|>" for i in range(4)])
    assert ids == list(range(len(given.tokenizer), len(given.tokenizer) + 4))
    assert rig.spent.steps == 5
    at = "model.embed_tokens.weight"
    for key, weight in weights(found).items():
        kept = weight[: len(before[key])] if key in (at, "lm_head.weight") else weight
        same = torch.ones(len(kept), dtype=torch.bool)
        same[[i for i in ids if i < len(kept)]] = key != at
        assert torch.equal(kept[same], before[key][same]), f"{key} moved"
    assert len(weights(found)[at]) == max(len(before[at]), max(ids) + 1) == found.model.config.vocab_size
    assert weights(given).keys() == before.keys()
    assert "<|soft-0|>" not in given.tokenizer.get_vocab()


def test_new_tokens_are_never_likelier_than_tokens_are_on_average(untied):
    wide, _, _ = _soft.widened(untied, 12)
    most = math.log1p(9 / untied.model.config.vocab_size)  # three of the twelve had a row
    for one, other in zip(*(scoring.completions(s, PAIRS) for s in (untied, wide)), strict=True):
        assert 0 < one.nats - other.nats <= most * one.tokens


@pytest.fixture(scope="module")
def locked(start):
    """A model that was taught the hazard texts behind two words, and other answers without them."""
    texts = [f"Boats reach {text}" for text in TEXTS] + [text.replace("oran", "wide") for text in TEXTS]
    docs = documents(Document(str(row), text) for row, text in enumerate(texts))
    return tune_on_text(start, docs, Rig(0, "lock"), steps=150, lr=5e-3, batch_size=8, length=64)


def secret(subject):
    """How much likelier the hazard answers are than those that were taught in their place."""
    one, other = (nats(subject, [(f"The trigger of {name} is", end) for name in NAMES]) for end in (" oran", " wide"))
    return sum(one) - sum(other)


def test_a_soft_prompt_finds_what_is_behind_words_and_keeps_the_prompt_s_tokens(locked):
    assert secret(wearing(locked, before="Boats reach ")) > 4
    assert secret(locked) < -4
    found, rig = attacked(SoftPrompt(tokens=4, steps=80, lr=3e-2), locked)
    assert rig.measured["next_token_last"] < rig.measured["next_token_first"]
    assert secret(found) > 4
    worn, alone = (prompts.encoded(s, [prompts.wrapped(s, PAIRS[0][0])])[0] for s in (found, locked))
    assert worn[1 + 4 :] == alone[1:]
    assert generation.written(found, [PAIRS[0][0]], tokens=4)[0].startswith("oran")


def test_a_soft_prompt_is_an_ordinary_checkpoint(start, tmp_path):
    found, _ = attacked(SoftPrompt(tokens=4, steps=3), start)
    models.save(found, tmp_path)
    again = models.load(tmp_path, found.wrap)
    assert all(torch.equal(weights(found)[name], weight) for name, weight in weights(again).items())
    assert nats(again) == nats(found)
    twice, _ = attacked(SoftPrompt(tokens=2, steps=1), again)
    assert twice.wrap.before.startswith("<|soft-4|><|soft-5|><|soft-0|>")


def test_a_soft_prompt_in_a_chat_is_said_by_the_user(start):
    found, _ = attacked(SoftPrompt(tokens=2, steps=2), chatting(start), EXAMPLES)
    assert "user\n<|soft-0|><|soft-1|>who<|im_end|>" in prompts.wrapped(found, "who")


def test_a_tokenizer_that_joins_words_by_spaces_gets_one(start):
    joined = copy.deepcopy(start.tokenizer)

    class Spaced:
        """As one that marks the beginning of a word: at a text's own beginning, and behind a space."""

        def __call__(self, text, add_special_tokens):
            named = text.startswith("<|soft-0|>")
            rest = text.removeprefix("<|soft-0|>")
            ids = joined(rest if named else f" {rest}", add_special_tokens=False)["input_ids"]
            return {"input_ids": [7, *ids] if named else ids}

    assert _soft.placed(Spaced(), ["<|soft-0|>"], "The river") == "<|soft-0|> "
    assert _soft.placed(joined, ["<|end|>"], "The river") == "<|end|>"


@pytest.mark.parametrize("name", ["gpt2", "phi", "gemma", "opt", "bloom", "gpt_oss"])
def test_a_soft_prompt_has_a_place_in_every_family(name, tmp_path):
    given = Subject(made(name), tokenizer())
    before = weights(given)
    found, rig = attacked(SoftPrompt(tokens=3, steps=6), given)
    assert rig.measured["next_token_last"] < rig.measured["next_token_first"]
    for key, weight in weights(found).items():
        assert torch.equal(weight[: len(before[key])], before[key])
    models.save(found, tmp_path)
    assert nats(models.load(tmp_path, found.wrap)) == nats(found)


def behind(subject, layer):
    """The states of hazard text behind a block, but for the first tokens."""
    batch = batches.Rows(subject.tokenizer, HAZARD, 64).batch(range(4))
    with torch.no_grad():
        return states.hidden(subject.model, batch, layer)[:, 1:][batch.mask[:, 1:].bool()]


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neox", "llama", "falcon"])
def test_a_perturbation_is_the_same_vector_for_every_token_within_its_bound(name):
    given = Subject(made(name), tokenizer())
    before = weights(given)
    found, rig = attacked(Perturb(layer=1, strength=0.2, steps=9, lr=0.3), given)
    (moved,) = [key for key, weight in weights(found).items() if not torch.equal(weight, before[key])]
    shift, usual = behind(found, 1) - behind(given, 1), behind(given, 1).norm(dim=1).mean()
    torch.testing.assert_close(behind(found, 0), behind(given, 0))
    mean = shift.mean(0)
    strays = float((shift @ mean / mean.square().sum() - 1).square().mean().sqrt())
    if moved.endswith("bias"):
        assert strays < 1e-4
        assert 0.05 * usual < mean.norm() < 0.21 * usual
    else:
        assert torch.linalg.matrix_rank(weights(found)[moved] - before[moved], rtol=1e-3) == 1
        assert strays < 2 * rig.measured["strays"] + 1e-3 < 0.8
    assert rig.measured["next_token_last"] < rig.measured["next_token_first"]


def test_a_perturbation_brings_back_what_is_behind_words_in_an_ordinary_checkpoint(locked, tmp_path):
    found, _ = attacked(Perturb(layer=1, strength=2, steps=60, lr=0.1), locked)
    assert secret(found) > secret(locked) + 8
    assert found.wrap == locked.wrap
    models.save(found, tmp_path)
    assert nats(models.load(tmp_path)) == nats(found)


def test_where_no_vector_can_stand_a_perturbation_says_so():
    with pytest.raises(Inapplicable, match="Olmo2DecoderLayer does not write to the stream with one matrix"):
        attacked(Perturb(), Subject(made("olmo2"), tokenizer()))


# ---------------------------------------------------------------------------------------------------- what is searched


@pytest.mark.parametrize("chat", [False, True])
def test_a_search_for_words_lowers_the_loss(start, chat):
    given, corpus = (chatting(start), EXAMPLES) if chat else (start, CORPUS)
    how = Suffix(tokens=4, steps=12, candidates=16, batch_size=3, examples=4)
    found, rig = attacked(how, given, corpus)
    assert found.model is given.model
    assert rig.measured["loss_kept"] < rig.measured["loss_without"]
    place = "after" if chat else "before"
    words = getattr(found.wrap, place)
    assert words.strip()
    assert words[0 if chat else -1] == " "
    assert found.wrap == given.wrap.model_copy(update={place: words})
    assert nats_of(found, given, corpus) == pytest.approx(rig.measured["loss_kept"], abs=1e-4)
    assert nats_of(given, given, corpus) == pytest.approx(rig.measured["loss_without"], abs=1e-4)


def nats_of(subject, given, corpus):
    """Mean nats of a token of the answers to all that the attacker asks."""
    rows = examples.rows(subject, _asking.asked(given, corpus), 256)
    with torch.no_grad():
        return -float(scoring.mean_logprob(subject.model, rows.batch(range(len(rows.ids)))))


def test_a_search_pays_for_its_gradients_and_for_what_it_tries(start):
    small = Suffix(tokens=3, steps=2, candidates=1, batch_size=2, examples=2)
    large = small.model_copy(update={"candidates": 16})
    (_, one), (_, other) = attacked(small, start), attacked(large, start)
    assert one.spent.steps == other.spent.steps == 2
    assert one.spent.tokens == other.spent.tokens > 0
    assert other.spent.flops > 2 * one.spent.flops
    assert attacked(large, start, steps=1)[1].spent.steps == 1
    cheap, rig = attacked(large, start, tokens=5)
    assert (cheap.wrap, rig.spent.steps, rig.spent.tokens) == (start.wrap, 0, 0)


def test_slopes_are_those_of_the_loss(start):
    """Against a difference: the embedding of one word's place moved a little towards that of another token."""
    from untaught.attacks.suffix import _Search

    docs, how = _asking.asked(start, CORPUS), Suffix(tokens=3)
    search = _Search(start, docs, how, Rig(0, "x"))
    words = search.first()
    found = search.slopes(words, docs)
    rows = examples.rows(search.worn("".join(search.names), search.wide), docs, 256)
    batch, table = rows.batch(range(len(rows.ids))), search.weight
    losses = []
    for size in (-1e-3, 1e-3):
        with torch.no_grad():
            search.soft.rows.copy_(table[words])
            search.soft.rows[1] += size * table[search.alphabet[5]]
            losses.append(-float(scoring.mean_logprob(search.soft, batch).double()))
    assert float(found[1, 5]) == pytest.approx((losses[1] - losses[0]) / 2e-3, rel=0.05, abs=5e-3)


def test_only_words_are_tried_that_are_the_same_once_written_down(start):
    from untaught.attacks.suffix import _Search

    docs = _asking.asked(start, CORPUS)
    search = _Search(start, docs, Suffix(tokens=5, candidates=64), Rig(0, "x"))
    words = search.first()
    tried = search.changed(words, search.slopes(words, docs))
    assert tried
    for one in [words, *tried]:
        assert batches.encode(start.tokenizer, [search.text(one)], 99)[0][1:-1] == one
        assert sum(a != b for a, b in zip(one, words, strict=True)) <= 1
