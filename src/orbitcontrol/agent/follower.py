"""The endpoints of the services that a load balancer's template names, as live values.

One narrow watch for each service and one for ``alive/``: a machine that balances two services of a
hundred hears of those two alone, and one that balances none of nothing. What decides that an endpoint
was withdrawn is never the watches, which have no common order, but ``read``: endpoints and ``alive``
together at one revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from msgspec import structs

from orbitcontrol.agent.board import Cell, History, Problems, Wake
from orbitcontrol.agent.mirror import Mirror
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import KeyValue, Range
from orbitcontrol.planning.rotation import Place, Published, Sight, at
from orbitcontrol.ports import Store

T = TypeVar("T")

_FEW = 50
"""Up to so many places are looked at one by one; a transaction of etcd has at most 128 ranges."""

_TOGETHER = 0.005
"""Seconds after a change in which more of them are taken together."""

_ALIVE = None
"""Stands among the names of followed services for the ``alive`` records."""


class EndpointFollower:
    """Mirrors the followed services.

    ``endpoints`` has a service once it was listed for the first time, and keeps it, unchanged,
    while the store is unreachable. ``alive`` is None until listed.
    """

    def __init__(self, *, store: Store, keys: Keys, problems: Problems, history: History) -> None:
        self.endpoints: Cell[Published] = Cell("endpoints", {})
        self.alive: Cell[Mapping[str, Alive] | None] = Cell("alive", None)
        self._store = store
        self._keys = keys
        self._problems = problems
        self._history = history
        self._wake = Wake()
        self._wanted: frozenset[str] = frozenset()
        self._mirrors: dict[str | None, Mirror] = {}
        self._tasks: dict[str | None, asyncio.Task[None]] = {}
        self._decoded: dict[str, _Decoded[Endpoint]] = {}
        self._decoded_alive = _Decoded(Alive)

    def follow(self, services: frozenset[str]) -> None:
        """Replaces the set of services that are followed."""
        if services != self._wanted:
            self._wanted = services
            self._wake.ring("follow")

    def list_again(self, services: AbstractSet[str]) -> None:
        """Forgets what is known of these services, and lists those that are followed anew."""
        for name in services & self._mirrors.keys():
            self._tasks.pop(name).cancel()
            del self._mirrors[name]
        self._show()
        self._wake.ring("list again")

    async def read(self, services: frozenset[str]) -> Sight:
        """These services' endpoints and all ``alive`` records as they are now. Raises StoreError."""
        return await self._read([(service, self._keys.endpoints(service)) for service in sorted(services)])

    async def look(self, places: frozenset[Place]) -> Sight:
        """The endpoints at these places, and all ``alive`` records, as they are now. Raises StoreError."""
        if len(places) > _FEW:
            sight = await self.read(frozenset(place.service for place in places))
            return structs.replace(sight, endpoints=at(sight.endpoints, places))
        return await self._read(
            [
                (place.service, Range.single(self._keys.endpoint(place.service, place.address)))
                for place in sorted(places)
            ]
        )

    async def _read(self, ranges: Sequence[tuple[str, Range]]) -> Sight:
        furthest = self._history.furthest
        reading = await self._store.read(self._keys.all_alive, *(each for _, each in ranges))
        self._history.saw(reading.revision, before=furthest)
        alive, *endpoints = reading.ranges
        listed: dict[str, list[KeyValue]] = {service: [] for service, _ in ranges}
        for (service, _), entries in zip(ranges, endpoints, strict=True):
            listed[service].extend(entries)
        return Sight(
            revision=reading.revision,
            alive=_readable(_each(alive, Alive)),
            spoken={_last(entry.key): entry.mod_revision for entry in alive},
            endpoints={service: _each(entries, Endpoint) for service, entries in listed.items()},
            written={
                Place(service, _last(entry.key)): entry.mod_revision
                for service, entries in listed.items()
                for entry in entries
            },
        )

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._start_and_stop(group)
                self._show()
                await asyncio.sleep(_TOGETHER)
                await self._wake.wait()

    def _show(self) -> None:
        listed = {
            name: mirror.cell.value.entries
            for name, mirror in self._mirrors.items()
            if mirror.cell.value is not None
        }
        alive = listed.pop(_ALIVE, None)
        self.alive.set(None if alive is None else _readable(self._decoded_alive.of(alive)))
        self._decoded = {
            service: self._decoded.get(service) or _Decoded(Endpoint)
            for service in listed
            if service is not _ALIVE
        }
        self.endpoints.set(
            {service: decoded.of(listed[service]) for service, decoded in self._decoded.items()}
        )

    def _start_and_stop(self, group: asyncio.TaskGroup) -> None:
        wanted: frozenset[str | None] = self._wanted | {_ALIVE} if self._wanted else self._wanted
        for name in self._mirrors.keys() - wanted:
            self._tasks.pop(name).cancel()
            del self._mirrors[name]
            self._problems.report(f"mirror {_watch(name)}", {})
        for name in wanted - self._mirrors.keys():
            mirror = Mirror(
                _watch(name),
                store=self._store,
                range=self._keys.all_alive if name is _ALIVE else self._keys.endpoints(name),
                problems=self._problems,
                history=self._history,
            )
            mirror.cell.subscribe(self._wake)
            self._mirrors[name] = mirror
            self._tasks[name] = group.create_task(mirror.run(), name=f"mirror {_watch(name)}")


class _Decoded(Generic[T]):
    """The values of a mirrored range. Of thousands one changes at a time: that one is decoded."""

    def __init__(self, expected: type[T]) -> None:
        self._expected = expected
        self._entries: Mapping[str, KeyValue] = {}
        self._values: dict[str, T | None] = {}

    def of(self, entries: Mapping[str, KeyValue]) -> dict[str, T | None]:
        """What the entries say now, by address; None for a value that cannot be read."""
        before, self._entries = self._entries, entries
        values = dict(self._values)
        for key in before.keys() - entries.keys():
            del values[_last(key)]
        changed = (
            entry
            for key, entry in entries.items()
            if (known := before.get(key)) is not entry and known != entry
        )
        values |= _each(changed, self._expected)
        self._values = values
        return values


def _each(entries: Iterable[KeyValue], expected: type[T]) -> dict[str, T | None]:
    """The values by address; None for one that cannot be read."""
    return {_last(entry.key): _decoded(entry, expected) for entry in entries}


def _decoded(entry: KeyValue, expected: type[T]) -> T | None:
    try:
        return decode(entry.value, expected, key=entry.key)
    except UndecodableValue:
        return None


def _readable(records: Mapping[str, Alive | None]) -> dict[str, Alive]:
    """A record that cannot be read is left out: it proves no withdrawal."""
    return {address: alive for address, alive in records.items() if alive is not None}


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _watch(name: str | None) -> str:
    return "alive" if name is _ALIVE else f"endpoints {name}"
