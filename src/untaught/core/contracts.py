"""The contracts of the five shelves. A component owes nothing else: no base class but `Settings`, no registration.

Every component is one file on its shelf: one frozen settings class named after the file, and the method below. It
never changes what it was given, draws randomness only from the rig, removes its hooks, and asks the model only
through `engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from .budget import Budget, Spent
from .subject import Corpus, Subject
from .tables import Documents, Findings, Marks, Mask

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor

Role = Literal["hazard", "benign"]
"""What a high score means: dangerous knowledge is there, or ordinary ability is."""


class Scorer(Protocol):
    """A fitted filter: small, frozen, and the same for any batching of the same documents."""

    def measure(self, batch: Documents) -> Findings:
        """The dear half. Pure; one finding a document; larger = more reason to drop; null = could not be measured."""
        ...

    def keep(self, findings: Findings) -> Mask:
        """The cheap half: a threshold, so that moving it re-reads a column and not the corpus."""
        ...


class Filter(Protocol):
    """Texts or examples in, findings out. `fit` sees what is labelled; a filter that needs no labels leaves it alone.

    A filter for fine-tuning data is fitted to `pool.unlabelled`, the whole pool, and asks `rig.subject()`, the model
    that is about to be fine-tuned. What it learns from is the same in any order: neither the order nor the batches of a
    pool change a decision.

    A filter also says some things, each of which may be left out:

        thresholds      class variable: names of the settings that `keep` reads and `measure` does not, so that moving
                        one re-reads findings and not text (none)
        lock_free       class variable: `measure` holds Python's lock so little that threads run side by side (False)
        frozen          method (scorer, folder) -> settings that need no pool: what `fit` learned, written into `folder`
                        where it is large; paths in them are relative to it (the settings as they are)
        supervision     class variable: what its ranking is made from: "label-free" (the pool, or texts known to be
                        clean), "label-light" (some known-harmful examples, or a few settings by a labelled slice) or
                        "supervised" (labels of the pool); tables tell the three apart (None: a filter for corpora)
        asks_model      class variable: it asks `rig.subject()` (False)
        needs           class variable: settings that `fit` must find given, though they have a default (none)
        sees_truth      class variable: in a study it is told every label: an upper bound, no filter (False)
    """

    def fit(self, pool: Corpus, rig: Rig) -> Scorer: ...


class Intervention(Protocol):
    """Training, unlearning and attacks alike: a subject goes in, a new subject comes out, a budget is spent.

    A training that leaves out of its loss what the documents' column `masked` marks says so with the class variable
    `masks`: a study hands masked documents to no other. An attack that draws nothing at random says so with `random`
    = False: a study does it once, and not with each attack seed.
    """

    def apply(self, subject: Subject, corpus: Corpus, rig: Rig) -> Subject: ...


class Evaluation(Protocol):
    """A subject and a table of items in, one mark for each item and metric out.

    It does not average, plot or choose a threshold: `core.summarise` does that for all of them.

    One that learns something once for all subjects, such as a judge, names the settings that hold the files it learns
    from in the class variable `files`, and has `prepare(folder) -> numbers`: it leaves in `folder` what it learned, and
    says how good that is. A study does so once and hands the folder on as the setting `fitted`; as `reader` it hands on
    the folder of the model that the arms start from.

    One that asks items of its own where a setting is given, such as a task's, names that setting in the class variable
    `brings`, and has `brought() -> table` of those items, None where the setting is not given. `items` is then what
    results call them.
    """

    def grade(self, subject: Subject, items: pa.Table) -> Marks: ...


Loss = Callable[..., "dict[str, Tensor]"]
"""Called with a step's batches, or with parts of them; returns named terms, whose sum is descended.

Terms are means that the batches take (`Batch.mean`), so that those of the parts add up to those of the whole. A loss
keeps nothing from one step to the next but what it makes of its first batches: a run that was killed shows it those
again, and then the first that was not trained on.
"""


class Rig(Protocol):
    """What an intervention is handed: seeded randomness, a spending meter, the training loop."""

    budget: Budget
    spent: Spent

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness for one purpose, the same for the same study seed, component and purpose."""
        ...

    def random(self, purpose: str) -> np.random.Generator:
        """The same for code without torch."""
        ...

    def donor(self, setting: str = "donor") -> Subject:
        """The other arm that the component's setting `donor` names, or its setting `base`."""
        ...

    def subject(self) -> Subject:
        """For filters: the model that is about to be fine-tuned on what is kept. It must not be changed."""
        ...

    def tune(
        self,
        model: Any,
        loss: Loss,
        batches: Iterable[Any],
        *,
        steps: int,
        train: Sequence[str] = (),
        **how: Any,
    ) -> None:
        """Train `model`, the component's own copy, in place on named loss terms, for `steps` or until the batches or
        the budget end. `train` names the parameters that move; `how` is the settings of `engine.loop.Descent`.
        """
        ...

    def gradient(
        self, model: Any, loss: Loss, batches: Iterable[Any], *, steps: int, train: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Mean gradient of a loss over `steps` batches, or until these or the budget end, by parameter. Each batch
        counts as a step; nothing moves.
        """
        ...

    def affords(self, model: Any) -> bool:
        """Whether a model costs no more on benign text than the step's `stop` allows; yes where there is none. `tune`
        asks by itself; what edits weights otherwise asks before it keeps an edit.
        """
        ...

    def log(self, **numbers: float) -> None:
        """Numbers worth keeping; they go to the step's record."""
        ...


Shelf = Literal["filters", "training", "unlearning", "attacks", "evaluations"]
METHOD: dict[str, str] = {
    "filters": "fit",
    "training": "apply",
    "unlearning": "apply",
    "attacks": "apply",
    "evaluations": "grade",
}
"""The shelves, and the one method that a component on each must have."""
