"""The vocabulary between Orbit and its store: keys, ranges, transactions, changes.

Shaped after etcd v3, the stricter of the two stores: a single revision counts all commits, every
key knows the revision that last changed it, and a transaction is "if these comparisons hold, do
these operations", at one revision, all or nothing.
"""

from __future__ import annotations

from msgspec import Struct


class KeyValue(Struct, frozen=True, kw_only=True):
    """One key as read at some revision. ``lease`` is 0 for a key that no lease carries."""

    key: str
    value: bytes
    mod_revision: int
    lease: int = 0


class Range(Struct, frozen=True):
    """Keys from ``start`` up to, not including, ``end``, in byte order."""

    start: str
    end: str

    @classmethod
    def prefix(cls, prefix: str) -> Range:
        """All keys that begin with ``prefix`` (not empty; its last character below U+10FFFF)."""
        return cls(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))

    @classmethod
    def single(cls, key: str) -> Range:
        """The one key."""
        return cls(key, key + "\0")

    def __contains__(self, key: str) -> bool:
        return self.start <= key < self.end


class Reading(Struct, frozen=True):
    """Several ranges read at one revision, in the order they were asked for, each sorted by key."""

    revision: int
    ranges: tuple[tuple[KeyValue, ...], ...]


class Absent(Struct, frozen=True):
    """Holds when no key of the range exists."""

    range: Range


class Unchanged(Struct, frozen=True):
    """Holds when the key exists and was last changed at ``mod_revision``."""

    key: str
    mod_revision: int


Compare = Absent | Unchanged


class Put(Struct, frozen=True):
    """Writes a key; with ``lease`` it disappears when that lease ends."""

    key: str
    value: bytes
    lease: int = 0


class Delete(Struct, frozen=True):
    """Deletes every key of the range; none there is no error."""

    range: Range


Operation = Put | Delete


class Changed(Struct, frozen=True):
    """One key's change: its new state, or None when it was deleted."""

    key: str
    now: KeyValue | None


class Changes(Struct, frozen=True):
    """All changes that one revision made inside a watched range."""

    revision: int
    events: tuple[Changed, ...]


class Limits(Struct, frozen=True):
    """The most that one transaction takes: operations, and bytes of all its keys and values."""

    operations: int
    bytes: int


ETCD_LIMITS = Limits(operations=128, bytes=1_500_000)
"""etcd's defaults (``--max-txn-ops``, ``--max-request-bytes`` of 1.5 MiB), less room for framing."""
