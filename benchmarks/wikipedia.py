"""How well filters find a topic in articles they have not seen: Wikipedia leads, 'Biology and health' as the hazard.

    python benchmarks/wikipedia.py [--seeds N]

The stand-in is benign; what it shows is the machinery, not biosecurity. 9,033 leads with a topic (1,358 of them
'Biology and health sciences') are parted in two by the digest of seed and title. Policies are made from the seed half
alone, by `untaught filter` as a user would; recall and precision are measured on the other half, of articles that
nothing was learned from or chosen on. The 1,000 leads without a topic are in neither half: their labels are not known.

    list for F1      a made blocklist alone, its length and its number of distinct terms chosen for F1
    list for recall  the same chosen for 98% recall: what is handed on in a cascade
    cascade          what that list flags, decided by the made classifier, its threshold chosen for F1
    classifier       the made classifier alone, every document

Lists and cascade twice: whole words, and with the same terms, numbers and model the published rule, `substring`.

`seed` of the numbers tells the split; intervals are Student's t over splits, which share articles: they say how much
the split matters, not how another encyclopedia would do. Precision and F1 are at this mix, 15% hazard.

Text: Wikipedia, CC BY-SA 4.0, the asset wikipedia-leads, which is fetched unless it is there. No text is kept:
wikipedia.json beside this script holds numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from untaught.assets.catalogue import catalogue
from untaught.assets.fetching import fetch
from untaught.core import summarise
from untaught.corpus.policy import Policy
from untaught.corpus.writing import write_atomically
from untaught.policies import filtering

KEPT = Path(__file__).parent / "wikipedia.json"
ASSET = "wikipedia-leads"
HAZARD, UNLABELLED = "Biology and health sciences", "Uncategorized"
WANTED = 0.90
"""F1 on unseen articles that the made policy must reach."""

ENDS = ("value", "low", "high")
LIST = {"use": "blocklist", "ngrams": 3}
MODEL = {"use": "classifier"}


def articles() -> list[dict[str, str]]:
    """Title, text and topic of every article."""
    folder = fetch(ASSET).folder
    return pq.read_table(folder / "leads.parquet", columns=["id", "text", "topic"]).to_pylist()


def parted(found: Sequence[Mapping[str, str]], seed: int) -> tuple[list[Mapping[str, str]], list[Mapping[str, str]]]:
    """The seed half and the test half of the labelled articles."""
    first = [hashlib.sha256(f"{seed}/{a['id']}".encode()).digest()[0] < 128 for a in found]
    labelled = [(a, f) for a, f in zip(found, first, strict=True) if a["topic"] != UNLABELLED]
    return [a for a, f in labelled if f], [a for a, f in labelled if not f]


def written(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in rows), encoding="utf-8")
    return path


def policies(folder: Path) -> Iterator[tuple[str, Policy, Path]]:
    """Every policy by name, with the folder of its paths. Those that share terms and model come after the made one."""
    corpus = {"corpus": {"hazard": "hazard.jsonl", "benign": "benign.jsonl"}, "workers": 1}
    best = {"choose": {"f1": "best"}}

    def settled(*stages: Mapping[str, Any], **more: Any) -> Policy:
        return Policy.settle({"filters": stages, "workers": 1, **more}, "policy")

    yield "list for F1, words, made", settled(LIST, **corpus, **best), folder
    handed = {**LIST, "escalate": True, "choose": {"recall": 0.98}}
    yield "cascade, words, made", settled(handed, MODEL, **corpus, **best), folder
    yield "classifier, made", settled(MODEL, **corpus, **best), folder
    (short,) = _stages(folder / "list for F1, words, made")
    terms, model = _stages(folder / "cascade, words, made")
    yield "list for F1, substring", settled({**short, "match": "substring"}), folder
    yield "list for recall, words", settled({**terms, "escalate": False}), folder
    yield "list for recall, substring", settled({**terms, "escalate": False, "match": "substring"}), folder
    yield "cascade, substring", settled({**terms, "match": "substring"}, model), folder / "cascade, words, made"


def _stages(out: Path) -> list[dict[str, Any]]:
    """The stages of a policy that was made."""
    return [stage.plain() for stage in filtering.read_policy(None, out, {})[0].filters]


def marks(removed: set[str], test: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Recall, precision and F1, and the topics of what was removed wrongly."""
    hazard = {a["id"] for a in test if a["topic"] == HAZARD}
    true, wrong = len(removed & hazard), removed - hazard
    found = {"documents": len(test), "hazard": len(hazard), "removed": len(removed), "true": true}
    found |= {"recall": true / len(hazard), "precision": true / max(len(removed), 1)}
    found |= {
        "f1": 2 * true / (len(removed) + len(hazard)),
        "false_positive_rate": len(wrong) / (len(test) - len(hazard)),
    }
    topics = Counter(a["topic"] for a in test if a["id"] in wrong)
    return found | {"wrongly_removed": dict(sorted(topics.items()))}


