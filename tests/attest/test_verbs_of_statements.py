"""`untaught sign`, `verify` and `inspect` as a user meets them; on a real run too, and where torch cannot be loaded."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from releases import POLICY, keys, model, release, run, signer

from untaught.attest import canonical, digest, dsse
from untaught.attest.predicate import PAYLOAD
from untaught.corpus.reading import read_documents

STUDIES = str(Path(__file__).parents[1] / "study")


@pytest.fixture
def one(tmp_path):
    return release(tmp_path / "one", kind="ecdsa")


def verifying(found, *more):
    return ("verify", found.model, "--statement", found.statement, "--key", found.public, *more)


def signing(found, out, *more, key=None, of=None):
    return ("sign", of or found.model, "--run", found.run, "--key", key or found.key, "--out", out, *more)


def test_what_was_signed_is_verified_and_said(desk, one, tmp_path):
    out = tmp_path / "statement.json"
    done = desk(*signing(one, out, "--json"))
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["arm"], told["seed"], told["attacks"]) == ("filtered", 0, 2)
    assert out.is_file()
    assert out.with_suffix(".sig").is_file()
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    done = desk("verify", one.model, "--statement", out, "--key", one.public, "--policy", policy, "--run", one.run)
    assert done.code == 0, done.err
    assert "5 files as they were signed" in done.out
    assert "filtered, seed 0, of the study: A tiny study" in done.out
    assert done.out.count("holds: ") == 11
    assert "the run folder is the one that the numbers rest on" in done.out
    told = json.loads(desk(*verifying(one, "--policy", policy, "--json")).out)
    assert (told["verified"], told["code"], len(told["answers"])) == (True, 0, 11)
    assert {"clause", "holds", "number", "bound", "why"} == set(told["answers"][0])


@pytest.mark.parametrize("json_", [(), ("--json",)])
def test_each_way_to_fail_has_its_exit_code(desk, one, tmp_path, json_):
    table = canonical.loads(one.statement.read_bytes(), "it")
    stranger = keys(tmp_path / "stranger", signer("ecdsa"))[1]
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({**POLICY, "values": [{"items": "hazard_held_out", "at_most": 0.1}]}))

    def ends(code, said, *words):
        done = desk(*words, *json_)
        assert done.code == code, done.err
        assert said in done.err
        assert "Traceback" not in done.err
        if json_ and code > 2:
            told = json.loads(done.out)
            assert (told["verified"], told["code"]) == (False, code)
            assert said in told["message"]

    ends(3, "and the one at hand is", "verify", one.model, "--statement", one.statement, "--key", stranger)
    ends(5, "1 of 10 demands of policy.yaml", *verifying(one, "--policy", policy.name))
    (one.model / "config.json").write_text("{}")
    ends(4, "config.json (changed)", *verifying(one))
    ends(4, "config.json (changed)", "verify", one.model, "--statement", one.bundle, "--key", one.public)
    one.statement.write_bytes(canonical.dumps({**table, "payload": table["payload"][:-4] + "AAAA"}))
    ends(3, "altered", *verifying(one))


def test_wrong_input_ends_with_2_and_says_what_would_be_right(desk, one, tmp_path, monkeypatch):  # noqa: PLR0915
    monkeypatch.delenv("UNTAUGHT_PASSPHRASE", raising=False)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))  # nobody is there to answer
    out, private, public = tmp_path / "new.json", *keys(tmp_path / "locked", one.signer, passphrase=b"open")

    def wrong(said, *words):
        done = desk(*words)
        assert done.code == 2, (done.code, done.err)
        assert said in done.err.replace("\n", " "), done.err
        assert "Traceback" not in done.err
        assert not out.exists()

    wrong("there is no private key", *signing(one, out, key=tmp_path / "none.pem"))
    wrong("is a public key", *signing(one, out, key=one.public))
    wrong("is no PEM file", *signing(one, out, key=one.run / "study.yaml"))
    wrong("Put its passphrase into the variable UNTAUGHT_PASSPHRASE", *signing(one, out, key=private))
    monkeypatch.setenv("UNTAUGHT_PASSPHRASE", "wrong")
    wrong("the passphrase does not open", *signing(one, out, key=private))
    wrong("is a private key", "verify", one.model, "--statement", one.statement, "--key", one.key)
    wrong("there is no public key", "verify", one.model, "--statement", one.statement, "--key", tmp_path / "none")
    wrong("there is no statement", "verify", one.model, "--statement", tmp_path / "none", "--key", one.public)
    (tmp_path / "empty").mkdir()
    wrong("has no files", *signing(one, out, of=tmp_path / "empty"))
    wrong("has no files", "verify", tmp_path / "empty", "--statement", one.statement, "--key", one.public)
    wrong("has the weights", *signing(one, out, of=model(tmp_path / "other", of=5.0)))
    wrong("is there already", *signing(one, one.statement))
    wrong("no folder", *signing(one, tmp_path / "nowhere" / "statement.json"))
    wrong("belong together", *signing(one, out, "--of", one.model))
    wrong("--rerun needs the marks", *verifying(one, "--rerun", 3))
    (tmp_path / "nothing.yaml").write_text("title: nothing\n")
    wrong("demands nothing", *verifying(one, "--policy", "nothing.yaml"))
    wrong("there is no file", *verifying(one, "--policy", "none.yaml"))
    wrong("claims nothing of the model", "verify", one.model, "--statement", one.bundle, "--key", one.public,
          "--run", one.run)  # fmt: skip
    pickled = shutil.copytree(one.model, tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    wrong("pytorch_model.bin", *signing(one, out, of=pickled))
    later = canonical.loads(one.statement.read_bytes(), "it")
    content = base64.b64decode(later["payload"]).replace(b"untaught/evaluation/v1", b"untaught/evaluation/v3")
    one.statement.write_bytes(canonical.dumps(dsse.seal(content, PAYLOAD, one.signer)))
    wrong("is a statement of version 3, and untaught", *verifying(one))
    monkeypatch.setenv("UNTAUGHT_PASSPHRASE", "open")
    assert desk(*signing(one, out, key=private)).code == 0
    assert desk("verify", one.model, "--statement", out, "--key", public).code == 0


def test_a_passphrase_is_asked_for_where_somebody_can_answer(desk, one, tmp_path, monkeypatch):
    import typer

    private, _ = keys(tmp_path / "locked", one.signer, passphrase=b"open")
    monkeypatch.delenv("UNTAUGHT_PASSPHRASE", raising=False)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    asked = []
    monkeypatch.setattr(typer, "prompt", lambda text, **how: asked.append((text, how)) or "open")
    assert desk(*signing(one, tmp_path / "new.json", key=private)).code == 0
    [(text, how)] = asked
    assert str(private) in text
    assert how["hide_input"]


def test_nothing_is_written_over_without_force(desk, one):
    before = one.statement.read_bytes(), one.bundle.read_bytes()
    one.bundle.rename(one.bundle.with_suffix(".aside"))
    assert desk(*signing(one, one.statement)).code == 2
    one.bundle.with_suffix(".aside").rename(one.bundle)
    one.statement.unlink()
    assert desk(*signing(one, one.statement)).code == 2, "the signature beside it is there still"
    assert one.bundle.read_bytes() == before[1]
    assert not one.statement.exists()
    assert desk(*signing(one, one.statement, "--force")).code == 0
    assert one.bundle.read_bytes() != before[1]


def test_a_statement_may_stand_in_the_model_s_own_folder(desk, one):
    out = one.model / "untaught.json"
    assert desk(*signing(one, out)).code == 0
    done = desk("verify", one.model, "--statement", out, "--key", one.public)
    assert done.code == 0, done.err
    assert "not signed: untaught.json, untaught.sig" in done.out
    (one.model / "more.json").write_text("{}")
    done = desk("verify", one.model, "--statement", out, "--key", one.public)
    assert (done.code, "more.json (extra)" in done.err) == (4, True)


def test_a_snapshot_of_links_is_read_where_that_is_said(desk, one, tmp_path):
    """As the Hub's cache has them: names that are links to files by their digests."""
    snapshot, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    blobs.mkdir()
    for path in [p for p in one.model.rglob("*") if p.is_file()]:
        place = snapshot / path.relative_to(one.model)
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = shutil.copy(path, blobs / digest.of_file(path))
        place.symlink_to(os.path.relpath(blob, place.parent))
    words = ("verify", snapshot, "--statement", one.statement, "--key", one.public)
    assert desk(*words).code == 4
    assert desk(*words, "--follow").code == 0


