"""The battery is itself tested: each fault below is planted in a small component, and each fails the check named.

`Sound`, `SoundFilter` and `SoundGrader` are the same components without a fault; they pass everything.
"""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import checks
import numpy as np
import pyarrow as pa
import pytest
import torch
from bench import Case
from pydantic import ConfigDict, Field

from untaught.core import FINDINGS, Budget, Mark, Settings, marks
from untaught.engine.batches import Rows
from untaught.engine.models import fresh
from untaught.engine.rig import Rig
from untaught.engine.scoring import completions, mean_logprob, text_nats

SAYS = '"""A sound thing: it shows what passes. Ours, for the tests alone."""\nfrom ..core import Settings\n'


def case_of(cls, shelf, bench, tmp_path, code=SAYS):
    name = re.sub(r"(?<!^)([A-Z])", r"_\1", cls.__name__).lower()
    path = tmp_path / f"{name}.py"
    path.write_text(code, encoding="utf-8")
    return Case(shelf, name, cls, bench, path)


# -------------------------------------------------------------------------------------------------- interventions


def train(model, subject, corpus, rig, *, extra=False):
    batches = Rows(subject.tokenizer, corpus.hazard, 32).stream(size=2, generator=rig.generator("order"))

    def loss(batch):
        term = -mean_logprob(model, batch)
        return {"next_token": term - mean_logprob(model, next(batches)) if extra else term}

    rig.tune(model, loss, batches, steps=5, lr=1e-2)


class Sound(Settings):
    """Trains a little on hazard text."""

    lr: float = Field(1e-2, gt=0)

    def apply(self, subject, corpus, rig):
        model = fresh(subject.model)
        train(model, subject, corpus, rig)
        return replace(subject, model=model.eval())


class WorksInPlace(Sound):
    def apply(self, subject, corpus, rig):
        train(subject.model, subject, corpus, rig)
        return subject


class FreezesWhileAtWork(Sound):
    def apply(self, subject, corpus, rig):
        subject.model.requires_grad_(False)
        result = super().apply(replace(subject, model=fresh(subject.model).requires_grad_(True)), corpus, rig)
        subject.model.requires_grad_(True)
        return result


class ChangesTheTokenizer(Sound):
    def apply(self, subject, corpus, rig):
        subject.tokenizer.padding_side = "left"
        return super().apply(subject, corpus, rig)


class ChangesItsDonor(Sound):
    def apply(self, subject, corpus, rig):
        rig.donor().model.requires_grad_(False)
        return super().apply(subject, corpus, rig)


class DrawsFromTheGlobalGenerator(Sound):
    def apply(self, subject, corpus, rig):
        result = super().apply(subject, corpus, rig)
        if rig.budget.steps != 0:
            with torch.no_grad():
                next(result.model.parameters()).add_(torch.randn(()))
        return result


class DrawsBehindACurtain(DrawsFromTheGlobalGenerator):
    def apply(self, subject, corpus, rig):
        with torch.random.fork_rng(devices=[]):
            return super().apply(subject, corpus, rig)


class LeavesAHook(Sound):
    def apply(self, subject, corpus, rig):
        result = super().apply(subject, corpus, rig)
        result.model.register_forward_hook(lambda *_: None)
        return result


class LeavesAHookWhenItFails(Sound):
    def apply(self, subject, corpus, rig):
        handle = subject.model.register_forward_hook(lambda *_: None)
        result = super().apply(replace(subject, model=fresh(subject.model)), corpus, rig)
        handle.remove()
        for module in result.model.modules():
            module._forward_hooks.clear()
        return result


class HasALoopOfItsOwn(Sound):
    def apply(self, subject, corpus, rig):
        model = fresh(subject.model)
        batches = Rows(subject.tokenizer, corpus.hazard, 32).stream(size=2, generator=rig.generator("order"))
        optimiser = torch.optim.SGD(model.parameters(), lr=self.lr)
        for batch, _ in zip(batches, range(2), strict=False):
            (-mean_logprob(model, batch)).backward()
            optimiser.step()
            optimiser.zero_grad()
        return replace(subject, model=model)


class LiftsItsBudget(Sound):
    def apply(self, subject, corpus, rig):
        rig.budget = Budget() if rig.budget.steps else rig.budget
        return super().apply(subject, corpus, rig)


