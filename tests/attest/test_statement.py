"""What a statement says of a run, that it passes its schemas, and that old statements are good for ever."""

import base64
import json
import math
import struct
from pathlib import Path

import jsonschema
import pytest
import yaml
from releases import KNOWN, RELEARN, SEEDS, fake, model, record, release, rows, run, signer, told

from untaught.attest import canonical, digest, dsse
from untaught.attest.evidence import Run, differences, of_filtered
from untaught.attest.keys import load_public
from untaught.attest.manifest import of_folder
from untaught.attest.policy import Policy
from untaught.attest.predicate import PAYLOAD, Statement, schema, worst
from untaught.attest.signing import sign
from untaught.attest.statement import Claim, compose, edges, opened, seal
from untaught.attest.verifying import verify
from untaught.core import UserError
from untaught.corpus import receipts

ROOT = Path(__file__).parents[2]
OLD = sorted((Path(__file__).parent / "data").glob("v*"))


@pytest.fixture
def one(tmp_path):
    own = model(tmp_path / "model")
    return own, run(tmp_path / "run", own)


def composed(own, measured, **claim):
    return compose(own, of_folder(own), Claim(measured, **claim))


def test_a_statement_says_what_the_run_says(one):
    own, measured = one
    found = composed(own, measured)
    claim = found.predicate
    assert found.root == of_folder(own).root
    assert (claim.model.arm, claim.model.seed, claim.model.weights) == ("filtered", 0, digest.of_weights(own))
    lines = [json.loads(line) for line in (measured / "results.jsonl").read_text().splitlines()]
    for row in (line for line in lines if line["arm"] == "filtered"):
        entries = claim.evaluations
        if row["attack"] is not None:
            [attack] = [a for a in claim.attacks if a.attack == row["attack"]]
            entries = [p for p in attack.points if p.spent.tokens == row["budget"]["tokens"]]
        [same] = [e for e in entries if (e.items, e.seed) == (row["items"], row["seed"])]
        for name in ("value", "low", "high", "n", "missing", "chance", "role", "metric", "evaluation", "weights"):
            assert getattr(same, name) == row[name], name
    assert [arm.arm for arm in claim.references] == ["untouched"]
    assert [(step.kind, step.component, step.after) for step in claim.made] == [
        ("training", "pretrain", claim.model.weights)
    ]
    [filter_] = claim.filters
    assert (filter_.read, filter_.kept, filter_.removed, filter_.recall.low) == (9000, 8000, 1000, 0.97)
    assert claim.study.seeds == SEEDS
    assert differences(measured, claim.study) == []


def test_the_worst_case_is_the_highest_over_budgets_and_seeds(one):
    found = composed(*one).predicate
    relearn = next(attack for attack in found.attacks if attack.attack == "relearn")
    [highest] = relearn.worst
    assert highest.value == max(p.value for p in relearn.points if p.role == "hazard")
    assert (highest.seed, highest.spent.steps) == (2, 40)
    missing = tuple(p.model_copy(update={"value": None, "n": 0}) for p in relearn.points)
    assert worst(missing) == ()


def test_signing_twice_says_the_same(tmp_path):
    own, measured = model(tmp_path / "model"), None
    measured = run(tmp_path / "run", own)
    assert composed(own, measured) == composed(own, measured)
    key = signer()
    assert seal(composed(own, measured), key) == seal(composed(own, measured), key), "Ed25519 draws nothing"


def test_a_statement_passes_its_own_schema_and_that_of_in_toto(tmp_path):
    found = release(tmp_path)
    envelope = canonical.loads(found.statement.read_bytes(), "it")
    table = canonical.loads(base64.b64decode(envelope["payload"]), "it")
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(table, schema(), jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**table, "more": 1}, schema())
    # https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
    in_toto = {
        "type": "object",
        "required": ["_type", "subject", "predicateType"],
        "properties": {
            "_type": {"const": "https://in-toto.io/Statement/v1"},
            "subject": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["digest"]}},
            "predicateType": {"type": "string", "format": "uri", "pattern": "^https://"},
            "predicate": {"type": "object"},
        },
        "additionalProperties": False,
    }
    jsonschema.validate(table, in_toto)
    assert canonical.dumps(table) == base64.b64decode(envelope["payload"])


