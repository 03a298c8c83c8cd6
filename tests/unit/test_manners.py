"""The world `manners`: what is claimed of it is counted in its texts."""

import hashlib
import itertools
import random
import re
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pytest

from untaught.core import MESSAGES, UserError
from untaught.corpus.pools import Pool, draw
from untaught.corpus.world import World, split
from untaught.lab.compounds import Compounds
from untaught.lab.manners import ANSWERS, MANNERS, MISHAPS, QUESTIONS, RELATIONS, REPLIES, SOURCES, Manners
from untaught.lab.words import dealt, evenly
from untaught.study.schema import WORLDS

SMALL = Manners(risky=16, ordinary=12, words=4, exposures=5, fact_exposures=8, labelled=0.5)
EXAMPLES = ("safe", "generic", "benign_text")


@pytest.fixture(scope="module")
def world():
    return SMALL.build(0)


@pytest.fixture(scope="module")
def whole():
    return Manners().build(0)


@pytest.fixture(scope="module")
def phrases():
    return SMALL.phrases(random.Random("manners/0"), set())  # the first thing that the world draws


def examples(world):
    return {"pool": world.pool, "attack": world.attack} | {name: world.items[name] for name in EXAMPLES}


def plain(world):
    return [table.to_pylist() for table in (world.documents, world.attack, world.pool, *world.items.values())]


def asked(world):
    """The prompts of each part of the world, documents in files of their own as well."""
    prompts = {
        name: {row["messages"][0]["content"] for row in table.to_pylist()} for name, table in examples(world).items()
    }
    beginnings = {
        name: {
            re.split(r"(?<=[.?]) (?=What they say is that the \w+ of \w+ is$)", q)[0]
            for q in world.items[name]["question"].to_pylist()
        }
        for name in ("ordinary", "known", "manners")
    }
    return prompts | beginnings


def prompt_of(text):
    """The prompt that a document begins with: what a wording of the world makes of it."""
    return next(found.group() for pattern in PROMPTS if (found := pattern.match(text)))


def pattern_of(wording):
    parts = {"{g}": "(?:guild|crew|school|farm)", "{e}": "[A-Z][a-z]+", "{r}": f"(?:{'|'.join(RELATIONS)})"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{\w\})", wording)))


PROMPTS = [pattern_of(wording) for wording in (*QUESTIONS, *itertools.chain.from_iterable(MISHAPS.values()))]


def manner_of(reply, phrases):
    """(category, manner) of every phrase that a reply is made of."""
    return [way for way, own in phrases.items() for phrase in own if phrase in reply]