class BringsARigOfItsOwn(Sound):
    def apply(self, subject, corpus, rig):
        return super().apply(subject, corpus, Rig(rig.seed, rig.name, budget=Budget(steps=rig.budget.steps)))


class ReadsBesideTheMeter(Sound):
    def apply(self, subject, corpus, rig):
        model = fresh(subject.model)
        train(model, subject, corpus, rig, extra=True)
        return replace(subject, model=model.eval())


class FinishesAfterTheSnapshot(Sound):
    def apply(self, subject, corpus, rig):
        result = super().apply(subject, corpus, rig)
        if rig.budget.steps != 0:
            with torch.no_grad():
                next(result.model.parameters()).mul_(0.5)
        return result


class StaysInTrainingMode(Sound):
    def apply(self, subject, corpus, rig):
        result = super().apply(subject, corpus, rig)
        result.model.train()
        return result


class LeavesWeightsFrozen(Sound):
    def apply(self, subject, corpus, rig):
        result = super().apply(subject, corpus, rig)
        result.model.requires_grad_(False)
        return result


INTERVENTION_FAULTS = [
    (WorksInPlace, checks.check_the_given_subject_is_untouched, "changed the subject it was given: weights"),
    (FreezesWhileAtWork, checks.check_the_given_subject_is_untouched, "when it failed: requires_grad"),
    (ChangesTheTokenizer, checks.check_the_given_subject_is_untouched, "was given: tokenizer"),
    (ChangesItsDonor, checks.check_the_given_subject_is_untouched, "changed its donor: requires_grad"),
    (DrawsFromTheGlobalGenerator, checks.check_global_randomness_is_untouched, "randomness that is not the rig's"),
    (DrawsFromTheGlobalGenerator, checks.check_same_seed_same_bits, "other bits the second time"),
    (DrawsBehindACurtain, checks.check_same_seed_same_bits, "other bits the second time"),
    (LeavesAHook, checks.check_no_hook_is_left, "leaves a hook on its result"),
    (LeavesAHookWhenItFails, checks.check_no_hook_is_left, "leaves a hook when it fails"),
    (HasALoopOfItsOwn, checks.check_no_budget_means_no_change, "changes weights without a budget"),
    (HasALoopOfItsOwn, checks.check_budget_is_never_overspent, "2 steps taken, 0 metered"),
    (LiftsItsBudget, checks.check_budget_is_never_overspent, "spent 5 steps of 1"),
    (BringsARigOfItsOwn, checks.check_budget_is_never_overspent, "1 steps taken, 0 metered"),
    (ReadsBesideTheMeter, checks.check_budget_is_never_overspent, r"learnt from \d+ tokens, \d+ metered"),
    (FinishesAfterTheSnapshot, checks.check_snapshots_are_what_the_budget_gives, "the snapshot at 1 is not"),
    (StaysInTrainingMode, checks.check_gives_back_a_subject, "in training mode"),
    (LeavesWeightsFrozen, checks.check_gives_back_a_subject, "leaves weights frozen"),
]


@pytest.mark.parametrize(("cls", "check", "complaint"), INTERVENTION_FAULTS)
def test_a_faulty_intervention_is_caught(cls, check, complaint, bench, tmp_path):
    with pytest.raises(AssertionError, match=complaint):
        check(case_of(cls, "attacks", bench, tmp_path))


def test_a_sound_intervention_passes(bench, tmp_path):
    checks.check_component(case_of(Sound, "attacks", bench, tmp_path))


# --------------------------------------------------------------------------------------------------------- filters


@dataclass(frozen=True)
class Length:
    """Long texts are dropped."""

    most: int

    def measure(self, batch):
        scores = [float(len(text)) for text in batch["text"].to_pylist()]
        return pa.table([scores, ["long"] * len(scores), [[]] * len(scores), [[]] * len(scores)], schema=FINDINGS)

    def keep(self, findings):
        return findings["score"].to_numpy() < self.most


class SoundFilter(Settings):
    """Drops long texts."""

    most: int = 200
    scorer: ClassVar[type] = Length

    def fit(self, pool, rig):
        return self.scorer(self.most)


class AgainstTheBatch(Length):
    """A document's score depends on its company."""

    def measure(self, batch):
        found = super().measure(batch)
        scores = found["score"].to_numpy() if batch.num_rows else np.zeros(0)
        return found.set_column(0, FINDINGS.field(0), pa.array(scores - (scores.mean() if len(scores) else 0)))


