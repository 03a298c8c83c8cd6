"""Single changes, thousands of them: each is refused with its own exit code and the right name; nothing else is.

One release is signed; then one thing of it is changed, it is verified, and the change is taken back.
"""

import base64
import contextlib
import json
import math
import os
import random
import shutil
from pathlib import Path

import pytest
from releases import POLICY, model, release, signer

from untaught.attest import canonical, dsse, verifying
from untaught.attest.policy import Policy
from untaught.attest.predicate import PAYLOAD
from untaught.attest.verifying import problem, verify
from untaught.core import UserError

SIGNATURE, BYTES, CLAIM, INPUT = 3, 4, 5, 2
COUNT = {"changes": 0}
"""How many changes were refused: the last test holds it against what is promised."""


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_HOME", str(tmp_path_factory.mktemp("home")))
        return release(tmp_path_factory.mktemp("release"))


def verdict(one, *, policy=None, statement=None, run=None, folder=None):
    """Exit code and message of verifying, as the command line would end."""
    try:
        found = verify(folder or one.model, statement or one.statement, one.signer.verifier(), policy, run)
    except UserError as error:
        return int(getattr(error, "code", INPUT)), str(error)
    wrong = problem(found, "the policy")
    return (0, "") if wrong is None else (int(wrong.code), str(wrong))


def refused(one, code, name="", **how):
    found, said = verdict(one, **how)
    assert found == code, f"{found} for {code}: {said}"
    assert name in said, f"no {name!r} in: {said}"
    assert len(said) < 5000, "a message that an attacker makes endless"
    COUNT["changes"] += 1


@contextlib.contextmanager
def changed(path, content):
    """A file with other bytes, for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def flips(data, count, draw):
    """The bytes with one of them changed, at places drawn by chance, all of them where they are few."""
    places = range(len(data)) if len(data) <= count else draw.sample(range(len(data)), count)
    for place in places:
        yield data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_flipped_byte_of_any_file_is_named(signed):
    draw = random.Random(0)
    for name in names(signed.model):
        for data in flips((signed.model / name).read_bytes(), 40, draw):
            with changed(signed.model / name, data):
                refused(signed, BYTES, f"{name} (changed)")


def test_a_file_that_is_cut_short_or_longer_is_named(signed):
    for name in names(signed.model):
        data = (signed.model / name).read_bytes()
        for other in (b"", data[:-1], data[1:], data + b"\0", data + data, data[::-1] + b"\n"):
            with changed(signed.model / name, other):
                refused(signed, BYTES, f"{name} (changed)")


EXTRA = (
    *("pytorch_model.bin", "modeling_llama.py", "model-00002-of-00002.safetensors", "adapter_config.json", ".hidden"),
    *("original/extra.json", "new/folder/file", "README.md.bak", "chat_template.jinja", "\u00e9.json", "a b.txt"),
)


@pytest.mark.parametrize("name", EXTRA)
def test_a_file_that_was_added_is_named(signed, name):
    path = signed.model / name
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for content in (b"", b"x", b"{}" * 1000):
            path.write_bytes(content)
            refused(signed, BYTES, f"{name} (extra)")
    finally:
        path.unlink()
        for folder in made:
            folder.rmdir()


def test_a_file_that_was_removed_or_renamed_is_named(signed):
    for name in names(signed.model):
        path, aside = signed.model / name, signed.model.parent / "aside"
        path.rename(aside)
        refused(signed, BYTES, f"{name} (missing)")
        for other in ("renamed.json", "original/renamed.json"):
            aside.rename(signed.model / other)
            refused(signed, BYTES, f"{name} (missing)")
            refused(signed, BYTES, f"{other} (extra)")
            (signed.model / other).rename(aside)
        aside.rename(path)


def test_files_that_were_swapped_are_named(signed):
    """The root digest alone would not see all of these: it is over contents in the order of names."""
    everything = names(signed.model)
    for one in everything:
        for other in everything:
            if one < other:
                first, second = (signed.model / one).read_bytes(), (signed.model / other).read_bytes()
                with changed(signed.model / one, second), changed(signed.model / other, first):
                    refused(signed, BYTES, f"{one} (changed)")


def test_links_and_names_that_lead_elsewhere_are_refused(signed, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((signed.model / "config.json").read_bytes())
    for name in names(signed.model):
        path, data = signed.model / name, (signed.model / name).read_bytes()
        for target in (elsewhere, Path("/etc/hostname"), Path("nowhere"), Path(".."), path):
            path.unlink()
            path.symlink_to(target)
            refused(signed, BYTES, name)
            path.unlink()
            path.write_bytes(data)
    for name in ("..\\evil.json", "C:evil", "a\nb", "\x1b[31m", "..%2f\u202eevil"):
        (signed.model / name).write_bytes(b"x")
        refused(signed, BYTES)
        (signed.model / name).unlink()
    (signed.model / "link").symlink_to(tmp_path, target_is_directory=True)
    refused(signed, BYTES, "link")
    (signed.model / "link").unlink()
    os.mkfifo(signed.model / "pipe")
    refused(signed, BYTES, "pipe")
    (signed.model / "pipe").unlink()


def test_a_header_bomb_in_the_weights_is_a_changed_file(signed):
    for head in (b"\xff" * 8, (2**40).to_bytes(8, "little"), (0).to_bytes(8, "little")):
        for body in (b"", b"{", b"[" * 50_000, b"{" + b'"a":' * 5_000):
            with changed(signed.model / "model.safetensors", head + body):
                refused(signed, BYTES, "model.safetensors (changed)")


# -- the statement -----------------------------------------------------------------------------------------------------


def leaves(value, at=()):
    """Every place in a table where no table stands."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, (*at, name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from leaves(one, (*at, place))
    else:
        yield at, value


