"""What each operation of the embedded store is in SQL; the tables are in ``sqlite_file``.

Everything here is synchronous and runs in one worker thread. Every write is one ``BEGIN IMMEDIATE``
transaction, every read one snapshot. Nothing is cached between operations, so no process can be wrong
about what another did.

Leases end when somebody looks: each operation first deletes the keys of those whose time is over, one
ordinary revision a lease.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from orbitcontrol.errors import (
    Compacted,
    LeaseLost,
    StoreConflict,
    StoreRefused,
)
from orbitcontrol.model.stored import (
    Absent,
    Changed,
    Changes,
    Compare,
    Delete,
    KeyValue,
    Operation,
    Put,
    Range,
    Reading,
    Unchanged,
)
from orbitcontrol.store.sqlite_file import READING, WRITING, SqliteFile
from orbitcontrol.store.transaction import key_bytes, key_text, range_bytes

T = TypeVar("T")

KEPT_REVISIONS = 10_000
KEPT_BYTES = 64 * 1024 * 1024
"""How many revisions, and bytes of keys and values in them, a watcher may be behind."""

_BATCH = 1000
_BATCH_BYTES = 4 * 1024 * 1024
"""Changes, and bytes of values in them, handed to a watcher at once, rounded up to whole revisions."""


class Batch(Struct, frozen=True):
    """What a watcher gets: whole revisions in order, and the revision up to which it has seen all."""

    changes: tuple[Changes, ...]
    seen: int
    next_expiry: float | None
    """When the next lease ends, on ``boot_clock``; None without leases."""


def boot_clock() -> float:
    """Seconds since the machine started, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_boot() -> str:
    """The kernel's random name of the time since the machine started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SqliteDatabase:
    """The operations on one file. Every ``deadline`` is on ``time.monotonic``."""

    def __init__(self, path: str, *, address: str, boot: str | None = None) -> None:
        self._address = address
        self._boot = boot or this_boot()
        self._file = SqliteFile(path, address=address)

    def close(self) -> None:
        """Closes the file; the next operation would open it again."""
        self._file.close()

    def read(self, ranges: Sequence[Range], *, deadline: float) -> Reading:
        """All keys of the ranges in one snapshot."""
        bounds = [range_bytes(each) for each in ranges]

        def select(connection: sqlite3.Connection) -> Reading:
            revision, _ = _state(connection)
            return Reading(revision, tuple(_keys(connection, start, end) for start, end in bounds))

        return self._look(select, deadline)

    def commit(self, compares: Sequence[Compare], operations: Sequence[Operation], *, deadline: float) -> int:
        """The revision after the operations; the same as before if they changed nothing."""

        def apply(connection: sqlite3.Connection) -> int:
            for comparison in compares:
                self._check(connection, comparison)
            return self._apply(connection, operations)

        return self._write(apply, deadline)

    @property
    def file(self) -> int:
        """Counts the files that were found at the path: see ``changes``."""
        return self._file.openings

    def changes(self, range: Range, *, after: int, file: int, deadline: float) -> Batch:
        """The next changes of a range in the file that ``after`` is a revision of.

        Raises Compacted when some of them are no longer known, or another file has taken its place.
        """
        start, end = range_bytes(range)

        def select(connection: sqlite3.Connection) -> Batch:
            revision, compacted = _state(connection)
            if file != self.file:
                raise Compacted(f"{self._address}: the file was replaced by another, list again")
            if after < compacted:
                raise Compacted(f"{self._address}: changes up to revision {compacted} are gone: list again")
            if after > revision:
                raise Compacted(
                    f"{self._address}: the store is at revision {revision}, it was seen at {after}: "
                    "it was restored or replaced, list again"
                )
            rows = connection.execute(
                "SELECT revision, key, value, lease FROM change"
                " WHERE revision > ? AND key >= ? AND key < ? ORDER BY revision, key",
                (after, start, end),
            )
            with closing(rows):
                changes, more = _whole_revisions(rows)
            seen = changes[-1].revision if more else revision
            (expiry,) = connection.execute("SELECT min(deadline) FROM lease").fetchone()
            return Batch(changes, seen, expiry)

        return self._look(select, deadline)

    def grant(self, ttl: float, *, deadline: float) -> int:
        """A new lease. Ids are random, so that a store made anew never hands out one that is remembered."""

        def insert(connection: sqlite3.Connection) -> int:
            lease = secrets.randbits(62) + 1
            connection.execute(
                "INSERT INTO lease VALUES (?, ?, ?, ?)", (lease, ttl, boot_clock() + ttl, self._boot)
            )
            return lease

        return self._write(insert, deadline)

    def keep_alive(self, lease: int, *, deadline: float) -> float:
        """Moves the lease's end; seconds until then."""

        def renew(connection: sqlite3.Connection) -> float:
            self._require(connection, lease)
            now = boot_clock()
            connection.execute("UPDATE lease SET deadline = ? + ttl WHERE id = ?", (now, lease))
            (ends,) = connection.execute("SELECT deadline FROM lease WHERE id = ?", (lease,)).fetchone()
            return float(ends) - now

        return self._write(renew, deadline)

    def lease_keys(self, lease: int, *, deadline: float) -> frozenset[str]:
        """The keys of a lease."""

        def select(connection: sqlite3.Connection) -> frozenset[str]:
            self._require(connection, lease)
            rows = connection.execute("SELECT key FROM kv WHERE lease = ? AND lease <> 0", (lease,))
            return frozenset(key_text(key) for (key,) in rows)

        return self._look(select, deadline)

    def revoke(self, lease: int, *, deadline: float) -> None:
        """Ends a lease, if it is there."""
        self._write(lambda connection: self._end_lease(connection, lease), deadline)

    def _check(self, connection: sqlite3.Connection, comparison: Compare) -> None:
        match comparison:
            case Absent(range=range):
                found = connection.execute(
                    "SELECT key FROM kv WHERE key >= ? AND key < ? LIMIT 1", range_bytes(range)
                ).fetchone()
                changed = key_text(found[0]) if found else None
            case Unchanged(key=key, mod_revision=mod_revision):
                found = connection.execute(
                    "SELECT mod_revision FROM kv WHERE key = ?", (key_bytes(key),)
                ).fetchone()
                changed = None if found == (mod_revision,) else key
        if changed is not None:
            raise StoreConflict(f"{self._address}: changed by somebody else meanwhile: {changed}")

    def _apply(self, connection: sqlite3.Connection, operations: Sequence[Operation]) -> int:
        """Carries the operations out as the next revision, or as none if they change nothing."""
        before, _ = _state(connection)
        revision = before + 1
        total = connection.total_changes
        for operation in operations:
            match operation:
                case Put(key=key, value=value, lease=lease):
                    if lease:
                        self._require(connection, lease)
                    raw = key_bytes(key)
                    connection.execute(
                        "INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?)", (raw, value, revision, lease)
                    )
                    connection.execute(
                        "INSERT INTO change VALUES (?, ?, ?, ?)", (revision, raw, value, lease)
                    )
                case Delete(range=range):
                    start, end = range_bytes(range)
                    _delete(connection, revision, "key >= ? AND key < ?", start, end)
        if connection.total_changes == total:
            return before
        _advance(connection, revision)
        return revision

    def _require(self, connection: sqlite3.Connection, lease: int) -> None:
        if connection.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is None:
            raise LeaseLost(f"{self._address}: lease {lease:x} has expired or was revoked")

    def _end_lease(self, connection: sqlite3.Connection, lease: int) -> None:
        connection.execute("DELETE FROM lease WHERE id = ?", (lease,))
        revision, _ = _state(connection)
        if _delete(connection, revision + 1, "lease = ? AND lease <> 0", lease):
            _advance(connection, revision + 1)

    def _expired(self, connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(
            "SELECT id FROM lease WHERE deadline <= ? OR boot <> ? ORDER BY deadline, id",
            (boot_clock(), self._boot),
        )
        return [lease for (lease,) in rows]

    def _look(self, select: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        """Runs ``select`` in a snapshot in which no lease is over its time, if it can be ended."""
        patient = False
        while True:
            with self._file.transaction(READING, deadline) as connection:
                if patient or not self._expired(connection):
                    return select(connection)
            try:
                self._write(lambda _: None, deadline)
            except StoreRefused:
                patient = True  # a full disk takes no writes: until it does, the lease goes on

    def _write(self, change: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        """Ends what leases are over, then runs ``change``, in one transaction each: the first must last."""
        with self._file.transaction(WRITING, deadline) as connection:
            expired = self._expired(connection)
            if not expired:
                return change(connection)
            for lease in expired:
                self._end_lease(connection, lease)
        return self._write(change, deadline)


def _state(connection: sqlite3.Connection) -> tuple[int, int]:
    """The store's revision, and the one up to which changes were discarded."""
    revision, compacted = connection.execute("SELECT revision, compacted FROM state").fetchone()
    return revision, compacted


def _keys(connection: sqlite3.Connection, start: bytes, end: bytes) -> tuple[KeyValue, ...]:
    rows = connection.execute(
        "SELECT key, value, mod_revision, lease FROM kv WHERE key >= ? AND key < ? ORDER BY key", (start, end)
    )
    return tuple(
        KeyValue(key=key_text(key), value=value, mod_revision=revision, lease=lease)
        for key, value, revision, lease in rows
    )


def _delete(connection: sqlite3.Connection, revision: int, where: str, *arguments: object) -> bool:
    """Deletes keys as part of a revision; False when there were none. ``where`` is one of our own texts."""
    logged = connection.execute(
        f"INSERT INTO change SELECT ?, key, NULL, 0 FROM kv WHERE {where}",  # noqa: S608 -- see above
        (revision, *arguments),
    )
    connection.execute(f"DELETE FROM kv WHERE {where}", arguments)  # noqa: S608 -- see above
    return logged.rowcount > 0


def _advance(connection: sqlite3.Connection, revision: int) -> None:
    """Makes a revision the current one, and forgets the changes of the oldest, but never its own."""
    _, compacted = _state(connection)
    (logged,) = connection.execute("SELECT logged FROM state").fetchone()
    sizes = connection.execute(
        "SELECT revision, sum(length(key) + coalesce(length(value), 0)) FROM change"
        " WHERE revision > ? GROUP BY revision ORDER BY revision",
        (compacted,),
    )
    with closing(sizes):
        logged += _size(connection, revision)
        for oldest, size in sizes:
            if oldest == revision or (oldest > revision - KEPT_REVISIONS and logged <= KEPT_BYTES):
                break
            compacted, logged = oldest, logged - size
    connection.execute("DELETE FROM change WHERE revision <= ?", (compacted,))
    connection.execute(
        "UPDATE state SET revision = ?, compacted = ?, logged = ?", (revision, compacted, logged)
    )


def _size(connection: sqlite3.Connection, revision: int) -> int:
    """Bytes of the keys and values that a revision has in the change log."""
    (size,) = connection.execute(
        "SELECT sum(length(key) + coalesce(length(value), 0)) FROM change WHERE revision = ?", (revision,)
    ).fetchone()
    return int(size)


def _whole_revisions(
    rows: Iterator[tuple[int, bytes, bytes | None, int]],
) -> tuple[tuple[Changes, ...], bool]:
    """Groups change rows by revision until a batch is full; True with it if there may be more."""
    changes: list[Changes] = []
    count = size = 0
    for revision, group in groupby(rows, key=itemgetter(0)):
        events = tuple(_changed(revision, key, value, lease) for _, key, value, lease in group)
        changes.append(Changes(revision, events))
        count += len(events)
        size += sum(len(event.now.value) for event in events if event.now is not None)
        if count >= _BATCH or size >= _BATCH_BYTES:
            return tuple(changes), True
    return tuple(changes), False


def _changed(revision: int, key: bytes, value: bytes | None, lease: int) -> Changed:
    name = key_text(key)
    if value is None:
        return Changed(name, None)
    return Changed(name, KeyValue(key=name, value=value, mod_revision=revision, lease=lease))