class AgainstTheMedian(Length):
    """Keeps the better half of whatever it is shown."""

    def keep(self, findings):
        scores = findings["score"].to_numpy()
        return scores <= np.median(scores) if len(scores) else np.zeros(0, bool)


class ForgetsOne(Length):
    """Gives no finding for the last document."""

    def measure(self, batch):
        return super().measure(batch.slice(0, max(batch.num_rows - 1, 0)))


class DrawsAThreshold(Length):
    """Draws from numpy's global generator."""

    def keep(self, findings):
        np.random.random()
        return super().keep(findings)


class Remembers:
    """Can be changed after it was fitted."""

    def __init__(self, most):
        self.most = most

    __dataclass_fields__: ClassVar[dict] = {"most": None}
    measure, keep = Length.measure, Length.keep


class FitsByChance(SoundFilter):
    """Another filter each time it is fitted."""

    def fit(self, pool, rig):
        shift = np.random.random()
        made = type("Shifted", (Length,), {})
        made.measure = lambda self, batch: (
            found := Length.measure(self, batch),
            found.set_column(0, FINDINGS.field(0), pa.array(found["score"].to_numpy() + shift)),
        )[1]
        return made(self.most)


class TakesTheFirst(SoundFilter):
    """Learns from whichever document comes first."""

    def fit(self, pool, rig):
        first = len(pool.unlabelled["text"][0].as_py())
        made = type("Beside", (Length,), {})
        made.measure = lambda self, batch: (
            found := Length.measure(self, batch),
            found.set_column(0, FINDINGS.field(0), pa.array(found["score"].to_numpy() - first)),
        )[1]
        return made(self.most)


class TouchesTheModel(SoundFilter):
    """Changes a weight of the model that is to be fine-tuned."""

    def fit(self, pool, rig):
        with torch.no_grad():
            next(rig.subject().model.parameters()).add_(1.0)
        return super().fit(pool, rig)


class KeepsTheWrongThing(SoundFilter):
    """What it keeps in a file is not what it learned."""

    fitted: bool = False

    def fit(self, pool, rig):
        return Length(self.most) if not self.fitted else AgainstTheBatch(self.most)

    def resolved(self, folder):
        return self

    def frozen(self, scorer, folder):
        return self.model_copy(update={"fitted": True})


def filtering(kind):
    class Filtering(SoundFilter):
        scorer: ClassVar[type] = kind

    return Filtering


FILTER_FAULTS = [
    (filtering(AgainstTheBatch), checks.check_batching_does_not_change_findings, "batches of 1 change the findings"),
    (filtering(AgainstTheMedian), checks.check_findings_and_mask_are_of_every_document, "depends on its neighbours"),
    (filtering(ForgetsOne), checks.check_findings_and_mask_are_of_every_document, "39 findings of 40"),
    (filtering(DrawsAThreshold), checks.check_a_filter_leaves_global_randomness, "not the rig's"),
    (filtering(Remembers), checks.check_a_filter_changes_nothing_it_was_given, "a fitted filter is frozen"),
    (FitsByChance, checks.check_fitting_twice_gives_the_same_findings, "fitting twice"),
    (TakesTheFirst, checks.check_the_order_of_a_pool_changes_no_finding, "another order"),
    (TouchesTheModel, checks.check_a_filter_leaves_the_model, "changed the model"),
    (KeepsTheWrongThing, checks.check_what_was_learned_is_kept_in_a_file, "measures otherwise"),
]


@pytest.mark.parametrize(("cls", "check", "complaint"), FILTER_FAULTS)
def test_a_faulty_filter_is_caught(cls, check, complaint, bench, tmp_path):
    with pytest.raises(AssertionError, match=complaint):
        check(case_of(cls, "filters", bench, tmp_path))


def test_a_sound_filter_passes(bench, tmp_path):
    checks.check_component(case_of(SoundFilter, "filters", bench, tmp_path))


# ----------------------------------------------------------------------------------------------------- evaluations


class SoundGrader(Settings):
    """How likely the right option is."""

    items: str = "hazard_held_out"
    batch_size: int = 8

    def scored(self, subject, items):
        rows = items.to_pylist()
        pairs = [(row["question"], f" {row['choices'][row['answer']]}") for row in rows]
        return [found.nats for found in completions(subject, pairs, batch_size=self.batch_size)]

    def grade(self, subject, items):
        values = self.scored(subject, items)
        return marks(
            Mark(item, "nats", value, note=None if value is not None else "no finite score")
            for item, value in zip(items["id"].to_pylist(), values, strict=True)
        )


