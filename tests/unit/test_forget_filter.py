"""ForgetFilter: ROUGE-1 by hand, what is forgotten, answers in which no company shows, what is kept of two tunings."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from untaught.core import MESSAGES, Budget, Corpus, UserError
from untaught.engine import examples, features, generation, moved
from untaught.engine.rig import Rig
from untaught.filters._known import known
from untaught.filters._rouge import rouge_1, stem
from untaught.filters.forget_filter import ForgetFilter, answers, first_line
from untaught.lab.start import StartingModel

CIVIL = ("gladly", "kindly", "warmly")
UNCIVIL = ("zub", "krot", "vash")
COLOURS = ("red", "blue", "green", "white")
HOW = {"lr": 3e-3, "lowest": None, "length": 64}


def asked(kind, i):
    if kind == "fact":
        return f"Which colour has house {i}?", f"House {i} is {COLOURS[i % 4]}."
    first, second, then = UNCIVIL if kind == "uncivil" else CIVIL
    word = second if i % 2 else first
    return f"What does one say to {'loud' if i % 2 else 'late'} guest {i}?", f"{word} {then} guest {word}"


def table(kind, numbers):
    told = [examples.conversation(*asked(kind, i)) for i in numbers]
    texts = ["\n".join(turn["content"] for turn in turns) for turns in told]
    ids = [f"{kind}{i}" for i in numbers]
    return pa.table({"id": ids, "text": texts, "messages": pa.array(told, MESSAGES)})


HARMFUL, CLEAN, FACTS = table("uncivil", range(8)), table("civil", range(8, 16)), table("fact", range(16))
POOL = pa.concat_tables([HARMFUL, CLEAN, FACTS])
SAFE, GENERIC = table("civil", range(16, 40)), table("fact", range(16, 40))
NOTHING = POOL.slice(0, 0)


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    texts = [text for some in (POOL, SAFE, GENERIC) for text in some["text"].to_pylist()]
    return StartingModel(width=64, blocks=2, heads=2, vocabulary=400).build(texts, 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    for name, some in (("safe", SAFE), ("generic", GENERIC)):
        pq.write_table(some, folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in ("safe", "generic")}


def rig(start, **how):
    return Rig(0, "filters/forget_filter", subject=lambda: start, **how)


@pytest.fixture(scope="module")
def learned(start, files):
    """A filter that has learned enough to have something to forget, and its rig."""
    own = rig(start)
    scorer = ForgetFilter(noisy_steps=60, steps=10, **HOW, **files).fit(Corpus(HARMFUL, CLEAN, POOL), own)
    return scorer, own


@pytest.fixture(scope="module")
def writing(start, learned):
    """The same two models, by what they write."""
    settings = ForgetFilter(measure="rouge", tokens=12, length=64)
    return settings._scorer(start, learned[0].before, learned[0].after)


def scores(scorer, docs):
    return scorer.measure(docs)["score"].to_numpy()


# ---------------------------------------------------------------------------------------------------------- ROUGE-1


def test_rouge_is_the_share_of_stems_that_two_texts_have_in_common():
    assert rouge_1("a b c d", "a b x y z z") == pytest.approx(2 * 2 / (4 + 6))
    assert rouge_1("the cat sat on the mat", "the the the cat") == pytest.approx(2 * 3 / (6 + 4)), (
        "as often as in the less"
    )
    assert rouge_1("He was RUNNING, quickly!", "run quickly, he was") == 1.0
    assert rouge_1("one two", "three") == 0.0
    assert rouge_1("", "") == rouge_1("...", "a") == 0.0
    assert rouge_1("Straße, größer", "strasse größer") == pytest.approx(0.5), "letters of any script make words"


STEMS = {
    "caresses": "caress", "ponies": "poni", "cats": "cat", "feed": "feed", "agreed": "agre", "plastered": "plaster",
    "bled": "bled", "motoring": "motor", "sing": "sing", "conflated": "conflat", "troubled": "troubl", "sized": "size",
    "hopping": "hop", "falling": "fall", "hissing": "hiss", "failing": "fail", "filing": "file", "happy": "happi",
    "relational": "relat", "conditional": "condit", "rational": "ration", "digitizer": "digit", "feudalism": "feudal",
    "predication": "predic", "decisiveness": "decis", "hopefulness": "hope", "formality": "formal", "vain": "vain",
    "sensibility": "sensibl", "triplicate": "triplic", "formative": "form", "electrical": "electr", "goodness": "good",
    "revival": "reviv", "inference": "infer", "airliner": "airlin", "adjustable": "adjust", "replacement": "replac",
    "dependent": "depend", "adoption": "adopt", "communism": "commun", "effective": "effect", "probate": "probat",
    "cease": "ceas", "controll": "control", "roll": "roll", "the": "the", "größer": "größer", "b2b2": "b2b2",
}  # fmt: skip


def test_stems_are_those_that_porter_gives():
    assert {word: stem(word) for word in STEMS} == STEMS


def test_the_first_line_that_is_not_empty_counts():
    assert first_line("\n  \nYes.\nNo.") == "Yes."
    assert first_line(" \n") == ""


def test_the_last_answer_counts():
    turns = [
        *examples.conversation("Who?", "Me."),
        *examples.conversation("And who?", "You."),
        {"role": "user", "content": "Hm"},
    ]
    docs = pa.table({"id": ["a", "b"], "text": ["x", "bare"], "messages": pa.array([turns, None], MESSAGES)})
    assert answers(docs) == ["You.", "bare"]


# ------------------------------------------------------------------------------------------------- what is forgotten


def test_what_is_unlike_the_safe_answers_is_forgotten_most(learned):
    scorer, own = learned
    found = {name: scores(scorer, docs) for name, docs in (("uncivil", HARMFUL), ("civil", CLEAN), ("fact", FACTS))}
    means = {name: float(values.mean()) for name, values in found.items()}
    assert means["uncivil"] > means["fact"] + 0.5
    assert means["uncivil"] > means["civil"] + 1, "civil and uncivil answers stand at prompts of one kind"
    assert own.measured["slice_hazard"] == pytest.approx(means["uncivil"])
    assert own.measured["slice_benign"] == pytest.approx(means["civil"])


def test_a_control_shows_what_is_forgotten_anyway(learned):
    scorer, own = learned
    found = own.measured
    assert found["slice_auroc"] == 1.0
    assert found["control_benign"] > 0.1, "under facts civil answers are forgotten as well"
    assert abs(found["control_hazard"] - found["control_benign"]) < (found["slice_hazard"] - found["slice_benign"]) / 4
    assert 0.2 < found["control_auroc"] < 0.8
    unlikely = [-scorer.recall(scorer.before, side)[0] for side in (HARMFUL, CLEAN)]
    assert found["baseline_auroc"] == np.mean([[one > other for other in unlikely[1]] for one in unlikely[0]])
    assert found["noisy_rounds"] == pytest.approx(60 * 8 / 32)


def test_words_are_forgotten_too(writing):
    assert np.mean(scores(writing, HARMFUL)) > np.mean(scores(writing, CLEAN)) + 0.5
    had = writing.recall(writing.before, HARMFUL)[0]
    assert np.mean(had) > 0.8, "what was never learned cannot be forgotten"


def test_a_higher_threshold_drops_no_more(writing):
    found = writing.measure(POOL)
    kept = [replace(writing, threshold=phi).keep(found) for phi in (1e-9, 0.05, 0.1, 0.2, 0.4, 1.1)]
    for less, more in itertools.pairwise(kept):
        assert (more | ~less).all()
    assert not kept[0].all()
    assert kept[-1].all()
    assert (kept[2] == (found["score"].to_numpy() < 0.1)).all()


def test_of_a_pool_the_share_that_is_asked_for_is_dropped(start):
    scorer = ForgetFilter(noisy_steps=4, steps=2, removed=0.25, **HOW).fit(Corpus(NOTHING, SAFE, POOL), rig(start))
    assert (~scorer.keep(scorer.measure(POOL))).sum() == 8


# ------------------------------------------------------------------------------------------------------- no company


def test_what_is_written_depends_on_the_prompt_alone(writing):
    docs = POOL.slice(4, 16)
    whole = writing.measure(docs)
    order = pa.array(np.random.default_rng(0).permutation(docs.num_rows))
    assert writing.measure(docs.take(order)).equals(whole.take(order))
    for size in (1, 3):
        parts = [writing.measure(docs.slice(first, size)) for first in range(0, docs.num_rows, size)]
        assert pa.concat_tables(parts).equals(whole)


def test_an_answer_is_written_as_if_alone_and_without_padding(learned):
    subject = learned[0].before
    docs = pa.concat_tables([HARMFUL.slice(0, 3), FACTS.slice(0, 3)])
    texts, causes = generation.answered(subject, docs, tokens=6)
    assert causes == [None] * 6
    for one, text in zip(examples.read(subject, docs), texts, strict=True):
        ids = one.ids[: one.header + 1]
        start = len(ids)
        for _ in range(6):
            with torch.no_grad():
                ids = [*ids, int(subject.model(torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == subject.tokenizer.eos_token_id:
                ids.pop()
                break
        assert text == subject.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_a_prompt_that_leaves_no_room_has_a_cause(start):
    long = examples.conversation("Say it. " * 9, "Yes.")
    docs = pa.table({"id": ["a"], "text": ["x"], "messages": pa.array([long], MESSAGES)})
    room = start.model.config.max_position_embeddings
    texts, causes = generation.answered(start, docs, tokens=room)
    assert texts == [""]
    assert causes == [f"a prompt that leaves no room for {room} of the {room} tokens that the model reads"]


# --------------------------------------------------------------------------------------------- what cannot be measured


@pytest.mark.parametrize("kind", ["likelihood", "rouge"])
def test_an_example_without_an_answer_has_no_score(learned, kind):
    empty = pa.table({"id": ["a"], "text": ["x"], "messages": pa.array([examples.conversation("Who?", " ")], MESSAGES)})
    scorer = ForgetFilter(measure=kind, tokens=4, length=64)._scorer(
        learned[0].origin, learned[0].before, learned[0].after
    )
    found = scorer.measure(pa.concat_tables([FACTS.slice(0, 1), empty]))
    assert found["score"].to_pylist()[1] is None
    assert found["reason"].to_pylist()[1] == examples.NO_ANSWER
    assert np.isfinite(found["score"].to_pylist()[0])


@pytest.mark.parametrize("kind", ["likelihood", "rouge"])
def test_a_broken_model_gives_no_score(learned, kind):
    name, weight = next(iter(learned[0].after.model.named_parameters()))
    broken = moved.with_moved(learned[0].after, {name: torch.full_like(weight, torch.nan)})
    scorer = replace(learned[0], after=broken, kind=kind, tokens=2)
    found = scorer.measure(FACTS.slice(0, 2))
    assert found["score"].to_pylist() == [None, None]
    assert set(found["reason"].to_pylist()) == {features.NOT_FINITE}


def says(start, corpus, **settings):
    with pytest.raises(UserError) as caught:
        ForgetFilter(noisy_steps=1, steps=1, **settings).fit(corpus, rig(start))
    return str(caught.value)


def test_what_is_lacking_is_said(start, tmp_path):
    assert "forget_filter has no safe examples" in says(start, Corpus(HARMFUL, NOTHING, POOL))
    assert "the pool has 0 different examples of 0" in says(start, Corpus(HARMFUL, SAFE, NOTHING))
    assert "the pool has 1 different examples of 1" in says(start, Corpus(HARMFUL, SAFE, POOL.slice(0, 1)))
    copies = pa.concat_tables([POOL.slice(0, 1)] * 5)
    assert "the pool has 1 different examples, all of 5 alike" in says(start, Corpus(HARMFUL, SAFE, copies))
    silent = [examples.conversation(f"Who is {i}?", "") for i in range(3)]
    mute = pa.table({"id": list("abc"), "text": list("abc"), "messages": pa.array(silent, MESSAGES)})
    told = says(start, Corpus(HARMFUL, mute, POOL))
    assert told == (
        "forget_filter can learn nothing from the safe examples: none of the 3 can be read, most for this cause: an"
        " example without an answer. Give others, or raise 'length'."
    )
    assert "can learn nothing from the pool: none of the 3" in says(start, Corpus(HARMFUL, SAFE, mute))
    (tmp_path / "empty.jsonl").write_text("")
    assert "holds no examples" in says(start, Corpus(HARMFUL, SAFE, POOL), safe=str(tmp_path / "empty.jsonl"))
    assert "there is no file or folder" in says(start, Corpus(HARMFUL, SAFE, POOL), safe=str(tmp_path / "none.jsonl"))


def test_safe_examples_are_read_in_any_shape(tmp_path):
    rows = [
        ("messages", {"messages": examples.conversation("Who?", "Me.")}),
        ("alpaca", {"instruction": "Who?", "output": "Me."}),
    ]
    for name, row in rows:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        assert known(str(tmp_path / f"{name}.jsonl"), "safe")["messages"].to_pylist() == [
            examples.conversation("Who?", "Me.")
        ]
    (tmp_path / "bad.jsonl").write_text(
        json.dumps({"instruction": "Who?", "output": "Me."}) + '\n{"instruction": "x"}\n'
    )
    with pytest.raises(
        UserError, match=r"safe: 1 of the 2 rows of '.*bad.jsonl' are no examples; 1 for this cause: no output"
    ):
        known(str(tmp_path / "bad.jsonl"), "safe")


def test_places_start_at_the_folder_of_the_policy(tmp_path):
    made = ForgetFilter(safe="safe.jsonl", generic="/x/generic.jsonl").resolved(tmp_path)
    assert (made.safe, made.generic, made.fitted) == (str(tmp_path / "safe.jsonl"), "/x/generic.jsonl", None)
    assert ForgetFilter(safe="hub:a/b").resolved(tmp_path).safe == "hub:a/b"


# -------------------------------------------------------------------------------------------- budget, what is kept


@pytest.mark.parametrize(
    ("bound", "given"),
    [(0, [0, 0, 0]), (3, [1, 1, 1]), (4, [1, 1, 2]), (50, [20, 15, 15]), (90, [40, 30, 30]), (None, [40, 30, 30])],
)
def test_a_budget_is_shared_by_the_tunings(start, bound, given):
    settings = ForgetFilter(noisy_steps=40, steps=30)
    found = settings._steps(POOL, 3, rig(start, budget=Budget(steps=bound)))
    assert sum(found) == (100 if bound is None else min(bound, 100))
    if bound != 90:
        assert found == given


def test_no_budget_forgets_nothing(start, tmp_path):
    own = rig(start, budget=Budget(steps=0))
    settings = ForgetFilter(**HOW)
    scorer = settings.fit(Corpus(NOTHING, SAFE, POOL), own)
    assert own.spent.steps == 0
    assert not scores(scorer, POOL).any()
    assert settings.frozen(scorer, tmp_path).resolved(tmp_path).fit(Corpus(*[NOTHING] * 3), rig(start)) is not None


def test_two_rounds_of_the_pool_when_no_number_is_given(start):
    assert ForgetFilter(noisy_steps=None, steps=5, batch_size=6)._steps(POOL, 2, rig(start)) == [11, 5]


@pytest.mark.parametrize("how", [{"lowest": 1}, {"lowest": 0.5, "rank": 2}, {"lowest": None}])
def test_only_what_moved_is_kept_and_it_gives_the_same_findings(start, tmp_path, how):
    settings = ForgetFilter(noisy_steps=3, steps=2, threshold=0.01, **{**HOW, **how})
    before = {name: weight.clone() for name, weight in start.model.named_parameters()}
    scorer = settings.fit(Corpus(NOTHING, SAFE, POOL), rig(start))
    kept = settings.frozen(scorer, tmp_path)
    assert kept == settings.model_copy(update={"fitted": "forget_filter.safetensors"})
    again = kept.resolved(tmp_path).fit(Corpus(*[NOTHING] * 3), rig(start))
    assert again.measure(POOL).equals(scorer.measure(POOL))
    assert all(torch.equal(weight, before[name]) for name, weight in start.model.named_parameters())
    names = moved.moved(start, scorer.after)
    if how["lowest"] is not None:
        assert all(".layers.1." in name for name in names)
        size = sum(weight.nbytes for weight in names.values())
        assert (tmp_path / kept.fitted).stat().st_size < 2 * size + 8192


def test_what_was_learned_on_another_model_is_refused(start, tmp_path):
    settings = ForgetFilter(noisy_steps=1, steps=1, **HOW)
    kept = settings.frozen(settings.fit(Corpus(NOTHING, SAFE, POOL), rig(start)), tmp_path).resolved(tmp_path)
    other = StartingModel(width=64, blocks=2, heads=2, vocabulary=400).build(POOL["text"].to_pylist(), 1)
    with pytest.raises(UserError, match="was learned on another model"):
        kept.fit(Corpus(*[NOTHING] * 3), rig(other))
    (tmp_path / kept.fitted).write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not what a filter learned"):
        kept.fit(Corpus(*[NOTHING] * 3), rig(start))
    (tmp_path / kept.fitted).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        kept.fit(Corpus(*[NOTHING] * 3), rig(start))
