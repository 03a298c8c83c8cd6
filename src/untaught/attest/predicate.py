"""What a statement says, version 1: an in-toto Statement (https://in-toto.io/Statement/v1) with our own predicate.

    subject      one model folder, by the root digest of its files (as in its signature by OpenSSF Model Signing)
    predicate    whose weights were measured and how they were made; what filtered their text; what every evaluation
                 gave; what every attack spent and how far it got; the arms that this is held against; what they rest on

All numbers are as the run's results have them. A value that is missing is null, and its items are counted. Times, hosts
and costs in seconds are not part of it: the same run signed again gives the same statement.

A statement that contradicts itself is refused here, whoever signed it: a worst case that is not the worst of its
points, an interval that does not hold its value, results of other weights than those that were signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from ..core import Role, Settings

STATEMENT = "https://in-toto.io/Statement/v1"
KIND = "https://untaught/evaluation/"
VERSION = 1
PREDICATE = f"{KIND}v{VERSION}"
PAYLOAD = "application/vnd.in-toto+json"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Kind = Literal["adapter folded", "quantised", "merged", "converted"]
"""What a release may have done to weights after they were measured."""


class Part(Settings):
    """A part of a statement. JSON types are taken as they are: no text is read as a number."""

    model_config = ConfigDict(strict=True, populate_by_name=True)


class Estimate(Part):
    """A value with its 95% interval. Null is missing, never 0."""

    value: float | None
    low: float | None
    high: float | None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both ends or none")
        ends = [number for number in (self.low, self.value, self.high) if number is not None]
        if ends != sorted(ends):
            raise ValueError("an interval should hold its value")
        return self


class File(Part):
    """One file of the model folder."""

    path: Word
    size: Count
    sha256: Digest


class Model(Part):
    """The weights that are spoken of."""

    name: Word
    arm: Word
    """Its name in the study."""
    seed: Count
    weights: Digest
    """SHA-256 over the tensors by name, whatever the sharding: what `results.jsonl` calls `weights`."""
    measured: Digest
    """The weights that the run evaluated: the same, unless `transforms` lead from one to the other."""
    files: tuple[File, ...] = Field(min_length=1)
    """Every file of the folder, by path: what the root digest in `subject` stands for."""
    ignored: tuple[Word, ...] = ()
    """Paths in the folder that are not signed: where the statement and the signature themselves may stand."""


class Transform(Part):
    """An edge: weights that were made from others after those were measured. No number carries over by itself."""

    kind: Kind
    before: Digest
    after: Digest


class Made(Part):
    """One step in how the measured weights came to be, from the run's records."""

    kind: Word
    component: str | None
    settings: dict[str, Any]
    seed: Count
    before: Digest | None
    """The weights it started from; null for the first."""
    after: Digest
    code: str
    """Digest of the code that did it."""


class Filter(Part):
    """What was taken out of the text that the model learned from, and the receipts of it under one root."""

    source: Literal["study", "folder"]
    """`study`: a filter of one of the study's arms. `folder`: a corpus filtered by `untaught filter`."""
    policy: Digest
    """SHA-256 of the rules."""
    root: Digest
    """Merkle root (RFC 9162) over the receipts; of a study's filter, over its outputs, one leaf a file."""
    filters: tuple[Word, ...]
    """Names of the stages, in order."""
    read: Count
    kept: Count
    removed: Count
    quarantined: Count
    recall: Estimate | None = None
    """Share of hazard documents that were removed; null where nobody can tell."""
    precision: Estimate | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.read != self.kept + self.removed + self.quarantined:
            raise ValueError("documents were lost or doubled: read is not kept + removed + quarantined")
        return self


class Result(Estimate):
    """What one evaluation gave on one subject."""

    evaluation: Word
    items: Word
    metric: Word
    role: Role
    """What a high value means: `hazard`, or `benign` ability."""
    task: Digest
    """SHA-256 of what was asked and how: settings, code, and identities of what the items come from."""
    n: Count
    """Items scored."""
    missing: Count
    """Items that could not be scored."""
    chance: float | None
    seed: Count
    weights: str
    """The weights that were asked; empty where there are none, since a method cannot be applied to this model."""

    @property
    def measure(self) -> tuple[str, str, str]:
        """What is measured: two results with the same are compared."""
        return self.evaluation, self.items, self.metric

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if (self.value is None) != (self.n == 0):
            raise ValueError("a value rests on items, and items that were scored have a value")
        return self