def put(table, at, value):
    for step in at[:-1]:
        table = table[step]
    table[at[-1]] = value


def edited(value):
    """Another value, as little other as it can be."""
    if isinstance(value, bool) or value is None:
        return 0.5
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    flipped = "0" if value[-1:] != "0" else "1"
    return value[:-1] + flipped if value else "x"


def envelope(one):
    return canonical.loads(one.statement.read_bytes(), "the statement")


def payload(one):
    return canonical.loads(base64.b64decode(envelope(one)["payload"]), "the payload")


def enveloped(one, content):
    """The envelope around another payload, with the signature that it had."""
    return json.dumps({**envelope(one), "payload": base64.b64encode(content).decode()}).encode()


def test_no_number_digest_or_name_of_a_statement_can_be_edited(signed):
    """A score, a budget, a seed, a digest, a name: every one of them, wherever it stands."""
    table = payload(signed)
    for at, value in list(leaves(table)):
        for other in (edited(value), None if value is not None else 0):
            put(table, at, other)
            with changed(signed.statement, enveloped(signed, json.dumps(table, sort_keys=True).encode())):
                refused(signed, SIGNATURE, "altered")
        put(table, at, value)
    assert table == payload(signed)


def test_an_altered_envelope_is_refused(signed):
    draw, data = random.Random(1), signed.statement.read_bytes().rstrip()
    for other in flips(data, 400, draw):
        with changed(signed.statement, other):
            refused(signed, SIGNATURE)
    whole = envelope(signed)
    [entry] = whole["signatures"]
    signature = base64.b64decode(entry["sig"])
    others = [{k: v for k, v in whole.items() if k != name} for name in whole] + [{**whole, "more": 1}]
    others += [
        {**whole, "signatures": found} for found in ([], [entry, entry], {}, None, [{}], ["x"], [{**entry, "more": 1}])
    ]
    others += [{**whole, "payloadType": kind} for kind in ("", None, 1, "application/json", PAYLOAD + "x")]
    for sig in flips(signature, 64, draw):
        others.append({**whole, "signatures": [{**entry, "sig": base64.b64encode(sig).decode()}]})
    for text in (
        entry["sig"] + "=",
        entry["sig"] + "\n",
        entry["sig"].replace("+", "-"),
        "",
        None,
        "*",
        entry["sig"][:-4],
    ):
        if text != entry["sig"]:
            others.append({**whole, "signatures": [{**entry, "sig": text}]})
    others += [[whole], "text", 1, None, {}, {"payload": whole}]
    for other in others:
        with changed(signed.statement, json.dumps(other).encode()):
            refused(signed, SIGNATURE)


