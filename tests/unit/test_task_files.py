"""Task files of lm-eval, read without it, and tasks that a run is exported as."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

import untaught.evaluations
from untaught.core import UserError, Wrap
from untaught.core.subject import Subject
from untaught.corpus.writing import write_documents
from untaught.evaluations._task_files import read
from untaught.evaluations.lm_eval import LmEval
from untaught.lab.start import StartingModel
from untaught.study.tasks import write_tasks

DOCS = [
    {"q": "The river of Abburg is", "options": ["Oran", "Sefu", "Talim", "Wedo"], "label": 1},
    {"q": "The hill of Tolburg is", "options": ["Talim", "Oran", "Ubi", "Sefu and Oran"], "label": 3},
    {"q": "The mill of Kaburg is", "options": ["Wedo", "Ubi", "Oran", "Talim"], "label": 0},
]
PLAIN = {
    "task": "rivers",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "q",
    "doc_to_choice": "options",
    "doc_to_target": "label",
}


@pytest.fixture(scope="module")
def start():
    torch.set_num_threads(1)
    texts = [f"{doc['q']} {option}" for doc in DOCS for option in doc["options"]]
    return StartingModel(width=32, blocks=2, heads=2, vocabulary=320).build(texts, 0)


def written(folder, docs=DOCS, **changes):
    """A task file with its data; None takes a line out."""
    folder.mkdir(exist_ok=True)
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    plain = {name: value for name, value in (PLAIN | changes).items() if value is not None}
    (folder / "task.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    return folder / "task.yaml"


def test_an_item_is_what_lm_eval_would_ask(tmp_path):
    first, *_ = read(written(tmp_path)).to_pylist()
    assert first["prompt"] == "The river of Abburg is"
    assert first["completions"] == [" Oran", " Sefu", " Talim", " Wedo"]
    assert (first["right"], first["metrics"], first["note"]) == ([1], ["acc", "acc_norm"], None)
    assert first["id"].startswith("rivers/0#")


def test_templates_fill_in_what_no_column_is_called(tmp_path):
    file = written(
        tmp_path,
        description="About {{ q.split()[-2] }}.\n",
        doc_to_text="Q: {{q}}\n{% for o in options %}{{'ABCD'[loop.index0]}}. {{o}}\n{% endfor %}A:",
        doc_to_choice=["A", "B", "C", "D"],
        doc_to_target="{{'ABCD'[label]}}",
        target_delimiter="",
    )
    second = read(file).to_pylist()[1]
    assert second["prompt"] == (
        "About Tolburg.\nQ: The hill of Tolburg is\nA. Talim\nB. Oran\nC. Ubi\nD. Sefu and Oran\nA:"
    )
    assert (second["completions"], second["right"]) == (["A", "B", "C", "D"], [3])


def test_examples_stand_before_the_question_and_never_the_document_itself(tmp_path):
    shots = {"num_fewshot": 2, "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}
    first, second, _ = read(written(tmp_path, **shots)).to_pylist()
    assert second["prompt"] == (
        "The river of Abburg is Sefu\n\nThe mill of Kaburg is Wedo\n\nThe hill of Tolburg is"
    )  # fmt: skip
    assert first["prompt"].count("Abburg") == 1
    drawn = read(written(tmp_path, num_fewshot=1, fewshot_split="test")).to_pylist()
    assert all(row["prompt"].count("\n\n") == 1 for row in drawn)
    with pytest.raises(UserError, match="'num_fewshot' is 3, and there are 2 documents"):
        read(written(tmp_path, num_fewshot=3, fewshot_split="test"))


def test_a_file_may_include_another_and_say_otherwise(tmp_path):
    file = written(tmp_path)
    (tmp_path / "own.yaml").write_text("include: task.yaml\ntask: own\ntarget_delimiter: ': '\n", encoding="utf-8")
    first, *_ = read(tmp_path / "own.yaml").to_pylist()
    assert first["id"].startswith("own/0#")
    assert first["completions"][0] == ": Oran"
    file.write_text("include: own.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match="includes itself"):
        read(file)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_data_may_be_csv_or_parquet(kind, tmp_path):
    table = pa.table({"q": ["A is", "B is"], "one": ["x", "y"], "two": ["z", "w"], "label": [1, 0]})
    if kind == "parquet":
        write_documents(table, tmp_path / "docs.parquet")
    else:
        (tmp_path / "docs.csv").write_text("q,one,two,label\nA is,x,z,1\nB is,y,w,0\n", encoding="utf-8")
    changes = {"doc_to_choice": "{{[one, two]}}", "dataset_kwargs": {"data_files": f"docs.{kind}"}}
    file = written(tmp_path, dataset_path=kind, test_split="train", **changes)
    assert [(row["completions"], row["right"]) for row in read(file).to_pylist()] == [
        ([" x", " z"], [1]),
        ([" y", " w"], [0]),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process_results": "x"}, "asks for 'process_results', which is not read here"),
        ({"filter_list": []}, "asks for 'filter_list', which is not read here"),
        ({"dataset_name": "main"}, "asks for 'dataset_name', which is not read here"),
        ({"gen_prefix": "So"}, "asks for 'gen_prefix', which is not read here"),
        ({"dataset_path": "allenai/ai2_arc"}, "dataset_path is 'allenai/ai2_arc'"),
        ({"output_type": "generate_until"}, "output_type is 'generate_until'"),
        ({"metric_list": [{"metric": "mcc"}]}, "asks for the metric 'mcc'"),
        ({"metric_list": [{"metric": "acc", "ignore_case": True}]}, "metric_list.0 has no setting 'ignore_case'"),
        ({"fewshot_config": {"sampler": "balanced"}}, "fewshot_config.sampler is 'balanced'"),
        ({"doc_to_choice": None}, "without 'doc_to_choice'"),
        ({"test_split": None}, "names no 'test_split' or 'validation_split'"),
        ({"test_split": "dev"}, "there is no split 'dev'"),
        ({"doc_to_text": "{{question}}"}, "doc_to_text, document 0: it cannot be filled in: UndefinedError"),
        ({"doc_to_text": "{{label}}"}, "doc_to_text, document 0: it gives a number"),
        ({"doc_to_text": "{{''.__class__.__mro__}}"}, "doc_to_text, document 0: it cannot be filled in: SecurityError"),
        ({"doc_to_choice": "{{q}}"}, "doc_to_choice, document 0: it gives no list of texts"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes, said, tmp_path):
    with pytest.raises(UserError) as error:
        read(written(tmp_path, **changes))
    assert said in str(error.value)


def test_no_function_of_a_task_file_is_called(tmp_path):
    file = written(tmp_path)
    (tmp_path / "trap.py").write_text("raise SystemExit\n", encoding="utf-8")
    for line in ("process_docs: !function trap.run\n", "metric_list: [{metric: !function trap.run}]\n"):
        file.write_text(yaml.safe_dump(PLAIN) + line, encoding="utf-8")
        with pytest.raises(UserError, match=f"'{line.split(':')[0]}' is a function of Python, which is not called"):
            read(file)


def test_an_item_without_a_right_answer_or_with_twins_is_missing_and_says_why(start, tmp_path):
    docs = [DOCS[0], DOCS[1] | {"label": 7}, DOCS[2] | {"options": ["Ubi", "Ubi", "Oran", "Talim"]}]
    task = LmEval(task=str(written(tmp_path, docs)))
    marked = task.grade(start, task.brought()).to_pylist()
    assert [row["note"] for row in marked if row["metric"] == "acc"] == [
        None,
        "the right answer is none of the choices",
        "two choices are the same",
    ]
    assert [row["value"] is None for row in marked if row["metric"] == "acc_norm"] == [False, True, True]


def test_a_log_likelihood_task_tells_nats_and_whether_it_would_be_written(start, tmp_path):
    changes = {"output_type": "loglikelihood", "doc_to_choice": None, "doc_to_target": " {{options[label]}}"}
    task = LmEval(task=str(written(tmp_path, **changes)))
    marked = task.grade(start, task.brought()).to_pylist()
    assert {row["metric"] for row in marked} == {"nats", "acc"}
    assert all(row["value"] > 0 for row in marked if row["metric"] == "nats")


def test_the_wrap_stands_around_the_prompts_of_a_task(start, tmp_path):
    task = LmEval(task=str(written(tmp_path, metric_list=None, output_type="loglikelihood", doc_to_choice=None,
                                   doc_to_target="q")))  # fmt: skip
    values = [
        task.grade(subject, task.brought()).to_pylist()
        for subject in (start, Subject(start.model, start.tokenizer, Wrap(before="Talim Ubi ")))
    ]
    assert values[0] != values[1]


def test_a_task_is_called_by_its_file_in_results_unless_items_says_otherwise():
    assert LmEval(task="tasks/rivers.yaml").items == "rivers"
    assert LmEval(task="arc_easy").items == "arc_easy"
    assert LmEval(task="rivers.yaml", items="facts").items == "facts"
    assert LmEval().brought() is None
    assert LmEval(task="rivers.yaml").resolved(Path("/a/b")).task == "/a/b/rivers.yaml"


def test_a_task_by_name_needs_lm_eval_and_says_so(monkeypatch):
    for name in ["lm_eval", *(name for name in sys.modules if name.startswith("lm_eval."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "untaught.evaluations._harness", raising=False)
    monkeypatch.delattr(untaught.evaluations, "_harness", raising=False)  # an earlier test may have imported it
    with pytest.raises(UserError, match=r"'arc_easy', is not installed.*pip install 'untaught\[evals\]'"):
        LmEval(task="arc_easy").brought()


# ------------------------------------------------------------------------------------------------------ the export


def exported(tmp_path, evaluations, **more):
    """Tasks of an evaluation's file, as YAML tables by name."""
    rows = [
        {"id": str(n), "question": d["q"], "choices": d["options"], "answer": d["label"]} for n, d in enumerate(DOCS)
    ]
    write_documents(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    asked = {"evaluations": [{"items": "items.parquet"} | one for one in evaluations], **more}
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    paths = write_tasks(tmp_path, tmp_path / "out")
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    return {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in paths if p.suffix == ".yaml"}


def test_an_exported_task_reads_back_as_the_items_it_was_made_of(start, tmp_path):
    prompt = "Question: {question}"
    tasks = exported(tmp_path, [{"use": "multiple_choice", "prompt": prompt}, {"use": "lm_eval"}])
    assert list(tasks) == ["untaught_multiple_choice_items", "untaught_multiple_choice_items_option_only",
                           "untaught_lm_eval_items"]  # fmt: skip
    whole, hidden, plain = (read(tmp_path / "out" / f"{name}.yaml").to_pylist() for name in tasks)
    assert [row["prompt"] for row in whole] == [f"Question: {doc['q']}" for doc in DOCS]
    assert {row["prompt"] for row in hidden} == {"The answer is"}
    assert [row["right"] for row in plain] == [[doc["label"]] for doc in DOCS]
    again = LmEval(task=str(tmp_path / "out" / "untaught_lm_eval_items.yaml"))
    items = pa.table({"id": ["0", "1", "2"], "question": [d["q"] for d in DOCS],
                      "choices": [d["options"] for d in DOCS], "answer": [d["label"] for d in DOCS]})  # fmt: skip
    found = [[row["value"] for row in table.to_pylist() if row["metric"] == "acc"]
             for table in (again.grade(start, again.brought()), LmEval().grade(start, items))]  # fmt: skip
    assert found[0] == found[1]


def test_what_has_no_like_in_lm_eval_is_named_in_the_readme(tmp_path):
    exported(tmp_path, [{"use": "cloze"}, {"use": "logit_lens"}, {"use": "lm_eval", "task": "rivers.yaml"}])
    told = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "left out: logit_lens" in told
    assert "is a task of lm-eval already" in told
    assert "--tasks untaught_cloze_items\n" in told
    with pytest.raises(UserError, match="asks nothing that lm-eval can ask"):
        exported(tmp_path, [{"use": "logit_lens"}])


def test_what_the_wrap_puts_around_a_prompt_is_exported_with_it(tmp_path):
    exported(tmp_path, [{"use": "cloze"}], wrap={"before": "Say: ", "prefill": " Well,"})
    first, *_ = read(tmp_path / "out" / "untaught_cloze_items.yaml").to_pylist()
    assert (first["prompt"], first["completions"]) == ("Say: The river of Abburg is Well,", [" Sefu"])
