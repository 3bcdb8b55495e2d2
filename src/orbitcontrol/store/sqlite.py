"""The store in one SQLite file, for a single machine: the daemon and any number of commands share it.

``sqlite_database`` holds the SQL. This module keeps it off the event loop, in one worker thread, and wakes
watchers: at once for this process's own commits, and for those of other processes by asking SQLite's
``data_version`` every 40 ms, which reads one word of shared memory. The same tick notices when the
next lease ends.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from orbitcontrol.errors import StoreAmbiguous, StoreUnreachable
from orbitcontrol.model.stored import Changes, Compare, KeyValue, Limits, Operation, Range, Reading
from orbitcontrol.store.settings import CALL_TIMEOUT
from orbitcontrol.store.sqlite_database import Batch, SqliteDatabase, boot_clock
from orbitcontrol.store.sqlite_file import file_identity
from orbitcontrol.store.transaction import check_transaction, range_bytes

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SQLITE_LIMITS = Limits(operations=100_000, bytes=256 * 1024 * 1024)

_TICK = 0.04
_OVERTIME = 0.5
"""Seconds that the disk may need beyond the deadline before a call is given up."""


class _Operation(Protocol[T_co]):
    """A method of ``SqliteDatabase`` with all its arguments but the deadline, on ``time.monotonic``."""

    def __call__(self, *, deadline: float) -> T_co: ...


class SqliteStore:
    """``Store`` in the file ``path``, which the first call creates if need be, readable by its owner only."""

    def __init__(self, path: str, *, call_timeout: float = CALL_TIMEOUT) -> None:
        self._path = path
        self._call_timeout = call_timeout
        self._database = SqliteDatabase(path, address=self.address)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sqlite-store")
        self._alarm = _Alarm(path)
        self._closed = False

    @property
    def address(self) -> str:
        return f"sqlite://{self._path}"

    @property
    def limits(self) -> Limits:
        return SQLITE_LIMITS

    async def get(self, key: str) -> KeyValue | None:
        (found,) = (await self.read(Range.single(key))).ranges
        return found[0] if found else None

    async def read(self, *ranges: Range) -> Reading:
        return await self._run(partial(self._database.read, ranges))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        check_transaction(compares, operations, limits=self.limits, address=self.address)
        revision = await self._run(partial(self._database.commit, compares, operations), writes=True)
        self._alarm.ring()
        return revision

    @asynccontextmanager
    async def watch(self, range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
        """See ``Store.watch``."""
        range_bytes(range)
        # A first operation finds the first file; whoever has a revision to watch from has had one already.
        file = self._database.file or 1
        async with self._alarm.listen() as rung:
            yield _Watch(partial(self._changes, range, file), rung, after=after)

    async def grant(self, ttl: float) -> int:
        return await self._run(partial(self._database.grant, ttl))

    async def keep_alive(self, lease: int) -> float:
        return await self._run(partial(self._database.keep_alive, lease))

    async def lease_keys(self, lease: int) -> frozenset[str]:
        return await self._run(partial(self._database.lease_keys, lease))

    async def revoke(self, lease: int) -> None:
        await self._run(partial(self._database.revoke, lease))
        self._alarm.ring()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._alarm.stop()
        # In the worker, after whatever it is doing: the last one to close the file also tidies up its log.
        closing = self._worker.submit(self._database.close)
        self._worker.shutdown(wait=False)
        await asyncio.wait({asyncio.wrap_future(closing)}, timeout=self._call_timeout)

    async def _changes(self, range: Range, file: int, after: int) -> Batch:
        batch = await self._run(partial(self._database.changes, range, file=file, after=after))
        self._alarm.next_expiry = batch.next_expiry
        return batch

    async def _run(self, operation: _Operation[T], *, writes: bool = False) -> T:
        """Runs the operation in the worker, within the call's time.

        The deadline goes with it: an operation that waited too long for its turn does not begin.
        """
        if self._closed:
            raise StoreUnreachable(f"{self.address}: closed")
        deadline = time.monotonic() + self._call_timeout
        future = self._worker.submit(operation, deadline=deadline)
        try:
            async with asyncio.timeout(self._call_timeout + _OVERTIME):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if writes and not future.cancelled():
                raise StoreAmbiguous(
                    f"{self.address}: the disk does not answer: the transaction may have happened or not"
                ) from None
            raise StoreUnreachable(f"{self.address}: no answer in time: the disk is slow or hangs") from None


class _Watch(AsyncIterator[Changes]):
    """Reads the change log from where it got to. Waiting may be given up and taken up again without loss."""

    def __init__(
        self, changes: Callable[[int], Awaitable[Batch]], rung: asyncio.Event, *, after: int
    ) -> None:
        self._changes = changes
        self._rung = rung
        self._seen = after
        self._whole: deque[Changes] = deque()

    async def __anext__(self) -> Changes:
        while not self._whole:
            self._rung.clear()
            batch = await self._changes(self._seen)
            # Also when nothing concerned this range: a quiet range must not fall out of the change log.
            self._seen = batch.seen
            self._whole.extend(batch.changes)
            if not batch.changes:
                await self._rung.wait()
        return self._whole.popleft()


class _Alarm:
    """Wakes watchers when the file may have changed or a lease has ended; ticks only while there are any."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listeners: set[asyncio.Event] = set()
        self._ticking: asyncio.Task[None] | None = None
        self.next_expiry: float | None = None
        """When a lease ends, on ``boot_clock``, as a watcher last read it."""

    def ring(self) -> None:
        """Wakes all watchers."""
        for listener in self._listeners:
            listener.set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set at each ring, for the time of the block."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), name="sqlite watch")
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                await self.stop()

    async def stop(self) -> None:
        """Wakes all watchers for the last time, and ends the ticking."""
        self.ring()
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            await asyncio.wait({ticking})

    async def _tick(self) -> None:
        with closing(_Glance(self._path)) as glance:
            while True:
                if glance.changed() or self._expiry_due():
                    self.ring()
                await asyncio.sleep(_TICK)

    def _expiry_due(self) -> bool:
        if self.next_expiry is None or boot_clock() < self.next_expiry:
            return False
        self.next_expiry = None
        return True


class _Glance:
    """Asks whether another connection has written to the file: microseconds, and never a wait for a lock.

    It has a connection of its own that only reads, so that closing it never tidies up the log either.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version: int | None = None

    def changed(self) -> bool:
        """True when the file was written to or replaced since the last call, and when that is not known."""
        identity, before = file_identity(self._path), (self._identity, self._version)
        try:
            if identity != self._identity:
                self.close()
                self._identity = identity
            if self._connection is None and identity is not None:
                self._connection = sqlite3.connect(
                    f"{Path(self._path).as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None
                )
            if self._connection is not None:
                (self._version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return True
        return (self._identity, self._version) != before

    def close(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        self._version = None
        if connection is not None:
            connection.close()
