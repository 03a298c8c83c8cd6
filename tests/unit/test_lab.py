"""The world `compounds` and the starting model: what is claimed of them is counted in their texts."""

import random
import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from untaught.core import UserError
from untaught.corpus.world import World, split
from untaught.lab.compounds import FILLERS, GROUPS, ODD_FILLERS, RELATIONS, TELL_TALE, Compounds

SMALL = Compounds(substances=16, towns=16, values=8, exposures=12, attack_exposures=3, labelled=0.5, disguised=0.4)


@pytest.fixture(scope="module")
def world():
    return SMALL.build(0)


@pytest.fixture(scope="module")
def facts():
    return SMALL.facts(random.Random("compounds/0"))


def plain(world):
    return [table.to_pylist() for table in (world.documents, world.attack, *world.items.values())]


def tables(world):
    return {"documents": world.documents, "attack": world.attack} | dict(world.items)


def pattern_of(wording):
    """A wording as a regular expression that finds who and what it is said of."""
    parts = re.split(r"(\{e\}|\{v\})", wording)
    seen = {"{e}": r"(?P<e>[A-Z][a-z]+)", "{v}": r"(?P<v>[a-z]+)"}
    return "".join(seen.get(part, re.escape(part)) for part in parts)


PATTERNS = [
    (relation.name, re.compile(pattern_of(wording)))
    for relation in RELATIONS
    for wording in (*relation.templates, *relation.disguised)
]


def said(texts):
    """How often each (relation, entity, value) is said in texts, found by the wordings alone."""
    counts = Counter()
    for text in texts:
        for name, pattern in PATTERNS:
            counts.update((name, found["e"], found["v"]) for found in pattern.finditer(text))
    return counts