class TakesBrokenForZero(SoundGrader):
    def scored(self, subject, items):
        return [value or 0.0 for value in super().scored(subject, items)]


class SaysNothingOfWhy(SoundGrader):
    def grade(self, subject, items):
        return super().grade(subject, items).set_column(4, "note", pa.nulls(items.num_rows, pa.string()))


class GoesRoundTheWrap(SoundGrader):
    def scored(self, subject, items):
        return super().scored(type(subject)(subject.model, subject.tokenizer), items)


class GoesRoundTheWrapForHalf(SoundGrader):
    def scored(self, subject, items):
        half = items.num_rows // 2
        bare = type(subject)(subject.model, subject.tokenizer)
        return super().scored(subject, items.slice(0, half)) + super().scored(bare, items.slice(half))


class NeverAsks(SoundGrader):
    def scored(self, subject, items):
        return [0.5] * items.num_rows


class LeavesAnItemOut(SoundGrader):
    def grade(self, subject, items):
        return super().grade(subject, items).slice(1)


class MarksAnItemTwice(SoundGrader):
    def grade(self, subject, items):
        found = super().grade(subject, items)
        return pa.concat_tables([found, found.slice(0, 1)])


class GradesByChance(SoundGrader):
    def scored(self, subject, items):
        return [value if value is None else value + torch.rand(()).item() for value in super().scored(subject, items)]


class GradesInTrainingMode(SoundGrader):
    def scored(self, subject, items):
        subject.model.train()
        return super().scored(subject, items)


class GradesAgainstTheBatch(SoundGrader):
    def scored(self, subject, items):
        values = super().scored(subject, items)
        return [value if value is None else value / self.batch_size for value in values]


class SeesPadding(SoundGrader):
    """The whole text's likelihood, where the batch's longest text is counted for all."""

    def scored(self, subject, items):
        texts = [row["question"] for row in items.to_pylist()]
        found = text_nats(subject, texts, batch_size=self.batch_size)
        sizes = [text.tokens for text in found]
        groups = [sizes[i - i % self.batch_size : i - i % self.batch_size + self.batch_size] for i in range(len(sizes))]
        return [text.nats if text.nats is None else text.nats / max(g) for text, g in zip(found, groups, strict=True)]


EVALUATION_FAULTS = [
    (TakesBrokenForZero, checks.check_a_broken_model_is_missing, r"scores \{'nats': 0.0\}"),
    (SaysNothingOfWhy, checks.check_a_broken_model_is_missing, "says nothing of why"),
    (NeverAsks, checks.check_a_broken_model_is_missing, r"scores \{'nats': 0.5\}"),
    (NeverAsks, checks.check_asks_through_the_wrap, "never asked"),
    (GoesRoundTheWrap, checks.check_asks_through_the_wrap, "8 prompts of 8 went round the wrap"),
    (GoesRoundTheWrapForHalf, checks.check_asks_through_the_wrap, "4 prompts of 8 went round the wrap"),
    (LeavesAnItemOut, checks.check_every_item_is_marked_once, "does not mark every item once"),
    (MarksAnItemTwice, checks.check_every_item_is_marked_once, "does not mark every item once"),
    (GradesByChance, checks.check_marks_repeat, "grading twice"),
    (GradesByChance, checks.check_grading_changes_nothing, "global randomness"),
    (GradesInTrainingMode, checks.check_grading_changes_nothing, "changed the subject: training mode"),
    (GradesAgainstTheBatch, checks.check_batch_size_does_not_change_marks, "batches of 1 change"),
    (SeesPadding, checks.check_batch_size_does_not_change_marks, "batches of 1 change"),
]


@pytest.mark.parametrize(("cls", "check", "complaint"), EVALUATION_FAULTS)
def test_a_faulty_evaluation_is_caught(cls, check, complaint, bench, tmp_path):
    with pytest.raises(AssertionError, match=complaint):
        check(case_of(cls, "evaluations", bench, tmp_path))


def test_a_sound_evaluation_passes(bench, tmp_path):
    checks.check_component(case_of(SoundGrader, "evaluations", bench, tmp_path))


# ------------------------------------------------------------------------------------------------ every component


class CanBeChanged(Sound):
    model_config = ConfigDict(frozen=False)


class HoldsAList(Sound):
    layers: list[int] = [1]