def removed(out: Path) -> set[str]:
    table = pq.read_table(out / "decisions" / "test.parquet", columns=["id", "decision"]).to_pylist()
    return {row["id"] for row in table if row["decision"] == "removed"}


def measured(found: Sequence[Mapping[str, str]], seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """One split: what every policy removes of the test half."""
    learn, test = parted(found, seed)
    written(folder / "hazard.jsonl", [a for a in learn if a["topic"] == HAZARD])
    written(folder / "benign.jsonl", [a for a in learn if a["topic"] != HAZARD])
    data = [str(written(folder / "test.jsonl", test))]
    for name, policy, home in policies(folder):
        made = filtering.make(policy, home, folder / name, data=data)
        filtering.carry_out(data, made, folder / name, quiet=True)
        stages = (made.policy.made or {}).get("stages")
        row = {"policy": name, "seed": seed, **marks(removed(folder / name), test)}
        if stages and "made" in name:
            said = stages[-1]["hazard"]
            row["said_holds"] = said["low"] <= row["recall"] <= said["high"]
            row["terms"] = stages[0].get("terms")
            row["chosen"] = [{k: v for k, v in s["chosen"].items() if k != "of"} for s in stages if "chosen" in s]
            ways = ("rarity", "l2", "coverage")
            row["trained"] = [{w: f.settings[w] for w in ways if w in f.settings} for f in made.policy.filters]
            row["said"] = {k: stages[-1][k] for k in ("hazard", "benign", "precision")}
        yield row


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean over splits with a 95% interval, for each policy."""
    found = []
    for name in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == name]
        line: dict[str, Any] = {"policy": name, "splits": len(own)}
        for metric in ("recall", "precision", "f1", "false_positive_rate"):
            whole = asdict(summarise([row[metric] for row in own]))
            line[metric] = {k: None if whole[k] is None else round(min(max(whole[k], 0), 1), 4) for k in ENDS}
        line["said_holds"] = sum(row.get("said_holds", False) for row in own) if "made" in name else None
        found.append(line)
    return found


def main() -> None:
    """Measure every split, write after each."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    asked.add_argument("--seeds", type=int, default=5, help="Splits.")
    given = asked.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        found = articles()
        for seed in range(given.seeds):
            folder = Path(place) / str(seed)
            folder.mkdir()
            for row in measured(found, seed, folder):
                rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                numbers = ", ".join(f"{metric} {row[metric]:.3f}" for metric in ("recall", "precision", "f1"))
                print(f"split {seed}, {row['policy']}: {numbers}", flush=True)
            write(rows, found)


def write(rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, str]]) -> None:
    """The json, a line for each row."""
    lines = {"table": table(rows), "splits": list(rows)}
    best = max(line["f1"]["value"] for line in lines["table"] if line["policy"].endswith("made"))
    (wheel,) = catalogue()[ASSET].wheels
    (member,) = wheel.members
    source = {"wheel": wheel.wheel, "sha256": wheel.sha256, "member": member}
    about = {
        "source": {**source, "text": "Wikipedia, CC BY-SA 4.0, not kept here"},
        "hazard": HAZARD,
        "articles": dict(sorted(Counter(a["topic"] for a in found).items())),
        "left_out": UNLABELLED,
        "wanted_f1": WANTED,
        "reached": best >= WANTED,
    }
    parts = [f' "{name}": {json.dumps(value)}' for name, value in about.items()]
    parts += [f' "{n}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in rs) + "\n ]" for n, rs in lines.items()]
    write_atomically(KEPT, "{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