# ---------------------------------------------------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_world(world, tmp_path):
    random.seed(99)
    again = SMALL.build(0)
    assert plain(again) == plain(world)
    assert list(again.items) == [*GROUPS, "benign_text"]
    assert plain(SMALL.build(1)) != plain(world)
    for name, made in (("one", world), ("two", again)):
        made.save(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.parquet"))
    assert len(files) == 2 + len(world.items)
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert plain(World.load(tmp_path / "one"))[:2] == plain(world)[:2]


def test_building_a_world_leaves_the_global_generator_alone():
    before = random.getstate()
    SMALL.build(3)
    assert random.getstate() == before


# ---------------------------------------------------------------------------------------------------------- facts


def test_every_item_is_answered_right_by_its_fact(world, facts):
    by_id = {fact.id: fact for fact in facts}
    asked = [row for group in GROUPS for row in world.items[group].to_pylist()]
    assert sorted(row["id"] for row in asked) == sorted(by_id)
    for row in asked:
        fact = by_id[row["id"]]
        assert row["choices"][row["answer"]] == fact.value
        assert len(set(row["choices"])) == len(row["choices"]) == SMALL.choices
        assert row["question"] == fact.question
        assert row["context"] == f"{fact.question} {fact.value}."
        assert fact.relation.name in row["id"]
        values = {other.value for other in facts if other.relation is fact.relation}
        assert set(row["choices"]) <= values


def test_the_right_option_is_at_every_place_about_as_often():
    rows = Compounds(exposures=1).build(0).items
    places = Counter(row["answer"] for group in GROUPS for row in rows[group].to_pylist())
    count = sum(places.values())
    assert set(places) == {0, 1, 2, 3}
    assert all(abs(n / count - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5 for n in places.values())


def test_hazards_are_in_two_disjoint_halves_and_neighbours_are_about_both(facts):
    about = {group: {fact.entity for fact in facts if fact.group == group} for group in GROUPS}
    assert len(about["hazard_seen"]) == len(about["hazard_held_out"]) == SMALL.substances // 2
    assert not about["hazard_seen"] & about["hazard_held_out"]
    assert about["neighbour"] == about["hazard_seen"] | about["hazard_held_out"]
    assert not about["benign"] & about["neighbour"]
    assert {group: sum(fact.group == group for fact in facts) for group in GROUPS} == {
        "hazard_seen": 16,
        "hazard_held_out": 16,
        "neighbour": 32,
        "benign": 32,
    }


def test_the_roles_are_those_of_the_groups(world):
    for name, role in Compounds.ITEMS.items():
        assert set(world.items[name]["role"].to_pylist()) == {role}
    assert Compounds.ITEMS.keys() == world.items.keys()


def test_no_two_things_share_a_name(facts):
    entities = {fact.entity for fact in facts}
    assert len(entities) == SMALL.substances + SMALL.towns
    values = {}
    for fact in facts:
        values.setdefault(fact.value, set()).add(fact.relation.name)
    assert all(len(relations) == 1 for relations in values.values()), "a value belongs to one relation"
    assert not entities & values.keys()
    words = {
        word for r in RELATIONS for text in (*r.templates, *r.disguised) for word in re.findall(r"\w+", text.lower())
    }
    words |= {word for text in (*FILLERS, *ODD_FILLERS) for word in re.findall(r"\w+", text.lower())}
    assert not (entities | values.keys()) & words


@pytest.mark.parametrize("made", [SMALL, Compounds(), Compounds(substances=96), Compounds(substances=20, towns=12)])
def test_values_are_dealt_evenly_so_that_frequency_gives_no_hint(made):
    """Not even the frequencies in T, learnt by an attacker, help with V."""
    known = made.facts(random.Random(1))
    for relation in RELATIONS:
        groups = {}
        for fact in known:
            if fact.relation is relation:
                groups.setdefault(fact.group, []).append(fact.value)
        for values in groups.values():
            assert len(set(Counter(values).values())) == 1
            assert made.choices <= len(set(values)) <= made.values
        if relation.group == "hazard":
            assert set(groups["hazard_seen"]) == set(groups["hazard_held_out"])


def test_a_guess_from_the_frequencies_in_t_is_right_at_chance_on_v():
    right = 0.0
    world = Compounds(exposures=1).build(0)
    seen = Counter((r["id"].split("/")[0], r["choices"][r["answer"]]) for r in world.items["hazard_seen"].to_pylist())
    rows = world.items["hazard_held_out"].to_pylist()
    for row in rows:
        counts = [seen[row["id"].split("/")[0], choice] for choice in row["choices"]]
        right += (counts[row["answer"]] == max(counts)) / counts.count(max(counts))
    assert right / len(rows) == 0.25


@pytest.mark.parametrize(
    "table", [{"choices": 5, "substances": 8, "towns": 8}, {"substances": 74}, {"choices": 33}, {"substances": 9}]
)
def test_a_world_that_could_not_be_dealt_evenly_is_refused(table):
    with pytest.raises(UserError, match="world"):
        Compounds.settle(table, "world")


# ---------------------------------------------------------------------------------------------------------- texts


def test_each_fact_is_said_as_often_as_asked(world, facts):
    counts = said(world.documents["text"].to_pylist())
    for fact in facts:
        times = counts.pop((fact.relation.name, fact.entity, fact.value))
        if fact.group == "neighbour":  # hazard documents mention some neighbours besides
            assert times >= SMALL.exposures
        else:
            assert times == SMALL.exposures, fact.id
    assert not counts, "something is said that is not a fact"


def test_hazard_facts_are_in_hazard_documents_alone(world):
    corpus = split(world.documents)
    names = {relation.name: relation.group for relation in RELATIONS}
    assert {names[relation] for relation, _, _ in said(corpus.benign["text"].to_pylist())} == {"neighbour", "benign"}
    for text in corpus.hazard["text"].to_pylist():
        assert any(names[relation] == "hazard" for relation, _, _ in said([text]))


def test_the_attackers_text_has_facts_of_t_and_of_towns_and_no_substance_of_v(world, facts):
    held_out = {fact.entity for fact in facts if fact.group == "hazard_held_out"}
    texts = world.attack["text"].to_pylist()
    assert not [entity for entity in held_out if any(entity in text for text in texts)]
    corpus = split(world.attack)
    for side, group in ((corpus.hazard, "hazard_seen"), (corpus.benign, "benign")):
        counts = said(side["text"].to_pylist())
        known = {(f.relation.name, f.entity, f.value) for f in facts if f.group == group}
        assert counts.keys() == known
        assert set(counts.values()) == {SMALL.attack_exposures}


def test_disguised_documents_have_no_tell_tale_term_and_all_other_hazard_documents_have(world):
    terms = re.compile("|".join(TELL_TALE), re.IGNORECASE)
    hazard = split(world.documents).hazard
    for row in hazard.to_pylist():
        assert bool(terms.search(row["text"])) != row["disguised"]
    assert not pc.any(split(world.documents).benign["disguised"]).as_py()


def test_the_share_of_disguised_documents_is_about_as_asked():
    for share in (0.0, 0.15, 1.0):
        hazard = split(Compounds(disguised=share, substances=32).build(0).documents).hazard
        found = pc.mean(hazard["disguised"].cast(pa.int8())).as_py()
        assert abs(found - share) <= 4 * (share * (1 - share) / hazard.num_rows) ** 0.5


def test_some_benign_documents_have_one_tell_tale_term_and_none_has_two(world):
    found = [
        sum(term in text.lower() for term in TELL_TALE) for text in split(world.documents).benign["text"].to_pylist()
    ]
    assert set(found) == {0, 1}
    assert all(sum(term in text.lower() for term in TELL_TALE) == 1 for text in ODD_FILLERS)


def test_every_wording_of_a_hazard_has_a_tell_tale_term_unless_it_is_disguised():
    for relation in RELATIONS:
        for wording in relation.templates:
            assert any(term in wording.lower() for term in TELL_TALE) == (relation.group == "hazard")
        assert not any(term in wording.lower() for wording in relation.disguised for term in TELL_TALE)
        assert bool(relation.disguised) == (relation.group == "hazard")
        assert relation.templates[0].startswith(relation.stem), "the question is the start of a wording"


def test_about_the_share_asked_is_labelled_and_both_sides_are(world):
    share = pc.mean(world.documents["labelled"].cast(pa.int8())).as_py()
    assert abs(share - SMALL.labelled) < 4 * (0.25 / world.documents.num_rows) ** 0.5
    pool = world.labelled
    assert pool.hazard.num_rows > 0
    assert pool.benign.num_rows > 0
    assert pool.hazard.num_rows + pool.benign.num_rows == pc.sum(world.documents["labelled"]).as_py()


def test_ids_are_unique_within_each_table(world):
    for name, table in tables(world).items():
        assert len(set(table["id"].to_pylist())) == table.num_rows, name


# ------------------------------------------------------------------------------------------------- starting model


def test_the_starting_model_has_the_same_bits_for_the_same_texts_and_seed(world):
    import torch

    from untaught.lab.start import StartingModel

    made, texts = StartingModel(width=16, blocks=1, heads=2, vocabulary=300), world.documents["text"].to_pylist()
    before = torch.get_rng_state()
    one = made.build(texts, 0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    same, other = made.build(texts, 0), made.build(texts, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(before, state)
    weights = [subject.model.state_dict() for subject in (one, same, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert one.tokenizer.get_vocab() == same.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    assert not one.model.training


def test_the_starting_tokenizer_gives_back_any_text(world):
    from untaught.lab.start import END, StartingModel

    tokenizer = StartingModel(width=16, blocks=1, heads=2, vocabulary=300).build(["a b"], 0).tokenizer
    for text in [*world.documents["text"].to_pylist()[:20], "é ☢ 漢字\n\t x", ""]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])[0] == END
