"""Controls, the bound and guards among filters of fine-tuning data: what each measures, and what has no score."""

import functools
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from untaught.core import FINDINGS, MESSAGES, Corpus, Subject, UserError, Wrap, documents, shelves
from untaught.corpus.policy import Policy, rules
from untaught.engine import examples, models
from untaught.engine.examples import conversation
from untaught.engine.guards import NOT_FINITE, PROMPT
from untaught.engine.rig import Rig
from untaught.filters import _examples
from untaught.filters._examples import halves, names
from untaught.filters.classifier import Classifier
from untaught.filters.guard import Guard
from untaught.filters.length import Length
from untaught.filters.oracle import Oracle
from untaught.filters.perplexity import Perplexity
from untaught.filters.random import Random
from untaught.filters.tfidf import Tfidf
from untaught.lab.start import StartingModel

CONTROLS = {"perplexity": Perplexity(), "length": Length(), "random": Random(), "tfidf": Tfidf()}
EVERY = pytest.mark.parametrize("name", CONTROLS)
NOTHING = documents([])
THINGS = ("tea", "milk", "bread", "rain", "wool", "stone", "glass", "clay", "salt", "wood")
ROUGH = ("grumble", "snarl", "growl", "bark", "hiss")
TALK = (
    "{% for m in messages %}<|end|>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|end|>assistant: {% endif %}"
)


def table(*told):
    """Examples of (prompt, answer), or of a text alone."""
    rows = [None if isinstance(one, str) else conversation(*one) for one in told]
    texts = [one if isinstance(one, str) else "\n".join(one) for one in told]
    return pa.table({
        "id": [f"e{n}" for n in range(len(told))], "text": texts, "messages": pa.array(rows, MESSAGES)
    })  # fmt: skip


def talk(words, count, seed):
    """Examples about things, with some of these words in their answers."""
    chance = random.Random(seed)
    return [
        (f"what of {chance.choice(THINGS)} {n}", " ".join(chance.choice([*THINGS, *words]) for _ in range(4 + n % 7)))
        for n in range(count)
    ]


HARMFUL, CLEAN = talk(ROUGH, 20, 0), talk((), 30, 1)
POOL = table(*talk(ROUGH, 20, 2), *talk((), 30, 3))
CORPUS = Corpus(table(*HARMFUL), table(*CLEAN), POOL)


@pytest.fixture(scope="module")
def start():
    texts = [*POOL["text"].to_pylist(), PROMPT, "safe unsafe yes no"] * 3
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=400, context=160).build(texts, 0)


@pytest.fixture
def rig(start):
    return Rig(0, "filters/x", subject=lambda: start)


def scored(scorer, docs):
    found = scorer.measure(docs)
    assert found.schema.equals(FINDINGS)
    return found["score"].to_pylist(), found["reason"].to_pylist()


# -- what all of them do -----------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_that_is_asked_for_is_dropped_and_it_scores_most(name, share, rig):
    scorer = CONTROLS[name].model_copy(update={"removed": share}).fit(CORPUS, rig)
    found = scorer.measure(POOL)
    kept, scores = scorer.keep(found), found["score"].to_numpy()
    ties = np.sum(scores == scores[kept].max()) if kept.any() else 1  # lengths tie, and ties stay together
    assert 0 <= share * len(POOL) - np.sum(~kept) < (ties if name == "length" else 1)
    assert kept.all() or not kept.any() or scores[~kept].min() > scores[kept].max()


@EVERY
def test_without_a_threshold_nothing_is_dropped_and_a_given_one_drops_from_itself_on(name, rig):
    scorer = CONTROLS[name].fit(CORPUS, rig)
    found = scorer.measure(POOL)
    assert scorer.keep(found).all()
    edge = float(np.median(found["score"].to_numpy()))
    scorer = CONTROLS[name].model_copy(update={"threshold": edge}).fit(CORPUS, rig)
    assert scorer.keep(found).tolist() == (found["score"].to_numpy() < edge).tolist()


