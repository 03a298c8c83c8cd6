"""A package index that is a folder: wheels made here, a catalogue that names them, and the command line asked."""

import hashlib
import shutil
import types
import zipfile
from pathlib import Path

import yaml

from untaught.assets import catalogue, wheels


def sha(content):
    return hashlib.sha256(content).hexdigest()


def wheel(folder, name, version, members):
    """A wheel that pip accepts. Returns its entry for a catalogue, with all members."""
    told = f"{name}-{version}.dist-info"
    about = {
        f"{told}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: <3\n".encode(),
        f"{told}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{told}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for member, content in {**members, **about}.items():
            packed.writestr(zipfile.ZipInfo(member), content)
    return {
        "wheel": f"{name}=={version}",
        "sha256": sha(path.read_bytes()),
        "megabytes": 0.1,
        "members": {member: sha(content) for member, content in members.items()},
    }


def entry(make, *wheels):
    return {
        "what": "something small", "make": make, "megabytes": 0.1, "licence": "MIT", "source": "these tests",
        "wheels": list(wheels),
    }  # fmt: skip


def install(monkeypatch, folder, table):
    """Make this the catalogue, and the folder pip's only index."""
    file = folder / "catalogue.yaml"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    monkeypatch.setattr(catalogue, "TABLE", file)
    catalogue.catalogue.cache_clear()
    offline(monkeypatch, folder)


def offline(monkeypatch, folder):
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


class Copying(types.ModuleType):
    """In place of pip, which takes a second or two to start: copies the wheel that is asked for."""

    def __init__(self, folder):
        super().__init__("subprocess")
        self.folder = Path(folder)

    def run(self, command, **_):
        (file,) = self.folder.glob(command[-1].replace("==", "-") + "-*.whl")
        place = Path(command[command.index("--dest") + 1])
        place.mkdir(parents=True)
        shutil.copy(file, place)
        return types.SimpleNamespace(returncode=0, stderr="")


def quick(folder, patch=setattr):
    """Do without pip."""
    patch(wheels, "subprocess", Copying(folder))
