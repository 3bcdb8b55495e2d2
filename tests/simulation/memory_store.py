"""A store in memory: what simulated machines share, and a fake that keeps the promises of the real ones.

``MemoryCore`` is synchronous and takes its time from outside, so that it can stand in virtual time. What
happens in it is told to listeners at once; whoever plays a network delays it. ``MemoryStore`` is the face
that ``ports.Store`` asks for; the conformance tests of the real stores hold it to the same promises.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from orbitcontrol.errors import Compacted, LeaseLost, StoreConflict, StoreUnreachable
from orbitcontrol.model.stored import (
    ETCD_LIMITS,
    Absent,
    Changed,
    Changes,
    Compare,
    Delete,
    KeyValue,
    Limits,
    Operation,
    Put,
    Range,
    Reading,
    Unchanged,
)
from orbitcontrol.store.transaction import check_transaction, key_bytes, range_bytes

KEPT_REVISIONS = 5000


News = Callable[[Range, int], Awaitable[tuple[tuple[Changes, ...], int]]]


class _Lease(Struct):
    ttl: float
    deadline: float
    keys: set[str]


class MemoryCore:
    """All keys and leases. ``clock`` tells the time of leases, in seconds."""

    def __init__(self, clock: Callable[[], float], *, address: str = "memory://") -> None:
        self.address = address
        self.revision = 1
        self.listeners: list[Callable[[Changes], None]] = []
        """Called with each revision's changes, when it is made."""
        self._clock = clock
        self._keys: dict[str, KeyValue] = {}
        self._order: list[str] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(1)
        self._log: deque[Changes] = deque(maxlen=KEPT_REVISIONS)

    def read(self, *ranges: Range) -> Reading:
        """All keys of the ranges now."""
        self.expire()
        return Reading(self.revision, tuple(map(self._within, ranges)))

    def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """See ``Store.commit``."""
        self.expire()
        for compare in compares:
            self._check(compare)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease:
                self._lease(operation.lease)
        events: list[Changed] = []
        for operation in operations:
            match operation:
                case Put():
                    events.append(self._put(operation))
                case Delete(range=range):
                    events += [self._delete(item.key) for item in self._within(range)]
        self._tell(events)
        return self.revision

    def grant(self, ttl: float) -> int:
        """A new lease."""
        self.expire()
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl, self._clock() + ttl, set())
        return lease

    def keep_alive(self, lease: int) -> float:
        """Moves the lease's end; seconds until then."""
        self.expire()
        found = self._lease(lease)
        found.deadline = self._clock() + found.ttl
        return found.ttl

    def lease_keys(self, lease: int) -> frozenset[str]:
        """The keys of a lease."""
        self.expire()
        return frozenset(self._lease(lease).keys)

    def revoke(self, lease: int) -> None:
        """Ends a lease, if it is there."""
        self.expire()
        if lease in self._leases:
            self._end(lease)

    def deadline(self, lease: int) -> float | None:
        """When the lease ends; None when it has."""
        found = self._leases.get(lease)
        return None if found is None else found.deadline

    def next_expiry(self) -> float | None:
        """When the next lease ends."""
        return min((lease.deadline for lease in self._leases.values()), default=None)

    def expire(self) -> None:
        """Ends the leases whose time is over, each in a revision of its own."""
        now = self._clock()
        for lease in [each for each, found in self._leases.items() if found.deadline <= now]:
            self._end(lease)

    def changes(self, range: Range, *, after: int) -> tuple[tuple[Changes, ...], int]:
        """What happened inside the range after a revision, and up to which one that is told."""
        self.expire()
        if after > self.revision or (self._log and after < self._log[0].revision - 1):
            raise Compacted(f"{self.address}: the store is at revision {self.revision}: list again")
        found = [
            Changes(each.revision, events)
            for each in self._log
            if each.revision > after and (events := tuple(one for one in each.events if one.key in range))
        ]
        return tuple(found), self.revision

    def _within(self, range: Range) -> tuple[KeyValue, ...]:
        first, last = bisect_left(self._order, range.start), bisect_left(self._order, range.end)
        return tuple(self._keys[key] for key in self._order[first:last])

    def _check(self, compare: Compare) -> None:
        match compare:
            case Absent(range=range):
                found = self._within(range)
                changed = found[0].key if found else None
            case Unchanged(key=key, mod_revision=mod_revision):
                item = self._keys.get(key)
                changed = None if item is not None and item.mod_revision == mod_revision else key
        if changed is not None:
            raise StoreConflict(f"{self.address}: changed by somebody else meanwhile: {changed}")

    def _put(self, operation: Put) -> Changed:
        key = operation.key
        before = self._keys.get(key)
        if before is None:
            insort(self._order, key)
        elif before.lease:
            self._leases[before.lease].keys.discard(key)
        if operation.lease:
            self._leases[operation.lease].keys.add(key)
        now = KeyValue(key=key, value=operation.value, mod_revision=self.revision + 1, lease=operation.lease)
        self._keys[key] = now
        return Changed(key, now)

    def _delete(self, key: str) -> Changed:
        before = self._keys.pop(key)
        del self._order[bisect_left(self._order, key)]
        if before.lease in self._leases:
            self._leases[before.lease].keys.discard(key)
        return Changed(key, None)

    def _end(self, lease: int) -> None:
        keys = sorted(self._leases.pop(lease).keys)
        self._tell([self._delete(key) for key in keys])

    def _tell(self, events: list[Changed]) -> None:
        if not events:
            return
        self.revision += 1
        made = Changes(self.revision, tuple(sorted(events, key=lambda event: event.key)))
        self._log.append(made)
        for listener in tuple(self.listeners):
            listener(made)

    def _lease(self, lease: int) -> _Lease:
        found = self._leases.get(lease)
        if found is None:
            raise LeaseLost(f"{self.address}: lease {lease:x} has expired or was revoked")
        return found


