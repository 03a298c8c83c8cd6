"""Held against lm-evaluation-harness itself: task files, exported tasks, and tasks by name on a loaded model."""

import copy
import json

import pyarrow as pa
import pytest
import torch
import yaml

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'untaught[evals]'")

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from untaught.core import UserError, Wrap
from untaught.core.subject import Subject
from untaught.corpus.writing import write_documents
from untaught.engine.prompts import wrapped
from untaught.evaluations.lm_eval import LmEval
from untaught.lab.start import StartingModel
from untaught.study.tasks import write_tasks

PLACES = ("Abburg", "Tolburg", "Kaburg", "Mirburg", "Sonburg", "Dalburg", "Perburg", "Lanburg")
NAMES = ("Oran", "Sefu and Talim", "Wedo", "Ubi the Old", "Kem", "Ilsa", "Brano", "Té")

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports


def documents(place, count=24):
    """Invented rivers, with four names each; the right one may stand anywhere."""
    return [
        {
            "q": f"{thing} of {PLACES[n % 8]} is",
            "options": [NAMES[(n + 2 * k + place) % 8] for k in range(4)],
            "label": n * 7 % 4,
        }
        for n in range(count)
        for thing in [("The river", "The hill", "The mill")[n % 3]]
    ]


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    texts = [f"{doc['q']} {option}" for doc in documents(0) for option in doc["options"]]
    subject = StartingModel(width=32, blocks=2, heads=2, vocabulary=400).build(texts, 0)
    with torch.no_grad():  # opinions, so that no two options are as likely as each other
        for weight in subject.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    return subject


def theirs(subject, name, folder, batch_size=4):
    """Lm-eval's own scores: item to metrics, with its own wrapper and a second tokenizer."""
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(name)
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=batch_size)
    found = evaluate(model, tasks, bootstrap_iters=0, log_samples=True)
    return {
        f"{task}/{one['doc_id']}#{one['doc_hash'][:8]}": {metric: float(one[metric]) for metric in one["metrics"]}
        for task, samples in found["samples"].items()
        for one in samples
    }


def ours(subject, **settings):
    """Our marks in the same form."""
    task = LmEval(**settings)
    found = {}
    for row in task.grade(subject, task.brought()).to_pylist():
        assert row["value"] is not None, row["note"]
        found.setdefault(row["item"], {})[row["metric"]] = row["value"]
    return found


