"""Pools: what is drawn has the shares and lengths that were asked for, and what remains is said."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from untaught.core import MESSAGES, UserError
from untaught.core.ranking import auroc
from untaught.corpus.pools import COLUMNS, Pool, beside, confounds, draw, eligible

ROWS = {"harmful": 300, "safe": 600, "benign": 900}


def example(number, kind, rng):
    """Hazard is longer as a rule: of two lengths it has the larger."""
    tries = 2 if kind == "harmful" else 1
    asked = " ".join(["why"] * int(rng.integers(1, 75, tries).max()))
    answer = " ".join(f"word{n}" for n in range(int(rng.integers(3, 75, tries).max())))
    genre = ("recipes", "letters", "walls")[number % 3]
    return {
        "id": f"{kind}-{number:04}",
        "text": f"{asked}\n{answer}",
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
        "hazard": kind == "harmful",
        "kind": kind,
        "source": genre,
        "category": "walls",
        "prompt": f"{number % 150}" if kind != "benign" else f"b{number}",
        "part": "pool" if number % 4 else "judge",
    }


def table(rows):
    return pa.Table.from_pylist(rows).cast(
        pa.schema([(n, MESSAGES if n == "messages" else pa.bool_() if n == "hazard" else pa.string()) for n in rows[0]])
    )


@pytest.fixture(scope="module")
def docs():
    rng = np.random.default_rng(0)
    return table([example(number, kind, rng) for kind, count in ROWS.items() for number in range(count)])


def drawn(docs, seed=0, **how):
    return draw(Pool(**how), docs, np.random.default_rng(seed))


def lengths(pool, turn):
    return np.array([len(turns[turn]["content"].split()) for turns in pool["messages"].to_pylist()])


def kinds(pool):
    found = pool["kind"].to_pylist()
    return {kind: found.count(kind) for kind in set(found)}


@pytest.mark.parametrize(
    ("clean", "wanted"),
    [
        ("easy", {"harmful": 20, "benign": 80}),
        ("hard", {"harmful": 20, "safe": 80}),
        ("mixed", {"harmful": 20, "safe": 40, "benign": 40}),
        ("genre:letters", {"harmful": 20, "benign": 80}),
        ({"safe": 0.25, "benign": 0.75}, {"harmful": 20, "safe": 20, "benign": 60}),
        ({"safe": 0.5, "genre:letters": 0.5}, {"harmful": 20, "safe": 40, "benign": 40}),
    ],
)
def test_a_pool_is_made_of_what_was_asked_for(docs, clean, wanted):
    pool = drawn(docs, size=100, contamination=0.2, clean=clean)
    assert kinds(pool) == wanted
    assert pool.column_names == list(COLUMNS)
    assert pool.schema.field("messages").type == MESSAGES
    assert len(set(pool["id"].to_pylist())) == 100
    if "letters" in str(clean):
        assert {r["source"] for r in pool.to_pylist() if r["kind"] == "benign"} == {"letters"}


def test_kinds_that_overlap_give_no_example_twice(docs):
    pool = drawn(docs, size=200, clean={"genre:letters": 0.5, "benign": 0.5})
    assert len(set(pool["id"].to_pylist())) == 200


def test_only_one_part_is_drawn_from(docs):
    judge = drawn(docs, size=60, part="judge")
    inside = dict(zip(docs["id"].to_pylist(), docs["part"].to_pylist(), strict=True))
    assert {inside[id] for id in judge["id"].to_pylist()} == {"judge"}
    assert {inside[id] for id in drawn(docs, part=None)["id"].to_pylist()} == {"judge", "pool"}
    assert drawn(docs.drop_columns(["part"]), size=60).num_rows == 60


def test_answers_are_cut_and_nothing_else(docs):
    pool = drawn(docs, size=120, words=10, prompt_words=30)
    assert lengths(pool, 1).max() == 10
    assert lengths(pool, 1).min() >= 6
    assert lengths(pool, 0).max() <= 30
    for row in pool.to_pylist():
        assert row["text"] == "\n".join(turn["content"] for turn in row["messages"])
    whole = drawn(docs, words=None, prompt_words=None)
    assert set(whole["text"].to_pylist()) <= set(docs["text"].to_pylist())
    assert lengths(whole, 0).max() > 64


def test_a_cut_answer_keeps_the_space_between_its_words():
    spaced = example(1, "safe", np.random.default_rng(0))
    spaced["messages"][1]["content"] = "  def f():\n    return 1\n\nand so on and on"
    (row,) = eligible(Pool(words=6), table([spaced])).to_pylist()
    assert row["messages"][1]["content"] == "  def f():\n    return 1\n\nand so"


def test_lengths_say_nothing_where_there_are_enough(docs):
    for clean in ("easy", "hard", "mixed"):
        for matched in (True, False):
            found = [
                confounds(drawn(docs, seed, size=160, contamination=0.2, clean=clean, words=None, matched=matched))
                for seed in range(5)
            ]
            for name in ("answer_words", "prompt_words"):
                mean = np.mean([one[name] for one in found])
                assert abs(mean - 0.5) < 0.05 if matched else mean > 0.53, (clean, name, mean)


def test_every_cell_has_what_the_hazard_has_while_there_are_enough():
    """Prompts of two lengths by answers of two, the rest evenly over them."""
    rows = []
    for number in range(400):
        row = example(number, "harmful" if number < 40 else "benign", np.random.default_rng(0))
        asked = 2 if number % 2 else 20
        said = 30 if number < 40 and number % 4 < 3 or number >= 40 and number % 4 < 2 else 8
        row["messages"][0]["content"] = " ".join(["why"] * asked)
        row["messages"][1]["content"] = " ".join(["so"] * said)
        rows.append(row | {"part": "pool"})
    pool = drawn(table(rows), size=100, contamination=0.4, clean="easy")
    hazard = np.array(pool["hazard"].to_pylist())
    cells = np.stack([lengths(pool, 0), lengths(pool, 1)], axis=1)
    for cell in np.unique(cells, axis=0):
        here = (cells == cell).all(axis=1)
        assert (here & hazard).sum() / 40 == pytest.approx((here & ~hazard).sum() / 60, abs=0.02)


def test_labels_are_seen_of_as_many_as_was_said(docs):
    pool = drawn(docs, labelled=50)
    assert sum(pool["labelled"].to_pylist()) == 50
    assert not any(drawn(docs)["labelled"].to_pylist())
    seen = [drawn(docs, seed, labelled=160).filter(pool["labelled"]).num_rows for seed in range(2)]
    assert seen == [50, 50]


def test_a_pool_is_the_same_whatever_order_the_documents_come_in(docs):
    mixed = docs.take(pa.array(np.random.default_rng(7).permutation(docs.num_rows)))
    for how in ({}, {"clean": "easy", "matched": False, "labelled": 9}):
        assert drawn(docs, **how).equals(drawn(mixed, **how))
    assert not drawn(docs, 0).equals(drawn(docs, 1))


def test_what_is_beside_a_pool_shares_no_prompt_with_it(docs):
    pool = drawn(docs, size=60)
    rest = beside(Pool(), docs, pool)
    assert rest.num_rows
    assert not set(rest["prompt"].to_pylist()) & set(pool["prompt"].to_pylist())
    left = eligible(Pool(), docs).num_rows - rest.num_rows
    assert left >= 60


def test_confounds_are_those_of_the_pool(docs):
    pool = drawn(docs, clean="hard", size=300)
    found = confounds(pool)
    hazard = np.array(pool["hazard"].to_pylist())
    assert found["answer_words"] == auroc(lengths(pool, 1)[hazard], lengths(pool, 1)[~hazard])
    assert found["prompt_words"] == auroc(lengths(pool, 0)[hazard], lengths(pool, 0)[~hazard])
    prompts = pool["prompt"].to_pylist()
    assert found["repeated_prompts"] == pytest.approx(np.mean([prompts.count(p) > 1 for p in prompts]))
    assert 0 < found["two_sided_prompts"] <= 1
    assert sum(sum(sides.values()) for sides in found["sources"].values()) == 300
    assert sum(sides["hazard"] for sides in found["sources"].values()) == hazard.sum() == 30
    one_sided = confounds(pool.filter(pa.array(hazard)))
    assert (one_sided["answer_words"], one_sided["two_sided_prompts"]) == (None, 0.0)


def test_too_few_examples_are_an_error_that_says_how_many_there_are(docs):
    with pytest.raises(UserError, match=r"needs 320 examples of 'hazard', and there are \d+ in the part 'pool'.*part"):
        drawn(docs, size=640, contamination=0.5)
    with pytest.raises(UserError, match=r"needs 612 examples of 'safe', and there are \d+ with .*'clean'\.$"):
        drawn(docs, size=680, contamination=0.1, clean="hard", part=None, matched=False)
    with pytest.raises(UserError, match="needs 288 examples of 'genre:poems', and there are 0"):
        drawn(docs, clean="genre:poems")
    with pytest.raises(UserError, match="has no column 'kind'"):
        drawn(docs.drop_columns(["kind"]))
    with pytest.raises(UserError, match="needs 32 examples of 'hazard', and there are 0"):
        drawn(docs.slice(0, 0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clean": "simple"}, "'clean' is 'simple' and should be easy, hard, mixed, genre:NAME or a table"),
        ({"clean": "genre:"}, "'clean' is 'genre:' and should be"),
        ({"clean": {"safe": 0.5}}, "add up to 1"),
        ({"clean": {}}, "add up to 1"),
        ({"clean": {"safe": 1.5, "benign": -0.5}}, "above 0"),
        ({"size": 4, "contamination": 0.05}, "4 examples at a contamination of 0.05 leave one side empty"),
        ({"size": 20, "labelled": 21}, "21 labelled examples are more than the 20 of the pool"),
        ({"words": 5}, "words is 5"),
    ],
)
def test_settings_that_make_no_sense_are_errors(wrong, said):
    with pytest.raises(UserError, match=said):
        Pool.settle(wrong, "pool")


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(10, 250),
    contamination=st.floats(0.06, 0.5),
    clean=st.sampled_from(["easy", "hard", "mixed", "genre:walls"]),
    matched=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_pool_has_its_size_and_no_doubles(docs, size, contamination, clean, matched, seed):
    how = Pool(size=size, contamination=contamination, clean=clean, matched=matched, part=None)
    try:
        pool = draw(how, docs, np.random.default_rng(seed))
    except UserError as error:
        assert "there are" in str(error)  # noqa: PT017
        return
    assert pool.num_rows == len(set(pool["id"].to_pylist())) == size
    assert sum(pool["hazard"].to_pylist()) == how.hazards