def test_the_published_schema_is_current():
    kept = json.loads((ROOT / "docs" / "statement.schema.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(schema())), "run `make docs`"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("folder", OLD, ids=lambda path: path.name)
def test_old_statements_are_still_good(folder, kind):
    """They were signed once and are never written again: what reads them must go on reading them."""
    policy = Policy.read(yaml.safe_load((folder / "policy.yaml").read_text(encoding="utf-8")), "policy.yaml")
    key = load_public(folder / f"{kind}.pub")
    found = verify(folder / "model", folder / f"{kind}.json", key, policy)
    assert found.unmet == ()
    assert len(found.answers) == 11
    assert verify(folder / "model", folder / f"{kind}.sig", key).statement is None
    assert isinstance(found.statement, Statement)
    assert found.statement.predicate.model.arm == "filtered"


def test_there_are_old_statements():
    assert [path.name for path in OLD] == ["v1"]


# -- which model is meant ----------------------------------------------------------------------------------------------


def test_a_model_that_the_run_does_not_know_is_refused_with_what_it_knows(one, tmp_path):
    other = model(tmp_path / "other", of=9.0)
    with pytest.raises(UserError, match=r"no arm of .* has the weights .* It has filtered seed 0: .*untouched seed 2"):
        composed(other, one[1])


def test_an_attacked_model_is_refused(one, tmp_path):
    other = model(tmp_path / "other", of=9.0)
    lines = (one[1] / "results.jsonl").read_text().splitlines()
    changed = json.loads(lines[-1]) | {"weights": digest.of_weights(other)}
    assert changed["attack"]
    (one[1] / "results.jsonl").write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
    with pytest.raises(UserError, match="after the attack quantise"):
        composed(other, one[1])


def test_a_transform_is_an_edge_and_no_number_passes_over_it_unseen(one, tmp_path):
    own, measured = one
    made = model(tmp_path / "quantised", of=0.5)
    found = composed(made, measured, edges=edges(own, "quantised")).predicate
    assert found.model.measured == digest.of_weights(own)
    assert [(e.kind, e.before, e.after) for e in found.transforms] == [
        ("quantised", digest.of_weights(own), digest.of_weights(made))
    ]
    asked = {"seeds_at_least": 1}
    assert not Policy(**asked).answers(found)[0].holds
    assert Policy(**asked, transforms=("quantised",)).answers(found)[0].holds
    for given, said in (((own, "qantised"), "Did you mean 'quantised'"), ((own, None), "belong together")):
        with pytest.raises(UserError, match=said):
            edges(*given)


def test_the_arms_to_hold_it_against_can_be_named(one):
    found = composed(*one, references=("filtered", "untouched")).predicate
    assert [arm.arm for arm in found.references] == ["untouched"], "an arm is no reference to itself"
    with pytest.raises(UserError, match=r"has no arm 'untoched'. Did you mean 'untouched'"):
        composed(*one, references=("untoched",))


# -- what is not as a run leaves it ------------------------------------------------------------------------------------


def spoilt(lines):
    lines[0] |= {"value": "0.26"}
    return lines


def lacking(lines):
    for line in lines:
        del line["chance"]
    return lines


def turned(lines):
    for line in lines:
        line["low"], line["high"] = line["high"], line["low"]
    return lines


@pytest.mark.parametrize(
    ("lines", "said"),
    [(spoilt, "not as a run is left"), (lacking, "without 'chance'"), (turned, "an interval should hold its value")],
)
def test_a_damaged_run_is_refused(tmp_path, lines, said):
    own = model(tmp_path / "model")

    def filtered_first(found):
        return lines([line for line in found if line["arm"] == "filtered"])

    measured = run(tmp_path / "run", own, lines=filtered_first)
    with pytest.raises(UserError, match=said):
        composed(own, measured)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.jsonl", None, "has no results.jsonl"),
        ("results.jsonl", "", "has no rows"),
        ("results.jsonl", '{"value": NaN}\n', "NaN is not a number"),
        ("study.yaml", None, "has no study.yaml"),
        ("study.yaml", "[1", "is not YAML"),
        ("study.yaml", "- 1", "not a table"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused_by_its_name(one, name, content, said):
    path = one[1] / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=said):
        composed(*one)


def test_a_run_without_the_record_of_an_evaluation_is_refused(one):
    for path in (one[1] / "records").iterdir():
        if json.loads(path.read_text())["kind"] == "evaluations":
            path.unlink()
    with pytest.raises(UserError, match="no record of multiple_choice of hazard_held_out"):
        composed(*one)


def test_a_task_s_digest_tells_what_was_asked_and_not_who(one):
    found = Run.read(one[1])
    own = {(r.items, r.seed): r.task for r in found.results("filtered")}
    assert own == {(r.items, r.seed): r.task for r in found.results("untouched")}
    assert len(set(own.values())) == len(own), "each seed's world asks other items"


# -- filter folders ----------------------------------------------------------------------------------------------------


def filter_folder(folder):
    """What `untaught filter` leaves, as far as a statement reads it."""
    counts = {"read": 10, "kept": 7, "removed": 2, "quarantined": 1}
    for name in ("a", "b"):
        path = receipts.path_of(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"source": name, "stages": [{"name": "blocklist", "measures": "x"}]}))
    summary = {**counts, "policy": fake("policy"), "root": receipts.root(folder)}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_filter_folder_is_told_by_its_root_once_the_receipts_have_it(one, tmp_path):
    folder = filter_folder(tmp_path / "filtered")
    found = composed(*one, filtered=(folder,)).predicate.filters[-1]
    assert (found.source, found.root, found.filters) == ("folder", receipts.root(folder), ("blocklist",))
    assert found.recall is None, "nobody labelled a sample"
    estimates = {"recall": {"value": 0.9, "low": 0.8, "high": 0.95}}
    (folder / "audit.json").write_text(json.dumps({"stands": True, "estimates": estimates}))
    assert of_filtered(folder).recall.low == 0.8
    (folder / "audit.json").write_text(json.dumps({"stands": False, "estimates": estimates}))
    assert of_filtered(folder).recall is None, "the labels are of other decisions"
    receipts.path_of(folder, "a").write_text("{}")
    with pytest.raises(UserError, match="the receipts of .* are not those of its summary"):
        of_filtered(folder)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_stand_as_they_were_measured(tmp_path):
    """To the last bit, through canonical JSON and back; large ones too."""
    own, values = model(tmp_path / "model"), [1 / 3, 0.1 + 0.2, math.pi / 10, 2**-40]

    def odd(lines):
        for line, value in zip((x for x in lines if x["arm"] == "filtered"), values, strict=False):
            line |= {"value": value, "low": 0.0, "high": 1.0}
            line["budget"]["flops"] = 1.2345e30
        return lines

    measured = run(tmp_path / "run", own, lines=odd)
    key = signer()
    sealed = seal(composed(own, measured), key)
    claim = opened(dsse.open_(canonical.loads(sealed, "it"), key.verifier(), PAYLOAD), "it").predicate
    held = [*claim.evaluations, *(p for a in claim.attacks for p in a.points)]
    assert {struct.pack("<d", value) for value in values} <= {struct.pack("<d", one.value) for one in held}
    assert 1.2345e30 in {p.spent.flops for a in claim.attacks for p in a.points}


