"""One digest for many things, of which each can later be shown alone: a Merkle tree (RFC 9162, section 2.1).

leaf = SHA-256(0x00, thing)      node = SHA-256(0x01, left, right)

A list of n is parted at the largest power of two below n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def merkle(leaves: Sequence[bytes]) -> str:
    """Root of the tree over the leaves in their order."""
    return _node(leaves).hex()


def _node(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:
        return hashlib.sha256(b"\0" + leaves[0]).digest() if leaves else hashlib.sha256(b"").digest()
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _node(leaves[:left]) + _node(leaves[left:])).digest()