def test_a_card_is_one_of_the_files_that_are_signed(desk, one, tmp_path):
    out = tmp_path / "statement.json"
    assert desk(*signing(one, out, "--card")).code == 2, "there is a README.md"
    (one.model / "README.md").unlink()
    done = desk(*signing(one, out, "--card", "--release", tmp_path / "release"))
    assert done.code == 0, done.err
    assert "model-index" in (one.model / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "release").iterdir()) == [
        "index.html", "mlbom.cdx.json", "model-card.md",
    ]  # fmt: skip
    words = ("verify", one.model, "--statement", out, "--key", one.public)
    assert desk(*words).code == 0
    (one.model / "README.md").write_text((one.model / "README.md").read_text().replace("0.26", "0.25"))
    done = desk(*words)
    assert (done.code, "README.md (changed)" in done.err) == (4, True)
    assert desk(*signing(one, tmp_path / "again.json", "--release", tmp_path / "release")).code == 2, "it is not empty"


def test_inspect_lists_what_is_of_note(desk, one):
    assert desk("inspect", one.model).code == 0
    told = json.loads(desk("inspect", one.model, "--json").out)
    assert told["safe"]
    (one.model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    done = desk("inspect", one.model)
    assert done.code == 2
    assert "pytorch_model.bin" in done.out
    told = json.loads(desk("inspect", one.model, "--json").out)
    assert not told["safe"]
    assert {"path", "kind", "severity", "reason"} == set(told["found"][0])


# -- a real run, on a machine that could never load the model ----------------------------------------------------------


WITHOUT = """
import sys
for name in ("torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "datasets", "huggingface_hub"):
    sys.modules[name] = None  # importing it fails
import socket
def closed(*_): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = closed
from untaught.cli import main
sys.argv = ["untaught", *sys.argv[1:]]
main()
"""


def without_torch(*words):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A tiny study that was really run, and the model of one of its arms."""
    sys.path.insert(0, STUDIES)
    try:
        import studies
    finally:
        sys.path.remove(STUDIES)
    folder = tmp_path_factory.mktemp("lab")
    table = studies.changed(
        studies.TINY,
        attacks=[{"use": "relearn", "batch_size": 2, "budget": {"steps": [0, 2]}}, {"use": "quantise", "bits": 4}],
        arms={name: studies.TINY["arms"][name] for name in ("untouched", "filtered")},
    )
    studies.run(studies.put(folder / "study.yaml", table), folder / "home", folder / "run")
    wanted = next(row["weights"] for row in studies.rows_of(folder / "run") if row["arm"] == "filtered")
    found = [f for f in (folder / "home").rglob("model") if digest.of_weights(f) == wanted]
    shutil.copytree(found[0], folder / "model")
    private, public = keys(folder / "keys", one := signer("ecdsa"))
    return SimpleNamespace(
        folder=folder, model=folder / "model", run=folder / "run", key=private, public=public, signer=one,
        statement=folder / "statement.json",
    )  # fmt: skip


def test_the_lab_s_statement_is_signed_verified_without_torch_and_falsified_by_one_number(lab, desk):
    done = desk("sign", lab.model, "--run", lab.run, "--key", lab.key, "--out", lab.statement, "--force")
    assert done.code == 0, done.err
    policy = lab.folder / "policy.yaml"
    demands = {"values": [{"items": "hazard_held_out", "at_most": 0.99}], "attacks": ["relearn", "quantise"],
               "filters": [{"at_least": 0.1}]}  # fmt: skip
    policy.write_text(yaml.safe_dump(demands))
    words = ("verify", lab.model, "--statement", lab.statement, "--key", lab.public, "--run", lab.run)
    done = without_torch(*words, "--policy", policy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds: ") == 5
    whole = canonical.loads(lab.statement.read_bytes(), "it")
    claim = canonical.loads(base64.b64decode(whole["payload"]), "it")
    claim["predicate"]["attacks"][0]["points"][0]["value"] = 0.125
    forged = canonical.dumps({**whole, "payload": base64.b64encode(canonical.dumps(claim)).decode()})
    false = lab.folder / "false.json"
    false.write_bytes(forged)
    done = without_torch("verify", lab.model, "--statement", false, "--key", lab.public)
    assert (done.returncode, "altered" in done.stderr) == (3, True)
    rows = (lab.run / "results.jsonl").read_text()
    try:
        (lab.run / "results.jsonl").write_text(rows.replace('"value": 0.', '"value": 0.1', 1))
        done = without_torch(*words)
    finally:
        (lab.run / "results.jsonl").write_text(rows)
    assert (done.returncode, "changed: results.jsonl" in done.stderr) == (4, True)


def test_asking_again_gives_what_the_run_says_and_tells_when_it_does_not(lab, desk, monkeypatch):
    assert desk("sign", lab.model, "--run", lab.run, "--key", lab.key, "--out", lab.statement, "--force").code == 0
    words = ("verify", lab.model, "--statement", lab.statement, "--key", lab.public, "--run", lab.run)
    done = desk(*words, "--rerun", 6, "--draw", 1)
    assert done.code == 0, done.err
    assert "6 items asked again (--draw 1): 0.0% came out otherwise" in done.out
    told = json.loads(desk(*words, "--rerun", 1000, "--json").out)
    assert told["rerun"]["asked"] == 8 + 12, "all there are"
    assert told["rerun"]["differing"] == []
    marks = lab.run / "marks" / "filtered.parquet"
    before = marks.read_bytes()
    try:
        claim_more(marks)
        assert desk(*words, "--rerun", 6).code == 4, "not the marks that the statement rests on"
        assert desk("sign", lab.model, "--run", lab.run, "--key", lab.key, "--out", lab.statement, "--force").code == 0
        done = desk(*words, "--rerun", 1000)
        assert done.code == 5
        assert "came out otherwise" in done.err
        assert "accuracy of " in done.err
        assert desk(*words, "--rerun", 1000, "--json").code == 5
    finally:
        marks.write_bytes(before)


def claim_more(path):
    """Marks of a signer who claims other answers than the weights give."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    values = [None if value is None else 1 - value for value in table["value"].to_pylist()]
    at = table.schema.get_field_index("value")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, pa.float64())), path)