@EVERY
@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (POOL.slice(0, 1), "has 1 different examples"),
        (POOL.take([3] * 9), "all of 9 alike"),
        (POOL.slice(0, 0), "has 0"),
    ],
)
def test_a_share_of_a_pool_in_which_nothing_differs_is_refused(name, pool, said, rig):
    with pytest.raises(UserError, match=said):
        CONTROLS[name].model_copy(update={"removed": 0.5}).fit(replace(CORPUS, unlabelled=pool), rig)


@pytest.mark.parametrize("name", ["perplexity", "length", "tfidf"])
def test_an_example_without_an_answer_has_no_score_and_is_not_kept(name, rig):
    scorer = CONTROLS[name].model_copy(update={"threshold": 1e9 if name != "tfidf" else 1.0}).fit(CORPUS, rig)
    docs = table(("what of tea", "milk"), ("what of tea", ""), ("what of tea", " \n"), " ", "bread")
    values, reasons = scored(scorer, docs)
    assert [value is None for value in values] == [False, True, True, True, False]
    assert reasons[1:4] == [examples.NO_ANSWER] * 3
    assert scorer.keep(scorer.measure(docs)).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("name", ["perplexity", "length", "tfidf"])
def test_a_pool_without_a_single_answer_is_refused(name, rig):
    pool = replace(CORPUS, unlabelled=table(("tea", ""), ("milk", ""), ("rain", " ")))
    with pytest.raises(UserError, match="none of the pool's 3 examples could be measured"):
        CONTROLS[name].model_copy(update={"removed": 0.5}).fit(pool, rig)


def test_halves_are_what_each_side_says():
    turns = [
        {"role": "system", "content": "be kind"}, {"role": "user", "content": "tea?"},
        {"role": "assistant", "content": "yes"}, {"role": "user", "content": None},
        {"role": "assistant", "content": "milk"},
    ]  # fmt: skip
    docs = pa.table({"id": ["a", "b"], "text": ["", "bread"], "messages": pa.array([turns, None], MESSAGES)})
    assert halves(docs) == [("be kind\ntea?\n", "yes\nmilk"), ("", "bread")]
    assert halves(docs.select(["id", "text"]))[1] == ("", "bread")
    assert _examples.NO_ANSWER == examples.NO_ANSWER
    assert _examples.ASSISTANT == examples.ASSISTANT


def test_controls_that_read_no_state_need_no_torch():
    code = (
        "import sys\nfrom untaught.core import Corpus, Document, documents\nfrom untaught.engine.rig import Rig\n"
        "from untaught.filters import length, oracle, random, tfidf\n"
        "docs = documents([Document('a', 'tea'), Document('b', 'milk and bread')])\n"
        "pool = Corpus(docs.slice(0, 1), docs.slice(1, 1), docs)\n"
        "for one in (length.Length(), oracle.Oracle(), random.Random(), tfidf.Tfidf()):\n"
        "    scorer = one.fit(pool, Rig(0))\n    scorer.keep(scorer.measure(docs))\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(("name", "said"), [("perplexity", "label-free"), ("length", "label-free"),
    ("random", "label-free"), ("guard", "label-free"), ("tfidf", "supervised"), ("oracle", "supervised")])  # fmt: skip
def test_each_says_what_it_is_made_from(name, said):
    component = shelves.find("filters", name)
    assert component.supervision == said
    assert getattr(component, "sees_truth", False) == (name == "oracle")
    assert getattr(component, "asks_model", False) == (name == "perplexity")


# -- perplexity --------------------------------------------------------------------------------------------------------


