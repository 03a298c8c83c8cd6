"""The rooms: which way imports point, how long functions are, what is never used, and the tree in the README."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import untaught

SOURCE = Path(untaught.__file__).resolve().parent
README = SOURCE.parent.parent / "README.md"
SHELVES = ("filters", "training", "unlearning", "attacks", "evaluations")
BELOW_STUDY = {"core", "corpus", "engine", "lab", "attest", "assets"}
ARROWS = {
    "core": set(),
    "attest": {"core"},
    "corpus": {"core", "attest"},
    "assets": {"core", "attest", "corpus", "engine"},  # what makes a model folder good
    "engine": {"core"},
    "lab": {"core", "corpus", "engine"},
    **dict.fromkeys(SHELVES, {"core", "corpus", "engine"}),
    "study": BELOW_STUDY,  # and the shelves by name, through core.shelves
    "policies": {"core", "corpus", "engine", "attest", "assets"},  # and filters by name, as above
    "report": {"core", "attest"},  # what model cards have in common
    "cli": BELOW_STUDY | {"study", "policies", "report", *SHELVES},
    "__main__": {"cli"},
}
"""Room to the rooms it may import. Every room may import itself, but for shelves: only underscored helpers there."""

LONG = {}
"""Functions with a body of over 40 lines: `room/file.py:name` to the reason why."""

RESTRICTED = "assets/profanity_model.py"
"""The one file that reads pickles, by an unpickler of its own that knows a few names and refuses any other."""

FILES = sorted(SOURCE.rglob("*.py"))


def named(path):
    return path.relative_to(SOURCE).as_posix()


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path):
    """A folder below the package, or a module at its top."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Every import in a file, those inside functions too, as (line, name parts below `untaught`)."""
    package = ["untaught", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, [*base, *(node.module or "").split("."), alias.name]


def crossings(path):
    """Imports of our own that the table of arrows does not allow."""
    room = room_of(path)
    for line, parts in imports(path):
        parts = [part for part in parts if part]
        if parts[0] != "untaught" or len(parts) < 2 or parts[1] == "__version__":
            continue
        if parts[1] == room:
            helper = len(parts) > 2 and parts[2].startswith("_")
            if room in SHELVES and not helper:
                yield f"{named(path)}:{line} imports {'.'.join(parts)}, its neighbour on the shelf"
        elif parts[1] not in ARROWS.get(room, set()):
            yield f"{named(path)}:{line} imports {'.'.join(parts)}"


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms <= ARROWS.keys()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_downwards(path):
    assert not list(crossings(path))


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("core/x.py", "def f():\n    from ..engine import models\n"),
        ("attacks/x.py", "from ..unlearning.rmu import Rmu\n"),
        ("attacks/x.py", "from .relearn import Relearn\n"),
        ("attacks/x.py", "def f():\n    import untaught.evaluations.perplexity\n"),
        ("study/x.py", "from ..filters import blocklist\n"),
        ("study/x.py", "from .. import report\n"),
        ("report/x.py", "from ..study.store import Store\n"),
        ("corpus/x.py", "from ..lab import compounds\n"),
    ],
)
def test_a_wrong_arrow_would_be_seen(place, code, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    path = tmp_path / place
    path.parent.mkdir()
    path.write_text(code, encoding="utf-8")
    assert len(list(crossings(path))) == 1


def calls(path):
    """Every call in a file: its line, the dotted name that is called, the node."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_only_core_shelves_imports_by_name():
    """A name put together at run time would hide an arrow."""
    users = {named(p) for p in FILES for _, name, _ in calls(p) if name.endswith(("import_module", "__import__"))}
    assert users <= {"core/shelves.py", "study/schema.py"}  # the second finds worlds in the lab, by file name


def test_there_is_one_training_loop():
    steps = [
        f"{named(p)}:{line}" for p in FILES for line, name, _ in calls(p) if re.search(r"optimi[sz]er\w*\.step$", name)
    ]
    assert len(steps) == 1, steps
    assert steps[0].startswith("engine/loop.py")
    makers = {named(p) for p in FILES for _, parts in imports(p) if parts[:2] == ["torch", "optim"]}
    makers |= {named(p) for p in FILES for _, name, _ in calls(p) if name.startswith("torch.optim.")}
    assert makers == {"engine/loop.py"}


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [named(p) for p in FILES if p.stem.strip("_") in drawers]
    assert not [named(p) for p in SOURCE.rglob("*") if p.is_dir() and p.name.strip("_") in drawers]


def test_nothing_that_is_loaded_can_run_code():
    loaders = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
    found = {(named(p), ".".join(parts)) for p in FILES for _, parts in imports(p) if parts[0] in loaders}
    assert found <= {(RESTRICTED, "pickle")}
    used = [n for n in ast.walk(tree(SOURCE / RESTRICTED)) if isinstance(n, ast.Name) and n.id == "pickle"]
    (reader,) = [
        c for c in ast.walk(tree(SOURCE / RESTRICTED)) if isinstance(c, ast.ClassDef) and c.name == "_Unpickler"
    ]
    assert [ast.unparse(base) for base in reader.bases] == ["pickle.Unpickler"]
    assert "find_class" in {part.name for part in reader.body if isinstance(part, ast.FunctionDef)}
    assert len(used) == 2, "its base, and the error that it raises"
    for path in FILES:
        for line, name, node in calls(path):
            where = f"{named(path)}:{line}"
            asked = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            assert not asked.get("trust_remote_code"), f"{where} trusts remote code"
            assert not asked.get("allow_pickle"), f"{where} allows pickles"
            assert name not in ("eval", "exec", "torch.load", "yaml.unsafe_load"), f"{where} calls {name}"
            if name == "yaml.load":
                kinds = {
                    c.name: [ast.unparse(b) for b in c.bases]
                    for c in ast.walk(tree(path))
                    if isinstance(c, ast.ClassDef)
                }
                loader = ast.unparse([*node.args, *(k.value for k in node.keywords)][1])
                assert "yaml.SafeLoader" in (loader, *kinds.get(loader, [])), f"{where} loads YAML with {loader}"


def body_length(function):
    """Lines from the first to the last of a body, docstring not counted."""
    lines = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return lines[-1].end_lineno - lines[0].lineno + 1 if lines else 0


def test_function_bodies_stay_within_40_lines():
    lengths = {
        f"{named(path)}:{node.name}": body_length(node)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    over = {name: length for name, length in lengths.items() if length > 40}
    assert over.keys() == LONG.keys(), over


@pytest.mark.parametrize(
    "module",
    [
        "untaught",
        "untaught.core",
        "untaught.report",
        "untaught.filters.blocklist",
        "untaught.attest.signing",
        "untaught.attest.verifying",
    ],
)
def test_what_needs_no_model_imports_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_listing_the_shelves_imports_no_component():
    code = (
        "import sys\nfrom untaught.core import shelves\n"
        "found = [shelves.summary(s, n) for s in shelves.SHELVES for n in shelves.names(s)]\n"
        "assert all(found) and 'torch' not in sys.modules\n"
        "assert not [m for m in sys.modules if m.startswith(tuple(f'untaught.{s}' for s in shelves.SHELVES))]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_readme_tree():
    """The tree in the README names every room and top-level module, with a caption, and nothing that is not there."""
    text = README.read_text(encoding="utf-8")
    block = re.search(r"^```\w*\nsrc/untaught/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block that starts with src/untaught/"
    lines = [line for line in block[1].splitlines() if line.strip() and not re.fullmatch(r"\s*-+\s*", line)]
    listed = {}
    for line in lines:
        entry = re.fullmatch(r"  (\S+)\s{2,}(\S.*)", line)
        if entry is None:
            assert re.match(r"\s{8,}\S", line), f"no name and caption in: {line!r}"  # a caption that runs on
            continue
        assert entry[1] not in listed, f"{entry[1]} is listed twice"
        listed[entry[1]] = entry[2]
    missing = [name for name in listed if not (SOURCE / name).exists()]
    assert not missing, f"the README names what is not there: {missing}"
    rooms = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    modules = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert listed.keys() - {"__init__.py", "__main__.py"} == rooms | modules


def test_no_setting_has_a_name_that_means_something_to_a_study():
    from untaught.core.shelves import SHELVES, find, names

    taken = {"use", "budget", "stop", "text", "text_digest", "escalate"}
    found = {(shelf, name): taken & find(shelf, name).model_fields.keys() for shelf in SHELVES for name in names(shelf)}
    assert not {place: own for place, own in found.items() if own}