def test_a_filter_folder_stands_in_the_statement_and_in_croissant(desk, one, tmp_path):
    (tmp_path / "text").mkdir()
    said = ["a plain text", "a precursor and a trigger"]
    lines = [{"id": str(number), "text": f"{said[number % 3 == 0]} {number}"} for number in range(9)]
    (tmp_path / "text" / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "policy.yaml").write_text("filters: [{use: blocklist, terms: [precursor, trigger], distinct: 2}]\n")
    done = desk("filter", tmp_path / "text", "--config", "policy.yaml", "--out", "kept", "--apply")
    assert done.code == 0, done.err
    out = tmp_path / "statement.json"
    done = desk(*signing(one, out, "--filtered", tmp_path / "kept", "--release", tmp_path / "release"))
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "kept" / "summary.json").read_text())
    claim = canonical.loads(base64.b64decode(canonical.loads(out.read_bytes(), "it")["payload"]), "it")["predicate"]
    assert claim["filters"][-1]["root"] == summary["root"]
    assert claim["filters"][-1]["policy"] == summary["policy"]
    assert (claim["filters"][-1]["read"], claim["filters"][-1]["removed"]) == (9, 3)
    data = json.loads((tmp_path / "release" / "croissant.json").read_text())
    [file] = data["distribution"]
    kept = tmp_path / "kept" / file["contentUrl"]
    assert digest.of_file(kept) == file["sha256"]
    assert read_documents(kept).num_rows == 6