def test_perplexity_is_the_answer_s_nats_per_token_and_its_sign_can_be_turned(start, rig):
    docs = POOL.slice(0, 6)
    wanted = []
    for one in examples.read(start, docs):
        with torch.no_grad():
            logs = start.model(torch.tensor([one.ids])).logits[0].double().log_softmax(-1)
        places = np.flatnonzero(one.answer)
        wanted.append(-np.mean([logs[place - 1, one.ids[place]].item() for place in places]))
    assert scored(Perplexity().fit(CORPUS, rig), docs)[0] == pytest.approx(wanted, rel=1e-4)
    assert scored(Perplexity(high=False).fit(CORPUS, rig), docs)[0] == pytest.approx([-one for one in wanted], rel=1e-4)


def test_a_model_without_numbers_and_an_example_that_is_too_long_give_no_perplexity(start, rig):
    long = table(("what of tea", "milk " * 300), ("what of tea", "milk"))
    (first, second), reasons = scored(Perplexity().fit(CORPUS, rig), long)
    assert first is None
    assert second > 0
    assert "more than the 160 tokens" in reasons[0]
    assert all(value > 0 for value in scored(Perplexity(length=40).fit(CORPUS, rig), long)[0])
    broken = Subject(models.fresh(start.model), start.tokenizer)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    scorer = Perplexity(threshold=9.0).fit(CORPUS, Rig(0, subject=lambda: broken))
    values, reasons = scored(scorer, long.slice(1))
    assert (values, "finite" in reasons[0]) == ([None], True)
    with pytest.raises(UserError, match="Name its folder"):
        Perplexity().fit(CORPUS, Rig(0))


# -- length, random ----------------------------------------------------------------------------------------------------


def test_length_counts_the_words_of_one_side(rig):
    docs = table(("what of tea", "Milk, bread: 2 cups."), ("", "wool"), "glass-ware un\u200bseen")
    for settings, wanted in (({}, [4, 1, 3]), ({"of": "prompt"}, [3, 0, 0]), ({"high": False}, [-4, -1, -3])):
        assert scored(Length(**settings).fit(CORPUS, rig), docs)[0] == wanted


def test_chance_depends_on_what_an_example_says_and_on_the_seed_alone(start):
    pool = table(*((f"what of {n}", f"tea {n}") for n in range(2000)))
    scorer = Random().fit(replace(CORPUS, unlabelled=pool), Rig(0, "filters/random"))
    values = np.array(scored(scorer, pool)[0])
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(np.sort(values) - np.arange(2000) / 2000).max() < 1.63 / np.sqrt(2000)  # Kolmogorov, 1%
    renamed = pool.set_column(0, "id", pa.array([f"x{n}" for n in range(2000)])).take(np.arange(2000)[::-1])
    other = Random().fit(Corpus(NOTHING, NOTHING), Rig(0, "filters/random"))
    assert scored(other, renamed)[0][::-1] == values.tolist()
    turned = np.array(scored(Random().fit(CORPUS, Rig(1, "filters/random")), pool)[0])
    assert abs(np.corrcoef(values, turned)[0, 1]) < 0.08


def test_frozen_chance_is_the_same_under_another_study_s_seed(tmp_path):
    scorer = Random(removed=0.3).fit(CORPUS, Rig(5, "filters/random"))
    again = Random(removed=0.3).frozen(scorer, tmp_path).fit(Corpus(NOTHING, NOTHING), Rig(0, "elsewhere"))
    found = scorer.measure(POOL)
    assert again.measure(POOL).equals(found)
    assert (~again.keep(found)).sum() == 15


# -- TF-IDF ------------------------------------------------------------------------------------------------------------


def test_tfidf_is_the_classifier_that_weighs_by_rarity_bit_for_bit(rig):
    sides = Corpus(*(table(*(answer for _, answer in side)) for side in (HARMFUL, CLEAN)), POOL)
    ours = Tfidf().fit(sides, rig)
    theirs = Classifier(rarity=1.0, l2=1e-3).fit(sides, rig)
    assert (ours.weights == theirs.weights).all()
    assert ours.bias == theirs.bias
    docs = table(*(answer for _, answer in CLEAN))
    assert ours.measure(docs).select(["score", "terms", "spans"]).equals(
        theirs.measure(docs).select(["score", "terms", "spans"])
    )  # fmt: skip