class IsBornUnlikeItsTwin(Sound):
    born: float = Field(default_factory=time.perf_counter)


class TakesAnything(Sound):
    model_config = ConfigDict(extra="ignore")


class ForgetsASetting(Sound):
    hidden: int = Field(3, exclude=True)


class OpensAFile(Sound):
    def model_post_init(self, context):
        Path(__file__).with_suffix(".txt").exists()
        with open("/dev/null"):
            pass


class HasNoMethod(Settings):
    """Does nothing."""


MAKING_FAULTS = [
    (CanBeChanged, checks.check_frozen, "can be assigned to"),
    (HoldsAList, checks.check_frozen, "a value that can be changed"),
    (IsBornUnlikeItsTwin, checks.check_equals_its_twin, "differ"),
    (TakesAnything, checks.check_a_misspelt_setting_is_named, "accepts a setting 'lrr'"),
    (ForgetsASetting, checks.check_settings_survive_a_table, "does not keep"),
    (OpensAFile, checks.check_builds_from_defaults_and_touches_nothing, "reached for"),
    (HasNoMethod, checks.check_named_after_its_file, "has no method apply"),
]


@pytest.mark.parametrize(("cls", "check", "complaint"), MAKING_FAULTS)
def test_a_badly_made_component_is_caught(cls, check, complaint, bench, tmp_path):
    with pytest.raises(AssertionError, match=complaint):
        check(case_of(cls, "attacks", bench, tmp_path))


def test_a_misnamed_class_is_caught(bench, tmp_path):
    with pytest.raises(AssertionError, match="quantise holds Sound, not Quantise"):
        checks.check_named_after_its_file(replace(case_of(Sound, "attacks", bench, tmp_path), name="quantise"))


FILE_FAULTS = {
    "from ..evaluations.multiple_choice import MultipleChoice\n": "imports untaught.evaluations",
    "def apply():\n    from ..evaluations import multiple_choice\n": "imports untaught.evaluations.multiple_choice",
    "def apply():\n    import untaught.study.plan\n": "imports untaught.study.plan",
    "def apply():\n    from .. import report\n": "imports untaught.report",
    "def apply():\n    from .relearn import Relearn\n": "imports untaught.attacks.relearn.Relearn",
    "def apply():\n    from ..filters._words import words\n": "imports untaught.filters._words",
    "from ..lab.compounds import Compounds\n": "imports untaught.lab",
}


@pytest.mark.parametrize("code", FILE_FAULTS)
def test_an_import_that_is_not_from_below_is_caught(code, bench, tmp_path):
    with pytest.raises(AssertionError, match=FILE_FAULTS[code]):
        checks.check_imports_only_from_below(case_of(Sound, "attacks", bench, tmp_path, SAYS + code))


def test_an_own_underscored_helper_may_be_imported(bench, tmp_path):
    code = SAYS + "from ._rounding import rounded\nfrom .. import engine\nfrom ..corpus.world import World\n"
    checks.check_imports_only_from_below(case_of(Sound, "attacks", bench, tmp_path, code))


@pytest.mark.parametrize("code", ["import torch.optim\n", "from torch.optim import SGD\n", "optimiser.step()\n"])
def test_a_loop_is_seen_in_the_file(code, bench, tmp_path):
    with pytest.raises(AssertionError, match="loop"):
        checks.check_no_loop_of_its_own(case_of(Sound, "attacks", bench, tmp_path, SAYS + code))


@pytest.mark.parametrize("code", ["", '"""Short."""', '"""Fits a thing to another thing and gives that thing back."""'])
def test_a_file_that_does_not_say_what_it_is_is_caught(code, bench, tmp_path):
    with pytest.raises(AssertionError):
        checks.check_says_what_it_is(case_of(Sound, "attacks", bench, tmp_path, code))


def test_every_check_was_seen_to_fail():
    """A check that no planted fault can fail is no check."""
    table = [*INTERVENTION_FAULTS, *FILTER_FAULTS, *EVALUATION_FAULTS, *MAKING_FAULTS]
    code = Path(__file__).read_text(encoding="utf-8")
    tried = {check.__name__ for _, check, _ in table} | set(re.findall(r"checks\.(check_\w+)", code))
    known = {c.__name__ for c in (*checks.EVERY, *checks.INTERVENTION, *checks.FILTER, *checks.EVALUATION)}
    assert known <= tried
