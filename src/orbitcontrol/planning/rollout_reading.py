"""From the keys of one reading to what machines share of a service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.rollouts import Ack, LoadBalancer, Progress, Rollout, Slot
from orbitcontrol.model.state import Endpoint, MachineRecord
from orbitcontrol.model.stored import KeyValue, Range, Reading
from orbitcontrol.planning.rollouts import Held, Roster, Shared

T = TypeVar("T")


class Expected(Struct, frozen=True, kw_only=True):
    """What a machine that runs the service has when nothing is wrong.

    ``healthy`` counts, for a service without endpoints, each machine's healthy containers; None for one with.
    """

    instances: int = 1
    healthy: Mapping[str, int] | None = None


def ranges(keys: Keys, service: str) -> tuple[Range, ...]:
    """What is read together for ``shared_of``."""
    return (Range.single(keys.rollout(service)), keys.service(service), keys.all_alive, keys.drains)


def shared_of(keys: Keys, reading: Reading, *, expected: Expected, gone: Collection[str] = ()) -> Shared:
    """What the reading of ``ranges`` says; ``gone`` machines are proven gone.

    Raises ``UndecodableValue`` for a rollout or a slot that cannot be read: nothing is to be stopped then.
    """
    [rollouts, entries, alive, drains] = reading.ranges
    slots: dict[int, Held] = {}
    progress: dict[str, Progress] = {}
    balancers: dict[str, LoadBalancer] = {}
    acks: dict[tuple[str, str], Ack] = {}
    up: Counter[str] = Counter()
    for item in entries:
        match keys.below(item.key)[2:]:
            case ("slots", number):
                slots[int(number)] = Held(decode(item.value, Slot, key=item.key), item.mod_revision)
            case ("progress", address):
                progress[address] = _read(item, Progress) or Progress()
            case ("loadbalancers", address):
                balancers[address] = _read(item, LoadBalancer) or LoadBalancer()
            case ("acks", endpoint, address) if (ack := _read(item, Ack)) is not None:
                acks[endpoint, address] = ack
            case ("endpoints", _) if (endpoint_ := _read(item, Endpoint)) is not None:
                up[endpoint_.machine] += endpoint_.state == "up"
            case _:
                pass
    found = rollouts[0] if rollouts else None
    healthy = up if expected.healthy is None else expected.healthy
    return Shared(
        revision=reading.revision,
        rollout=None if found is None else decode(found.value, Rollout, key=found.key),
        rollout_revision=0 if found is None else found.mod_revision,
        slots=slots,
        balancers=balancers,
        acks=acks,
        alive=_names(alive),
        roster=Roster(
            progress=progress,
            lacking=frozenset(
                address for address in progress if healthy.get(address, 0) < expected.instances
            ),
            lost=progress.keys() - _names(alive),
            emptied=_names(drains),
            gone=frozenset(gone),
        ),
    )


def healthy_workers(records: Iterable[KeyValue], service: str) -> dict[str, int]:
    """How many healthy containers of the service each machine reports, by address."""
    found: dict[str, int] = {}
    for item in records:
        record = _read(item, MachineRecord)
        if record is not None:
            found[_last(item.key)] = sum(
                one.service == service and one.state == "running" for one in record.instances
            )
    return found


def checks_of(records: Iterable[KeyValue]) -> dict[str, str]:
    """Where each machine's daemon listens, by address."""
    found = {_last(item.key): _read(item, MachineRecord) for item in records}
    return {address: record.check for address, record in found.items() if record is not None}


def _names(items: Iterable[KeyValue]) -> frozenset[str]:
    return frozenset(_last(item.key) for item in items)


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _read(item: KeyValue, expected: type[T]) -> T | None:
    try:
        return decode(item.value, expected, key=item.key)
    except UndecodableValue:
        return None