def written(folder, **changes):
    """A task file, and its data with a split to show examples of."""
    for place, split in enumerate(("test", "shown")):
        lines = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in documents(place))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    plain = {
        "task": "rivers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {n: str(folder / f"{n}.jsonl") for n in ("test", "shown")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "options",
        "doc_to_target": "label",
        **changes,
    }
    plain = {name: value for name, value in plain.items() if value is not None}
    (folder / "rivers.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    return folder / "rivers.yaml"


EVERY = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in ("acc", "acc_norm", "acc_bytes")]
LETTERS = {
    "doc_to_text": "{{q}}\n{% for o in options %}{{'ABCD'[loop.index0]}}. {{o}}\n{% endfor %}Answer:",
    "doc_to_choice": ["A", "B", "C", "D"],
}
SHAPES = {
    "plain": {"metric_list": EVERY},
    "letters": LETTERS,
    "described": {"description": "These places are invented.\n\n", "doc_to_text": "Question: {{q}}\nAnswer: "},
    "none": {"doc_to_text": "", "metric_list": EVERY},
    "index in a template": {"doc_to_target": "{{label}}", "target_delimiter": "\n"},
    "text as target": {"doc_to_target": "{{options[label]}}"},
    "several right": {"doc_to_target": "{{[label, 0] | unique | list}}"},
    "shown": {"num_fewshot": 3, "fewshot_split": "shown", **LETTERS, "doc_to_target": "{{'ABCD'[label]}}"},
    "shown of the same": {"num_fewshot": 2, "fewshot_split": "test", "fewshot_delimiter": "\n"},
    "first of the same": {"num_fewshot": 2, "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}},
    "shown of a training split": {"num_fewshot": 2, "training_split": "shown"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_task_file_gives_what_lm_eval_gives_item_by_item(shape, start, tmp_path):
    file = written(tmp_path, **SHAPES[shape])
    expected, found = theirs(start, "rivers", tmp_path), ours(start, task=str(file))
    assert found == expected
    assert len({tuple(one.values()) for one in expected.values()}) > 1, "all items alike would prove nothing"


def test_a_log_likelihood_task_gives_what_lm_eval_gives(start, tmp_path):
    changes = {"output_type": "loglikelihood", "doc_to_choice": None, "doc_to_target": " {{options[label]}}"}
    file = written(tmp_path, **changes)
    expected, found = theirs(start, "rivers", tmp_path), ours(start, task=str(file))
    for item, scores in expected.items():
        assert found[item]["acc"] == scores["acc"]
        assert found[item]["nats"] == pytest.approx(-scores["perplexity"], abs=1e-4)


def test_a_task_by_name_runs_on_the_loaded_model_and_bears_the_same_items(start, tmp_path):
    file = written(tmp_path, metric_list=EVERY, num_fewshot=1, fewshot_split="shown")
    by_name, weights = {"task": "rivers", "folder": str(tmp_path)}, next(start.model.parameters()).clone()
    pads = start.tokenizer.pad_token
    found = ours(start, **by_name)
    assert found == theirs(start, "rivers", tmp_path) == ours(start, task=str(file))
    assert torch.equal(weights, next(start.model.parameters()))
    assert start.tokenizer.pad_token == pads
    assert list(ours(start, **by_name, most=5)) == list(found)[:5]


def test_the_wrap_is_in_force_in_a_task_by_name(start, tmp_path):
    file = written(tmp_path, metric_list=EVERY)
    subject = Subject(start.model, start.tokenizer, Wrap(before="Ubi the Old. ", after=" so"))
    found = ours(subject, task="rivers", folder=str(tmp_path))
    assert found == ours(subject, task=str(file))
    docs = [doc | {"q": wrapped(subject, doc["q"])} for doc in documents(0)]
    written(tmp_path, metric_list=EVERY)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    assert list(found.values()) == list(theirs(start, "rivers", tmp_path).values())


def test_what_is_written_is_judged_as_lm_eval_judges_it(start, tmp_path):
    asked = start.tokenizer(documents(0)[0]["q"], return_tensors="pt")["input_ids"]
    whole = start.model.generate(asked, max_new_tokens=4, do_sample=False)[0]
    said = start.tokenizer.decode(whole[asked.shape[1] :], skip_special_tokens=True)
    generation = {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False}
    changes = {"output_type": "generate_until", "doc_to_choice": None, "generation_kwargs": generation}
    data = {"data_files": {"test": str(tmp_path / "test.jsonl")}}
    written(tmp_path, doc_to_target="said", dataset_kwargs=data, **changes)
    lines = [json.dumps(doc | {"said": said}) + "\n" for doc in documents(0, 6)]
    (tmp_path / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    found = ours(start, task="rivers", folder=str(tmp_path))
    assert found == theirs(start, "rivers", tmp_path)
    assert next(iter(found.values())) == {"exact_match": 1.0}


def test_a_broken_model_is_missing_in_a_task_by_name(tmp_path, start):
    written(tmp_path)
    broken = copy.deepcopy(start)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    task = LmEval(task="rivers", folder=str(tmp_path))
    marked = task.grade(broken, task.brought()).to_pylist()
    assert len(marked) == 48
    assert {(row["value"], row["note"]) for row in marked} == {(None, "no finite score")}


def test_what_cannot_be_loaded_says_that_the_network_may_be_missing(tmp_path):
    with pytest.raises(UserError, match="lm-eval knows no task 'rivers_of_nowhere'"):
        LmEval(task="rivers_of_nowhere", folder=str(tmp_path)).brought()
    with pytest.raises(UserError, match=r"the task 'arc_easy' of lm-eval cannot be loaded: .* from the network"):
        LmEval(task="arc_easy").brought()


@pytest.mark.parametrize("use", ["multiple_choice", "cloze", "lm_eval"])
def test_lm_eval_runs_an_exported_task_with_equal_numbers(use, start, tmp_path, monkeypatch):
    rows = [{"id": str(n), "question": doc["q"], "choices": doc["options"], "answer": doc["label"]}
            for n, doc in enumerate(documents(0))]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    write_documents(table, tmp_path / "items.parquet")
    settings = {"use": use, "items": "items.parquet"} | ({"prompt": "Q: {question}"} if use != "lm_eval" else {})
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump({"evaluations": [settings]}), encoding="utf-8")
    write_tasks(tmp_path, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")  # where their data is
    expected = list(theirs(start, f"untaught_{use}_items", tmp_path / "out").values())
    for metric, own in _counterparts(use, settings, table, start).items():
        assert [one[metric] for one in expected] == own, metric
    again = ours(start, task=f"untaught_{use}_items.yaml")
    assert [one["acc"] for one in again.values()] == [one["acc"] for one in expected]


def _counterparts(use, settings, table, subject):
    """Our own evaluation's marks, by lm-eval's metric."""
    from untaught.core import shelves

    own = {name: value for name, value in settings.items() if name not in ("use", "items")}
    made = shelves.find("evaluations", use)
    asked = {
        "multiple_choice": {"acc": ("accuracy", {"per": "none"}), "acc_norm": ("accuracy", {"per": "character"}),
                            "acc_bytes": ("accuracy", {"per": "byte"})},
        "cloze": {"acc": ("recalled", {})},
        "lm_eval": {"acc": ("acc", {}), "acc_norm": ("acc_norm", {})},
    }[use]  # fmt: skip
    found = {}
    for theirs_, (metric, more) in asked.items():
        marked = made.settle(own | more, use).grade(subject, table).to_pylist()
        found[theirs_] = [row["value"] for row in marked if row["metric"] == metric]
    return found
