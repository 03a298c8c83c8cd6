"""What a file is by its bytes, whatever its name: pickles, archives, arrays, safetensors, GGUF.

A pickle is a program for a machine with a stack (https://docs.python.org/3/library/pickletools.html). Its opcodes are
read one by one and not obeyed. A file is taken for one if it names something and calls it, even if it breaks off later,
since loading runs it up to there.

The header of a safetensors file is held against the file (`weights`), and GGUF's counts against its size. What is
compressed is opened a bit at a time, up to a bound.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, cast

from . import weights
from .manifest import fault

HEAD = 2**16
"""Bytes that a file is known by."""
OPCODES = 100_000
"""Of a pickle, at most, that are read."""
PIECE = 2**24
"""Bytes of one argument in a pickle, at most: longer ones are passed over."""
CALLS = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "OBJ", "INST"}
NAMES = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
"""Opcodes that call something, and that name it first."""
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
WEIGHTS = re.compile(r"(.*/)?(pytorch_model|adapter_model|training_args|optimizer|scheduler)[^/]*\.bin")
"""Names that loaders unpickle, whatever is in them."""
TIMES, FREE = 100, 2**26
"""Compressed data is a bomb that grows to over so many times its size, and over so many bytes."""
MEMBERS = 10_000
"""Files in an archive, at most."""


@dataclass(frozen=True)
class Seen:
    """One thing in a folder that a reader should know of."""

    path: str
    kind: str
    """`pickle`, `code`, `native code`, `auto_map`, `hub code`, `chat template`, `header`, `outside path`, `link`,
    `gguf`, `bomb`, `archive`, `binary`, `json`, `name`, `special file`."""
    severity: Literal["refuse", "note"]
    """`refuse`: loading it could run code or read outside of the folder, or it is malformed."""
    reason: str
    """Goes on from the path: `is ...`, `has ...`."""


class Opener(NamedTuple):
    """What opens compressed data that begins so."""

    magic: bytes
    name: str
    machine: Callable[[], Any]


OPENERS = (
    Opener(b"\x1f\x8b", "gzip", lambda: zlib.decompressobj(31)),
    Opener(b"BZh", "bzip2", bz2.BZ2Decompressor),
    Opener(b"\xfd7zXZ\x00", "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, 2**28)),
    *(Opener(magic, "zlib", zlib.decompressobj) for magic in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")),
)


def of_file(path: str, file: IO[bytes], head: bytes, size: int) -> Iterator[Seen]:
    """What there is to say of a file's bytes. `head` is its first `HEAD`."""
    if path.endswith(".safetensors"):
        yield from _safetensors(path, file, size)
    elif head.startswith(b"GGUF"):
        yield _gguf(path, head, size)
    elif head.startswith(b"PK\x03\x04") or zipfile.is_zipfile(file):
        yield from _zip(path, file, size)
    elif reason := _pickle(file, size) or _objects(head):
        yield Seen(path, "pickle", "refuse", reason)
    elif opener := next((one for one in OPENERS if head.startswith(one.magic)), None):
        yield from _compressed(path, file, opener)
    else:
        yield from _unknown(path, head)


def _unknown(path: str, head: bytes) -> Iterator[Seen]:
    """What neither is a pickle nor holds one, as far as one can see."""
    if _unpickled(path):
        yield Seen(path, "pickle", "refuse", "has a name that loaders unpickle, and is nothing that is known here")
    elif head[257:262] == b"ustar" or head.startswith(b"\x28\xb5\x2f\xfd"):
        yield Seen(path, "archive", "note", "is an archive that was not looked into")
    elif head.startswith(b"\x89HDF"):
        yield Seen(path, "archive", "note", "is HDF5, in which Keras keeps layers that may hold code")
    elif path.endswith(".bin"):
        yield Seen(path, "binary", "note", "is binary data of a kind that is not known here")


def _unpickled(path: str) -> bool:
    return path.lower().endswith(PICKLES) or WEIGHTS.fullmatch(path) is not None


def _pickle(file: IO[bytes], size: int) -> str | None:
    """Why a file is a pickle, if it is one."""
    file.seek(0)
    framed = re.match(rb"\x80[\x02-\x05]", file.read(2)) is not None
    file.seek(0)
    named: list[str] = []
    texts, count, begun, marked, calls, ended = ["", ""], 0, 0, False, False, False
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", _Bounded(file, size))), 1):
            marked |= opcode.name == "MARK"
            if opcode.name in NAMES:
                named.append(".".join(texts) if argument is None else str(argument).replace(" ", "."))
                begun = begun or count
            ready = (
                marked if opcode.name in ("INST", "OBJ") else 0 < begun < count - 1
            )  # with something to be called on
            calls |= opcode.name in CALLS and ready
            ended = opcode.name == "STOP"
            texts = [texts[1], argument] if isinstance(argument, str) else texts
            if count == OPCODES:
                calls = True  # nobody knows what comes
                break
    except (ValueError, EOFError, TypeError, AttributeError, OverflowError, struct.error):
        pass  # it breaks off here, for loaders too
    if calls or (named and ended):
        shown = ", ".join(dict.fromkeys(name for name in named if name.isprintable()))[:200]
        return f"is a pickle, which runs code when it is loaded: {shown or 'its names are hidden'}"
    return "is a pickle, which can run code when it is loaded" if framed and (ended or count > 3) else None


