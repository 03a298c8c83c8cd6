"""Settings: what every component, policy and study file is made of.

A settings class is frozen, its fields carry their defaults and docstrings, and an unknown or ill-typed field is an
error that names it. Building one costs nothing: no file, network, device or print until its method is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UserError, suggest

WORDS = {
    "tuple_type": "should be a list, such as [0]",
    "list_type": "should be a list, such as [0]",
    "dict_type": "should be a table of 'name: value'",
    "model_type": "should be a table of 'name: value'",
    "too_short": "should have at least 1 entry",
}
"""Pydantic's complaints that speak of Python, in a user's words."""


class Settings(BaseModel):
    """Frozen, validated settings. Components, worlds and study files inherit from this and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def settle(cls, table: Mapping[str, Any], where: str) -> Self:
        """Settings from a plain table, or a `UserError` that says what is wrong at `where`.

        >>> class Kettle(Settings):
        ...     degrees: int = 100
        >>> Kettle.settle({"degress": 90}, "kettle.yaml")
        Traceback (most recent call last):
        untaught.core.errors.UserError: kettle.yaml has no setting 'degress'. Did you mean 'degrees'?
        """
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            raise UserError("\n".join(explain(problem, cls, where) for problem in error.errors())) from None

    def resolved(self, folder: Path) -> Self:
        """These settings with what they name in files read in. `folder` is where relative paths start."""
        return self

    def changed(self) -> dict[str, Any]:
        """Every setting as plain data, defaults included: what a record keeps."""
        return self.model_dump(mode="json")


def explain(problem: Any, cls: type[Settings], where: str) -> str:
    """One pydantic complaint in our words."""
    path = ".".join(str(part) for part in problem["loc"])
    at = f"{where}, {path}" if path else where
    if problem["type"] == "extra_forbidden":
        *parents, name = [str(part) for part in problem["loc"]]
        place = ".".join([where, *parents]) if parents else where
        return f"{place} has no setting '{name}'.{suggest(name, fields_at(cls, parents))}"
    if problem["type"] == "missing":
        return f"{at} is missing. Add it."
    message: str = WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = problem["input"]
    numbers = isinstance(given, list) and all(isinstance(one, int | float) for one in given)
    if isinstance(given, dict | list | tuple) and not numbers:
        return f"{at}: {message}."
    return f"{at} is {given!r}: {message}."


def fields_at(cls: type[Settings], parents: list[str]) -> list[str]:
    """Names of the settings that a nested table could have had, as far as the annotations tell."""
    fields = cls.model_fields
    for parent in parents:
        found = fields.get(parent)
        kinds = [k for k in _classes(found.annotation) if issubclass(k, Settings)] if found else []
        if not kinds:
            continue  # a list index or a key of a table: look further down in the same class
        fields = kinds[0].model_fields
    return list(fields)


def _classes(annotation: Any) -> list[type]:
    """Every class that an annotation mentions: `dict[str, Arm]` gives dict's arguments, and so on."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _classes(part)]