def test_a_run_that_is_not_the_one_is_named_by_its_files(desk, one, tmp_path):
    other = run(tmp_path / "other", one.model, lines=lambda rows: rows[:-1])
    done = desk(*verifying(one, "--run", other))
    assert done.code == 4
    assert "changed: results.jsonl" in done.err
    assert "study.yaml" not in done.err


def test_force_writes_over_a_signature_and_over_nothing_else(desk, one):
    before = (one.model / "config.json").read_bytes()
    done = desk(*signing(one, one.model / "config.json", "--force"))
    assert (done.code, "is no signature or statement" in done.err) == (2, True), done.err
    assert (one.model / "config.json").read_bytes() == before


def test_numbers_that_are_not_those_of_the_run_are_refused_though_the_right_key_signed_them(desk, one):
    """The run folder is untouched: only what is claimed of it is another."""
    whole = canonical.loads(one.statement.read_bytes(), "it")
    for part, change in {
        "evaluations": lambda claim: claim["evaluations"][0].update(value=0.255),
        "filters": lambda claim: claim["filters"][0].update(recall=None),
        "references": lambda claim: claim["references"][0]["results"][0].update(value=0.965),
        "title": lambda claim: claim["study"].update(title="Another"),
    }.items():
        told = canonical.loads(base64.b64decode(whole["payload"]), "it")
        change(told["predicate"])
        one.statement.write_bytes(canonical.dumps(dsse.seal(canonical.dumps(told), PAYLOAD, one.signer)))
        assert desk(*verifying(one)).code == 0
        done = desk(*verifying(one, "--run", one.run))
        assert (done.code, f"says otherwise of {part}" in done.err) == (5, True), done.err


