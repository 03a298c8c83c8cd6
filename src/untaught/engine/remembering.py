"""What a model was asked and said, kept so that an evaluation that was killed goes on where it was.

    with kept(folder, subject.model, weights=DIGEST):
        evaluation.grade(subject, items)

In this block what `scoring` and `generation` ask of this very model is looked up first, and kept when it is new; they
look under the content of the question. It counts only for one set of numbers: the folder has a folder in it for each

    name = SHA-256 of  weights, configuration, machine, precision and threads, versions of torch, transformers,
                       tokenizers and numpy, and this package's own code that asks

so that a change of any of these finds nothing. The content of a question is the ids that the model reads, after wrap
and template, and which of them are asked for: with another wrap, prompt or completion it is another.

Nothing can be read in the folder without the questions. An answer stands under SHA-256("name", content) and is sealed
with the key SHA-256("key", content), which is written nowhere (AES-GCM; such a key is called convergent: Douceur et al.
2002). Whoever has prompts and model can open what the model said to them, and could as well ask it.

Answers are put by in files that are there whole or not at all, each written once by one process; a damaged one counts
as absent. When they are over `most` bytes the oldest go. To forget everything, delete the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import secrets
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import nn

from .compute import decisive, device, now

MOST = 2**28
"""Bytes that a folder may hold."""
SECONDS = 1.0
"""Between two files: what a kill may lose."""
MANY = 64
"""Files that are put together into one when they are read."""
TRACKED = ("torch", "transformers", "tokenizers", "numpy")
ASKING = ("scoring", "trees", "generation", "prompts", "batches", "compute", "remembering")
ENDING = ".answers"
HEAD = struct.Struct("<32s12sI")


class Notes:
    """Answers of one model under one set of circumstances."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self.folder, self.most = folder, most
        self._sealed: dict[bytes, bytes] = {}
        self._new: list[bytes] = []
        self._put_by = time.monotonic()
        self._read()

    def find(self, content: Any) -> bytes | None:
        """The answer to a question, or None where there is none that is sound."""
        name, key = _derived(content)
        if (sealed := self._sealed.get(name)) is None:
            return None
        try:
            return AESGCM(key).decrypt(sealed[:12], sealed[12:], name)
        except InvalidTag:
            return None

    def keep(self, content: Any, answer: bytes) -> None:
        """Remember an answer. It is on disk within `SECONDS` if others follow, else when the block is left."""
        name, key = _derived(content)
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(key).encrypt(nonce, answer, name)
        self._sealed[name] = nonce + sealed
        self._new.append(HEAD.pack(name, nonce, len(sealed)) + sealed)
        if time.monotonic() - self._put_by >= SECONDS:
            self.put_by()

    def put_by(self) -> None:
        """Write what is new. What cannot be written is not kept, and an evaluation does not end for that."""
        self._put_by = time.monotonic()
        if self._new:
            with contextlib.suppress(OSError):
                self._write(b"".join(self._new))
                self._bound()
        self._new = []

    def _write(self, data: bytes) -> Path:
        """A new file, under its name only when it is whole."""
        made = self.folder / f"{time.time_ns():020}-{secrets.token_hex(4)}{ENDING}"
        part = made.with_suffix(".part")
        part.write_bytes(data)
        part.replace(made)
        return made

    def _read(self) -> None:
        """All answers that are there; many files become one."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        paths = sorted(self.folder.glob(f"*{ENDING}"))
        for path in paths:
            with contextlib.suppress(OSError):  # another process has put it together with others, or deleted it
                self._sealed.update(_answers(path.read_bytes()))
        if len(paths) > MANY:
            with contextlib.suppress(OSError):
                self._write(
                    b"".join(HEAD.pack(n, s[:12], len(s) - 12) + s[12:] for n, s in self._sealed.items())
                )  # fmt: skip
                for path in paths:
                    path.unlink(missing_ok=True)

    def _bound(self) -> None:
        """Delete the oldest files of all models where they are too many bytes, and what killed processes half wrote."""
        found = []
        for path in self.folder.parent.glob("*/*"):
            with contextlib.suppress(OSError):
                told = path.stat()
                if path.suffix == ".part" and time.time() - told.st_mtime > 3600:
                    path.unlink()
                elif path.suffix == ENDING:
                    found.append((told.st_mtime_ns, told.st_size, path))
        over = sum(size for _, size, _ in found) - self.most
        for _, size, path in sorted(found):
            if over <= 0:
                break
            path.unlink(missing_ok=True)
            over -= size


_open: WeakKeyDictionary[nn.Module, Notes] = WeakKeyDictionary()
"""Models that are asked in a block of `kept`."""


def notes(model: nn.Module) -> Notes | None:
    """Where answers of a model are kept at present."""
    return _open.get(model)


@contextlib.contextmanager
def kept(folder: Path, model: Any, *, weights: str, most: int = MOST) -> Iterator[Notes]:
    """Remember, in this block and in a folder, what a model is asked, whose weights have this digest."""
    before, made = _open.get(model), Notes(folder / circumstances(model, weights), most)
    _open[model] = made
    try:
        yield made
    finally:
        made.put_by()
        if before is None:
            del _open[model]
        else:
            _open[model] = before


@contextlib.contextmanager
def unkept(model: nn.Module) -> Iterator[None]:
    """In this block nothing of a model is looked up or kept: it is not asked as the whole that it is."""
    before = _open.pop(model, None)
    try:
        yield
    finally:
        if before is not None:
            _open[model] = before


def circumstances(model: Any, weights: str) -> str:
    """Digest of all that a number depends on besides the question."""
    whole = {
        "weights": weights,
        "config": _plain(model.config),
        "compute": decisive(now()),
        "kind": type(model).__name__,
    }
    whole["generation"] = _plain(getattr(model, "generation_config", None))
    whole["attention"] = getattr(model.config.get_text_config(), "_attn_implementation", None)
    whole["machine"] = _machine()
    whole["versions"] = {name: importlib.metadata.version(name) for name in TRACKED}
    whole["code"] = code()
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code() -> str:
    """Digest of the code that asks."""
    here = Path(__file__).parent
    return hashlib.sha256(b"\0".join((here / f"{name}.py").read_bytes() for name in ASKING)).hexdigest()


def _machine() -> list[str]:
    """What kinds of processor and device compute here: others round otherwise."""
    on_gpu = device().type == "cuda"
    return [torch.backends.cpu.get_cpu_capability(), torch.cuda.get_device_name(device()) if on_gpu else ""]


def _plain(config: Any) -> dict[str, Any]:
    """A configuration without where it was read from."""
    return {} if config is None else {k: v for k, v in config.to_dict().items() if k != "_name_or_path"}


def _derived(content: Any) -> tuple[bytes, bytes]:
    """The name that an answer has, and the key to it; neither tells the other."""
    told = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).digest()
    return hashlib.sha256(b"name" + told).digest(), hashlib.sha256(b"key" + told).digest()


def _answers(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and sealed answers of a file, up to where it is damaged."""
    place = 0
    while place + HEAD.size <= len(data):
        name, nonce, size = HEAD.unpack_from(data, place)
        place += HEAD.size + size
        if place <= len(data):
            yield name, nonce + data[place - size : place]