class _Passed(bytes):
    """Bytes that were passed over: as long as they were, and empty."""

    size: int

    def __len__(self) -> int:
        return self.size


class _Bounded:
    """A file for `genops`, of which it never gets much at once: an argument may claim to be as long as it likes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size

    def read(self, size: int) -> bytes:
        if size <= PIECE:
            return self.file.read(size)
        if self.file.tell() + size > self.size:
            raise EOFError
        self.file.seek(size, os.SEEK_CUR)
        passed = _Passed()
        passed.size = size
        return passed

    def readline(self) -> bytes:
        return self.file.readline(PIECE)

    def tell(self) -> int:
        return self.file.tell()


def _objects(head: bytes) -> str | None:
    """Why a NumPy array is a pickle, if it is one."""
    if not head.startswith(b"\x93NUMPY"):
        return None
    described = re.search(rb"'descr':(.{0,2000}?)'fortran_order'", head, re.S)
    if described and b"O" not in described.group(1):
        return None
    return "is an array of Python objects, which is a pickle and can run code when it is loaded"


def _zip(path: str, file: IO[bytes], size: int) -> Iterator[Seen]:
    """An archive. PyTorch's checkpoints are such, with a pickle in them."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            whole = sum(member.file_size for member in members)
            if len(members) > MEMBERS or (whole > FREE and whole > TIMES * size):
                yield Seen(path, "bomb", "refuse", f"is an archive of {len(members)} files that grow to {whole} bytes")
                return
            pickled = next((member.filename for member in members if _holds_pickle(archive, member)), None)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error, struct.error):
        yield Seen(path, "archive", "refuse", "is a zip archive that cannot be read")
        return
    if outside := next((member.filename for member in members if fault(member.filename.rstrip("/"))), None):
        yield Seen(path, "outside path", "refuse", f"is an archive with a name that leads outside: {outside[:100]!r}")
    if pickled is not None:
        yield Seen(path, "pickle", "refuse", f"is an archive with a pickle, which can run code: {pickled[:100]!r}")
    elif _unpickled(path):
        yield Seen(path, "pickle", "refuse", "is an archive with a name that loaders unpickle")
    else:
        yield Seen(path, "archive", "note", f"is a zip archive of {len(members)} files")


def _holds_pickle(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether a file in an archive is a pickle, by its name or its first bytes."""
    if member.is_dir() or member.filename.lower().endswith((".pkl", ".pickle")):
        return not member.is_dir()
    with archive.open(member) as file:
        head = file.read(HEAD)
    return (_pickle(io.BytesIO(head), len(head)) or _objects(head)) is not None


def _compressed(path: str, file: IO[bytes], opener: Opener) -> Iterator[Seen]:
    """Compressed data: a bomb, a pickle, or neither."""
    first, grown, read = b"", 0, 0
    try:
        for part, read in _opened(file, opener.machine()):
            first, grown = first or part[:HEAD], grown + len(part)
            if grown > 4 * FREE or (grown > FREE and grown > TIMES * read):
                break
    except (EOFError, ValueError, zlib.error, lzma.LZMAError, OSError):
        if opener.name != "zlib" or first:  # its two bytes alone are no proof
            yield Seen(path, "archive", "refuse", f"is {opener.name} data that cannot be read")
        elif _unpickled(path):
            yield from _unknown(path, b"")
        return
    if grown > FREE and grown > TIMES * read:
        yield Seen(path, "bomb", "refuse", f"is {opener.name} data of which {read} bytes grow to {grown}")
    elif _pickle(io.BytesIO(first), len(first)) or _objects(first) or _unpickled(path):
        yield Seen(path, "pickle", "refuse", f"is {opener.name} data with a pickle, which can run code")
    else:
        yield Seen(path, "archive", "note", f"is {opener.name} data")


def _opened(file: IO[bytes], machine: Any) -> Iterator[tuple[bytes, int]]:
    """What compressed data says, in parts of at most a megabyte, each with how many bytes were read for it so far."""
    file.seek(0)
    data = b""
    while not machine.eof:
        if not data and getattr(machine, "needs_input", True):
            data = file.read(2**12)
            if not data:
                raise EOFError
        part = machine.decompress(data, 2**20)
        data = getattr(machine, "unconsumed_tail", b"")
        yield part, file.tell()


def _gguf(path: str, head: bytes, size: int) -> Seen:
    """Each tensor takes 24 bytes of the header, and each entry 13."""
    if len(head) < 24:
        return Seen(path, "header", "refuse", "is a GGUF file that is cut short")
    version, tensors, entries = struct.unpack("<IQQ", head[4:24])
    if not 2 <= version <= 3:
        return Seen(path, "header", "refuse", f"is a GGUF file of version {version}, and 2 and 3 are known")
    if 24 + 24 * tensors + 13 * entries > size:
        return Seen(path, "header", "refuse", f"is a GGUF file that speaks of {tensors} tensors in {size} bytes")
    return Seen(path, "gguf", "note", f"is a GGUF file of {tensors} tensors, and may hold a chat template")


def _safetensors(path: str, file: IO[bytes], size: int) -> Iterator[Seen]:
    """A header is held against its file."""
    try:
        weights.shard(file, size)
    except weights.Malformed as error:
        yield Seen(path, "header", "refuse", str(error))
