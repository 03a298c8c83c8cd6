"""Results as logs of Inspect (https://inspect.aisi.org.uk/eval-logs.html): one `.eval` file a subject and evaluation.

They are written by inspect-ai itself, of the extra `evals`, so that what opens its own logs opens ours. A metric is a
scorer, its value the metric `mean`, beside `stderr` and the ends of our interval, `low` and `high`. An item that is
missing has the score NaN, which is how Inspect says *unscored*, with the cause as its explanation; a metric of which
all items are missing has no values. A sample has the item's id, and neither prompt nor answer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.extras import from_extra
from .exporting import Results, Said, Test, Tested, of_metric, read, reported, standard_error

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore  # pyright: ignore[reportMissingImports]


def write(run: Path, out: Path) -> list[Path]:
    """One log for each subject and evaluation; returns the files."""
    with from_extra("inspect_ai", "evals", "logs of Inspect are written by inspect-ai, which is not installed"):
        from inspect_ai.log import write_eval_log  # pyright: ignore[reportMissingImports]

    results = read(run)
    written: list[Path] = []
    for tested in results.tested:
        for test in tested.tests:
            written.append(out / f"{tested.name}_{test.task}.eval")
            write_eval_log(_log(tested, test, results), written[-1], format="eval")
    return written


def _log(tested: Tested, test: Test, results: Results) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats  # pyright: ignore[reportMissingImports]

    row, made = test.any_row, results.date.isoformat()
    told = tested.plain() | {"evaluation": row.evaluation, "role": row.role, "wrap": row.wrap}
    told["chat_template_sha256"] = results.template
    names = list(test.marks)
    spec = EvalSpec(
        created=made,
        task=test.task,
        task_id=_identity(test.task),
        run_id=_identity(tested.name),
        eval_id=_identity(f"{tested.name} {test.task}"),
        dataset=EvalDataset(name=row.items, samples=len(names), sample_ids=names, shuffled=False),
        model=f"untaught/{tested.name}",
        config=EvalConfig(),
        packages=reported(results),
        metadata=told,
    )
    samples = [_sample(item, said) for item, said in test.marks.items()]
    scores = [_score(test, metric) for metric in test.rows]
    return EvalLog(
        status="success",
        eval=spec,
        results=EvalResults(total_samples=len(names), completed_samples=len(names), scores=scores),
        stats=EvalStats(started_at=made, completed_at=made),
        samples=samples,
    )


def _score(test: Test, metric: str) -> EvalScore:
    from inspect_ai.log import EvalMetric, EvalScore  # pyright: ignore[reportMissingImports]

    row = test.rows[metric]
    values = {"mean": row.value, "stderr": standard_error(of_metric(test, metric)), "low": row.low, "high": row.high}
    known: dict[str, Any] = {
        name: EvalMetric(name=name, value=value) for name, value in values.items() if value is not None
    }
    told = {"chance": row.chance, "missing": row.missing}
    return EvalScore(
        name=metric, scorer=metric, scored_samples=row.n, unscored_samples=row.missing, metrics=known, metadata=told
    )


def _sample(item: str, said: dict[str, Said]) -> EvalSample:
    from inspect_ai.log import EvalSample  # pyright: ignore[reportMissingImports]
    from inspect_ai.scorer import Score  # pyright: ignore[reportMissingImports]

    scores = {
        metric: Score(value=float("nan") if one.value is None else one.value, explanation=one.note)
        for metric, one in said.items()
    }
    return EvalSample(id=item, epoch=1, input="", target="", scores=scores)


def _identity(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:22]