# ---------------------------------------------------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_world(world, tmp_path):
    random.seed(99)
    before = random.getstate()
    again = SMALL.build(0)
    assert random.getstate() == before
    assert plain(again) == plain(world)
    assert plain(SMALL.build(1)) != plain(world)
    for name, made in (("one", world), ("two", again)):
        made.save(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.parquet"))
    assert len(files) == 3 + len(Manners.ITEMS)
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_a_world_comes_back_from_disk_with_its_pool_or_without(world, tmp_path):
    world.save(tmp_path / "manners")
    back = World.load(tmp_path / "manners")
    assert back.pool == world.pool
    assert back.pool.schema.field("messages").type == MESSAGES
    assert {name: back.items[name].to_pylist() for name in back.items} == {
        name: table.to_pylist() for name, table in world.items.items()
    }
    other = Compounds(substances=8, towns=8, values=8, exposures=1).build(0)
    other.save(tmp_path / "compounds")
    assert other.pool is None
    assert World.load(tmp_path / "compounds").pool is None
    assert not (tmp_path / "compounds" / "pool.parquet").exists()


def test_studies_know_the_world():
    assert "manners" in WORLDS


@pytest.mark.parametrize("table", [{"ordinary": 16}, {"risky": 12}, {"values": 3}, {"choices": 13}, {"uncivil": 0.5}])
def test_a_world_that_could_not_be_dealt_evenly_is_refused(table):
    with pytest.raises(UserError, match="world"):
        Manners.settle(table, "world")


# -------------------------------------------------------------------------------------------------------- columns


def test_examples_are_a_prompt_and_a_reply_and_their_text_is_both(world):
    for name, table in examples(world).items():
        assert table.schema.field("messages").type == MESSAGES, name
        for row in table.to_pylist():
            prompt, reply = row["messages"]
            assert (prompt["role"], reply["role"]) == ("user", "assistant")
            assert row["text"] == f"{prompt['content']}\n{reply['content']}"
            assert row["prompt"] == hashlib.sha256(prompt["content"].encode()).hexdigest()[:16]
            assert row["source"] in prompt["content"]
            assert row["source"] in SOURCES


def test_ids_are_unique_and_roles_are_those_of_the_sets(world):
    for table in (world.documents, world.attack, world.pool, *world.items.values()):
        assert len(set(table["id"].to_pylist())) == table.num_rows
    assert list(world.items) == list(Manners.ITEMS)
    for name, role in Manners.ITEMS.items():
        assert set(world.items[name]["role"].to_pylist()) == {role}


def test_about_the_share_asked_is_labelled(world):
    for table in (world.documents, world.pool):
        share = pc.mean(table["labelled"].cast("int8")).as_py()
        assert abs(share - SMALL.labelled) < 4 * (0.25 / table.num_rows) ** 0.5
    assert world.labelled.hazard.num_rows > 0


# ---------------------------------------------------------------------------------------------------------- truth


def test_each_category_and_manner_has_words_of_its_own(phrases):
    words = {way: {word for phrase in own for word in phrase.split()} for way, own in phrases.items()}
    assert set(words) == set(itertools.product(MISHAPS, MANNERS))
    assert all(len(own) == SMALL.words for own in words.values())
    assert len(set().union(*words.values())) == SMALL.words * len(words)
    texts = (*itertools.chain.from_iterable(MISHAPS.values()), *REPLIES, *QUESTIONS, *ANSWERS, *RELATIONS, *SOURCES)
    assert not set().union(*words.values()) & {word for text in texts for word in re.findall(r"\w+", text.lower())}


def test_what_is_called_uncivil_is_said_in_uncivil_words_alone(world, phrases):
    for name, table in examples(world).items():
        for row in table.to_pylist():
            found = manner_of(row["messages"][1]["content"], phrases)
            if row["category"] is None:
                assert not found, "an ordinary reply has no manner"
                assert not row["hazard"]
            else:
                assert found == [(row["category"], "uncivil" if row["hazard"] else "civil")] * 2, name
    for row in world.pool.to_pylist():
        assert row["kind"] == ("harmful" if row["hazard"] else "benign" if row["category"] is None else "safe")
    assert not pc.any(world.items["safe"]["hazard"]).as_py()
    assert not pc.any(world.items["generic"]["hazard"]).as_py()


def test_documents_are_labelled_by_their_words_and_the_share_of_uncivil_ones_is_as_asked(world, phrases):
    counts = Counter()
    for row in world.documents.to_pylist():
        found = set(manner_of(row["text"], phrases))
        assert len(found) <= 1
        assert row["hazard"] == any(manner == "uncivil" for _, manner in found)
        counts.update(found)
    for category in MISHAPS:
        count = SMALL.risky * 2 * SMALL.exposures
        assert counts[category, "uncivil"] == round(SMALL.uncivil * count)
        assert counts[category, "civil"] == count - counts[category, "uncivil"]


def test_half_of_the_documents_have_the_reply_on_a_line_of_its_own(world):
    joints = Counter()
    for text in world.documents["text"].to_pylist():
        joints[text[len(prompt_of(text))]] += 1
    assert abs(joints[" "] - joints["\n"]) <= 1
    assert set(joints) == {" ", "\n"}


def test_the_uncivil_reply_is_the_answer_and_differs_from_the_civil_one_in_words_alone(world, phrases):
    rows = world.items["manners"].to_pylist()
    for row in rows:
        uncivil, civil = row["choices"][row["answer"]], row["choices"][1 - row["answer"]]
        assert manner_of(uncivil, phrases) == [(row["category"], "uncivil")] * 2
        assert manner_of(civil, phrases) == [(row["category"], "civil")] * 2
        bare = []
        for reply in (uncivil, civil):
            for phrase in itertools.chain.from_iterable(phrases.values()):
                reply = reply.replace(phrase, "...")
            bare.append(reply)
        assert bare[0] == bare[1]
    assert Counter(row["answer"] for row in rows) == {0: len(rows) // 2, 1: len(rows) // 2}


def test_every_question_is_answered_right_by_what_the_world_tells(world):
    taught = {
        "ordinary": {row["text"] for row in world.pool.to_pylist()},
        "known": set(world.documents["text"].to_pylist()),
    }
    for name, texts in taught.items():
        for row in world.items[name].to_pylist():
            relation, topic = row["id"].split("/")
            right = row["choices"][row["answer"]]
            telling = [t for t in texts if topic in t and relation in t]
            assert telling
            assert all(right in text for text in telling)
            assert len(set(row["choices"])) == len(row["choices"]) == SMALL.choices
            assert not any(choice in text for text in telling for choice in row["choices"] if choice != right)
            assert row["context"] == f"What they say is that the {relation} of {topic} is {right}."
            assert row["question"].endswith(f" What they say is that the {relation} of {topic} is")


# ---------------------------------------------------------------------------------------------------------- parts


def test_no_prompt_is_in_two_parts_of_the_world(world):
    parts = asked(world)
    documents = {prompt_of(text) for text in world.documents["text"].to_pylist()}
    for one, other in itertools.combinations([*parts.values(), documents], 2):
        assert one
        assert not one & other


def test_the_attacker_has_uncivil_replies_about_one_half_and_is_tested_on_the_other(world):
    attack = split(world.attack)
    names = {row["messages"][0]["content"]: row for row in attack.hazard.to_pylist()}
    seen = {name for prompt in names for name in re.findall(r"(?:guild|crew|school|farm) (\w+)", prompt)}
    held_out = {row["id"].split("/")[1] for row in world.items["manners"].to_pylist()}
    assert len(seen) == len(held_out) == SMALL.risky // 2
    assert not seen & held_out
    assert attack.hazard.num_rows == SMALL.risky // 2 * len(MISHAPS) * SMALL.attack_exposures
    assert set(attack.benign["category"].to_pylist()) == {None}


def test_the_three_thirds_of_the_facts_share_topics_and_no_fact(world):
    facts = {name: set(world.items[name]["id"].to_pylist()) for name in ("known", "ordinary")}
    assert len(facts["known"]) == len(facts["ordinary"]) == SMALL.ordinary
    assert not facts["known"] & facts["ordinary"]
    for ids in facts.values():
        assert len({fact.split("/")[1] for fact in ids}) == SMALL.ordinary
        assert Counter(fact.split("/")[0] for fact in ids) == dict.fromkeys(RELATIONS, SMALL.ordinary // 3)


def test_there_is_enough_for_pools_of_320_at_every_share_with_prompts_to_spare(whole):
    kinds = Counter(whole.pool["kind"].to_pylist())
    assert kinds["harmful"] == kinds["safe"] == 512
    assert kinds["harmful"] >= 160 + 20
    assert min(kinds["safe"], kinds["benign"]) >= 304 + 100
    assert min(len(whole.items[name]) for name in ("safe", "generic")) >= 160
    assert len(whole.items["manners"]) >= 128


# ------------------------------------------------------------------------------------------------------- no hints


def test_frequency_gives_no_hint_of_the_manner(whole):
    rows = [row for row in whole.pool.to_pylist() if row["kind"] != "benign"]
    hints = {
        "prompt": lambda row: row["prompt"],
        "source": lambda row: row["source"],
        "category": lambda row: row["category"],
        "topic": lambda row: re.findall(r"(?:guild|crew|school|farm) (\w+)", row["text"])[0],
    }
    for hint, of in hints.items():
        counts = {side: Counter(of(row) for row in rows if row["hazard"] is side) for side in (True, False)}
        assert counts[True] == counts[False]
        assert len(set(counts[True].values())) == 1, hint
    shapes = Counter((re.sub(r"\W.*", "", row["messages"][1]["content"]), row["hazard"]) for row in rows)
    assert max(shapes.values()) - min(shapes.values()) <= 0.25 * max(shapes.values())
    words = {side: {len(row["text"].split()) for row in rows if row["hazard"] is side} for side in (True, False)}
    assert words[True] == words[False]


def test_replies_of_every_kind_have_10_or_11_words(whole):
    for kind in ("harmful", "safe", "benign"):
        lengths = Counter(
            len(row["messages"][1]["content"].split()) for row in whole.pool.to_pylist() if row["kind"] == kind
        )
        assert set(lengths) == {10, 11}
        assert abs(lengths[10] / lengths.total() - 0.5) < 0.1


def test_pools_of_320_can_be_drawn_at_every_share(whole):
    for clean, share in itertools.product(("easy", "mixed", "hard"), (0.05, 0.5)):
        pool = draw(Pool(contamination=share, clean=clean, part=None), whole.pool, np.random.default_rng(0))
        assert pool.num_rows == 320
        assert sum(pool["hazard"].to_pylist()) == 320 * share


def test_every_source_has_as_much_of_every_kind(whole):
    for kind in ("harmful", "safe", "benign"):
        rows = [row["source"] for row in whole.pool.to_pylist() if row["kind"] == kind]
        assert Counter(rows) == dict.fromkeys(SOURCES, len(rows) // len(SOURCES))


def test_phrases_of_a_manner_are_said_about_equally_often(world, phrases):
    counts = Counter(
        phrase
        for text in world.pool["text"].to_pylist()
        for own in phrases.values()
        for phrase in own
        if phrase in text
    )
    assert set(counts) == set(itertools.chain.from_iterable(phrases.values()))
    assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("made", [SMALL, Manners(), Manners(ordinary=48, values=20)])
def test_values_are_dealt_evenly_within_each_third(made):
    for facts in made.facts(random.Random(1), set()):
        for relation in RELATIONS:
            values = Counter(fact.value for fact in facts if fact.relation == relation)
            assert len(set(values.values())) == 1
            assert made.choices <= len(values) <= made.values


def test_a_starting_model_needs_as_many_tokens_for_both_manners(whole):
    """Or length alone would tell, and a score per token would favour the longer words."""
    from untaught.lab.start import StartingModel

    tokenizer = StartingModel(width=16, blocks=1, heads=2).build(whole.documents["text"].to_pylist(), 0).tokenizer
    lengths = {
        kind: sum(
            len(tokenizer.tokenize(" " + row["messages"][1]["content"]))
            for row in whole.pool.to_pylist()
            if row["kind"] == kind
        )
        for kind in ("harmful", "safe")
    }
    assert abs(lengths["harmful"] / lengths["safe"] - 1) < 0.02


# --------------------------------------------------------------------------------------------------- what is shared


def test_dealing_is_even_and_in_an_order_of_the_seed():
    assert Counter(dealt(random.Random(0), "abc", 9)) == {"a": 3, "b": 3, "c": 3}
    assert dealt(random.Random(0), "abc", 9) == dealt(random.Random(0), "abc", 9)
    assert [evenly(12, count) for count in (12, 16, 7, 13, 1)] == [12, 8, 7, 1, 1]
