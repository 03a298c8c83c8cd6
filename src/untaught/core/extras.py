"""Packages that only some have installed: what is missing is named with how to get it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UserError


@contextmanager
def from_extra(name: str, extra: str, needed: str = "", instead: str = "") -> Iterator[None]:
    """Import what only some have installed; what such a package warns of is not for our users.

    `needed` begins the message where more is to be said than that the package is missing, and `instead` ends it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name:
            raise
        told = needed or f"{name} is not installed"
        raise UserError(f"{told}. Install it: pip install 'untaught[{extra}]'.{instead}") from None