class MemoryStore:
    """A client of a ``MemoryCore`` as ``ports.Store``."""

    def __init__(self, core: MemoryCore) -> None:
        self._core = core
        self._closed = False
        self._changed = asyncio.Event()
        core.listeners.append(self._ring)

    @property
    def address(self) -> str:
        return self._core.address

    @property
    def limits(self) -> Limits:
        return ETCD_LIMITS

    async def get(self, key: str) -> KeyValue | None:
        (found,) = (await self.read(Range.single(key))).ranges
        return found[0] if found else None

    async def read(self, *ranges: Range) -> Reading:
        for each in ranges:
            range_bytes(each)
        return self._open().read(*ranges)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        check_transaction(compares, operations, limits=self.limits, address=self.address)
        for operation in operations:
            if isinstance(operation, Put):
                key_bytes(operation.key)
        return self._open().commit(compares, operations)

    @asynccontextmanager
    async def watch(self, range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
        range_bytes(range)
        yield _Watch(self._news, range, after)

    async def grant(self, ttl: float) -> int:
        return self._open().grant(ttl)

    async def keep_alive(self, lease: int) -> float:
        return self._open().keep_alive(lease)

    async def lease_keys(self, lease: int) -> frozenset[str]:
        return self._open().lease_keys(lease)

    async def revoke(self, lease: int) -> None:
        self._open().revoke(lease)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._core.listeners.remove(self._ring)
            self._changed.set()

    def _open(self) -> MemoryCore:
        if self._closed:
            raise StoreUnreachable(f"{self.address}: closed")
        return self._core

    def _ring(self, _: Changes) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _news(self, range: Range, after: int) -> tuple[tuple[Changes, ...], int]:
        """The next changes, or none when it is time to look again."""
        changed = self._changed
        changes, seen = self._open().changes(range, after=after)
        if not changes:
            expiry = self._core.next_expiry()
            try:
                async with asyncio.timeout(None if expiry is None else max(expiry - time.monotonic(), 0.01)):
                    await changed.wait()
            except TimeoutError:
                pass
        return changes, seen


class _Watch(AsyncIterator[Changes]):
    """Goes on where it got to, also after waiting was given up."""

    def __init__(self, news: News, range: Range, after: int) -> None:
        self._news = news
        self._range = range
        self._seen = after
        self._whole: deque[Changes] = deque()

    async def __anext__(self) -> Changes:
        while not self._whole:
            changes, self._seen = await self._news(self._range, self._seen)
            self._whole.extend(changes)
        return self._whole.popleft()


_CORES: dict[str, MemoryCore] = {}


def open_memory(url: str) -> MemoryStore:
    """A client of the store with this name, which is made if need be; its leases live in real time."""
    core = _CORES.setdefault(url, MemoryCore(time.monotonic, address=url))
    return MemoryStore(core)