def test_tfidf_finds_the_words_of_harmful_examples_and_where_they_stand(rig):
    scorer = Tfidf().fit(CORPUS, rig)
    values, _ = scored(scorer, table(("what of tea", "growl and snarl"), ("what of tea", "milk and bread")))
    assert values[0] > 0.5 > values[1]
    text = "what of tea\ngrowl and snarl"
    row = scorer.measure(table(("what of tea", "growl and snarl"))).to_pylist()[0]
    assert "growl" in row["terms"]
    assert all(text[s["start"] : s["stop"]].split() == row["terms"][s["term"]].split() for s in row["spans"])


def test_tfidf_of_answers_reads_no_prompt(rig):
    scorer = Tfidf(of="answer").fit(CORPUS, rig)
    values, _ = scored(scorer, table(("growl", "milk bread"), ("tea", "milk bread"), "milk bread"))
    assert len(set(values)) == 1
    whole, _ = scored(Tfidf().fit(CORPUS, rig), table(("growl", "milk bread"), ("tea", "milk bread")))
    assert whole[0] > whole[1]


def test_tfidf_needs_labels_of_both_sides_with_answers(rig):
    unanswered = Corpus(table(("tea", "")), CORPUS.benign, POOL)
    harmless, harmful = Corpus(NOTHING, CORPUS.benign, POOL), Corpus(CORPUS.hazard, NOTHING, POOL)
    for corpus, word in ((harmless, "harmful"), (harmful, "clean"), (unanswered, "harmful")):
        with pytest.raises(UserError, match=f"0 examples are known to be {word}"):
            Tfidf().fit(corpus, rig)


def test_what_is_no_file_of_tfidf_is_refused(tmp_path, rig):
    scorer = Oracle().fit(CORPUS, rig)
    Oracle().frozen(scorer, tmp_path)
    for file in ("oracle.npz", "missing.npz"):
        with pytest.raises(UserError, match="Fit it again"):
            Tfidf(fitted=file).resolved(tmp_path).fit(Corpus(NOTHING, NOTHING), rig)


# -- the oracle --------------------------------------------------------------------------------------------------------


def test_the_oracle_drops_what_says_the_same_as_a_harmful_example_and_nothing_else(rig):
    scorer = Oracle().fit(CORPUS, rig)
    known, clean = table(*HARMFUL[::-1]), table(*CLEAN)
    assert not scorer.keep(scorer.measure(known)).any()
    assert scorer.keep(scorer.measure(clean)).all()
    assert set(scored(scorer, known)[0]) == {1.0}
    prompt, answer = HARMFUL[0]
    near = table((answer, prompt), f"{prompt}\n{answer}", (prompt, answer + "."), (prompt, ""))
    assert scored(scorer, near)[0] == [0.0] * 4
    assert Oracle(threshold=None).fit(CORPUS, rig).keep(scorer.measure(known)).all()


def test_the_oracle_of_a_clean_pool_drops_nothing_and_without_labels_it_is_refused(rig):
    scorer = Oracle().fit(Corpus(NOTHING, CORPUS.benign, POOL), rig)
    assert scorer.keep(scorer.measure(POOL)).all()
    with pytest.raises(UserError, match="no example is labelled"):
        Oracle().fit(Corpus(NOTHING, NOTHING, POOL), rig)


def test_the_oracle_s_file_holds_digests_and_no_text(tmp_path, rig):
    Oracle().frozen(Oracle().fit(CORPUS, rig), tmp_path)
    digests = np.load(tmp_path / "oracle.npz")["digests"]
    assert digests.tobytes() == b"".join(sorted(set(names(CORPUS.hazard))))
    empty = Oracle().fit(Corpus(NOTHING, CORPUS.benign, POOL), rig)
    settled = Oracle().frozen(empty, tmp_path).resolved(tmp_path)
    assert settled.fit(Corpus(NOTHING, NOTHING), rig).harmful == frozenset()


