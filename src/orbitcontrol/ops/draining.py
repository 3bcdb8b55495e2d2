"""``machine … drain``: asking a machine to be empty, and seeing it become so.

The drain is a key that people write. The machine takes its endpoints out one by one, each with the load
balancers' confirmation, and stops their containers; what somebody else runs there is left running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, structs

from orbitcontrol.codec.activity import Activity, parse_activity
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreError, UndecodableValue
from orbitcontrol.model.rollouts import MachineDrain
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.model.stored import Absent, Compare, Delete, KeyValue, Put, Range, Unchanged
from orbitcontrol.ops.cluster import read_cluster
from orbitcontrol.ops.deployed import persistently
from orbitcontrol.ops.deploying import require_machine
from orbitcontrol.ops.watching import Seen, watch_until
from orbitcontrol.planning.rollout_sight import UNREACHABLE, unconfirmed
from orbitcontrol.ports import Store


class Emptying(Struct, frozen=True, kw_only=True):
    """What is left on a machine, a line for each piece, and whom it waits for.

    ``lifted``: somebody has taken the drain back.
    """

    left: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    lifted: bool = False

    @property
    def is_over(self) -> bool:
        return self.lifted or not self.left


async def drain(store: Store, keys: Keys, address: str, wanted: MachineDrain) -> bool:
    """Asks the machine to be empty; False when it is asked for just that already.

    An earlier drain gets the deadline of this one, and keeps its beginning. Raises ``OrbitError`` for a
    machine that nobody knows.
    """

    async def attempt() -> bool:
        await require_machine(store, keys, address)
        present = await store.get(keys.drain(address))
        value = wanted
        if present is not None:
            before = decode(present.value, MachineDrain, key=present.key)
            value = structs.replace(before, deadline=wanted.deadline or before.deadline)
            if value == before:
                return False
        await store.commit(_compare(keys, address, present), [Put(keys.drain(address), encode(value))])
        return True

    return await persistently(f"machine {address}", attempt)


async def undrain(store: Store, keys: Keys, address: str) -> bool:
    """Lets the machine run its services again; False when it was not drained."""

    async def attempt() -> bool:
        await require_machine(store, keys, address)
        present = await store.get(keys.drain(address))
        if present is None:
            return False
        await store.commit(_compare(keys, address, present), [Delete(Range.single(present.key))])
        return True

    return await persistently(f"machine {address}", attempt)


async def follow_drain(
    store: Store,
    keys: Keys,
    address: str,
    *,
    timeout: float,
    tell: Callable[[Emptying], None],
    trouble: Callable[[StoreError], None],
) -> Emptying:
    """Shows what is left on the machine until nothing is, at most ``timeout`` seconds; what was seen last."""
    services = (await read_cluster(store, keys)).configuration.services
    foreign = frozenset(name for name, service in services.items() if service.container is None)
    last = Emptying(left=("the store has not answered yet",))

    def look(seen: Seen) -> bool:
        nonlocal last
        last = _emptying(keys, address, seen, foreign)
        tell(last)
        return last.is_over

    ranges = (Range.single(keys.machine(address)), Range.single(keys.drain(address)))
    await watch_until(
        store, *ranges, keys.services, keys.all_alive, look=look, timeout=timeout, trouble=trouble
    )
    return last


def _emptying(keys: Keys, address: str, seen: Seen, foreign: frozenset[str]) -> Emptying:
    drains, records = seen[Range.single(keys.drain(address))], seen[Range.single(keys.machine(address))]
    if not drains:
        return Emptying(lifted=True)
    alive = {keys.below(key)[-1] for key in seen[keys.all_alive]}
    activity = parse_activity(keys, seen[keys.services].values())
    left = (*_endpoints(activity, address), *_instances(records.values(), foreign))
    waits = [line for each in activity.values() for line in unconfirmed(each, alive=alive, machine=address)]
    waits += [
        f"service {name}: {each.progress[address].reason}"
        for name, each in sorted(activity.items())
        if address in each.progress
        and each.progress[address].reason
        and each.progress[address].step != "done"
    ]
    if address not in alive:
        waits.append(f"machine {address}: {UNREACHABLE}")
    return Emptying(left=left, waits=tuple(dict.fromkeys(waits)))


def _endpoints(activity: Mapping[str, Activity], address: str) -> list[str]:
    return [
        f"{service} {place} {endpoint.state}"
        for service, each in sorted(activity.items())
        for place, endpoint in sorted(each.endpoints.items())
        if endpoint.machine == address
    ]


def _instances(records: Iterable[KeyValue], foreign: frozenset[str]) -> list[str]:
    """The containers that the machine says it has."""
    found = []
    for item in records:
        try:
            record = decode(item.value, MachineRecord, key=item.key)
        except UndecodableValue:
            return ["containers: its record cannot be read"]
        found += [
            f"{report.service} instance {report.instance} {report.state}"
            for report in record.instances
            if report.service not in foreign
        ]
    return found


def _compare(keys: Keys, address: str, present: KeyValue | None) -> list[Compare]:
    if present is None:
        return [Absent(Range.single(keys.drain(address)))]
    return [Unchanged(present.key, present.mod_revision)]