def hostile(text):
    """Spellings of a table that readers would read differently, or that would exhaust one."""
    inside, first = text[1:-1], text[2 : text.index('"', 2)]
    yield "{" + inside + f',"{first}":1}}', "twice"
    yield f'{{"{first}":1,{inside}}}', "twice"
    for number in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "9" * 400,
        "0." + "1" * 400,
        str(2**53 + 1),
        "-" + "9" * 20,
    ):
        yield '{"a":' + number + "," + inside + "}", "number"
    for depth in (65, 1000, 100_000):
        yield '{"a":' + "[" * depth + "]" * depth + "," + inside + "}", "deep"
    yield '{"a":"\\ud800",' + inside + "}", "character"
    yield text + "x", "not JSON"
    yield text[:-1], "not JSON"


def test_json_that_two_readers_would_read_differently_is_refused_outside_and_inside(signed):
    for text, said in hostile(signed.statement.read_text().strip()):
        with changed(signed.statement, text.encode()):
            refused(signed, SIGNATURE, said)
    for text, said in hostile(canonical.dumps(payload(signed)).decode()):
        with changed(signed.statement, resealed(signed, text.encode())):
            refused(signed, SIGNATURE, said)
    for junk in (b"\xff\xfe", b"\0" * 100, b"x"):
        with changed(signed.statement, junk):
            refused(signed, SIGNATURE)


def resealed(one, content, by=None):
    return canonical.dumps(dsse.seal(content, PAYLOAD, by or one.signer))


def test_what_the_right_key_signed_wrongly_is_refused_too(signed):
    """The signer's own mistakes: a statement that contradicts itself, or is of another kind."""
    table = payload(signed)
    wrong = [
        (("predicate", "attacks", 0, "worst", 0, "value"), 0.2, INPUT, "worst"),
        (("predicate", "evaluations", 0, "low"), 0.99, INPUT, "interval"),
        (("predicate", "evaluations", 0, "weights"), "0" * 64, INPUT, "other weights"),
        (("predicate", "evaluations", 0, "value"), "0.26", INPUT, "number"),
        (("predicate", "evaluations", 0, "n"), True, INPUT, "integer"),
        (("predicate", "evaluations", 0, "n"), -1, INPUT, "greater"),
        (("predicate", "filters", 0, "read"), 1, INPUT, "lost or doubled"),
        (("predicate", "model", "weights"), "0" * 64, INPUT, "leads"),
        (("predicate", "model", "files", 0, "sha256"), "0" * 64, SIGNATURE, "contradicts itself"),
        (("subject", 0, "digest", "sha256"), "0" * 64, SIGNATURE, "contradicts itself"),
        (("subject",), [], INPUT, "subject"),
        (("subject",), table["subject"] * 2, INPUT, "subject"),
        (("_type",), "https://in-toto.io/Statement/v0.1", INPUT, "no statement of untaught"),
        (("predicateType",), "https://slsa.dev/provenance/v1", INPUT, "slsa"),
        (("predicateType",), "https://untaught/evaluation/v2", INPUT, "version 2"),
        (("predicateType",), "https://untaught/evaluation/v17", INPUT, "version 17"),
        (("predicate", "version"), 2, INPUT, "version 2"),
        (("predicate", "version"), 0, INPUT, "version"),
        (("predicate",), {}, INPUT, "missing"),
        (("predicate",), [], INPUT, "predicate"),
        (("more",), 1, INPUT, "more"),
        (("predicate", "more"), 1, INPUT, "more"),
    ]
    for at, value, code, said in wrong:
        other = payload(signed)
        put(other, at, value)
        with changed(signed.statement, resealed(signed, canonical.dumps(other))):
            refused(signed, code, said)
    for text in (json.dumps(table), json.dumps(table, indent=1)):
        with changed(signed.statement, resealed(signed, text.encode())):
            refused(signed, SIGNATURE, "canonical")
    for text in ("[]", "1", '"x"', "null"):
        with changed(signed.statement, resealed(signed, text.encode())):
            refused(signed, SIGNATURE, "no statement")


def test_another_s_signature_is_refused(signed):
    content = canonical.dumps(payload(signed))
    for kind in ("ed25519", "ecdsa"):
        stranger = signer(kind)
        with changed(signed.statement, resealed(signed, content, stranger)):
            refused(signed, SIGNATURE, signed.signer.keyid[:16])
        posing = json.loads(resealed(signed, content, stranger))
        posing["signatures"][0]["keyid"] = signed.signer.keyid
        with changed(signed.statement, canonical.dumps(posing)):
            refused(signed, SIGNATURE, "altered")