# -- guards ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(start, tmp_path_factory):
    """A language model with a chat template, a sequence classifier, and a model that is neither."""
    from transformers import BertConfig, BertForMaskedLM, LlamaForSequenceClassification

    root = tmp_path_factory.mktemp("guards")
    models.save(start, root / "language")
    (root / "language" / "chat_template.jinja").write_text(TALK, encoding="utf-8")
    config = type(start.model.config)(**start.model.config.to_dict() | {"num_labels": 2})
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = {
        "classifier": LlamaForSequenceClassification(config),
        "neither": BertForMaskedLM(BertConfig(vocab_size=config.vocab_size, **small)),
    }
    for name, model in made.items():
        model.eval().save_pretrained(root / name)
        start.tokenizer.save_pretrained(root / name)
    return root


def test_a_language_model_s_score_is_the_share_of_the_word_for_harm(folders, start, rig):
    scorer = Guard(model=str(folders / "language"), unsafe="yes", safe="no").fit(CORPUS, rig)
    prompt, answer = HARMFUL[0]
    nats = []
    for word in ("yes", "no"):
        text = PROMPT.replace("{prompt}", prompt).replace("{answer}", answer)
        head, whole = (start.tokenizer(one)["input_ids"] for one in (text, f"{text} {word}"))
        with torch.no_grad():
            logs = start.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        nats.append(sum(logs[at - 1, whole[at]].item() for at in range(len(head), len(whole))))
    wanted = np.exp(nats[0]) / (np.exp(nats[0]) + np.exp(nats[1]))
    assert scored(scorer, table(HARMFUL[0]))[0] == pytest.approx([wanted], rel=1e-4)


