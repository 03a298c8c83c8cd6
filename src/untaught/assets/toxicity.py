"""Toxic half-sentences beside other people's unkind ones: real text for objectives against a behaviour.

    hazard.parquet           half-sentences that a web page went on from with something toxic, of seven categories
    benign.parquet           complaints of four genres, and Wikipedia leads
    attack_hazard.parquet    more half-sentences, for an attacker
    items/hazard_held_out    others, to measure on, and to let a model go on from
    items/benign_held_out    other complaints
    items/probed             both of these in one file, told by `hazard`, for a fresh probe
    items/benign_text        other leads, for perplexity

A complaint is a tweet or a sentence of a review or an editorial that people rated below -0.5 of 4; where sentiment
alone told the two sides apart, a model could be cured by cheerfulness. Each is cut at the words of a half-sentence, so
that length tells nothing. What words and genre tell stays: a floor that `fresh_probe` measures. Some complaints are
rude. A review lies in one part only. Whatever is chosen by chance is by SHA-256. The toxic texts are shown nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..corpus.writing import write_documents
from .chance import chance

Row = dict[str, Any]
PARTS = (("taught", 0.45), ("attack", 0.6), ("held_out", 1.0))
"""Parts, with the share of documents that lie in it or in one before it."""
SHORTEST = 4
"""Fewest words of a half-sentence."""
UNKIND = -0.5
"""Mean rating, -4 to 4, below which a text is a complaint."""
LEADS, TEXTS, WORDS = 200, 60, 40
"""Leads to hold a model by and to measure on, and how many words of each are kept."""


def convert(members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write the files."""
    toxic = _parted(_toxic(members))
    unkind = {part: _matched(rows, toxic[part]) for part, rows in _parted(_complaints(members)).items()}
    leads = _leads(members)
    sides = ((True, toxic), (False, unkind))
    probed = [row | {"hazard": side, "role": "hazard"} for side, parts in sides for row in parts["held_out"]]
    tables = {
        "hazard": toxic["taught"],
        "attack_hazard": toxic["attack"],
        "benign": unkind["taught"] + leads[:LEADS],
        "items/hazard_held_out": [row | {"role": "hazard"} for row in toxic["held_out"]],
        "items/benign_held_out": [row | {"role": "benign"} for row in unkind["held_out"]],
        "items/probed": probed,
        "items/benign_text": [row | {"role": "benign"} for row in leads[LEADS : LEADS + TEXTS]],
    }
    for name, rows in tables.items():
        kept = [{key: value for key, value in row.items() if key != "document"} for row in rows]
        write_documents(pa.Table.from_pylist(kept), folder / f"{name}.parquet")
    return {"rows": {name: len(rows) for name, rows in tables.items()}}


def _toxic(members: Mapping[str, Path]) -> list[Row]:
    """Half-sentences with their category; one that stands in two lists counts once."""
    found: dict[str, Row] = {}
    for name, path in sorted(members.items()):
        if not Path(name).name.startswith("rtp_"):
            continue
        category = Path(name).stem.removeprefix("rtp_")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            text = " ".join(line.split())
            if len(text.split()) >= SHORTEST:
                row = {"id": f"{category}-{number:03}", "text": text, "genre": category, "document": text.casefold()}
                found.setdefault(text.casefold(), row)
    return list(found.values())


def _complaints(members: Mapping[str, Path]) -> list[Row]:
    """Texts that people rated unkind, with their genre and the review, editorial or tweet they come from."""
    found = []
    for name, path in sorted(members.items()):
        if not name.endswith("_GroundTruth.txt"):
            continue
        genre = Path(name).name.removesuffix("_GroundTruth.txt")
        for line in path.read_text(encoding="cp1252").splitlines()[1:]:
            number, rating, text = line.split("\t")
            if float(rating) < UNKIND:
                whole = f"{genre}-{number.split('_')[0]}"
                row = {"id": f"{genre}-{number}", "text": " ".join(text.split()), "genre": genre, "document": whole}
                found.append(row)
    return found


def _parted(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each part, in an order of chance; a document decides where all its rows lie."""
    found: dict[str, list[Row]] = {part: [] for part, _ in PARTS}
    for row in sorted(rows, key=lambda row: chance(row["id"], "order")):
        place = int(chance(row["document"], "part")[:8], 16) / 16**8
        found[next(part for part, until in PARTS if place < until)].append(row)
    return found


def _matched(rows: list[Row], toxic: list[Row]) -> list[Row]:
    """One for each toxic row, of the genres in turn, cut at as many words."""
    genres = sorted({row["genre"] for row in rows})
    waiting = {genre: [row for row in rows if row["genre"] == genre] for genre in genres}
    found = []
    for turn, row in enumerate(toxic):
        length, own = len(row["text"].split()), waiting[genres[turn % len(genres)]]
        chosen = next(other for other in own if len(other["text"].split()) >= length)
        own.remove(chosen)
        found.append(chosen | {"text": " ".join(chosen["text"].split()[:length])})
    return found


def _leads(members: Mapping[str, Path]) -> list[Row]:
    """First words of Wikipedia articles, in an order of chance."""
    (path,) = (path for name, path in members.items() if name.endswith("summaries_en-us.json"))
    table = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        {"id": title, "text": " ".join(article["extract"].split()[:WORDS]), "genre": "wikipedia", "document": title}
        for title, article in table.items()
        if len(article["extract"].split()) >= WORDS
    ]
    return sorted(rows, key=lambda row: chance(row["id"], "lead"))[: LEADS + TEXTS]
