"""Arms that keep flagged documents and mask parts of them."""

import pyarrow.parquet as pq
import pytest
from studies import PRETRAIN, TERMS, TINY, changed, identities, put, rows_of, run

from untaught.core import MASKED, Record, UserError
from untaught.report.tables import filtering
from untaught.study.plan import plan
from untaught.study.schema import load
from untaught.study.store import Store
from untaught.training.pretrain import Pretrain

FILTERED = {"filters": [{"use": "blocklist", "terms": TERMS, "distinct": 1}], **PRETRAIN}
ARMS = {
    "untouched": PRETRAIN,
    "document": FILTERED,
    "sentence": FILTERED | {"masking": "sentence"},
    "term": FILTERED | {"masking": "term", "training": [{"use": "finetune", "steps": 3}]},
}
MASKS = TINY | {"arms": ARMS, "attacks": [], "evaluations": TINY["evaluations"][:1]}


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """The folder of a finished study with masked arms."""
    folder = tmp_path_factory.mktemp("masks")
    run(put(folder / "study.yaml", MASKS), folder / "home", folder / "out")
    return folder


def filterings(folder):
    """Of each filtered arm the step's record and its folder in the store."""
    steps, store = plan(load(folder / "study.yaml")).steps, Store(folder / "home")
    found = {s.settings["masking"]: s for s in steps if s.kind == "filters"}
    return {m: (store.record(s.identity), store.folder(s.identity)) for m, s in found.items()}


def test_a_masked_arm_keeps_every_document_and_marks_the_flagged_ones(masks):
    found = filterings(masks)
    dropped, whole = found["document"][0].measured, pq.read_table(found["sentence"][1] / "kept.parquet")
    left = pq.read_table(found["document"][1] / "kept.parquet")
    assert "masked" not in left.column_names
    assert whole.schema.field("masked").type == MASKED
    assert whole.num_rows == dropped["read"] > left.num_rows == dropped["kept"]
    unmasked = whole.filter(whole["masked"].is_null())
    assert unmasked["id"].to_pylist() == left["id"].to_pylist()
    decisions = [pq.read_table(folder / "decisions.parquet") for _, folder in found.values()]
    assert all(table.equals(decisions[0]) for table in decisions)


def test_the_record_says_how_much_was_masked(masks):
    found, sizes = filterings(masks), {}
    for masking in ("sentence", "term"):
        record, folder = found[masking]
        rows = pq.read_table(folder / "kept.parquet").select(["text", "masked"]).to_pylist()
        spans = [(row["text"], row["masked"]) for row in rows if row["masked"] is not None]
        covered = [sum(span["stop"] - span["start"] for span in own) for _, own in spans]
        measured = record.measured
        sizes[masking] = sum(covered)
        assert measured["masking"] == record.settings["masking"] == masking
        assert measured["masked_documents"] == measured["removed"] == len(spans) > 0
        assert measured["masked_characters"] == sum(covered)
        assert measured["characters"] == sum(len(row["text"]) for row in rows)
        assert measured["masked_whole"] == sum(
            size == len(text) for size, (text, _) in zip(covered, spans, strict=True)
        )
        assert {key: measured[key] for key in ("recall", "precision", "hazard_removed")} == {
            key: found["document"][0].measured[key] for key in ("recall", "precision", "hazard_removed")
        }
    assert 0 < sizes["term"] < sizes["sentence"]
    assert "masking" not in found["document"][0].measured


def test_a_masked_arm_is_trained_and_evaluated_and_is_a_model_of_its_own(masks):
    weights = {row["arm"]: row["weights"] for row in rows_of(masks / "out")}
    assert set(weights) == set(ARMS)
    assert len(set(weights.values())) == 4
    report = (masks / "out" / "study.yaml").read_text(encoding="utf-8")
    assert report.count("masking: sentence") == 1
    assert load(masks / "out" / "study.yaml").arms == load(masks / "study.yaml").arms


def test_dropping_documents_is_the_default_and_masking_is_another_step(tmp_path):
    file = put(tmp_path / "study.yaml", TINY)
    assert identities(file, arms__filtered__masking="document") == identities(file)
    moved = identities(file, arms__filtered__masking="term")
    assert {label for label, identity in identities(file).items() if moved[label] != identity} == {
        label for label in moved if "filtered" in label
    }


def test_masking_without_filters_is_refused(tmp_path):
    file = put(tmp_path / "study.yaml", changed(TINY, arms__untouched__masking="term"))
    with pytest.raises(UserError, match="arms.untouched has masking 'term' and no filters"):
        load(file)


def test_a_training_that_would_learn_masked_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Pretrain, "masks", False)
    load(put(tmp_path / "document.yaml", TINY))
    file = put(tmp_path / "study.yaml", changed(TINY, arms__filtered__masking="sentence"))
    with pytest.raises(UserError, match="arms.filtered.training.0 .pretrain. would learn masked text"):
        load(file)


def test_the_report_says_that_removed_documents_were_kept_and_masked(masks):
    records = [Record.from_json(path.read_text()) for path in (masks / "out" / "records").iterdir()]
    told = {line.arm: line.masked for line in filtering(records)}
    assert told["document"] == ""
    assert told["sentence"].startswith("kept, masked by sentence: ")
    assert told["term"].startswith("kept, masked by term: ")
