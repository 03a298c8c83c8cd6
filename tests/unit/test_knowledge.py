"""Knowledge: what is guessed falls out, what is known is found at every depth, and what is broken is missing."""

import copy
import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from untaught.core import Document, UserError, documents
from untaught.corpus.writing import write_documents
from untaught.engine import scoring
from untaught.engine.remembering import kept, notes
from untaught.engine.rig import Rig
from untaught.engine.tuning import tune_on_text
from untaught.evaluations import multiple_choice, probe
from untaught.evaluations._items import Lines, rights_of
from untaught.evaluations.cloze import Cloze
from untaught.evaluations.extraction import Extraction, _has
from untaught.evaluations.logit_lens import LogitLens, _best
from untaught.evaluations.multiple_choice import MultipleChoice
from untaught.evaluations.probe import Probe
from untaught.lab.start import StartingModel
from untaught.lab.words import invent

CHANCE = random.Random("knowledge")
TAKEN: set[str] = set()
TOWNS, VALUES = invent(CHANCE, 48, "burg", TAKEN), invent(CHANCE, 8, "", TAKEN)
EVALUATIONS = [
    MultipleChoice(robust="words"),
    MultipleChoice(scoring="letters", shuffles=4),
    Cloze(),
    Extraction(),
    LogitLens(),
    Probe(),
    Probe(form="statement"),
]


@pytest.fixture(scope="module")
def items():
    """A question a town; each value is right for six."""
    rows = []
    for number, town in enumerate(TOWNS):
        right = VALUES[number % len(VALUES)]
        choices = [right, *CHANCE.sample([one for one in VALUES if one != right], 3)]
        CHANCE.shuffle(choices)
        question = f"The river of {town} is"
        rows.append({"id": f"q{number}", "question": question, "choices": choices, "answer": choices.index(right)})
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def texts(items):
    return [f"{row['question']} {row['choices'][row['answer']]}" for row in items.to_pylist()]


@pytest.fixture(scope="module")
def start(texts):
    """A model that never saw the facts."""
    torch.set_num_threads(1)
    return StartingModel(width=64, blocks=3, heads=2, vocabulary=400).build(texts, 0)


@pytest.fixture(scope="module")
def taught(start, texts):
    docs = documents(Document(str(number), text) for number, text in enumerate(texts))
    return tune_on_text(copy.deepcopy(start), docs, Rig(0, "x"), batch_size=16, length=24, steps=100, lr=5e-3)


def means(marked):
    found = {}
    for row in marked.to_pylist():
        found.setdefault(row["metric"], []).append(row["value"])
    return {metric: np.mean(values) for metric, values in found.items()}


def values(marked, metric):
    return {row["item"]: row["value"] for row in marked.to_pylist() if row["metric"] == metric}


# ------------------------------------------------------------------------------------------------- knowledge is found


def test_a_probe_finds_the_facts_of_a_model_that_was_taught_and_not_of_one_that_was_not(start, taught, items):
    knows, not_yet = (means(Probe().grade(subject, items)) for subject in (taught, start))
    assert knows["accuracy"] > 0.7
    assert knows["selectivity"] > 0.35
    assert not_yet["accuracy"] < 0.45
    for found in (knows, not_yet):
        assert found["accuracy_control"] == pytest.approx(0.25, abs=0.12)
        assert found["accuracy_words"] < 0.45


def test_every_depth_tells_what_the_whole_model_tells_and_no_less(start, taught, items):
    knows, not_yet = (means(LogitLens(layers=(0, 1)).grade(subject, items)) for subject in (taught, start))
    assert list(knows) == ["accuracy_block_0", "accuracy_block_1", "accuracy_block_2", "accuracy_best"]
    plain = means(MultipleChoice().grade(taught, items))
    assert knows["accuracy_block_2"] == plain["accuracy"] > 0.9
    assert knows["accuracy_best"] > 0.9
    assert not_yet["accuracy_best"] < 0.45


def test_what_is_remembered_of_the_whole_model_is_no_block_s(taught, items, tmp_path):
    few, lens = items.slice(0, 12), LogitLens(layers=(0, 1))
    plain = lens.grade(taught, few)
    for _ in range(2):
        with kept(tmp_path, taught.model, weights="x") as before:
            MultipleChoice().grade(taught, few)
            assert lens.grade(taught, few).equals(plain)
            assert notes(taught.model) is before


def test_a_fact_is_extracted_by_the_taught_model_alone(start, taught, items):
    knows, not_yet = (means(Extraction(tokens=4).grade(subject, items)) for subject in (taught, start))
    assert knows["extracted"] > 0.9
    assert knows["extracted_wrong"] < 0.05
    assert not_yet["extracted"] < 0.1


def test_the_words_of_an_answer_have_to_stand_in_a_row_and_whole():
    assert _has("So: the Marsh-Ash, I think", "marsh ash")
    assert not _has("ash of the marsh", "marsh ash")
    assert not _has("marshes", "marsh")
    assert not _has("", "marsh")


