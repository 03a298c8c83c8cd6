"""Numbers in words: percentages, counts, costs, intervals. A missing value is the word, never a digit."""

from __future__ import annotations

from collections.abc import Sequence

from .naming import Attack
from .pooling import Estimate, Measure
from .reading import Cost

MISSING = "missing"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%".replace("-0%", "0%")


def count(number: float) -> str:
    """1.2k, 61k, 3.4M: two digits or three, as a reader says it."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}".removesuffix(".0") + unit
    return f"{number:g}" if number == int(number) else f"{number:.3g}"


def share(value: float | None) -> str:
    """A share of a corpus, in which a hundredth of a percent may be many documents.

    >>> share(0.1281), share(0.000312), share(0.99996), share(0.0), share(1.0), share(None)
    ('12.8%', '0.031%', '99.99%', '0%', '100%', 'missing')
    """
    if value is None:
        return MISSING
    part = 100 * value
    if part in (0, 100):
        return f"{part:.0f}%"
    if part > 99.9:
        return f"{min(part, 99.99):.2f}%"
    return f"{part:.1f}%" if part >= 1 else f"{part:.2g}%" if part >= 1e-4 else f"{part:.0e}%"


def size(count: float) -> str:
    """Bytes as a reader says them.

    >>> size(999), size(43_408_089), size(2.5e12)
    ('999 bytes', '43.4 MB', '2.5 TB')
    """
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"


def number(value: float | None, measure: Measure) -> str:
    if value is None:
        return MISSING
    return percent(value) if measure.share else f"{value:.3g}"


def interval(estimate: Estimate, measure: Measure) -> str:
    """`20-29%` with a proper dash, or nothing when there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = number(estimate.low, measure), number(estimate.high, measure)
    return f"{low.removesuffix('%')}\u2013{high}"


def scored(estimate: Estimate) -> str:
    """`38 of 40 items scored`, and how many seeds when some have no value."""
    words = f"{estimate.n:,} of {estimate.n + estimate.missing:,} items scored"
    if estimate.seeds < estimate.of_seeds:
        words += f", {estimate.seeds} of {estimate.of_seeds} seeds"
    return words


def cost(spent: Cost) -> str:
    """`20 steps / 31k tokens`; weight surgery trains nothing and says so."""
    parts = []
    if spent.steps:
        parts.append(f"{count(spent.steps)} step" + ("" if spent.steps == 1 else "s"))
    if spent.tokens:
        parts.append(f"{count(spent.tokens)} tokens")
    if not parts and spent.examples:
        parts.append(f"{count(spent.examples)} examples")
    return " / ".join(parts) or "no training"


def price(spent: Cost, currency: str) -> str:
    """`1.2 GB, 0.35 USD`: memory and money, as far as they are known.

    >>> price(Cost(memory=1.21e9, money=0.0042), "EUR"), price(Cost(money=12), "EUR"), price(Cost(), "")
    ('1.2 GB, 0.0042 EUR', '12.00 EUR', '')
    """
    parts = [] if spent.memory is None else [size(spent.memory)]
    if spent.money is not None and currency:
        least = 0.01
        amount = f"{spent.money:.2f}" if spent.money >= least or not spent.money else f"{spent.money:.2g}"
        parts.append(f"{amount} {currency}")
    return ", ".join(parts)


def attack_at(attack: Attack, spent: Cost) -> str:
    return f"{attack.label}, {cost(spent)}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def seconds(value: float) -> str:
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
