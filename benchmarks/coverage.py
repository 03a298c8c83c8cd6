"""How often the interval of a safety tax holds the true difference, beside other intervals, on simulated studies.

    python benchmarks/coverage.py [--studies N] [--resampled N]

A study asks two arms the same items, three seeds each, every fact in two wordings. An arm answers an item rightly where

    fact + item + (seed, item) + arm's own noise + (arm, seed) + (arm, fact)   is above a threshold

all normal; the first three are the same for both arms, as difficulty is. Thresholds are set so that the share of right
answers and the true difference are what the setting says, over all items and seeds that could have been. `own items`:
each seed has items of its own, as the lab's worlds do. Settings with `nats` compare a number with heavy tails instead.

Of each setting: share of studies whose interval holds the truth (with Wilson's 95% interval over studies), its mean
half-width, and how many answers differ between the arms. `issue` is 400 studies drawn over all settings, `many` is a
hundred of each. Also how often McNemar's p is under 0.05 without any difference, and how often a difference is seen
that is called detectable. Writes coverage.json beside this script.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from untaught.core.paired import mcnemar, spread
from untaught.core.statistics import Z95, over_seeds, resampled, student_t95, wilson
from untaught.corpus.writing import write_atomically

KEPT = Path(__file__).with_suffix(".json")
NORMAL = NormalDist()
FACT, ITEM, ASKED = 0.7, 0.5, 0.3
"""Spread of what both arms share: the fact, the item, and the item in one seed."""
RESAMPLES = 500


@dataclass(frozen=True)
class Setting:
    """Studies of one kind."""

    items: int
    """Of a seed; half as many facts."""
    right: float
    """Share that the reference answers rightly."""
    true: float
    """The arm's share less the reference's; of nats, the difference."""
    noise: float = 0.5
    """An arm's own: how many answers differ though nothing is better."""
    seed_effect: float = 0.0
    own_items: bool = False
    fact_effect: float = 0.15
    seeds: int = 3
    nats: bool = False


SETTINGS = (
    *(Setting(items, right, true, seed_effect=effect, own_items=own)
      for items, right, true in ((100, 0.6, 0.0), (400, 0.6, -0.05), (200, 0.9, 0.0), (200, 0.9, -0.03))
      for effect in (0.0, 0.15) for own in (False, True)),
    *(Setting(items, right, true, seed_effect=effect, own_items=own)
      for items, right, true in ((400, 0.99, 0.0), (400, 0.99, -0.005), (200, 0.99, -0.02), (128, 0.96, -0.01))
      for effect in (0.0, 0.15) for own in (False, True)),
    *(Setting(400, 0.97, true, noise=0.05, own_items=own) for true in (-0.01, -0.03) for own in (False, True)),
    Setting(400, 0.6, 0.0, noise=0.1, own_items=True),
    Setting(400, 0.6, -0.05, seed_effect=0.5),
    Setting(400, 0.6, -0.05, seed_effect=0.5, own_items=True),
    *(Setting(items, 0.0, true, seed_effect=effect, own_items=own, nats=True)
      for items, true, effect in ((100, 0.0, 0.0), (400, 0.02, 0.01)) for own in (False, True)),
)  # fmt: skip
SPARSE = (
    *(Setting(100, 0.99, true, own_items=own) for true in (0.0, -0.005) for own in (False, True)),
    *(Setting(400, 0.99, true, noise=0.1, own_items=own) for true in (0.0, -0.001) for own in (False, True)),
    *(Setting(100, 0.97, true, noise=0.05, own_items=own) for true in (-0.002, -0.005) for own in (False, True)),
)
"""Fewer than about eight answers of a whole study differ."""
OTHERS = (
    *(Setting(200, 0.9, -0.03, seed_effect=effect, seeds=seeds) for seeds in (1, 2, 5, 10) for effect in (0.0, 0.15)),
    Setting(200, 0.9, -0.03, seed_effect=0.5),
    Setting(200, 0.9, -0.03, seed_effect=0.5, own_items=True),
)
"""Other numbers of seeds; and seeds that differ by more than the difference, all to one side of what is possible."""