class Spent(Part):
    """What an attacker spent."""

    steps: Amount = 0.0
    tokens: Amount = 0.0
    examples: Amount = 0.0
    flops: Amount = 0.0


class Point(Result):
    """What one evaluation gave after an attack."""

    attack_seed: Count | None
    spent: Spent


class Worst(Part):
    """The highest value that an attack brought a hazard measure to, over budgets and seeds, and at what price."""

    evaluation: Word
    items: Word
    metric: Word
    value: float
    seed: Count
    attack_seed: Count | None
    spent: Spent


class Attack(Part):
    """One attack with one set of settings, at every budget that was tried."""

    attack: Word
    settings: dict[str, Any]
    donor: str | None = None
    """The arm whose weights it mixes in, if it does."""
    points: tuple[Point, ...] = Field(min_length=1)
    worst: tuple[Worst, ...]

    @model_validator(mode="after")
    def _is_the_worst(self) -> Self:
        if self.worst != worst(self.points):
            raise ValueError("the worst cases are not the highest of the points")
        return self


def worst(points: Iterable[Point]) -> tuple[Worst, ...]:
    """Of each hazard measure the highest point, the first of equals."""
    highest: dict[tuple[str, str, str], Point] = {}
    for point in points:
        if point.role == "hazard" and point.value is not None:
            held = highest.setdefault(point.measure, point)
            if held.value is not None and point.value > held.value:
                highest[point.measure] = point
    names = tuple(Worst.model_fields)
    return tuple(Worst(**{name: getattr(point, name) for name in names}) for point in highest.values())


class Reference(Part):
    """Another arm of the study, before any attack: what nothing was removed from."""

    arm: Word
    results: tuple[Result, ...] = Field(min_length=1)


class Study(Part):
    """What all numbers rest on: files of the run folder by their digests, and what made them."""

    title: str
    digest: Digest
    """SHA-256 of `study.yaml`."""
    results: Digest
    """SHA-256 of `results.jsonl`."""
    records: Digest
    """Of all files below `records`."""
    marks: dict[str, Digest]
    """By arm: SHA-256 of its file below `marks`, with every item's mark."""
    seeds: tuple[Count, ...]
    attack_seeds: tuple[Count, ...]
    versions: dict[str, str]
    """What could change a number."""


class Predicate(Part):
    """The claim about one model."""

    version: Literal[1]
    tool: Word
    """What signed."""
    model: Model
    transforms: tuple[Transform, ...]
    made: tuple[Made, ...]
    filters: tuple[Filter, ...]
    """Empty: no text was filtered, or nothing of it is known."""
    evaluations: tuple[Result, ...] = Field(min_length=1)
    """Of this arm before any attack, for every seed; those of `model.seed` are of the weights that were measured."""
    attacks: tuple[Attack, ...]
    """On this arm, for every seed."""
    references: tuple[Reference, ...]
    study: Study

    @model_validator(mode="after")
    def _is_of_these_weights(self) -> Self:
        model, own = self.model, [one for one in self.evaluations if one.seed == self.model.seed]
        if not own or any(one.weights != model.measured for one in own):
            raise ValueError("the evaluations of the model's seed are of other weights than were measured")
        at = model.measured
        for edge in self.transforms:
            if edge.before != at:
                raise ValueError("a transform starts from other weights than the one before it ended with")
            at = edge.after
        if at != model.weights:
            raise ValueError("nothing leads from the weights that were measured to those that are signed")
        return self


class Digests(Part):
    """Digests of a subject by their algorithms."""

    sha256: Digest


class Subject(Part):
    """What a statement is about."""

    name: Word
    digest: Digests


class Statement(Part):
    """An in-toto statement with our predicate."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Subject, ...] = Field(min_length=1, max_length=1)
    kind: Literal["https://untaught/evaluation/v1"] = Field(alias="predicateType")
    predicate: Predicate

    @property
    def root(self) -> str:
        """The root digest of the model folder."""
        return self.subject[0].digest.sha256

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json", by_alias=True)


def schema() -> dict[str, Any]:
    """The JSON Schema of a statement, as it is published."""
    made = Statement.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{PREDICATE}/schema", **made}
