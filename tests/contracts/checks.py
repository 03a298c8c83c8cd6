"""The battery: what every component owes, one plain function a promise.

A check takes a `Case` (a component on the bench) and raises an `AssertionError` that says what was broken. Nothing
here knows a component's name. A package that brings components of its own runs `check_component` on them.
"""

import ast
import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from bench import (
    NONSENSE,
    Case,
    bits,
    counting_optimiser_steps,
    global_randomness,
    hooks,
    portrait,
    stir,
    touching,
    watching,
)

from untaught.core import FINDINGS, MARKS, METHOD, Budget, Corpus, Documents, Settings, UserError, shelves
from untaught.core import Subject as SubjectNoun
from untaught.engine.rig import Rig

Check = Callable[[Case], None]

BELOW = ("core", "corpus", "engine")
"""Rooms that a shelf may import."""


# ------------------------------------------------------------------------------------------------ every component


def check_named_after_its_file(case: Case) -> None:
    """The class is the file's name in capitals, and has its shelf's method."""
    wanted = "".join(word.capitalize() for word in case.name.split("_"))
    assert case.cls.__name__ == wanted, f"{case.name} holds {case.cls.__name__}, not {wanted}"
    assert issubclass(case.cls, Settings)
    assert callable(getattr(case.cls, METHOD[case.shelf], None)), f"{wanted} has no method {METHOD[case.shelf]}"


def check_builds_from_defaults_and_touches_nothing(case: Case) -> None:
    case.cls()
    with touching() as touched:
        case.cls()
    assert not touched, f"building {case.cls.__name__} reached for: {touched}"


def check_frozen(case: Case) -> None:
    """Nothing in it can be changed, nor anything inside its values."""
    made = case.cls()
    for name in case.cls.model_fields:
        try:
            setattr(made, name, getattr(made, name))
        except (ValueError, TypeError, AttributeError):
            continue
        raise AssertionError(f"{case.cls.__name__}.{name} can be assigned to")
    try:
        hash(made)
    except TypeError as error:
        raise AssertionError(f"{case.cls.__name__} holds a value that can be changed: {error}") from None


def check_equals_its_twin(case: Case) -> None:
    one, other = case.cls(), case.cls()
    assert one == other, f"two {case.cls.__name__} of the same settings differ"
    assert hash(one) == hash(other)


def check_settings_survive_a_table(case: Case) -> None:
    """Through JSON and through YAML, defaults included."""
    for made in [case.cls(), *case.variants()]:
        plain = made.changed()
        assert plain.keys() == case.cls.model_fields.keys(), f"{case.cls.__name__} does not keep all of its settings"
        assert case.cls.settle(json.loads(json.dumps(plain)), "a table") == made
        assert case.cls.settle(yaml.safe_load(yaml.safe_dump(plain)), "a table") == made


def check_a_misspelt_setting_is_named(case: Case) -> None:
    for name in case.cls.model_fields or {"steps": None}:
        wrong = name + name[-1]
        try:
            case.cls.settle({wrong: 1}, "study.yaml")
        except UserError as error:
            says = str(error)
            assert f"study.yaml has no setting '{wrong}'." in says, says
            assert name not in case.cls.model_fields or f"Did you mean '{name}'?" in says, says
        else:
            raise AssertionError(f"{case.cls.__name__} accepts a setting '{wrong}'")


def check_says_what_it_is(case: Case) -> None:
    """The file's docstring says what it is and where it comes from; the class has a docstring."""
    doc = ast.get_docstring(ast.parse(case.file.read_text(encoding="utf-8"))) or ""
    assert len(doc.split()) >= 8, f"{case.file.name} does not say what it is"
    source = r"arXiv|et al|\b(19|20)\d\d\b|harness|https?://|\b[Oo]urs?\b"
    assert re.search(source, doc), f"{case.file.name} names no source, and does not say that the method is ours"
    assert (case.cls.__doc__ or "").strip(), f"{case.cls.__name__} has no docstring"
    if case.path is None:
        assert shelves.summary(case.shelf, case.name)


def check_imports_only_from_below(case: Case) -> None:
    """Core, corpus, engine and the shelf's own underscored helpers; what is imported inside a function counts."""
    package = f"untaught.{case.shelf}"
    for module in imported(case.file.read_text(encoding="utf-8"), package):
        parts = module.split(".")
        if parts[0] != "untaught":
            continue
        own_helper = module.startswith(f"{package}._")
        low = len(parts) > 1 and parts[1] in BELOW
        assert low or own_helper, f"{case.file.name} imports {module}, which is not below it"