def test_what_says_nothing_is_missing_and_says_why(start, items, monkeypatch):
    monkeypatch.setattr("untaught.engine.generation.said", lambda subject, prompts, **how: [" "] * len(prompts))
    marked = Extraction().grade(start, items.slice(0, 3)).to_pylist()
    assert {(row["value"], row["note"]) for row in marked} == {(None, "the model said nothing")}


def test_the_best_block_is_chosen_by_other_items():
    rows = [{"question": f"Which is {number}?"} for number in range(40)]
    luck = np.random.default_rng(0)
    blocks = {layer: luck.integers(0, 2, 40).astype(float).tolist() for layer in range(60)}
    best_of_all = max(np.mean(known) for known in blocks.values())
    assert best_of_all > 0.62
    assert np.mean(_best(rows, blocks)) < 0.62
    assert _best(rows, {0: [0.0] * 40, 3: [1.0] * 40}) == [1.0] * 40
    assert _best(rows[:1], {0: [1.0]}) == [None]


def test_lines_find_what_is_planted_whether_options_come_again_or_not():
    luck = np.random.default_rng(1)
    options = [f"option {number}" for number in range(6)]
    rows = [
        {"id": str(n), "question": f"q{n}", "choices": luck.permutation(options)[:4].tolist(), "answer": n % 4}
        for n in range(60)
    ]
    sound, rights = np.ones(60, bool), rights_of(rows)
    told = [options.index(row["choices"][row["answer"]]) for row in rows]
    clear = luck.normal(size=(60, 10))
    clear[np.arange(60), told] += 4
    assert np.mean(Lines.of_answers(rows, sound).asked([luck.normal(size=(60, 10)), clear], rights)[0]) > 0.8
    spoken = luck.normal(size=(240, 10))
    spoken[np.arange(60) * 4 + rights, 3] += 4
    assert np.mean(Lines.of_options(rows, sound).asked([spoken], rights)[0]) > 0.8
    assert np.mean(Lines.of_options(rows, sound).asked([luck.normal(size=(240, 10))], rights)[0]) < 0.45


def test_a_fact_asked_twice_lies_in_one_fold(items):
    twice = [row | {"id": row["id"] + again, "fact": row["id"]} for row in items.to_pylist() for again in ("", "b")]
    folds = Lines.of_answers(twice, np.ones(len(twice), bool)).folds
    assert (folds[::2] == folds[1::2]).all()
    assert len(set(folds.tolist())) == 5


# ---------------------------------------------------------------------------------------------- what can be guessed


def planted(items, guessable):
    """Items of which some have the one option that is long."""
    rows = items.to_pylist()
    for row in rows[:guessable]:
        row["choices"][row["answer"]] += ", as is well known in the whole of the country"
    return pa.Table.from_pylist(rows)


def test_what_can_be_guessed_is_flagged_and_falls_out_of_the_robust_items(start, items):
    marked = MultipleChoice(robust="words").grade(start, planted(items, 30))
    guessable = values(marked, "guessable")
    assert np.mean([guessable[f"q{n}"] for n in range(30)]) == 1
    assert np.mean([guessable[f"q{n}"] for n in range(30, 48)]) < 0.6
    robust = values(marked, "accuracy_robust")
    assert set(robust) == {item for item, flagged in guessable.items() if not flagged}
    whole = values(marked, "accuracy")
    assert robust == {item: whole[item] for item in robust}


def test_no_item_falls_out_where_guessing_is_luck(start, items):
    marked = MultipleChoice(robust="words").grade(start, items)
    assert set(values(marked, "guessable").values()) == {0.0}
    assert values(marked, "accuracy_robust") == values(marked, "accuracy")


def test_a_column_or_other_models_may_say_what_is_robust_and_all_arms_have_the_same(start, taught, items, tmp_path):
    half = items.append_column("robust", pa.array([n % 2 == 0 for n in range(48)]))
    for subject in (start, taught):
        robust = values(MultipleChoice(robust="column").grade(subject, half), "accuracy_robust")
        assert set(robust) == {f"q{n}" for n in range(0, 48, 2)}
    with pytest.raises(UserError, match="item 'q0' does not say in a column 'robust'"):
        MultipleChoice(robust="column").grade(start, items)
    for number, subject in enumerate((start, taught)):
        write_documents(MultipleChoice().grade(subject, items), tmp_path / f"{number}.parquet")
    files = tuple(str(tmp_path / f"{number}.parquet") for number in range(2))
    guesser = MultipleChoice(robust="guessed", guessed=files)
    both = [values(MultipleChoice().grade(subject, items), "accuracy_option_only") for subject in (start, taught)]
    found = values(guesser.grade(taught, items), "guessable")
    assert found == {item: float(both[0][item] == both[1][item] == 1) for item in found}
    assert guesser.prepare(tmp_path) == {"guessable": sum(found.values())}
    kept = guesser.model_copy(update={"fitted": str(tmp_path), "guessed": ("gone",)})
    assert values(kept.grade(taught, items), "guessable") == found


def test_where_every_item_can_be_guessed_the_rest_is_missing(start, items):
    none = items.append_column("robust", pa.array([False] * 48))
    marked = MultipleChoice(robust="column").grade(start, none)
    assert set(values(marked, "accuracy_robust").values()) == {None}