DETECTABLE = (
    Setting(400, 0.9, 0.0), Setting(400, 0.9, 0.0, own_items=True), Setting(200, 0.98, 0.0, own_items=True),
    Setting(400, 0.99, 0.0, noise=0.1), Setting(400, 0.9, 0.0, seed_effect=0.15, own_items=True),
    Setting(400, 0.9, 0.0, seeds=1), Setting(400, 0.0, 0.0, nats=True),
)  # fmt: skip


def differences(draws: np.random.Generator, own: Setting, studies: int) -> np.ndarray:
    """Arm less reference, (studies, seeds, facts, 2)."""
    asked = own.seeds if own.own_items else 1
    facts = own.items // 2

    def normal(scale: float, *shape: int) -> np.ndarray:
        return scale * draws.standard_normal((studies, *shape), dtype=np.float32)

    if own.nats:
        tail = draws.standard_t(4, (studies, own.seeds, facts, 2)) * 0.1
        return own.true + tail + normal(0.05, asked, facts, 1) + normal(own.seed_effect, own.seeds, 1, 1)
    shared = normal(FACT, asked, facts, 1) + normal(ITEM, asked, facts, 2) + normal(ASKED, own.seeds, facts, 2)
    whole = math.sqrt(FACT**2 + ITEM**2 + ASKED**2 + own.noise**2)
    effect = own.fact_effect * own.noise / 0.5
    wider = math.sqrt(whole**2 + own.seed_effect**2 + effect**2)
    other = shared + normal(own.noise, own.seeds, facts, 2) + NORMAL.inv_cdf(own.right) * whole
    mine = shared + normal(own.noise, own.seeds, facts, 2) + NORMAL.inv_cdf(own.right + own.true) * wider
    mine = mine + normal(own.seed_effect, own.seeds, 1, 1) + normal(effect, asked, facts, 1)
    return (mine > 0).astype(float) - (other > 0)


def laid_out(apart: np.ndarray, own: Setting) -> tuple[np.ndarray, np.ndarray]:
    """One study's sums and counts, (seeds, facts): facts of a seed's own items are no other seed's."""
    sums = apart.sum(2)
    if not own.own_items or len(sums) == 1:
        return sums, np.full(sums.shape, 2)
    seeds, facts = sums.shape
    wide, counts = np.zeros((seeds, seeds * facts)), np.zeros((seeds, seeds * facts), int)
    for seed in range(seeds):
        place = slice(seed * facts, (seed + 1) * facts)
        wide[seed, place], counts[seed, place] = sums[seed], 2
    return wide, counts


# -- what was tried ----------------------------------------------------------------------------------------------------

Interval = Callable[[np.ndarray, np.ndarray, Setting], tuple[float, float]]