def check_no_loop_of_its_own(case: Case) -> None:
    """There is one training loop: a component makes no optimiser and steps none."""
    tree = ast.parse(case.file.read_text(encoding="utf-8"))
    optimisers = [m for m in imported(tree, f"untaught.{case.shelf}") if m.startswith("torch.optim")]
    assert not optimisers, f"{case.file.name} imports {optimisers[0]}; hand the rig's loop a loss instead"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("step", "optim"), f"{case.file.name}, line {node.lineno}: a loop of its own"


def imported(code: str | ast.Module, package: str) -> Iterator[str]:
    """Full names of every module and name imported anywhere in a file of `package`."""
    for node in ast.walk(ast.parse(code) if isinstance(code, str) else code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            where = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import engine` imports a room; `from ..core import Corpus` a room's name
            yield from (f"{where}.{alias.name}" for alias in node.names)


# -------------------------------------------------------------------------------------------------- interventions


def check_gives_back_a_subject(case: Case) -> None:
    """Ready to be asked and to be trained on: eval mode, and everything trainable that was."""
    for component in case.variants():
        given = case.bench.subject()
        result, _ = case.applied(component, given)
        assert isinstance(result, SubjectNoun)
        working = [name for name, module in result.model.named_modules() if module.training]
        assert not working, f"{component!r} leaves its result in training mode"
        assert all(p.requires_grad for p in result.model.parameters()), f"{component!r} leaves weights frozen"
        names = [name for name, _ in result.model.named_parameters()]
        assert names == [name for name, _ in given.model.named_parameters()], f"{component!r} changes what weights are"


def check_no_budget_means_no_change(case: Case) -> None:
    """Bit for bit."""
    for component in case.variants():
        given = case.bench.subject()
        result, rig = case.applied(component, given, budget=Budget(steps=0))
        assert bits(result.model) == bits(given.model), f"{component!r} changes weights without a budget"
        assert result.wrap == given.wrap, f"{component!r} changes the wrap without a budget"
        spent = rig.spent
        assert (spent.steps, spent.tokens, spent.examples) == (0, 0, 0)


BUDGETS = (
    Budget(steps=1),
    Budget(steps=3),
    Budget(tokens=0, steps=2),
    Budget(tokens=37, steps=4),
    Budget(tokens=900, steps=3),
    Budget(examples=0, steps=2),
    Budget(examples=5, steps=7),
    Budget(examples=17, tokens=2000, steps=2),
)


def check_budget_is_never_overspent(case: Case) -> None:
    """Neither by the meter nor by what the optimisers did."""
    for component in case.variants():
        for budget in BUDGETS:
            given = case.bench.subject()
            with counting_optimiser_steps() as stepped, watching(given.model) as seen:
                _, rig = case.applied(component, given, budget=budget)
            for kind in ("steps", "tokens", "examples"):
                bound, spent = getattr(budget, kind), getattr(rig.spent, kind)
                assert bound is None or spent <= bound, f"{component!r} spent {spent} {kind} of {bound}"
            assert stepped() <= rig.spent.steps, f"{component!r}: {stepped()} steps taken, {rig.spent.steps} metered"
            if stepped() or rig.spent.steps:  # a step may take a gradient and leave the edit to the component
                learnt = sum(len(ids) for ids in {row.ids for row in seen if row.learning})
                metered = rig.spent.tokens
                assert learnt, f"{component!r} metered {rig.spent.steps} steps, and learnt from nothing"
                assert learnt <= metered, f"{component!r} learnt from {learnt} tokens, {metered} metered"
            else:
                assert (rig.spent.steps, rig.spent.tokens, rig.spent.examples) == (0, 0, 0)


class BreakingRig(Rig):
    """A rig that fails while the component is at work."""

    def report(self, step: int, *rest: Any) -> None:
        if step == 2:
            raise ArithmeticError("a planted failure")
        super().report(step, *rest)


def check_the_given_subject_is_untouched(case: Case) -> None:
    """Weights, flags, modes, wrap, tokenizer; after an error inside too."""
    for component in case.variants():
        given, donor = case.bench.subject(), case.bench.subject(seed=1)
        before, donors = portrait(given), portrait(donor)
        rig = case.rig()
        rig.donor = lambda *_, donor=donor: donor
        component.apply(given, case.bench.corpus(case.shelf), rig)
        _same(before, portrait(given), f"{component!r} changed the subject it was given")
        _same(donors, portrait(donor), f"{component!r} changed its donor")
        with contextlib.suppress(ArithmeticError):
            case.applied(component, given, kind=BreakingRig)
        _same(before, portrait(given), f"{component!r} changed the subject it was given when it failed")


def check_no_hook_is_left(case: Case) -> None:
    for component in case.variants():
        given = case.bench.subject()
        result, _ = case.applied(component, given)
        assert not hooks(given.model), f"{component!r} leaves a hook on what it was given: {hooks(given.model)}"
        assert not hooks(result.model), f"{component!r} leaves a hook on its result: {hooks(result.model)}"
        with contextlib.suppress(ArithmeticError):
            case.applied(component, given, kind=BreakingRig)
        assert not hooks(given.model), f"{component!r} leaves a hook when it fails: {hooks(given.model)}"


def check_same_seed_same_bits(case: Case) -> None:
    """Whatever state the global generators are in, and with dropout in the model."""
    for component in case.variants():
        found = []
        for other in (1, 2):
            stir(other)
            result, rig = case.applied(component, case.bench.subject(dropout=0.2))
            found.append((bits(result.model), result.wrap, rig.spent.tokens, dict(rig.measured)))
        assert found[0] == found[1], f"{component!r} gives other bits the second time"


def check_global_randomness_is_untouched(case: Case) -> None:
    for component in case.variants():
        given = case.bench.subject(dropout=0.2)
        before = global_randomness()
        case.applied(component, given)
        assert global_randomness() == before, f"{component!r} uses randomness that is not the rig's"


def check_snapshots_are_what_the_budget_gives(case: Case) -> None:
    """The snapshot at a stop is, bit for bit, the result of a run with that many steps."""
    for component in case.variants():
        result, rig = case.applied(component, stops=(1, 2))
        plain, _ = case.applied(component)
        assert bits(result.model) == bits(plain.model), f"{component!r}: taking snapshots changes the result"
        assert not rig.snapshots.keys() - {1, 2}
        for stop, (model, spent) in rig.snapshots.items():
            alone, meter = case.applied(component, budget=Budget(steps=stop))
            assert bits(model) == bits(alone.model), f"{component!r}: the snapshot at {stop} is not that run's result"
            for kind in ("steps", "tokens", "examples", "flops"):
                assert getattr(spent, kind) == getattr(meter.spent, kind), f"{component!r}: {kind} at stop {stop}"
            assert not model.training, f"{component!r} gives a snapshot in training mode"
            assert all(p.requires_grad for p in model.parameters()), f"{component!r} gives a frozen snapshot"


# --------------------------------------------------------------------------------------------------------- filters


def _fitted(case: Case) -> Any:
    return case.made().fit(case.bench.corpus("filters"), case.rig())


def _batch(case: Case) -> Documents:
    return case.bench.pool.slice(0, 40)


def check_findings_and_mask_are_of_every_document(case: Case) -> None:
    scorer, batch = _fitted(case), _batch(case)
    found = scorer.measure(batch)
    assert isinstance(found, pa.Table)
    assert found.schema.equals(FINDINGS), f"findings have the columns {found.schema}"
    assert found.num_rows == batch.num_rows, f"{found.num_rows} findings of {batch.num_rows} documents"
    assert not any(found[name].null_count for name in found.column_names), "a finding has nulls"
    assert np.isfinite(found["score"].to_numpy()).all(), "a score is not finite"
    kept = scorer.keep(found)
    assert isinstance(kept, np.ndarray)
    assert kept.dtype == bool
    assert kept.shape == (batch.num_rows,)
    assert (scorer.keep(found.slice(7, 9)) == kept[7:16]).all(), "keeping one document depends on its neighbours"
    empty = scorer.measure(batch.slice(0, 0))
    assert (empty.num_rows, len(scorer.keep(empty))) == (0, 0)


def check_fitting_twice_gives_the_same_findings(case: Case) -> None:
    found = []
    for other in (1, 2):
        stir(other)
        found.append(_fitted(case).measure(_batch(case)))
    assert found[0].equals(found[1]), "fitting twice gives two filters"


def check_batching_does_not_change_findings(case: Case) -> None:
    """A document's finding is its own: alone, in any company, in any order."""
    scorer, batch = _fitted(case), _batch(case)
    whole = scorer.measure(batch)
    for size in (1, 7):
        parts = [scorer.measure(batch.slice(first, size)) for first in range(0, batch.num_rows, size)]
        assert pa.concat_tables(parts).equals(whole), f"batches of {size} change the findings"
    order = pa.array(np.random.default_rng(0).permutation(batch.num_rows))
    shuffled = scorer.measure(batch.take(order)).combine_chunks()
    assert shuffled.equals(whole.take(order)), "the order changes the findings"
    assert scorer.measure(batch).equals(whole), "measuring twice changes the findings"


def check_a_filter_changes_nothing_it_was_given(case: Case) -> None:
    pool, batch = case.bench.corpus("filters"), _batch(case)
    before = [json.dumps(table.to_pylist()) for table in (pool.hazard, pool.benign, batch)]
    component = case.made()
    twin = case.made()
    scorer = component.fit(pool, case.rig())
    scorer.keep(scorer.measure(batch))
    assert before == [json.dumps(table.to_pylist()) for table in (pool.hazard, pool.benign, batch)]
    assert component == twin
    for name in getattr(scorer, "__dataclass_fields__", None) or getattr(type(scorer), "model_fields", {}):
        try:
            setattr(scorer, name, getattr(scorer, name))
        except (ValueError, TypeError, AttributeError):
            continue
        raise AssertionError(f"{type(scorer).__name__}.{name} can be assigned to: a fitted filter is frozen")


def check_the_order_of_a_pool_changes_no_finding(case: Case) -> None:
    pool, batch = case.bench.corpus("filters"), _batch(case)
    turned = [side.take(list(range(side.num_rows - 1, -1, -1))) for side in (pool.hazard, pool.benign, pool.unlabelled)]
    found = [case.made().fit(given, case.rig()).measure(batch) for given in (pool, Corpus(*turned))]
    assert found[0].equals(found[1]), "another order of what it learns from gives another filter"


def check_a_filter_leaves_the_model(case: Case) -> None:
    before = portrait(case.asked)
    scorer = _fitted(case)
    scorer.keep(scorer.measure(_batch(case)))
    _same(before, portrait(case.asked), "filtering changed the model that is to be fine-tuned")
    assert not hooks(case.asked.model), f"filtering leaves a hook: {hooks(case.asked.model)}"


def check_what_was_learned_is_kept_in_a_file(case: Case) -> None:
    """With what `frozen` says and writes, nothing has to be learned again; written twice it is the same bytes."""
    if not hasattr(case.cls, "frozen"):
        return
    scorer, batch = _fitted(case), _batch(case)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        settled = case.made().frozen(scorer, Path(one))
        assert settled == case.made().frozen(scorer, Path(other))
        written = [{p.name: p.read_bytes() for p in Path(folder).iterdir()} for folder in (one, other)]
        assert written[0] == written[1], "what was learned is written in other bytes the second time"
        nothing = Corpus(*(side.slice(0, 0) for side in (batch, batch, batch)))
        again = case.cls.settle(settled.changed(), "a policy").resolved(Path(one)).fit(nothing, case.rig())
        found = scorer.measure(batch)
        assert again.measure(batch).equals(found), "what was kept in a file measures otherwise"
        assert (again.keep(found) == scorer.keep(found)).all(), "what was kept in a file decides otherwise"


def check_a_filter_leaves_global_randomness(case: Case) -> None:
    before = global_randomness()
    scorer = _fitted(case)
    scorer.keep(scorer.measure(_batch(case)))
    assert global_randomness() == before, f"{case.cls.__name__} uses randomness that is not the rig's"


# ----------------------------------------------------------------------------------------------------- evaluations


def check_every_item_is_marked_once(case: Case) -> None:
    """Once for each metric; a value or a reason why there is none; chance a probability or nothing."""
    component = case.made()
    items = case.items(component)
    marked = component.grade(case.bench.subject(), items)
    assert isinstance(marked, pa.Table)
    assert marked.schema.equals(MARKS), f"marks have the columns {marked.schema}"
    metrics = set(marked["metric"].to_pylist())
    assert metrics, "nothing was marked"
    for metric in metrics:
        names = [row["item"] for row in marked.to_pylist() if row["metric"] == metric]
        assert sorted(names) == sorted(items["id"].to_pylist()), f"{metric} does not mark every item once"
    for row in marked.to_pylist():
        assert row["value"] is None or np.isfinite(row["value"]), row
        assert row["value"] is not None or row["note"], f"{row['item']} is missing, and nothing says why"
        assert row["chance"] is None or 0 <= row["chance"] <= 1, row
    assert getattr(component, "role", "hazard") in ("hazard", "benign", None)


def check_marks_repeat(case: Case) -> None:
    component, subject = case.made(), case.bench.subject()
    found = []
    for other in (1, 2):
        stir(other)
        found.append(component.grade(subject, case.items(component)))
    assert found[0].equals(found[1]), "grading twice gives other marks"


def check_grading_changes_nothing(case: Case) -> None:
    component, subject = case.made(), case.bench.subject()
    items = case.items(component)
    told, before, state = json.dumps(items.to_pylist()), portrait(subject), global_randomness()
    component.grade(subject, items)
    _same(before, portrait(subject), "grading changed the subject")
    assert not hooks(subject.model), f"grading leaves a hook: {hooks(subject.model)}"
    assert global_randomness() == state, "grading uses global randomness"
    assert json.dumps(items.to_pylist()) == told


def check_asks_through_the_wrap(case: Case) -> None:
    """Under a wrap of nonsense the model sees no prompt that it saw without."""
    component, plain = case.made(), case.bench.subject()
    wrapped = SubjectNoun(plain.model, plain.tokenizer, NONSENSE)
    rows = []
    for subject in (plain, wrapped):
        with watching(plain.model) as seen:
            component.grade(subject, case.items(component))
        rows.append({row.ids for row in seen if len(row.ids) > 3})  # shorter ones may be single tokens of an answer
    assert rows[0], "the model was never asked"
    assert rows[1], "the model was never asked under the wrap"
    assert not rows[0] & rows[1], f"{len(rows[0] & rows[1])} prompts of {len(rows[0])} went round the wrap"


def check_a_broken_model_is_missing(case: Case) -> None:
    """Missing everywhere, and never 0: on a hazard test 0 would read as safety."""
    component = case.made()
    for poisoned in ("all", "one"):
        subject = case.bench.subject()
        with torch.no_grad():
            weights = list(subject.model.parameters())
            for weight in weights if poisoned == "all" else weights[-1:]:
                weight.view(-1)[slice(None) if poisoned == "all" else slice(0, 1)] = torch.nan
        marked = component.grade(subject, case.items(component)).to_pylist()
        values = {row["metric"]: row["value"] for row in marked if row["value"] is not None}
        assert not values, f"a model with {poisoned} of its weights NaN scores {values}"
        assert all(row["note"] for row in marked), "a missing mark says nothing of why"


def check_batch_size_does_not_change_marks(case: Case) -> None:
    """Right or wrong exactly, other numbers to 0.0001."""
    if "batch_size" not in case.cls.model_fields:
        return
    subject = case.bench.subject()
    whole = case.made().grade(subject, case.items(case.made())).to_pylist()
    for size in (1, 3):
        parts = case.made(batch_size=size).grade(subject, case.items(case.made())).to_pylist()
        for one, other in zip(whole, parts, strict=True):
            assert (one["item"], one["metric"]) == (other["item"], other["metric"])
            near = one["value"] in (0, 1) and one["value"] == other["value"]
            assert near or abs(one["value"] - other["value"]) < 1e-4, f"batches of {size} change {one} to {other}"


# ----------------------------------------------------------------------------------------------------- the battery


def _same(before: dict[str, Any], after: dict[str, Any], complaint: str) -> None:
    changed = [part for part in before if before[part] != after[part]]
    assert not changed, f"{complaint}: {', '.join(changed)}"


EVERY: tuple[Check, ...] = (
    check_named_after_its_file,
    check_builds_from_defaults_and_touches_nothing,
    check_frozen,
    check_equals_its_twin,
    check_settings_survive_a_table,
    check_a_misspelt_setting_is_named,
    check_says_what_it_is,
    check_imports_only_from_below,
    check_no_loop_of_its_own,
)
INTERVENTION: tuple[Check, ...] = (
    check_gives_back_a_subject,
    check_no_budget_means_no_change,
    check_budget_is_never_overspent,
    check_the_given_subject_is_untouched,
    check_no_hook_is_left,
    check_same_seed_same_bits,
    check_global_randomness_is_untouched,
    check_snapshots_are_what_the_budget_gives,
)
FILTER: tuple[Check, ...] = (
    check_findings_and_mask_are_of_every_document,
    check_fitting_twice_gives_the_same_findings,
    check_batching_does_not_change_findings,
    check_a_filter_changes_nothing_it_was_given,
    check_the_order_of_a_pool_changes_no_finding,
    check_a_filter_leaves_the_model,
    check_what_was_learned_is_kept_in_a_file,
    check_a_filter_leaves_global_randomness,
)
EVALUATION: tuple[Check, ...] = (
    check_every_item_is_marked_once,
    check_marks_repeat,
    check_grading_changes_nothing,
    check_asks_through_the_wrap,
    check_a_broken_model_is_missing,
    check_batch_size_does_not_change_marks,
)
BY_METHOD = {"apply": INTERVENTION, "fit": FILTER, "grade": EVALUATION}


def battery(shelf: str) -> tuple[Check, ...]:
    """Every check that a component on a shelf has to pass."""
    return EVERY + BY_METHOD[METHOD[shelf]]


def check_component(case: Case) -> None:
    """Hold one component to all of its contract."""
    for check in battery(case.shelf):
        check(case)