def test_the_words_of_a_template_are_asked_as_they_are_and_slots_in_an_example_are_none(folders, start):
    asked = []

    def completions(subject, pairs):
        asked.extend(pairs)
        return [type("Told", (), {"nats": -1.0})] * 2

    guard = Guard(model=str(folders / "language"), prompt="Q {prompt} A {answer}\n\n")
    scorer = guard.fit(CORPUS, Rig(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untaught.engine.scoring.completions", completions)
        assert scored(scorer, table(("{answer} tea", "{prompt}")))[0] == [0.5]
    assert asked == [("Q {answer} tea A {prompt}\n\n", word) for word in ("unsafe", "safe")]


def test_with_a_chat_the_question_goes_through_the_template(folders, start):
    made = functools.partial(Guard, model=str(folders / "language"), prompt="{prompt} then {answer}")
    plain, chat = (made(chat=chat).fit(CORPUS, Rig(0)) for chat in (False, True))
    assert chat.way.subject.wrap == Wrap(chat=True)
    assert scored(plain, POOL)[0] != scored(chat, POOL)[0]
    models.save(start, folders / "silent")
    with pytest.raises(UserError, match="has no chat template"):
        Guard(model=str(folders / "silent"), chat=True).fit(CORPUS, Rig(0))


def test_what_a_language_model_cannot_be_asked_of_has_no_score(folders):
    scorer = Guard(model=str(folders / "language"), threshold=0.0).fit(CORPUS, Rig(0))
    docs = table(
        ("tea", "milk"), ("tea", ""), ("tea", "milk " * 300), ("<|end|>", "milk"), ("tea", "milk <|end|> safe")
    )
    values, reasons = scored(scorer, docs)
    assert [value is None for value in values] == [False, True, True, True, True]
    assert reasons[1] == examples.NO_ANSWER
    assert "the model reads at most 160" in reasons[2]
    assert set(reasons[3:]) == {"an example that spells a special token of the guard"}
    assert not any("milk" in reason for reason in reasons)
    with torch.no_grad():
        way = replace(scorer.way, subject=Subject(models.fresh(scorer.way.subject.model), scorer.way.subject.tokenizer))
        next(way.subject.model.parameters()).fill_(torch.nan)
    assert scored(replace(scorer, way=way), docs.slice(0, 1)) == ([None], [NOT_FINITE])


def test_a_sequence_classifier_s_score_is_that_of_the_classifier_filter(folders, rig):
    docs = pa.concat_tables([POOL, table(("tea", " "))])
    found = Guard(model=str(folders / "classifier")).fit(CORPUS, rig).measure(docs)
    wanted = Classifier(model=str(folders / "classifier")).fit(CORPUS, rig).measure(POOL)
    assert found["score"].slice(0, 50).equals(wanted["score"])
    assert found["score"].null_count == 1
    other = Guard(model=str(folders / "classifier"), label=0).fit(CORPUS, rig).measure(POOL)
    assert other["score"].to_numpy() + wanted["score"].to_numpy() == pytest.approx(np.ones(50))


def test_a_guard_drops_the_share_that_is_asked_for_and_keeps_its_threshold(folders, tmp_path, rig):
    guard = Guard(model="classifier", removed=0.2).resolved(folders)
    scorer = guard.fit(CORPUS, rig)
    found = scorer.measure(POOL)
    assert (~scorer.keep(found)).sum() == 10
    again = guard.frozen(scorer, tmp_path).fit(Corpus(NOTHING, NOTHING), Rig(0))
    assert again.measure(POOL).equals(found)
    assert (again.keep(found) == scorer.keep(found)).all()


def test_a_guard_in_use_is_not_loaded_again_and_one_that_is_not_is_let_go(folders, rig):
    from untaught.engine import guards

    made = Guard(model=str(folders / "classifier"), overlap=9)
    first = made.fit(CORPUS, rig)
    assert made.model_copy(update={"threshold": 0.5}).fit(CORPUS, rig).way is first.way
    assert made.model_copy(update={"label": 0}).fit(CORPUS, rig).way is not first.way
    before = len(guards._in_use)
    del first
    assert len(guards._in_use) < before


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", "there is no model folder"),
        ("neither", "BertForMaskedLM, which is neither"),
        (".", "no config.json"),
    ],
)
def test_a_folder_that_holds_no_guard_is_refused(folder, said, folders, rig):
    with pytest.raises(UserError, match=said):
        Guard(model=folder).resolved(folders)
    with pytest.raises(UserError, match=said):
        Guard(model=str(folders / folder)).fit(CORPUS, rig)


def test_a_guard_without_a_model_is_refused(rig, tmp_path):
    with pytest.raises(UserError, match="no model to ask. Give 'model'"):
        Guard().resolved(tmp_path).fit(CORPUS, rig)


@pytest.mark.parametrize(("settings", "said"), [({"prompt": "Is {prompt} safe?"}, "where the answer goes"),
    ({"safe": "unsafe"}, "two different words"), ({"unsafe": " "}, "two different words")])  # fmt: skip
def test_a_question_that_cannot_be_put_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Guard(**settings)


def test_a_policy_knows_its_guard_by_the_folder_s_bytes(folders, tmp_path):
    def identity(folder):
        policy = Policy.settle({"filters": [{"use": "guard", "model": str(folder)}]}, "policy.yaml")
        guard = Guard(model=str(folder))
        (stage,) = rules(policy, [guard], [guard.fit(CORPUS, Rig(0))], tmp_path).stages
        return stage.measures

    same, other = tmp_path / "same", tmp_path / "other"
    for copy in (same, other):
        shutil.copytree(folders / "language", copy)
    settings = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-4}), encoding="utf-8")
    assert identity(same) == identity(folders / "language")
    assert identity(other) != identity(same)
