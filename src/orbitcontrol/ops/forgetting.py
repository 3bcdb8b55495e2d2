"""``machine … forget``: a machine that does not come back leaves nothing behind that others wait for.

What a machine had under its lease is gone with it. The rest stays, because a machine that is only cut off
still has its containers, and may still route to others': its record, its drain, how far it was in rollouts,
the turns it holds, and that it is a load balancer. Only people can know that it is gone for good.

Each transaction compares what it deletes, and that the machine has no lease. The record goes last, so one
that was interrupted can be done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from msgspec import Struct

from orbitcontrol.codec.activity import parse_activity
from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.stored import Absent, Delete, KeyValue, Range, Unchanged
from orbitcontrol.ops.deployed import persistently
from orbitcontrol.ops.deploying import require_machine
from orbitcontrol.ports import Store

_AT_ONCE = 100


class Trace(Struct, frozen=True, kw_only=True):
    """Something that a machine left behind: in words, and its key."""

    what: str
    item: KeyValue


class Forgotten(Struct, frozen=True, kw_only=True):
    """What was removed, in words, and the services of which the machine's own revision stays."""

    removed: tuple[str, ...]
    own_revisions: tuple[str, ...]


async def forget(store: Store, keys: Keys, address: str) -> Forgotten:
    """Removes all that the machine left behind.

    Raises ``OrbitError`` for a machine that nobody knows, and for one that is alive: it would write its
    record anew.
    """
    removed: list[str] = []

    async def attempt() -> None:
        traces = await _traces(store, keys, address)
        if not removed and not traces:
            await require_machine(store, keys, address)
        for some in _chunks(traces):
            compares = [Unchanged(trace.item.key, trace.item.mod_revision) for trace in some]
            await store.commit(
                [Absent(Range.single(keys.alive(address))), *compares],
                [Delete(Range.single(trace.item.key)) for trace in some],
            )
            removed.extend(trace.what for trace in some)

    await persistently(f"machine {address}", attempt)
    return Forgotten(removed=tuple(removed), own_revisions=await _own_revisions(store, keys, address))


async def _traces(store: Store, keys: Keys, address: str) -> list[Trace]:
    """All that the machine left, its record last."""
    single = Range.single
    alive, records, drains, services = (
        await store.read(
            single(keys.alive(address)),
            single(keys.machine(address)),
            single(keys.drain(address)),
            keys.services,
        )
    ).ranges
    if alive:
        raise OrbitError(
            f"machine {address}: its daemon is alive, and would register again; stop it first, "
            f"or `orbitctl machine {address} drain`"
        )
    found = list(_of_services(keys, address, services))
    found += [Trace(what="its drain", item=item) for item in drains]
    return [*found, *(Trace(what="its record", item=item) for item in records)]


def _of_services(keys: Keys, address: str, items: Sequence[KeyValue]) -> Iterator[Trace]:
    activity = parse_activity(keys, items)
    for item in items:
        match keys.below(item.key):
            case ("services", service, "progress", machine) if machine == address:
                yield Trace(what=f"its progress in rollouts of {service}", item=item)
            case ("services", service, "loadbalancers", machine) if machine == address:
                yield Trace(what=f"its registration as a load balancer of {service}", item=item)
            case ("services", service, "slots", number):
                slot = activity[service].slots.get(number)
                if slot is not None and slot.machine == address:
                    yield Trace(what=f"its turn in {service}", item=item)
            case _:
                pass


def _chunks(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    rest = iter(traces)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


async def _own_revisions(store: Store, keys: Keys, address: str) -> tuple[str, ...]:
    """The services of which the machine has a revision of its own."""
    [deployments] = (await store.read(keys.deployments)).ranges
    found = []
    for item in deployments:
        match keys.below(item.key):
            case ("deployments", service, "machines", machine) if machine == address:
                found.append(service)
            case _:
                pass
    return tuple(found)