def test_a_filter_folder_is_held_against_the_statement(desk, one, tmp_path):
    (tmp_path / "text").mkdir()
    lines = "".join(
        json.dumps({"id": str(n), "text": f"precursor and trigger {n}"[: 9 + 15 * (n % 2)]}) + "\n" for n in range(6)
    )
    (tmp_path / "text" / "part.jsonl").write_text(lines)
    (tmp_path / "policy.yaml").write_text("filters: [{use: blocklist, terms: [precursor, trigger], distinct: 2}]\n")
    assert desk("filter", tmp_path / "text", "--config", "policy.yaml", "--out", "kept", "--apply").code == 0
    out, kept = tmp_path / "statement.json", tmp_path / "kept"
    assert desk(*signing(one, out, "--filtered", kept)).code == 0
    words = ("verify", one.model, "--statement", out, "--key", one.public, "--filtered", kept)
    done = desk(*words)
    assert (done.code, "1 filter folder as the statement says" in done.out) == (0, True), done.err
    done = desk(*verifying(one, "--filtered", kept))
    assert (done.code, "no filter of the statement has the policy" in done.err) == (4, True), done.err
    file = next(path for path in (kept / "kept").rglob("*") if path.is_file())
    data = file.read_bytes()
    file.write_bytes(data + b"\n")
    done = desk(*words)
    assert (done.code, f"changed: kept/{file.name}" in done.err) == (4, True), done.err
    file.write_bytes(data)
    receipt = next((kept / "receipts").rglob("*.json"))
    receipt.write_text(receipt.read_text().replace('"kept": ', '"kept":  ', 1))
    done = desk(*words)
    assert (done.code, "are not those of its summary" in done.err) == (2, True), done.err
    (kept / "summary.json").write_text("{}")
    for ask in (words, signing(one, tmp_path / "again.json", "--filtered", kept)):
        assert desk(*ask).code == 2
    done = desk(*signing(one, tmp_path / "again.json", "--filtered", tmp_path / "none"))
    assert (done.code, "untaught filter" in done.err) == (2, True), done.err


def test_what_links_lead_to_is_looked_into_where_they_are_followed(desk, one, tmp_path):
    (tmp_path / "blob").write_bytes(b"\x80\x04.")
    (one.model / "pytorch_model.bin").symlink_to(tmp_path / "blob")
    done = desk(*signing(one, tmp_path / "new.json", "--follow"))
    assert (done.code, "pytorch_model.bin is a pickle" in done.err) == (2, True), done.err


def test_a_release_in_the_run_s_folder_leads_to_its_report(desk, one, tmp_path):
    (one.run / "report.html").write_text("a report")
    assert desk(*signing(one, tmp_path / "new.json", "--release", one.run / "release")).code == 0
    assert 'href="../report.html"' in (one.run / "release" / "index.html").read_text()
    assert desk(*signing(one, tmp_path / "other.json", "--release", tmp_path / "release")).code == 0
    assert "report.html" not in (tmp_path / "release" / "index.html").read_text()
