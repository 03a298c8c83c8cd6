"""What filters of fine-tuning data share: the order of a pool, thresholds, findings, the file of what was learned."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core import FINDINGS, Documents, Findings, Mask, UserError
from ..corpus.writing import write_atomically

ASSISTANT = "assistant"
NO_ANSWER = "an example without an answer"
"""As in `engine/examples.py`, which cannot be read without torch."""
ROWS = 4096
"""Examples of a pool that are measured together."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date in the files that are written: the same content gives the same bytes."""


# -- a pool ------------------------------------------------------------------------------------------------------------


def names(docs: Documents) -> list[bytes]:
    """A digest of what each document says, and who says it: the same for the same content, whatever its id."""
    texts = docs["text"].to_pylist()
    told = docs["messages"].to_pylist() if "messages" in docs.column_names else [None] * len(texts)
    plain = [text if one is None else json.dumps(one, sort_keys=True) for text, one in zip(texts, told, strict=True)]
    return [hashlib.sha256(one.encode()).digest() for one in plain]


def ordered(docs: Documents) -> Documents:
    """The documents in the order of their content: what is learned from them is the same in any order."""
    found = names(docs)
    return docs.take(pa.array(sorted(range(len(found)), key=found.__getitem__), pa.int64()))


def different(docs: Documents, least: int, what: str) -> Documents:
    """The documents in order, or a `UserError` when fewer than `least` of them differ."""
    count = len(set(names(docs)))
    if count < least:
        of = f", all of {docs.num_rows} alike" if count == 1 and docs.num_rows > 1 else f" of {docs.num_rows}"
        raise UserError(f"{what} has {count} different examples{of}, and at least {least} are needed. Give more.")
    return ordered(docs)


def labels(hazard: Documents, benign: Documents, least: int = 1) -> None:
    """A `UserError` unless there are labelled examples of both sides."""
    for side, docs in (("hazard", hazard), ("benign", benign)):
        enough(docs, side, least)


WORD = {"hazard": "harmful", "benign": "clean"}


def enough(docs: Documents, side: str, least: int = 1) -> None:
    """A `UserError` unless there are labelled examples of a side."""
    if docs.num_rows < least:
        raise UserError(
            f"{docs.num_rows} examples are known to be {WORD[side]}, and this filter learns from at least {least}. Name"
            f" them in 'corpus.{side}', or label more of the pool with 'label_column'."
        )


def halves(docs: Documents) -> list[tuple[str, str]]:
    """Of each example the prompt and the answer, a line a turn. A document without `messages` is all answer."""
    texts: list[Any] = docs["text"].to_pylist()
    told: list[Any] = docs["messages"].to_pylist() if "messages" in docs.column_names else [None] * len(texts)
    found = []
    for text, turns in zip(texts, told, strict=True):
        if turns is None:
            found.append(("", text or ""))
            continue
        sides = [[t["content"] or "" for t in turns if (t["role"] == ASSISTANT) == own] for own in (False, True)]
        found.append(("\n".join(sides[0]), "\n".join(sides[1])))
    return found


# -- scores ------------------------------------------------------------------------------------------------------------


def threshold(given: float | None, removed: float | None, scores: np.ndarray) -> float | None:
    """The score from which examples are dropped: the given one, or that of the share `removed` of the pool's scores.

    Of equal scores at the edge all are dropped or none: none, where it would be more than the share.

    >>> threshold(None, 0.5, np.array([1.0, 2.0, 3.0, 4.0])), threshold(None, 0.5, np.array([1.0, 3.0, 3.0, 3.0]))
    (3.0, 3.0000000000000004)
    """
    if removed is None or not len(scores):
        return given
    ranked = np.sort(scores)[::-1]
    count = min(math.floor(removed * len(ranked) + 1e-9), len(ranked))
    if count == 0:
        return float(np.nextafter(ranked[0], math.inf))
    edge = ranked[count - 1]
    whole = count == len(ranked) or ranked[count] < edge
    return float(edge if whole else np.nextafter(edge, math.inf))


def settled(scorer: Any, pool: Documents, removed: float | None) -> Any:
    """The scorer, with the threshold from which the share `removed` of the pool is dropped where there is one."""
    if removed is None:
        return scorer
    docs = different(pool, 2, "the pool")
    parts = [scorer.measure(docs.slice(first, ROWS))["score"] for first in range(0, docs.num_rows, ROWS)]
    scores = np.concatenate([part.drop_null().to_numpy() for part in parts])
    if not len(scores):
        raise UserError(f"none of the pool's {docs.num_rows} examples could be measured, so no share of them can be"
                        " dropped. Look at the causes with 'threshold' in place of 'removed'.")  # fmt: skip
    return replace(scorer, threshold=threshold(scorer.threshold, removed, scores))


def below(found: Findings, edge: float | None) -> Mask:
    """What is kept: all that scores less than the threshold, or everything where there is none."""
    if edge is None:
        return np.ones(found.num_rows, bool)
    return found["score"].to_numpy() < edge


def told(scores: np.ndarray, causes: Sequence[str | None], how: str) -> Findings:
    """Findings from scores (n,) and the causes of those that have none. `how` says what a score is: 'p = {:.2f}'."""
    values = [None if cause else float(score) for score, cause in zip(scores, causes, strict=True)]
    reasons = [cause or how.format(value) for value, cause in zip(values, causes, strict=True)]
    count = len(values)
    empty = [pa.nulls(count, FINDINGS.field(name).type) for name in ("terms", "spans")]
    nothing = [pa.array([[]] * count, column.type) for column in empty]
    return pa.table([pa.array(values, pa.float64()), pa.array(reasons, pa.string()), *nothing], schema=FINDINGS)


# -- what was learned --------------------------------------------------------------------------------------------------


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as `.npz`: no pickle, and the same bytes for the same arrays."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            one = io.BytesIO()
            np.lib.format.write_array(one, np.asarray(arrays[name]), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", EPOCH), one.getvalue())
    write_atomically(path, whole.getvalue())


def placed(settings: Any, folder: Path) -> Any:
    """The settings with the place of what was learned made whole. `folder` is where relative paths start."""
    if settings.fitted is None:
        return settings
    return settings.model_copy(update={"fitted": os.path.abspath(folder / settings.fitted)})


def load(path: str, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays that `save` wrote, or a `UserError`."""
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as saved:
            found = {name: saved[name] for name in saved.files}
    except OSError as error:
        raise UserError(f"what the filter learned, {path}, cannot be read: {error.strerror}. Fit it again.") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is not what a filter learned. Fit it again.") from None
    lacking = [name for name in needed if name not in found]
    numbers = [value for value in found.values() if value.dtype.kind == "f"]
    if lacking or not all(np.isfinite(value).all() for value in numbers):
        raise UserError(f"{path} is not what this filter learned: {', '.join(lacking) or 'a number'} is not there."
                        " Fit it again.")  # fmt: skip
    return found