def test_a_statement_that_is_moved_to_another_model_is_refused(signed, tmp_path):
    for number in range(1, 9):
        other = model(tmp_path / str(number), of=float(number))
        refused(signed, BYTES, "model.safetensors (changed)", folder=other)
    lacking = model(tmp_path / "lacking")
    shutil.rmtree(lacking / "original")
    refused(signed, BYTES, "original/params.json (missing)", folder=lacking)


# -- the run and the policy --------------------------------------------------------------------------------------------


def test_a_run_that_was_changed_since_is_refused_by_the_file(signed):
    draw = random.Random(2)
    record = next((signed.run / "records").iterdir())
    named = {signed.run / name: name for name in ("study.yaml", "results.jsonl", "marks/filtered.parquet")}
    named |= {record: "records"}
    for path, name in named.items():
        for data in flips(path.read_bytes(), 25, draw):
            with changed(path, data):
                refused(signed, BYTES, f"changed: {name}", run=signed.run)
        aside = path.with_name("aside.txt")
        path.rename(aside)
        refused(signed, BYTES, name, run=signed.run)
        aside.rename(path)
    assert verdict(signed, run=signed.run) == (0, "")


STRICTER = [
    ("recovery", [{"tokens": 1e7, "at_most": 0.05}], "recovers more than 0.05"),
    ("recovery", [{"tokens": 1e9, "at_most": 0.2}], "is not known"),
    ("recovery", [{"tokens": 10, "at_most": 0.2, "attacks": ["relearn"]}], "no attack within that budget"),
    ("recovery", [{"at_most": 0.2, "items": "unknown"}], "nothing measured"),
    ("recovery", [{"at_most": 0.2, "attacks": ["suffix"]}], "suffix was not tried"),
    ("tax", [{"items": "benign", "at_most": 0.001}], "worse than"),
    ("tax", [{"items": "neighbour", "at_most": 1}], "nothing measured"),
    ("filters", [{"at_least": 0.975}], "of the hazard"),
    ("values", [{"items": "hazard_held_out", "at_most": 0.25}], "at most 0.25"),
    ("values", [{"items": "benign", "at_least": 0.96}], "at least 0.96"),
    ("attacks", ["distil"], "distil was tried"),
    ("attacks", [{"attack": "relearn", "steps": 41}], "with at least 41 steps"),
    ("items_at_least", 2001, "2001 items"),
    ("seeds_at_least", 4, "4 seeds"),
]


@pytest.mark.parametrize(("name", "demand", "said"), STRICTER)
def test_a_demand_that_is_not_met_is_named(signed, name, demand, said):
    policy = Policy.read({**POLICY, name: demand}, "policy.yaml")
    refused(signed, CLAIM, said, policy=policy)


# -- and nothing else --------------------------------------------------------------------------------------------------


def test_no_unchanged_folder_is_refused(signed, tmp_path):
    policy = Policy.read(POLICY, "policy.yaml")
    for number in range(25):
        copy = shutil.copytree(signed.model, tmp_path / f"copy {number}")
        for path in copy.rglob("*"):
            os.utime(path, (number, number))
        (copy / "empty").mkdir()
        assert verdict(signed, folder=copy, policy=policy, run=signed.run) == (0, "")
    beside = shutil.copy(signed.statement, signed.model / "statement.json")
    assert verdict(signed, statement=Path(beside)) == (0, ""), "a statement may stand in the folder that it is about"
    Path(beside).unlink()
    assert verdict(signed, statement=signed.bundle) == (0, ""), "the signature of the files alone"


def test_the_digests_that_signing_kept_are_never_asked(signed, monkeypatch):
    """A cache that lies makes a bad signature, and never a good verification."""
    from untaught.attest import manifest

    monkeypatch.setattr(manifest, "cache_of", None)
    monkeypatch.setattr(verifying, "cache_of", None, raising=False)
    assert verdict(signed) == (0, "")


def test_there_were_as_many_changes_as_are_promised():
    assert COUNT["changes"] >= 2000, f"{COUNT['changes']}: run the whole file"
