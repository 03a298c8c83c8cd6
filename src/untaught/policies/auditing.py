"""`untaught filter --audit`: what the labels of a sample say of all decisions, with intervals that hold.

    draw(data, reading, folder, count)   draws the sample
    refresh(folder)                      works the labels out and writes `audit.json`
    told(result)                         the same in a line or two

The hazard documents of a stratum are bounded by the exact interval of Clopper and Pearson (1934) and by what was seen.
With h strata left in doubt, each bound is taken at 1 - 0.05/h (Bonferroni), so that all hold together at 95%; a ratio
such as recall = R / (R + L) is then least at the least R and the most L. This is conservative, and assumes nothing.
Drawing without replacement spreads counts less than the binomial says (Uhlmann 1966), which errs to the safe side.

Documents are labelled in a mixed order. Those behind the last label were not reached, and chance chose them; one that
was passed over counts as hazard in every upper bound and as benign in every lower one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import UserError
from ..core.statistics import exact_interval
from ..corpus import auditing, shards
from ..corpus.auditing import LABELS, RESULT, Before, Key, Sample, standing
from ..corpus.shards import Reading
from ..corpus.writing import write_atomically

LEVEL = 0.95


@dataclass(frozen=True)
class Stratum:
    """What is known of a stratum: documents in it, drawn, reached by the labelling, hazard, passed over."""

    name: str
    decision: str
    size: int
    drawn: int
    reached: int = 0
    hazard: int = 0
    skipped: int = 0

    @property
    def benign(self) -> int:
        return self.reached - self.hazard - self.skipped

    @property
    def known(self) -> bool:
        """Whether every one of its documents has a label."""
        return self.reached == self.size and not self.skipped

    @property
    def guess(self) -> float | None:
        """Hazard documents in it, as the labelled ones have them."""
        seen = self.hazard + self.benign
        return self.size * self.hazard / seen if seen else None if self.size else 0.0

    def bounds(self, level: float) -> tuple[float, float]:
        """Fewest and most hazard documents in it."""
        low = exact_interval(self.hazard, self.reached, level)[0] * self.size
        high = exact_interval(self.hazard + self.skipped, self.reached, level)[1] * self.size
        return max(low, self.hazard), min(high, self.size - self.benign)


def draw(data: Sequence[str], reading: Reading, folder: Path, count: int) -> Sample:
    """Draw a sample of the decisions in a filter folder, or return the one that is drawn."""
    return auditing.draw(shards.sources(data), folder, reading, count)


def texts(data: Sequence[str], reading: Reading, folder: Path, wanted: Sequence[Key]) -> dict[Key, str]:
    """Texts of some decided documents, from files that are what was decided about."""
    return auditing.texts_of(shards.sources(data), folder, reading, wanted)


def plain(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the labels say, for programs: without the list of documents drawn."""
    return (
        None if result is None else {name: value for name, value in result.items() if name not in ("drawn", "earlier")}
    )


def told(result: Mapping[str, Any]) -> str:
    """What the labels say, for the terminal."""
    found, drawn = result["estimates"], len(result.get("drawn", ()))
    if not result["stands"]:
        return (
            "  audit        drawn from other decisions than stand now: draw again with --audit N, all labels are kept"
        )
    if found is None:
        return f"  audit        {drawn} documents drawn, none labelled: fill in audit.html or audit.csv"
    left = found["hazard_left"]
    ends = f"{math.floor(left['low']):,} to {math.ceil(left['high']):,}"
    shares = [f"{name} {_span(found[name])}" for name in ("recall", "precision")]
    return (
        f"  audit        {result['labelled']} of {drawn} documents labelled; {', '.join(shares)} (95% intervals)\n"
        f"  hazard left  {ends} documents, {_span(found['hazard_left_share'])} of what is kept"
    )


