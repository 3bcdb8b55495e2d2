"""Stores that kill importers, and the witness of what they leave: for tests of large imports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.model.state import ConfigMeta, Source
from orbitcontrol.model.stored import Compare, Delete, Limits, Operation, Put, Range
from orbitcontrol.ops.importing import ImportResult, Stamp, apply, plan
from orbitcontrol.ports import Store
from orbitcontrol.store.transaction import check_transaction

Entries = Mapping[str, bytes]

SMALL = Limits(operations=3, bytes=900)
"""Limits under which a handful of entries is a large import."""


class Killed(BaseException):
    """The importer's process is no more: nothing of it runs after this, no clean-up either."""


class SmallStore:
    """A store with lower limits, held as strictly as the real ones are.

    With ``lifetime`` it is the store of an importer that is killed after so many commits. ``before``
    is awaited before each commit, with the number of those that were done.
    """

    def __init__(
        self,
        store: Store,
        *,
        limits: Limits = SMALL,
        lifetime: int | None = None,
        before: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self.lifetime = lifetime
        self.before = before
        self.limits = limits
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        check_transaction(compares, operations, limits=self.limits, address=self._store.address)
        if self.before is not None:
            await self.before(self.commits)
        if self.commits == self.lifetime:
            raise Killed
        self.commits += 1
        return await self._store.commit(compares, operations)


def stamp(import_id: str = "id-1", *, epoch: str = "epoch-1", user: str = "alice") -> Stamp:
    return Stamp(
        now="2026-01-02T03:04:05Z", user=user, epoch=epoch, import_id=import_id, source=Source(digest="d")
    )


async def import_entries(
    store: Any, keys: Keys, entries: Entries, import_id: str, *, user: str = "alice"
) -> ImportResult:
    """Plans and applies."""
    return await apply(store, keys, await plan(store, keys, entries), stamp(import_id, user=user))


async def import_until_killed(store: SmallStore, keys: Keys, entries: Entries, import_id: str) -> bool:
    """The same; False when the importer was killed in it."""
    try:
        await import_entries(store, keys, entries, import_id)
    except BaseException as error:
        if not was_killed(error):
            raise
        return False
    return True


def was_killed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(was_killed(each) for each in error.exceptions)
    return isinstance(error, Killed)


class Witness:
    """Knows every revision of the configuration since it was made.

    It reads as daemons do: while meta says ``applying``, what was in force stays in force. ``imports``
    are the ids of all imports that were decided, known after the ``testimony``.
    """

    def __init__(self, store: Store, keys: Keys, *, state: dict[str, bytes], revision: int) -> None:
        self._store = store
        self._keys = keys
        self._state = state
        self._revision = revision
        self.imports: set[str | None] = set()

    @classmethod
    async def arrive(cls, store: Store, keys: Keys) -> Witness:
        reading = await store.read(keys.config)
        state = {item.key: item.value for item in reading.ranges[0]}
        return cls(store, keys, state=state, revision=reading.revision)

    async def testimony(self) -> list[Entries]:
        """The configurations that were in force, one after the other, each of them once."""
        mark = self._keys.config.start + "~"
        end = await self._store.commit([], [Put(mark, b"")])  # a watch is silent where nothing changes
        await self._store.commit([], [Delete(Range.single(mark))])
        seen = [self._in_force()]
        async with self._store.watch(self._keys.config, after=self._revision) as stream:
            async for changes in stream:
                if changes.revision == end:
                    break
                for event in changes.events:
                    self._state.pop(event.key, None)
                    if event.now is not None:
                        self._state[event.key] = event.now.value
                seen.append(self._in_force())
        in_force = [entries for entries in seen if entries is not None]
        return [entries for entries, _ in groupby(in_force)]

    def _in_force(self) -> Entries | None:
        """What a reader of this revision puts in force; None when it puts nothing."""
        raw = self._state.get(self._keys.meta)
        if raw is None:
            return None
        meta = decode(raw, ConfigMeta, key=self._keys.meta)
        self.imports.add(meta.import_id)
        if meta.state == "applying":
            return None
        return {
            key.removeprefix(self._keys.config.start): value
            for key, value in self._state.items()
            if key != self._keys.meta and key not in self._keys.import_logs
        }