# ------------------------------------------------------------------------------------------------ letters and lengths


def test_letters_score_the_letter_after_options_that_are_shown(start, items):
    rows = items.slice(0, 6).to_pylist()
    found = values(MultipleChoice(scoring="letters").grade(start, items.slice(0, 6)), "accuracy")
    for row in rows:
        shown = "\n".join(f"{letter}. {one}" for letter, one in zip("ABCD", row["choices"], strict=True))
        prompt = f"{row['question']}\n{shown}\nAnswer:"
        nats = [one.nats for one in scoring.completions(start, [(prompt, f" {letter}") for letter in "ABCD"])]
        assert found[row["id"]] == float(nats.index(max(nats)) == row["answer"])


def test_each_option_stands_in_each_place_and_an_order_is_the_item_s_own(items):
    row, other = items.to_pylist()[:2]
    orders = multiple_choice._orders(row, 8)
    assert sorted(place for order in orders[:4] for place in order[:1]) == [0, 1, 2, 3]
    assert orders == multiple_choice._orders(dict(row), 8)
    assert orders != multiple_choice._orders(other, 8)
    assert multiple_choice._orders(row, 0) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("takes", "bias", "right"), [("first", 0.75, 0.25), ("right", 0.0, 1.0)])
def test_position_bias_tells_a_letter_from_an_option(start, items, monkeypatch, takes, bias, right):
    answers = {row["question"]: row["choices"][row["answer"]] for row in items.to_pylist()}

    def chosen(subject, asked, **how):
        shown = [prompt.split("\n") for prompt, _ in asked]
        wanted = [next((i for i, one in enumerate(s[1:-1]) if one[3:] == answers.get(s[0])), 0) for s in shown]
        return [0] * len(asked) if takes == "first" else wanted

    monkeypatch.setattr(multiple_choice, "taken", chosen)
    found = means(MultipleChoice(scoring="letters", shuffles=4).grade(start, items))
    assert (found["position_bias"], found["accuracy"]) == (bias, right)


def test_the_bias_of_lots_is_the_mean_over_all_that_may_be_drawn():
    every = [multiple_choice._bias([a, b, c], 2) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert multiple_choice._bias_by_lot(2, 3) == pytest.approx(np.mean(every))


@pytest.mark.parametrize(
    ("per", "length"), [("none", lambda o: 1), ("character", len), ("byte", lambda o: len(o.encode()))]
)
def test_lengths_divide_as_lm_evaluation_harness_has_them(start, items, per, length):
    rows = items.slice(0, 8).to_pylist()
    rows[0]["choices"][1] = "Größe, über alles Maß"
    found = values(MultipleChoice(per=per).grade(start, pa.Table.from_pylist(rows)), "accuracy")
    for row in rows:
        scored = scoring.completions(start, [(row["question"], f" {option}") for option in row["choices"]])
        each = [one.nats / length(option) for one, option in zip(scored, row["choices"], strict=True)]
        assert found[row["id"]] == float(int(np.argmax(each)) == row["answer"])


@pytest.mark.parametrize("wrong", [{"shuffles": 2}, {"guessed": ("a",)}, {"robust": "guessed"}, {"per": "word"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError):
        MultipleChoice.settle(wrong, "here")


# ---------------------------------------------------------------------------------------------------- what is broken


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=repr)
def test_a_broken_model_is_missing_everywhere(start, items, evaluation):
    broken = copy.deepcopy(start)
    with torch.no_grad():
        broken.model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    marked = [row for row in evaluation.grade(broken, items.slice(0, 10)).to_pylist() if row["metric"] != "guessable"]
    assert {row["value"] for row in marked} == {None}
    assert all(row["note"] for row in marked)


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=repr)
def test_another_model_s_vocabulary_is_told(start, items, evaluation):
    wrong = copy.deepcopy(start)
    wrong.model.resize_token_embeddings(100)
    with pytest.raises(UserError, match="the model knows those below 100: they do not belong together"):
        evaluation.grade(wrong, items.slice(0, 10))


@pytest.mark.parametrize("evaluation", [MultipleChoice(), LogitLens(), Probe()], ids=repr)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": 4}, "is no choice"),
        ({"choices": ["a", "a"]}, "different choices"),
        ({"question": " "}, "no question"),
    ],
)
def test_items_that_cannot_be_asked_are_named(start, items, evaluation, change, complaint):
    rows = items.to_pylist()
    rows[3] |= change
    with pytest.raises(UserError, match=f"item 'q3' has .*{complaint}"):
        evaluation.grade(start, pa.Table.from_pylist(rows))
    with pytest.raises(UserError, match="item 'q0' shares its id"):
        evaluation.grade(start, pa.concat_tables([items, items]))


def test_too_few_facts_teach_nothing(start, items):
    with pytest.raises(UserError, match="5 folds"):
        Probe().grade(start, items.slice(0, 4))
    few = Probe().grade(start, items.slice(0, 5)).to_pylist()
    assert {row["note"] for row in few} == {probe.FEW}
