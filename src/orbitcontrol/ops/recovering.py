"""``recover``: after a lost or restored store, from what the fleet runs to a store that can be trusted.

Two things are written. The revisions that only the containers still know go back to
``deployments/``; then ``Continues`` in ``config/meta`` names each epoch that a machine trusted, up to
the generation that it knew, which ends the holding (``planning.continuity``). In this order: a machine
that trusts the store again must find its revision there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from msgspec import Struct, structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import OrbitError, UndecodableValue
from orbitcontrol.model.state import ConfigMeta, Deployment, MachineRecord
from orbitcontrol.model.stored import Absent, Compare, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.planning.recovery import Restoration, Stored, plan_recovery, witnesses
from orbitcontrol.ports import Store

_PER_COMMIT = 50


class Recovery(Struct, frozen=True, kw_only=True):
    """What ``recover`` found.

    ``holding`` has each machine's reason by address; ``absent`` machines have no lease now and are not
    heard. ``continues`` is what ``config/meta`` is to say; ``revisions`` are the keys of ``deployments/``
    with the store's revision of each, as they were compared.
    """

    meta: ConfigMeta
    read_meta: KeyValue
    restorations: tuple[Restoration, ...]
    continues: dict[str, int]
    holding: dict[str, str]
    absent: tuple[str, ...]
    revisions: dict[str, int]

    @property
    def is_needed(self) -> bool:
        """False when no revision is missing and every machine that is heard is trusted to go on."""
        return bool(self.restorations) or self.continues != self.meta.continues


async def survey(store: Store, keys: Keys) -> Recovery:
    """Compares the store with what the machines report. Writes nothing."""
    reading = await store.read(Range.single(keys.meta), keys.deployments, keys.machines, keys.all_alive)
    metas, deployments, machines, alive = reading.ranges
    if not metas:
        raise OrbitError(f"{store.address}: the store has no configuration: run orbitctl import first")
    meta = decode(metas[0].value, ConfigMeta, key=metas[0].key)
    living = {keys.below(item.key)[-1] for item in alive}
    records = _records(keys, machines)
    heard = {address: record for address, record in records.items() if address in living}
    seen = witnesses({address: record.instances for address, record in heard.items()})
    return Recovery(
        meta=meta,
        read_meta=metas[0],
        restorations=plan_recovery(seen, _stored(keys, deployments)),
        continues=_continues(meta, heard),
        holding={address: record.holding for address, record in heard.items() if record.holding},
        absent=tuple(sorted(records.keys() - living)),
        revisions={item.key: item.mod_revision for item in deployments},
    )


async def restore(store: Store, keys: Keys, recovery: Recovery, *, user: str, time: str) -> None:
    """Writes the revisions back, then ends the holding. ``time`` is RFC 3339 in UTC.

    Raises ``StoreConflict`` when somebody set a revision or imported in between; what was written
    until then is right all the same, and another ``recover`` goes on from there.
    """
    rest = iter(recovery.restorations)
    while batch := list(islice(rest, _PER_COMMIT)):
        compares: list[Compare] = [Unchanged(keys.meta, recovery.read_meta.mod_revision)]
        operations: list[Operation] = []
        for one in batch:
            key = _key(keys, one)
            known = recovery.revisions.get(key)
            compares.append(Absent(Range.single(key)) if known is None else Unchanged(key, known))
            value = Deployment(revision=one.revision, serial=one.serial, deployment_time=time, user=user)
            operations.append(Put(key, encode(value)))
        await store.commit(compares, operations)
    meta = structs.replace(recovery.meta, continues=recovery.continues)
    await store.commit(
        [Unchanged(keys.meta, recovery.read_meta.mod_revision)], [Put(keys.meta, encode(meta))]
    )


def chosen(recovery: Recovery, restorations: Sequence[Restoration]) -> Recovery:
    """The recovery with a person's decisions in place of what was proposed."""
    return structs.replace(recovery, restorations=tuple(restorations))


def _key(keys: Keys, one: Restoration) -> str:
    return keys.machine_revision(one.service, one.machine) if one.machine else keys.revision(one.service)


def _continues(meta: ConfigMeta, heard: Mapping[str, MachineRecord]) -> dict[str, int]:
    """What the store continues, with the epochs of all machines that do not trust it yet."""
    continues = dict(meta.continues)
    for record in heard.values():
        if record.holding and record.epoch:
            continues[record.epoch] = max(continues.get(record.epoch, 0), record.generation)
    return continues


def _records(keys: Keys, machines: Sequence[KeyValue]) -> dict[str, MachineRecord]:
    records = {}
    for item in machines:
        try:
            records[keys.below(item.key)[-1]] = decode(item.value, MachineRecord, key=item.key)
        except UndecodableValue:
            continue  # a record that nobody can read witnesses nothing
    return records


def _stored(keys: Keys, deployments: Sequence[KeyValue]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for item in deployments:
        match keys.below(item.key):
            case ("deployments", service, "revision"):
                value = decode(item.value, Deployment, key=item.key)
                found[service] = structs.replace(found.get(service, Stored()), service_wide=value)
            case ("deployments", service, "machines", machine):
                value = decode(item.value, Deployment, key=item.key)
                before = found.get(service, Stored())
                found[service] = structs.replace(before, of_machines={**before.of_machines, machine: value})
            case _:
                pass
    return found
