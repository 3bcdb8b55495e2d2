"""``import --wait``: what the machines say of a generation, and what becomes of its containers.

The machines' records and leases are listed and watched; nothing is polled, and nothing written. A store
that goes away meanwhile is no verdict: what was heard stays, and is listed anew when the store is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.ops.watching import Seen, watch_until
from orbitcontrol.planning.awaited_rollouts import ServiceVerdict, Touched, service_verdicts
from orbitcontrol.planning.verdicts import MachineVerdict, Question, verdict_of
from orbitcontrol.ports import Store


class Awaited(Struct, frozen=True, kw_only=True):
    """Which machines are asked what; ``touched`` are the services whose containers change, by machine."""

    question: Question
    machines: tuple[str, ...]
    touched: Touched = {}


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
    waiting = _Waiting(keys, awaited, tell)
    await watch_until(store, keys.machines, keys.all_alive, look=waiting.look, timeout=timeout)
    return waiting.verdicts


async def wait_for_containers(
    store: Store,
    keys: Keys,
    awaited: Awaited,
    *,
    timeout: float,
    tell: Callable[[ServiceVerdict], None],
) -> tuple[ServiceVerdict, ...]:
    """Waits until each service whose containers change is done, has failed or is paused.

    What the watches show together need not have been so at one moment, so the end is read once more.
    """
    told: dict[str, ServiceVerdict] = {}
    deadline = time.monotonic() + timeout

    def look(seen: Seen) -> bool:
        found = _containers(keys, awaited, *(seen[each].values() for each in ranges))
        for verdict in found:
            if told.get(verdict.service) != verdict:
                told[verdict.service] = verdict
                tell(verdict)
        return all(verdict.is_final for verdict in found)

    ranges = (keys.machines, keys.all_alive, keys.deployments)
    while True:
        left = max(deadline - time.monotonic(), 0)
        over = not await watch_until(store, *ranges, look=look, timeout=left)
        verdicts = _containers(keys, awaited, *(await store.read(*ranges)).ranges)
        if over or all(verdict.is_final for verdict in verdicts):
            return verdicts


def _containers(
    keys: Keys,
    awaited: Awaited,
    machines: Iterable[KeyValue],
    alive: Iterable[KeyValue],
    deployments: Iterable[KeyValue],
) -> tuple[ServiceVerdict, ...]:
    rollouts = {}
    for item in deployments:
        match keys.below(item.key):
            case ("deployments", service, "rollout"):
                with suppress(UndecodableValue):
                    rollouts[service] = decode(item.value, Rollout, key=item.key)
            case _:
                pass
    return service_verdicts(
        awaited.question,
        awaited.touched,
        records={address: _record(item) for address, item in _by_address(keys, machines).items()},
        alive=_by_address(keys, alive),
        rollouts=rollouts,
    )


class _Waiting:
    """What is known of the machines."""

    def __init__(self, keys: Keys, awaited: Awaited, tell: Callable[[MachineVerdict], None]) -> None:
        self.verdicts = tuple(
            MachineVerdict(machine=address, state="pending", reason="the store has not answered yet")
            for address in awaited.machines
        )
        self._keys = keys
        self._awaited = awaited
        self._tell = tell
        self._told = dict.fromkeys(awaited.machines, ("pending", ""))

    def look(self, seen: Seen) -> bool:
        """True once all machines have answered."""
        keys = self._keys
        machines, alive = (_by_address(keys, seen[each].values()) for each in (keys.machines, keys.all_alive))
        self.verdicts = _verdicts(self._awaited, machines, alive)
        for verdict in self.verdicts:
            news = (verdict.state, verdict.reason)
            if news != self._told[verdict.machine]:
                self._told[verdict.machine] = news
                self._tell(verdict)
        return all(verdict.is_final for verdict in self.verdicts)


def _by_address(keys: Keys, items: Iterable[KeyValue]) -> dict[str, KeyValue]:
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
