"""The documentation is true: its commands run, its code works, its links lead somewhere, what it names exists.

Blocks that start with a file's name in a comment (`# first.yaml`) are written to a folder, and the page's commands are
run there in order. A line of a shell block is run when it starts with `untaught`, unless it says `not run in tests` or
has a placeholder in capitals (MODEL); `exits with N` says what its exit code must be. All pages share one step store.
"""

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from untaught.core import shelves
from untaught.study.schema import load

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "untaught"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    text: str

    @property
    def file(self):
        """The file that the block is, if its first line names one."""
        first = re.match(r"# (\w+\.(?:py|yaml))\n", self.text)
        return first[1] if first else None


def blocks(page):
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def every(kind):
    """Every block of a kind, with its page, as test parameters."""
    found = [(page, number, block) for page in PAGES for number, block in enumerate(blocks(page)) if block.kind == kind]
    return [pytest.param(page, block, id=f"{page.name}, block {number}") for page, number, block in found]


# --------------------------------------------------------------------------------------------------- a reader at work


@dataclass(frozen=True)
class Reader:
    """Somebody who types what the pages say, in one folder, with one step store."""

    folder: Path

    def follow(self, page, *, named=False):
        """Do all of a page in order. Returns what each command printed, by its line.

        With `named`, files are only examples of names: a command is left out when one that it names is not there.
        """
        printed = {}
        for block in blocks(ROOT / page):
            if block.file:
                (self.folder / block.file).write_text(block.text, encoding="utf-8")
            elif block.kind == "python":
                self.does([sys.executable, "-c", block.text], 0)
            elif block.kind == "sh":
                lines = [line for line in block.text.splitlines() if to_be_run(line)]
                printed |= {line: self.types(line) for line in lines if not named or self.has(line)}
        return printed

    def has(self, line):
        """Whether the files that a command names are there."""
        return all((self.folder / word).is_file() for word in shlex.split(line, comments=True) if ".yaml" in word)

    def types(self, line):
        code = re.search(r"# exits with (\d)", line)
        return self.does([sys.executable, "-m", *shlex.split(line, comments=True)], int(code[1]) if code else 0)

    def does(self, command, code):
        paths = [str(self.folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"UNTAUGHT_HOME": str(self.folder / "home"), "PYTHONPATH": os.pathsep.join(paths)}
        ended = subprocess.run(
            command, cwd=self.folder, env=os.environ | own, capture_output=True, text=True, check=False, timeout=300
        )
        assert ended.returncode == code, f"{command}: exit code {ended.returncode}\n{ended.stderr[-2000:]}"
        return ended.stdout + ended.stderr


def to_be_run(line):
    command = line.partition("#")[0]
    return line.startswith("untaught ") and "not run in tests" not in line and not PLACEHOLDER.search(command)


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """In a folder where `tests/contracts` is found as in a clone."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "tests").symlink_to(ROOT / "tests")
    return Reader(folder)


@pytest.fixture(scope="session")
def first_study(reader):
    return reader.follow("docs/first-study.md")


def accuracies(folder):
    """Accuracy by arm, attack steps and items."""
    rows = [yaml.safe_load(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        (row["arm"], row["budget"]["steps"], row["items"]): row["value"] for row in rows if row["metric"] == "accuracy"
    }


def test_the_first_study_shows_what_its_page_says(first_study, reader):
    found = accuracies(reader.folder / "runs" / "first")
    held_out = {(arm, steps): value for (arm, steps, items), value in found.items() if items == "hazard_held_out"}
    assert held_out["untouched", 0] >= 0.9
    assert held_out["rmu", 0] <= 0.8
    assert held_out["rmu", 20] >= 0.9
    assert max(held_out["filtered", steps] for steps in (0, 5, 20)) <= 0.45
    assert min(value for (_, steps, items), value in found.items() if items == "benign" and steps == 0) >= 0.9


def test_the_first_study_repeats_and_changes_what_its_page_says(first_study, reader):
    """Of a command that stands on the page twice, the second is the one remembered."""
    page = (ROOT / "docs" / "first-study.md").read_text(encoding="utf-8")
    again = re.search(r"\d+ of \d+ steps were done now", first_study["untaught run first.yaml"])[0]
    assert again.startswith("0 of ")
    assert f"`{again}`" in page
    gentler = "untaught run first.yaml --set arms.rmu.unlearning.0.alpha=5 --out runs/gentler"
    done, of = re.search(r"(\d+) of (\d+) steps were done now", first_study[gentler]).groups()
    assert f"{done} of the {of} steps" in page
    report = (reader.folder / "runs" / "first" / "report.html").read_text(encoding="utf-8")
    titles = ("Recovery against the attacker", "Gone or hidden", "What the filters caught")
    assert all(title in page and title in report for title in titles)


def test_messages_are_quoted_as_they_are(first_study):
    quoted = [b.text for b in blocks(ROOT / "docs" / "first-study.md") if b.text.startswith("untaught: ")]
    assert quoted
    assert all(any(text in printed for printed in first_study.values()) for text in quoted)


def test_the_run_folder_holds_what_its_page_says(first_study, reader):
    reader.follow("docs/run-folder.md")
    page = prose(ROOT / "docs" / "run-folder.md")
    run = reader.folder / "runs" / "first"
    import pyarrow.parquet as pq

    row = yaml.safe_load((run / "results.jsonl").read_text(encoding="utf-8").splitlines()[0])
    record = yaml.safe_load(next((run / "records").iterdir()).read_text(encoding="utf-8"))
    columns = pq.read_schema(run / "marks" / "rmu.parquet").names
    for names in (row, row["budget"], record, record["spent"], record["cost"], columns):
        assert [name for name in names if f"`{name}`" not in page] == []
    assert [p.name for p in run.iterdir() if p.name not in page and p.name not in ("marks", "records")] == []


def test_the_method_of_the_page_is_written_used_and_brought_from_another_package(first_study, reader):
    page = ROOT / "docs" / "add-a-method.md"
    reader.follow("docs/add-a-method.md")
    assert (reader.folder / "my_method.py").is_file()
    table = next(tomllib.loads(block.text) for block in blocks(page) if block.kind == "toml")
    (group, points), = table["project"]["entry-points"].items()  # fmt: skip
    (name, module), = points.items()  # fmt: skip
    assert group.removeprefix("untaught.") in shelves.SHELVES
    install(reader.folder, group, name, module)
    assert name in reader.types("untaught list unlearning")
    reader.types("untaught run with_npo.yaml")
    found = accuracies(reader.folder / "runs" / "with_npo")
    held_out = {(arm, steps): value for (arm, steps, items), value in found.items() if items == "hazard_held_out"}
    assert held_out["soft_npo", 0] <= held_out["untouched", 0] - 0.2
    assert found["soft_npo", 0, "benign"] >= 0.8


def install(folder, group, name, module):
    """What an installer leaves: the package, and its entry points where `importlib.metadata` looks."""
    site = folder / "site"
    place = (site / Path(*module.split("."))).with_suffix(".py")
    place.parent.mkdir(parents=True)
    place.write_bytes((folder / f"{name}.py").read_bytes())
    told = site / "my_package-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n", encoding="utf-8")
    (told / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n", encoding="utf-8")


def test_a_corpus_is_filtered_as_its_page_says(reader):
    """In the order of the page: the last command of its kind stands, and every file and column is named there."""
    import pyarrow.parquet as pq

    printed = reader.follow("docs/filter-a-corpus.md")
    shares = [re.findall(r"removed +(\d+)", said) for said in printed.values()]
    assert shares[:3] == [["100"], ["100"], ["300"]]
    page = prose(ROOT / "docs" / "filter-a-corpus.md")
    out = reader.folder / "filtered"
    assert [p.name for p in out.iterdir() if p.name not in page and not p.name.startswith(".")] == []
    columns = pq.read_schema(out / "decisions" / "part0.parquet").names
    assert [name for name in columns if f"| `{name}` |" not in page] == []


def test_fine_tuning_data_is_filtered_as_its_page_says(reader):
    """Files, keys and columns that the folder has are named on the page."""
    import pyarrow.parquet as pq

    printed = reader.follow("docs/filter-fine-tuning-data.md")
    shares = [int(re.search(r"removed +(\d+)", said)[1]) for said in printed.values()]
    assert shares[0] == shares[2] == 30
    assert 0 < shares[1] < 30
    page = prose(ROOT / "docs" / "filter-fine-tuning-data.md")
    out = reader.folder / "tuned"
    gate, curve = (yaml.safe_load((out / name).read_text(encoding="utf-8")) for name in ("gate.json", "curve.json"))
    named = [*pq.read_schema(out / "ranking.parquet").names, *curve["points"][0], "would_remove", "passed"]
    named += ["auroc", "auprc", "tpr_at_1_fpr", "supervision"]
    assert [name for name in named if f"`{name}`" not in page and name != "removed"] == []
    assert {"would_remove", "passed", "why", "contamination", "stages"} <= gate.keys()
    assert {"auroc", "auprc", "tpr_at_1_fpr", "supervision"} <= gate["stages"][0].keys()
    both = page + prose(ROOT / "docs" / "filter-a-corpus.md")
    assert [p.name for p in out.iterdir() if p.name not in both and p.name[0] != "." and p.suffix != ".npz"] == []


def test_assets_are_listed_as_their_page_says(reader):
    from untaught.assets.catalogue import catalogue

    (printed,) = reader.follow("docs/assets.md").values()
    page = (ROOT / "docs" / "assets.md").read_text(encoding="utf-8")
    assert [name for name in catalogue() if f"`{name}`" not in page or name not in printed] == []


def test_the_readme_s_commands_run(reader):
    assert reader.follow("README.md", named=True)


def test_every_page_with_commands_is_followed():
    followed = set(re.findall(r'follow\("([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    with_commands = {
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        for block in blocks(page)
        if block.kind == "python" or (block.kind == "sh" and any(map(to_be_run, block.text.splitlines())))
    }
    assert with_commands <= followed


# ------------------------------------------------------------------------------------------------------- what is named


@pytest.mark.parametrize(("page", "block"), every("yaml"))
def test_every_study_on_a_page_is_one(page, block, tmp_path, monkeypatch):
    """Every component, setting and item set in it exists; methods of the page itself are known by their entry point."""
    table = yaml.safe_load(block.text)
    if "arms" not in table:
        pytest.skip("a part of a file")
    own = {b.file.removesuffix(".py") for b in blocks(page) if b.file and b.file.endswith(".py")}
    used = {entry["use"] for arm in table["arms"].values() for entry in arm.get("unlearning", [])}
    if used & own:
        pytest.skip("run with its method installed, above")
    file = tmp_path / "study.yaml"
    file.write_text(block.text, encoding="utf-8")
    load(file)


@pytest.mark.parametrize(("page", "block"), every("sh"))
def test_every_verb_and_option_on_a_page_exists(page, block):
    import typer

    from untaught.cli import app

    verbs = typer.main.get_command(app).commands
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or not words[0].endswith("untaught"):
            continue
        assert words[1] in verbs, line
        options = {option for parameter in verbs[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


NAMES = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")
"""Names with an underscore in running text: components, settings, item sets, functions, columns."""


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md"], ids=lambda page: page.name)
def test_every_name_in_running_text_exists(page):
    """In the package, in a study of ours, or in a file that the page itself writes."""
    own = " ".join(block.text for block in blocks(page) if block.file)
    files = [p for p in SOURCE.rglob("*") if p.suffix in (".py", ".yaml")] + [*(ROOT / "studies").glob("*.yaml")]
    code = " ".join(p.read_text(encoding="utf-8") for p in files)
    known = set(re.findall(r"\w+", code + own)) | {name for shelf in shelves.SHELVES for name in shelves.names(shelf)}
    assert sorted(set(NAMES.findall(prose(page))) - known) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", prose(page))
    near = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in near if not (page.parent / link).exists()] == []


# ---------------------------------------------------------------------------------------------------------- docstrings


def with_examples():
    for path in SOURCE.rglob("*.py"):
        if ">>>" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(SOURCE.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("name", sorted(with_examples()))
def test_examples_in_docstrings_hold(name):
    module = importlib.import_module(name)
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
