"""``import --wait``: what the machines say of a generation, as soon as they say it.

The machines' records and leases are listed and watched; nothing is polled, and nothing written. A store
that goes away meanwhile is no verdict: what was heard stays, and is listed anew when the store is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreError, UndecodableValue
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.model.stored import KeyValue, Range
from orbitcontrol.planning.verdicts import MachineVerdict, Question, verdict_of
from orbitcontrol.ports import Store

_PAUSE = 0.5
"""Seconds before a watch that ended is begun anew."""


class Awaited(Struct, frozen=True, kw_only=True):
    """Which machines are asked what."""

    question: Question
    machines: tuple[str, ...]


async def verdicts_now(store: Store, keys: Keys, awaited: Awaited) -> tuple[MachineVerdict, ...]:
    """What the machines say at this moment."""
    machines, alive = (await store.read(keys.machines, keys.all_alive)).ranges
    return _verdicts(awaited, _by_address(keys, machines), _by_address(keys, alive))


async def wait_for_verdicts(
    store: Store,
    keys: Keys,
    awaited: Awaited,
    *,
    timeout: float,
    tell: Callable[[MachineVerdict], None],
) -> tuple[MachineVerdict, ...]:
    """Waits until every machine has accepted or rejected, at most ``timeout`` seconds.

    ``tell`` gets each machine whenever there is something new about it. That it has said nothing yet is
    not new.
    """
    waiting = _Waiting(store, keys, awaited, tell)
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            follow = [
                group.create_task(waiting.follow(each), name=f"watch {each.start}")
                for each in (keys.machines, keys.all_alive)
            ]
            await waiting.ended.wait()
            for task in follow:
                task.cancel()
    except TimeoutError:
        pass
    return waiting.verdicts


class _Waiting:
    """What is known of the machines; ``ended`` once all of them have answered."""

    def __init__(
        self, store: Store, keys: Keys, awaited: Awaited, tell: Callable[[MachineVerdict], None]
    ) -> None:
        self.ended = asyncio.Event()
        self.verdicts = tuple(
            MachineVerdict(machine=address, state="pending", reason="the store has not answered yet")
            for address in awaited.machines
        )
        self._store = store
        self._keys = keys
        self._awaited = awaited
        self._tell = tell
        self._told = dict.fromkeys(awaited.machines, ("pending", ""))
        self._seen: dict[Range, dict[str, KeyValue]] = {}

    async def follow(self, range: Range) -> None:
        """Lists and watches one range, again and again. Never returns."""
        while True:
            try:
                listing = await self._store.read(range)
                self._seen[range] = _by_address(self._keys, listing.ranges[0])
                self._look()
                async with self._store.watch(range, after=listing.revision) as stream:
                    async for changes in stream:
                        for event in changes.events:
                            address = self._keys.below(event.key)[-1]
                            if event.now is None:
                                self._seen[range].pop(address, None)
                            else:
                                self._seen[range][address] = event.now
                        self._look()
            except StoreError:
                await asyncio.sleep(_PAUSE)

    def _look(self) -> None:
        machines, alive = self._seen.get(self._keys.machines), self._seen.get(self._keys.all_alive)
        if machines is None or alive is None:
            return
        self.verdicts = _verdicts(self._awaited, machines, alive)
        for verdict in self.verdicts:
            news = (verdict.state, verdict.reason)
            if news != self._told[verdict.machine]:
                self._told[verdict.machine] = news
                self._tell(verdict)
        if all(verdict.is_final for verdict in self.verdicts):
            self.ended.set()


def _by_address(keys: Keys, items: tuple[KeyValue, ...]) -> dict[str, KeyValue]:
    return {keys.below(item.key)[-1]: item for item in items}


def _verdicts(
    awaited: Awaited, machines: dict[str, KeyValue], alive: dict[str, KeyValue]
) -> tuple[MachineVerdict, ...]:
    return tuple(
        verdict_of(
            address,
            _record(machines.get(address)),
            alive=address in alive,
            question=awaited.question,
        )
        for address in awaited.machines
    )


def _record(item: KeyValue | None) -> MachineRecord:
    """The record; an empty one, of which nothing follows, where it is missing or cannot be read."""
    if item is None:
        return MachineRecord()
    try:
        return decode(item.value, MachineRecord, key=item.key)
    except UndecodableValue:
        return MachineRecord()
