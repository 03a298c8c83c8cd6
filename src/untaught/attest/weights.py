"""Safetensors without torch: where the tensors of a file lie, and one digest of the weights in a folder's files.

A file is 8 bytes that say how long its header is, the header in JSON, and the numbers, each tensor in a place of its
own and nothing left over (https://github.com/huggingface/safetensors, section Format). What is otherwise is malformed.

    digest = SHA-256 over every tensor in the order of names: name, dtype, shape, bytes

So it is the same however the tensors are shared out among files. Bytes are read a piece at a time, and each piece goes
into the digest of its file at once, on another thread, where the file's tensors lie in the order of their names: both
digests then come of one reading, and of the very same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from ..core import UserError
from .canonical import loads
from .refusals import Tampered

HEADER = 2**26
"""Bytes of a header, at most. Real ones have some thousand to some million."""
AXES = 64
"""Of a tensor, at most."""
PIECE, SMALL = 2**20, 2**16
"""Bytes that are read at a time, and so few that another thread is not worth it."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
        "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64}  # fmt: skip


class Malformed(UserError):
    """A header that contradicts its file. The message goes on from the file's name: `has ...`."""


class Tensor(NamedTuple):
    """A tensor's name, kind and place, in bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Shard:
    """One file of weights, and what its header says."""

    file: int
    """Its descriptor, open for reading."""
    head: bytes
    """The 8 bytes and the header."""
    tensors: tuple[Tensor, ...]
    """In the order of their places."""

    @property
    def in_order(self) -> bool:
        """Whether the tensors lie in the order of their names, so that the file can be read in it."""
        names = [tensor.name for tensor in self.tensors if tensor.end > tensor.begin]
        return names == sorted(names)


def shard(file: IO[bytes], size: int) -> Shard:
    """A file of so many bytes by its header, or `Malformed`."""
    file.seek(0)
    start = file.read(8)
    length = int(struct.unpack("<Q", start)[0]) if len(start) == 8 else size
    if length > HEADER or 8 + length > size:
        what = "longer than the file" if 8 + length > size else f"more than {HEADER}"
        raise Malformed(f"has a header of {length} bytes, {what}")
    text = file.read(length)
    try:
        told = loads(text, "the header") if text.startswith(b"{") else None
        tensors = _laid_out(told, size - 8 - length)
    except (Tampered, LookupError, TypeError, ValueError, AttributeError):
        raise Malformed("has a header that is malformed") from None
    return Shard(file.fileno(), start + text, tensors)


def _laid_out(told: Any, size: int) -> tuple[Tensor, ...]:
    """The tensors of a header in the order of their places."""
    if not all(isinstance(value, str) for value in told.pop("__metadata__", {}).values()):
        raise Malformed("has metadata that is no text")
    tensors = sorted((_placed(name, entry, size) for name, entry in told.items()), key=lambda one: one[3:])
    at = 0
    for one in tensors:
        if one.begin != at:
            raise Malformed("has tensors that overlap, or bytes that are in none")
        at = one.end
    if at != size:
        raise Malformed("has bytes behind its last tensor")
    return tuple(tensors)


def _placed(name: str, entry: Any, size: int) -> Tensor:
    """One tensor, if its shape and place are possible."""
    (begin, end), shape, bits = entry["data_offsets"], entry["shape"], BITS.get(entry["dtype"])
    wrong = ""
    if len(shape) > AXES:
        wrong = f"of {len(shape)} axes"
    elif not all(type(number) is int and number >= 0 for number in [begin, end, *shape]):
        wrong = "whose shape or place is no count"
    elif begin > end or end > size:
        wrong = "that lies outside of the file"
    elif bits and (end - begin) * 8 != math.prod(shape) * bits:
        wrong = "whose shape does not fit its bytes"
    if wrong:
        raise Malformed(f"has a tensor {wrong}: {name[:100]!r}")
    return Tensor(name, entry["dtype"], tuple(shape), begin, end)


def digests(
    shards: Sequence[Shard], progress: Callable[[int], None] | None = None, *, of_files: bool = True
) -> tuple[str, list[str | None]]:
    """The digest of the weights and that of every file, in one reading. None for a file that does not lie in order."""
    whole = hashlib.sha256()
    own = [hashlib.sha256(one.head) if of_files and one.in_order else None for one in shards]
    found = [(tensor, number) for number, one in enumerate(shards) for tensor in one.tensors]
    buffer = memoryview(bytearray(PIECE))
    with ThreadPoolExecutor(1) as beside:
        for tensor, number in sorted(found, key=lambda pair: pair[0].name):
            whole.update(front(*tensor[:3], tensor.end - tensor.begin))
            file = own[number]
            for piece in _pieces(shards[number], tensor, buffer):
                told = beside.submit(file.update, piece) if file is not None and len(piece) > SMALL else None
                whole.update(piece)
                if told is not None:
                    told.result()
                elif file is not None:
                    file.update(piece)
                if progress:
                    progress(len(piece))
    return whole.hexdigest(), [None if one is None else one.hexdigest() for one in own]


def front(name: str, dtype: str, shape: Sequence[int], size: int) -> bytes:
    """What stands before a tensor's bytes in the digest of the weights."""
    head = json.dumps([name, dtype, list(shape)], separators=(",", ":")).encode()
    return struct.pack("<QQ", len(head), size) + head


def _pieces(one: Shard, tensor: Tensor, buffer: memoryview) -> Iterator[memoryview]:
    """A tensor's bytes, each piece in the place of the one before."""
    at, end = len(one.head) + tensor.begin, len(one.head) + tensor.end
    while at < end:
        count = os.preadv(one.file, [buffer[: end - at]], at)
        if not count:
            raise UserError("a file of weights became shorter while it was read. Wait until nobody writes it.")
        at += count
        yield buffer[:count]