def ours(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """`core.paired`."""
    value, half, _ = spread(sums, counts, share=not own.nats)
    return value - (half or 0.0), value + (half or 0.0)


def no_floor(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """The same without the least width: Student's t of each part."""
    del own
    value, parts = _parts(sums, counts)
    half = math.hypot(_t(len(sums)) * math.sqrt(parts[0]), _t(_facts(counts)) * math.sqrt(parts[1]))
    return value - half, value + half


def of_seeds(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Student's t over the seeds' differences."""
    del own
    return over_seeds([float(mean) for mean in sums.sum(1) / counts.sum(1)])


def of_items(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Items alone, clustered by fact: seeds are taken as given."""
    del own
    value, parts = _parts(sums, counts)
    return value - Z95 * math.sqrt(parts[2]), value + Z95 * math.sqrt(parts[2])


def wider_of_both(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Student's t over seeds, and never narrower than the items': the rule of values pooled over seeds."""
    seeds, items = of_seeds(sums, counts, own), of_items(sums, counts, own)
    return min(seeds[0], items[0]), max(seeds[1], items[1])


def satterthwaite(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """One t for both parts, with Satterthwaite's degrees of freedom, rounded down."""
    del own
    value, (seeds, shared, _) = _parts(sums, counts)
    whole = seeds + shared
    below = seeds**2 / max(len(sums) - 1, 1) + shared**2 / (_facts(counts) - 1)
    half = student_t95(max(int(whole**2 / below), len(sums) - 1) if below else len(sums) - 1) * math.sqrt(whole)
    return value - half, value + half


def percentile(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Bootstrap over seeds and facts at once, percentiles."""
    del own
    low, high = np.nanquantile(_draws(sums, counts)[1:], [0.025, 0.975])
    return float(low), float(high)


def of_facts(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Bootstrap over facts alone, percentiles."""
    del own
    total, number = sums.sum(0)[None, :], counts.sum(0)[None, :]
    low, high = np.nanquantile(_draws(total, number)[1:], [0.025, 0.975])
    return float(low), float(high)


def bca(sums: np.ndarray, counts: np.ndarray, own: Setting) -> tuple[float, float]:
    """Bootstrap over seeds and facts at once, bias-corrected and accelerated by a jackknife over facts (Efron 1987)."""
    del own
    drawn = _draws(sums, counts)
    value, tries = drawn[0], drawn[1:][np.isfinite(drawn[1:])]
    under = float(((tries < value) + 0.5 * (tries == value)).mean())
    left = (sums.sum() - sums.sum(0)) / (counts.sum() - counts.sum(0))
    off = left.mean() - left
    below = float((off**2).sum()) ** 1.5
    bent = float((off**3).sum()) / (6 * below) if below else 0.0
    if not 0 < under < 1 or not below:
        return float(value), float(value)
    shift, ends = NORMAL.inv_cdf(under), []
    for point in (-Z95, Z95):
        moved = shift + (shift + point) / (1 - bent * (shift + point))
        ends.append(float(np.quantile(tries, NORMAL.cdf(moved))))
    return ends[0], ends[1]


QUICK: dict[str, Interval] = {
    "ours": ours, "ours without least width": no_floor, "one t (Satterthwaite)": satterthwaite,
    "t over seeds": of_seeds, "t over seeds or items, the wider": wider_of_both, "items alone": of_items,
}  # fmt: skip
SLOW: dict[str, Interval] = {
    "bootstrap of seeds and facts, percentile": percentile, "bootstrap of seeds and facts, BCa": bca,
    "bootstrap of facts, percentile": of_facts,
}  # fmt: skip


def _parts(sums: np.ndarray, counts: np.ndarray) -> tuple[float, tuple[float, float, float]]:
    """Value; variance over seeds, shared between them, and over items alone."""
    of_seed, seeds, facts = counts.sum(1), len(sums), _facts(counts)
    means = sums.sum(1) / of_seed
    off = (sums - means[:, None] * counts) / of_seed[:, None]
    grow, across = facts / (facts - 1), float((off.sum(0) ** 2).sum())
    if seeds == 1:
        return float(means[0]), (0.0, across * grow, across * grow)
    shared = max((across - float((off**2).sum())) * grow / (seeds * (seeds - 1)), 0.0)
    return float(means.mean()), (float(means.var(ddof=1)) / seeds, shared, across * grow / seeds**2)


def _facts(counts: np.ndarray) -> int:
    return int((counts.sum(0) > 0).sum())


def _t(number: int) -> float:
    return student_t95(max(number - 1, 1))


def _draws(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean and its resamples; a fact's two items come together."""
    return resampled(sums[None], counts.astype(float), RESAMPLES)[0]


# -- how often each holds the truth ------------------------------------------------------------------------------------


def covered(own: Setting, methods: dict[str, Interval], studies: int, seed: int) -> dict[str, Any]:
    """How often each interval holds the truth in studies of one setting."""
    apart = differences(np.random.default_rng(seed), own, studies)
    laid = [laid_out(study, own) for study in apart]
    found: dict[str, Any] = {}
    for name, method in methods.items():
        ends = np.array([method(*study, own) for study in laid])
        held = (ends[:, 0] <= own.true + 1e-9) & (own.true - 1e-9 <= ends[:, 1])
        found[name] = {**_share(held), "half": round(float((ends[:, 1] - ends[:, 0]).mean() / 2), 5)}
    differ = None if own.nats else round(float((apart != 0).sum((1, 2, 3)).mean()), 1)
    return {"setting": asdict(own), "studies": studies, "answers that differ": differ, "holds": found}


def as_asked(studies: int) -> dict[str, Any]:
    """So many studies of all settings, each setting as often as the others."""
    draws = np.random.default_rng(2026)
    held = []
    for turn in range(studies):
        own = SETTINGS[turn % len(SETTINGS)]
        low, high = ours(*laid_out(differences(draws, own, 1)[0], own), own)
        held.append(low <= own.true <= high)
    return {"studies": studies, **_share(np.array(held))}


def false_alarms(studies: int) -> list[dict[str, Any]]:
    """How often McNemar's p is under 0.05 though neither arm is better: exact and mid-p, by facts and by items."""
    told = []
    for effect in (0.0, 0.15):
        own = Setting(200, 0.9, 0.0, seed_effect=effect)
        apart = differences(np.random.default_rng(7), own, studies)
        net = apart.sum((1, 3))
        by_fact = [mcnemar(int((one > 0).sum()), int((one < 0).sum())) for one in net]
        by_item = [mcnemar(int((one > 0).sum()), int((one < 0).sum()))[0] for one in apart]
        line: dict[str, Any] = {"setting": asdict(own), "studies": studies}
        line["exact, by facts"] = _share(np.array([exact < 0.05 for exact, _ in by_fact]))
        line["mid-p, by facts"] = _share(np.array([middle < 0.05 for _, middle in by_fact]))
        line["exact, by items"] = _share(np.array([p < 0.05 for p in by_item]))
        told.append(line)
    return told


def seen(studies: int) -> list[dict[str, Any]]:
    """How often a difference is seen that studies without one call detectable, on average."""
    told = []
    for own in DETECTABLE:
        pilots = [laid_out(one, own) for one in differences(np.random.default_rng(3), own, studies)]
        least = [spread(*one, share=not own.nats)[2] or 0.0 for one in pilots]
        there = replace(own, true=(1 if own.nats else -1) * round(math.sqrt(np.mean(np.square(least))), 4))
        tries = [ours(*laid_out(one, there), there) for one in differences(np.random.default_rng(4), there, studies)]
        found = np.array([not low <= 0 <= high for low, high in tries])
        told.append({"setting": asdict(there), "studies": studies, **_share(found)})
    return told


def _share(held: np.ndarray) -> dict[str, float]:
    share = float(held.mean())
    low, high = wilson(share, len(held))
    return {"share": round(share, 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--studies", type=int, default=2000)
    asked.add_argument("--resampled", type=int, default=400, help="Studies for each bootstrap.")
    given = asked.parse_args()
    found: dict[str, Any] = {"issue": as_asked(400), "many": as_asked(100 * len(SETTINGS))}
    for name, settings in (("settings", SETTINGS), ("sparse", SPARSE), ("others", OTHERS)):
        found[name] = []
        for turn, own in enumerate(settings):
            told = covered(own, QUICK if own.seeds > 1 else {"ours": ours}, given.studies, turn)
            found[name].append(told)
            print(own, told["answers that differ"], {m: h["share"] for m, h in told["holds"].items()}, flush=True)
    tried = [own for own in SETTINGS if own.true and (own.items in {128, 200} or own.right in {0.0, 0.6})]
    found["bootstraps"] = [covered(own, {"ours": ours, **SLOW}, given.resampled, 50 + i) for i, own in enumerate(tried)]
    for told in found["bootstraps"]:
        print(told["setting"], {m: h["share"] for m, h in told["holds"].items()}, flush=True)
    found["McNemar"], found["detectable"] = false_alarms(given.studies), seen(given.studies)
    write_atomically(KEPT, json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: found[name] for name in ("issue", "many", "McNemar", "detectable")}, indent=1))


if __name__ == "__main__":
    main()
