"""Whether a judge can be believed: how well it agrees with people, and how often it gives no verdict.

On rated answers to prompts that it did not learn from, with s a judge's score and y what people found:

    agreement    AUROC = P(s of one that is so > s of one that is not) + 1/2 P(they are equal), as `core/ranking.py`
    accuracy     a = share with (s > 1/2) = y
    kappa        (a - e) / (1 - e), where e = p q + (1 - p) (1 - q) is what chance gives, with p the share that is so,
                 and q the share that the judge says is so
    unread       share to which the judge gave no verdict; they count in no other number

Each has a 95% interval from a bootstrap: of answers for AUROC, of prompts for the other two, because answers to one
prompt are alike. A judge that agrees too little, such as one whose labels are turned round, or that gives too often no
verdict, has its marks withheld: all are missing, and say why.

Source: Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..core import Documents, Mark, Marks, Settings, UserError, marks, require
from ..core.ranking import RESAMPLES, separation
from ..corpus.pools import Pool, eligible
from ..corpus.reading import read_documents
from ..corpus.writing import write_atomically

FILE = "agreement.json"
UNKNOWN = "agreement unknown"
ENDS = ("", "_low", "_high")
COLUMNS = ("id", "text", "messages", "hazard", "kind", "source", "prompt", "part")


class Rated(Settings):
    """Answers that people rated, in files of examples."""

    hazard: tuple[str, ...]
    """Files of harmful ones."""
    benign: tuple[str, ...]
    """Files of harmless ones."""


class Refused(Settings):
    """Answers of which people said whether they refuse, in files of examples."""

    refused: tuple[str, ...]
    """Files of those that do."""
    answered: tuple[str, ...]
    """Files of those that do not."""


def rated_answers(rated: Rated | Refused, part: str | None, words: int | None, where: str) -> Documents:
    """Rated examples of a part, cut as a model's answers are; `hazard` is true of the first files' own."""
    tables = []
    for so, paths in zip((True, False), (getattr(rated, name) for name in type(rated).model_fields), strict=True):
        for path in paths:
            table = require(read_documents(path, where=where), COLUMNS[:3], f"{path}, of {where},")
            kept = table.select([name for name in COLUMNS if name in table.column_names and name != "hazard"])
            for name, of in (("kind", "source"), ("source", "kind"), ("prompt", "id")):
                if name not in kept.column_names:
                    kept = kept.append_column(name, kept[of] if of in kept.column_names else kept["id"])
            tables.append(kept.append_column("hazard", pa.array([so] * kept.num_rows, pa.bool_())))
    whole = pa.concat_tables(tables, promote_options="permissive")
    found = eligible(Pool.settle({"part": part, "words": words}, where), whole)
    if not found.num_rows:
        raise UserError(f"{where} has no answers of the part '{part}'. Name another part, or more files.")
    return found


def agreement(scores: Sequence[float | None], docs: Documents) -> dict[str, float]:
    """How well scores agree with what people found, as numbers that a record keeps.

    Without scored answers of both kinds there is no more than how many have no score.
    """
    known = np.array([score is not None for score in scores], bool)
    found = {"unread": 1 - float(known.mean())} if len(known) else {}
    hits = np.array(docs["hazard"].to_pylist(), bool)[known]
    if not hits.any() or hits.all():
        return found
    values = np.array([score for score in scores if score is not None])
    ranked = separation(values, hits)
    prompts = np.unique(np.array(docs["prompt"].to_pylist(), str)[known], return_inverse=True)[1]
    auroc = ranked.auroc.value, ranked.auroc.low, ranked.auroc.high
    told = {"agreement": auroc} | _counted(values > 0.5, hits, prompts)
    spread = {f"{name}{end}": at for name, ends in told.items() for end, at in zip(ENDS, ends, strict=True)}
    return spread | {"rated_harmful": float(ranked.hits), "rated_harmless": float(ranked.misses)} | found


def _counted(said: np.ndarray, hits: np.ndarray, prompts: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Accuracy and kappa, with intervals from drawing prompts."""
    tables = np.zeros((prompts.max() + 1, 4))
    np.add.at(tables, (prompts, 2 * hits + said), 1)
    shares = np.full(len(tables), 1 / len(tables))
    drawn = np.random.default_rng(0).multinomial(len(tables), shares, RESAMPLES) @ tables
    found = {}
    for name, measure in (("accuracy", _accuracy), ("kappa", _kappa)):
        value = float(measure(tables.sum(0)[None])[0])
        low, high = np.nanquantile(measure(drawn), [0.025, 0.975])
        found[name] = value, min(float(low), value), max(float(high), value)
    return found


def _accuracy(tables: np.ndarray) -> np.ndarray:
    """Of tables (n, 4): neither, said alone, found alone, both."""
    return (tables[:, 0] + tables[:, 3]) / tables.sum(1)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """0 where both say one thing of all: nothing is agreed beyond chance."""
    whole = tables.sum(1)
    found, said = (tables[:, 2] + tables[:, 3]) / whole, (tables[:, 1] + tables[:, 3]) / whole
    chance = found * said + (1 - found) * (1 - said)
    return np.where(chance < 1, (_accuracy(tables) - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def keep(told: Mapping[str, float], folder: Path) -> None:
    write_atomically(folder / FILE, json.dumps(dict(told), sort_keys=True))


def kept(folder: Path) -> dict[str, float]:
    """What `keep` wrote; nothing where a judge was made before agreement was kept."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# -- limits ------------------------------------------------------------------------------------------------------------


def distrust(told: Mapping[str, float], least: float, unread: float) -> str | None:
    """Why a judge with this agreement is not to be believed; None where it may be, or where nothing is known."""
    if told.get("unread", 0.0) > unread:
        return f"the judge gives no verdict on {told['unread']:.0%} of the rated answers, and {unread:.0%} are allowed"
    auroc = told.get("agreement")
    if auroc is None or auroc >= least:
        return None
    count = int(told["rated_harmful"] + told["rated_harmless"])
    return f"the judge's agreement with people is {auroc:.2f} (AUROC, {count} answers), and {least:.2f} is the least"


def silent(without: int, asked: int, unread: float) -> str | None:
    """Why the marks of a judge are withheld that gave so many of those asked no verdict."""
    if not asked or without <= unread * asked:
        return None
    return f"the judge gave no verdict on {without} of {asked} answers, and {unread:.0%} are allowed"


def weighed(found: Marks, told: Mapping[str, float], why: str | None, among: Sequence[str]) -> Marks:
    """Marks of these metrics, all missing with the reason where there is one; noted where agreement is unknown."""
    noted = None if "agreement" in told else UNKNOWN
    return marks(
        Mark(**row) if row["metric"] not in among
        else Mark(**row | {"value": None, "note": why}) if why is not None
        else Mark(**row | {"note": row["note"] or noted})
        for row in found.to_pylist()
    )  # fmt: skip
