"""Chance that is the same every time: what is chosen or ordered by it depends on names alone."""

from __future__ import annotations

import hashlib


def chance(what: str, why: str) -> str:
    """A place in an order of chance."""
    return hashlib.sha256(f"{why}/{what}".encode()).hexdigest()