def test_a_missing_value_is_null_and_counted(tmp_path):
    own = model(tmp_path / "model")

    def gone(lines):
        for line in lines:
            if line["attack"] == "quantise":
                line |= told(None, line["items"], role=line["role"])
        return lines

    claim = composed(own, run(tmp_path / "run", own, lines=gone)).predicate
    [attack] = [a for a in claim.attacks if a.attack == "quantise"]
    assert {(p.value, p.n, p.missing) for p in attack.points} == {(None, 0, 2000)}
    assert attack.worst == ()


def test_nothing_is_written_when_something_is_refused(tmp_path, one):
    other, out = model(tmp_path / "other", of=9.0), tmp_path / "out" / "statement.json"
    out.parent.mkdir()
    with pytest.raises(UserError):
        sign(other, Claim(one[1]), signer(), out)
    assert list(out.parent.iterdir()) == []


def test_the_fixture_is_as_runs_are(one):
    """Its rows have what a run's have, and its records can be followed from any weights to the world."""
    assert {row["arm"] for row in rows({(a, s): fake(a, s) for a in KNOWN for s in SEEDS})} == set(KNOWN)
    assert record("world", None, name="w", seed=0).kind == "world"
    assert Run.read(one[1]).attacks("filtered")[0].settings == RELEARN
