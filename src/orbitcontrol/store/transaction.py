"""What both stores check before they act, so that both refuse the same things with the same words.

Keys are text to Orbit and bytes to a store. Bytes that are not UTF-8 (somebody else's keys) survive the way
through text and back, and comparing code points gives the same order as comparing UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from orbitcontrol.errors import StoreRefused, StoreTooLarge
from orbitcontrol.model.stored import Absent, Compare, Delete, Limits, Operation, Put, Range, Unchanged


def key_bytes(key: str) -> bytes:
    """The key as the store holds it. Raises StoreRefused for what cannot be a key."""
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = b""
    if not raw:
        raise StoreRefused(f"{key!r} cannot be a store key")
    return raw


def key_text(raw: bytes) -> str:
    """The way back from ``key_bytes``."""
    return raw.decode("utf-8", "surrogateescape")


def range_bytes(range: Range) -> tuple[bytes, bytes]:
    """Start and end of a range. Raises StoreRefused for one that cannot hold a key."""
    start, end = key_bytes(range.start), key_bytes(range.end)
    if start >= end:
        raise StoreRefused(f"the range from {range.start!r} to {range.end!r} is empty")
    return start, end


def check_transaction(
    compares: Sequence[Compare], operations: Sequence[Operation], *, limits: Limits, address: str
) -> None:
    """Raises StoreTooLarge beyond the limits, StoreRefused when operations touch a key twice."""
    count = max(len(compares), len(operations))
    if count > limits.operations:
        raise StoreTooLarge(
            f"{address}: {count} operations in one transaction, the most is {limits.operations}"
        )
    size = sum(map(_size, compares)) + sum(map(_size, operations))
    if size > limits.bytes:
        raise StoreTooLarge(f"{address}: {size} bytes in one transaction, the most is {limits.bytes}")
    touched = sorted(map(_touched, operations))
    for (_, end), (start, _) in pairwise(touched):
        if start < end:
            raise StoreRefused(f"{address}: the transaction touches {key_text(start)!r} twice")


def _size(part: Compare | Operation) -> int:
    match part:
        case Put(key=key, value=value):
            return len(key_bytes(key)) + len(value)
        case Unchanged(key=key):
            return len(key_bytes(key))
        case Absent(range=range) | Delete(range=range):
            return sum(map(len, range_bytes(range)))


def _touched(operation: Operation) -> tuple[bytes, bytes]:
    match operation:
        case Put(key=key):
            return key_bytes(key), key_bytes(key) + b"\0"
        case Delete(range=range):
            return range_bytes(range)