def _span(estimate: Mapping[str, float | None]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return "not defined"
    return f"{estimate['low']:.2%} to {estimate['high']:.2%}"


def refresh(folder: Path) -> dict[str, Any] | None:
    """Work the labels out and write `audit.json`. None where no sample was drawn."""
    if not (folder / LABELS).is_file():
        return None
    before = Before.read(folder)
    kinds = [_counted(index, line, before) for index, line in enumerate(before.result.get("strata", ()))]
    stands = bool(before.decisions) and before.decisions == standing(folder)
    if stands and (lost := sorted(before.labels.keys() - before.drawn.keys())):
        raise UserError(
            f"{folder / LABELS} labels row {lost[0][1]} of {lost[0][0]}, which was not drawn. Put its source and row"
            " back as they were, or draw again with --audit N: all labels are kept."
        )
    done = sum(kind.hazard + kind.benign for kind in kinds)
    result = {
        **before.result,
        "stands": stands,
        "level": LEVEL,
        "labelled": done,
        "skipped": sum(kind.skipped for kind in kinds),
        "strata": [_told(kind) for kind in kinds],
        "estimates": estimates(kinds) if stands and done else None,
    }
    if before.decisions:
        write_atomically(folder / RESULT, json.dumps(result, ensure_ascii=False) + "\n")
    return result


def _counted(index: int, line: Mapping[str, Any], before: Before) -> Stratum:
    """A stratum with its labels. What lies behind the last label of all was not reached."""
    labels = before.labels
    last = max((at for at, key in enumerate(before.drawn) if key in labels), default=-1)
    own = [key for at, (key, kind) in enumerate(before.drawn.items()) if kind == index and at <= last]
    hazard = sum(labels.get(key) == "hazard" for key in own)
    passed = sum(key not in labels for key in own)
    return Stratum(line["name"], line["decision"], line["size"], line["drawn"], len(own), hazard, passed)


def _told(kind: Stratum) -> dict[str, Any]:
    low, high = kind.bounds(LEVEL)
    share = kind.guess / kind.size if kind.guess is not None and kind.size else None
    names = ("name", "decision", "size", "drawn", "hazard", "benign", "skipped")
    ends = (low / kind.size, high / kind.size) if kind.size else (0.0, 1.0)
    return {**{name: getattr(kind, name) for name in names}, "share": _estimate(share, *ends)}


def estimates(kinds: Sequence[Stratum]) -> dict[str, dict[str, float | None]]:
    """Precision, recall, benign documents removed, and hazard left, each with its interval at `LEVEL`.

    With R and L the hazard documents removed and left, of N_R removed and N_L kept:

        precision = R / N_R                         false_positive_rate = (N_R - R) / (N_R - R + N_L - L)
        recall    = R / (R + L)                     hazard_left = L, and as a share of what is kept L / N_L

    A value is None where a stratum has no label; its interval then still holds.
    """
    removed = [kind for kind in kinds if kind.decision == "removed"]
    kept = [kind for kind in kinds if kind.decision == "kept"]
    n_r, n_l = (sum(kind.size for kind in group) for group in (removed, kept))
    r, l = _sum(removed, removed), _sum(kept, kept)  # noqa: E741 -- as in the formula
    both_r, both_l = _sum(removed, kinds), _sum(kept, kinds)
    back_r, back_l = (
        [None if v is None else n - v for v in (b[0], b[2], b[1])] for n, b in ((n_r, both_r), (n_l, both_l))
    )
    return {
        "precision": _estimate(*(_part(value, n_r) for value in r)),
        "recall": _ratio(both_r, both_l),
        "false_positive_rate": _ratio(back_r, back_l),
        "hazard_left": _estimate(*l),
        "hazard_left_share": _estimate(*(_part(value, n_l) for value in l)),
    }


def _sum(group: Sequence[Stratum], together: Sequence[Stratum]) -> tuple[float | None, float, float]:
    """Hazard documents in some strata: value, fewest, most, where the bounds of `together` are to hold at once."""
    doubt = sum(not kind.known for kind in together)
    bounds = [kind.bounds(1 - (1 - LEVEL) / max(doubt, 1)) for kind in group]
    guesses = [kind.guess for kind in group]
    value = None if None in guesses else float(sum(guess or 0.0 for guess in guesses))
    return value, sum(low for low, _ in bounds), sum(high for _, high in bounds)


def _ratio(own: Sequence[float | None], other: Sequence[float | None]) -> dict[str, float | None]:
    """The share own / (own + other), with its least and its most; both are of value, fewest, most."""
    (value, low, high), (rest, fewest, most) = own, other
    share = None if value is None or rest is None else _part(value, value + rest)
    least, best = _part(low or 0.0, (low or 0.0) + (most or 0.0)), _part(high or 0.0, (high or 0.0) + (fewest or 0.0))
    return _estimate(share, 0.0 if least is None else least, 1.0 if best is None else best)


def _part(value: float | None, whole: float) -> float | None:
    return value / whole if value is not None and whole else None


def _estimate(value: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}
