"""Revisions: setting one, going back to the tree's, and seeing it arrive.

A revision lives in the store only, ``import`` never touches it. Setting one for the whole service
takes back what was set for single machines; ``Serial`` grows with every setting, whoever it is for,
so that a store restored from an older backup can be told from the present.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from msgspec import Struct, structs

from orbitcontrol.codec.imageref import with_revision
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.codec.wording import nearest
from orbitcontrol.errors import OrbitError, StoreAmbiguous, StoreConflict, UsageError
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import Deployment, MachineRecord
from orbitcontrol.model.stored import Absent, Compare, Delete, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.ops.cluster import Cluster, machine_views, problems_of, read_cluster, require_service
from orbitcontrol.planning.desired import effective_service
from orbitcontrol.planning.overrides import overridden
from orbitcontrol.ports import Store

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ATTEMPTS = 5
_POLL = 0.25

Verify = Callable[[tuple[str, ...]], Awaitable[None]]
"""Raises ``OrbitError`` when one of the images does not exist, or nobody can tell whether it does."""


class Change(Struct, frozen=True, kw_only=True):
    """A revision to set: ``revision`` None goes back to the tree's tag; ``machine`` None is all.

    ``time`` is RFC 3339 in UTC.
    """

    service: str
    revision: str | None
    machine: str | None
    user: str
    time: str


class InstanceProgress(Struct, frozen=True, order=True):
    """How far one machine has come: instances published at the revision, and how many it should have."""

    machine: str
    arrived: int
    wanted: int
    trouble: str = ""


async def set_revision(store: Store, keys: Keys, change: Change, *, verify: Verify | None = None) -> bool:
    """Writes the revision; False when that is what the store said already.

    ``verify`` is asked about the images that machines would run, after all else has been looked at and
    before anything is written. Not when a revision is taken back: what the tree names is not new.

    Raises ``UsageError`` for a revision that cannot be an image tag, ``OrbitError`` for a service
    that does not exist or has no container, and for a machine that nobody knows.
    """
    if change.revision is not None and not _TAG.fullmatch(change.revision):
        raise UsageError(
            f"revision {change.revision!r}: an image's tag has letters, digits, '_', '.' and '-', at most 128"
        )
    for _ in range(_ATTEMPTS):
        try:
            return await _attempt(store, keys, change, verify)
        except (StoreConflict, StoreAmbiguous):
            continue  # somebody else wrote, or it may have happened: look again
    raise OrbitError(f"service {change.service}: others keep changing its revision; try again")


async def _attempt(store: Store, keys: Keys, change: Change, verify: Verify | None) -> bool:
    """One reading and one transaction that holds only if nothing it read has changed."""
    reading = await store.read(
        Range.single(keys.service_config(change.service)),
        Range.single(keys.revision(change.service)),
        keys.machine_revisions(change.service),
    )
    configured, service_wide, of_machines = reading.ranges
    if not configured:
        require_service((await read_cluster(store, keys)).configuration, change.service)
    if decode(configured[0].value, Service, key=configured[0].key).container is None:
        raise OrbitError(f"service {change.service}: it has no container, so it has no revision")
    if change.machine is not None and change.revision is not None:
        await _require_machine(store, keys, change.machine)
    present = (*service_wide, *of_machines)
    operations = _operations(keys, change, present)
    if not operations:
        return False
    if verify is not None and change.revision is not None:
        await verify(images_at(await read_cluster(store, keys), change, change.revision))
    compares: list[Compare] = [Unchanged(item.key, item.mod_revision) for item in (*configured, *present)]
    known = {item.key for item in present}
    compares += [
        Absent(Range.single(operation.key))
        for operation in operations
        if isinstance(operation, Put) and operation.key not in known
    ]
    await store.commit(compares, operations)
    return True


def images_at(cluster: Cluster, change: Change, revision: str) -> tuple[str, ...]:
    """The images that the machines of the change run at the revision: a tag may name another image.

    A machine that has no lease now counts as well, because it comes back. Where no machine binds the
    service yet, it is what a machine of each tag that does would run, or else what the service says.
    """
    service = cluster.configuration.services.get(change.service)
    if service is None:
        return ()
    bindings = {
        name: tag.services[change.service]
        for name, tag in cluster.configuration.tags.items()
        if change.service in tag.services
    }
    concerned = [record for at, record in cluster.machines.items() if change.machine in (None, at)]
    carried = {tuple(tag for tag in record.tags if tag in bindings) for record in concerned} - {()}
    orders = carried or {(tag,) for tag in bindings} or {()}
    named = {overridden(service, [bindings[tag] for tag in order]).image for order in orders}
    return tuple(sorted(with_revision(image, revision) for image in named if image))


async def _require_machine(store: Store, keys: Keys, address: str) -> None:
    """Raises ``OrbitError`` for a machine without a record: what is set for it would wait for ever."""
    if await store.get(keys.machine(address)) is not None:
        return
    near = nearest(address, (machine.address for machine in machine_views(await read_cluster(store, keys))))
    hint = f"did you mean {near}?" if near else "`orbitctl machines` lists those that are known"
    raise OrbitError(f"machine {address}: no daemon has registered with this address; {hint}")


def _key(keys: Keys, change: Change) -> str:
    if change.machine is not None:
        return keys.machine_revision(change.service, change.machine)
    return keys.revision(change.service)


def _operations(keys: Keys, change: Change, present: tuple[KeyValue, ...]) -> list[Operation]:
    """What to write; nothing when the store says just that already."""
    key = _key(keys, change)
    deployments = {item.key: decode(item.value, Deployment, key=item.key) for item in present}
    existing = deployments.pop(key, None)
    if change.machine is not None and change.revision is None:
        return [] if existing is None else _taken_back(keys, change, deployments, existing)
    others = {} if change.machine is not None else deployments
    if existing is None and change.revision is None and not others:
        return []
    if existing is not None and existing.revision == change.revision and not others:
        return []
    takes_back = [Delete(keys.machine_revisions(change.service))] if others else []
    return [Put(key, encode(_deployment(change, (*deployments.values(), existing)))), *takes_back]


def _taken_back(
    keys: Keys, change: Change, others: Mapping[str, Deployment], existing: Deployment
) -> list[Operation]:
    """Ends a machine's own revision. The service's stays, with a serial above the one that goes.

    Otherwise the machine would see an older serial than it runs, and take the store for a lost one.
    """
    service_wide = keys.revision(change.service)
    newest = _deployment(change, (*others.values(), existing))
    before = others.get(service_wide)
    after = newest if before is None else structs.replace(before, serial=newest.serial)
    return [Put(service_wide, encode(after)), Delete(Range.single(_key(keys, change)))]


def _deployment(change: Change, before: Iterable[Deployment | None]) -> Deployment:
    """The change as a deployment, with a serial above all of ``before``."""
    serials = [deployment.serial for deployment in before if deployment is not None]
    return Deployment(
        revision=change.revision,
        serial=max(serials, default=0) + 1,
        deployment_time=change.time,
        user=change.user,
    )


async def follow(
    store: Store, keys: Keys, change: Change, *, patience: float
) -> AsyncIterator[tuple[InstanceProgress, ...]]:
    """How far each machine is with the revision, each time that changes, until all have arrived.

    Ends after ``patience`` seconds even if they have not: the last value tells.
    """
    deadline = time.monotonic() + patience
    before: tuple[InstanceProgress, ...] | None = None
    while True:
        now = progress(await read_cluster(store, keys), change)
        if now != before:
            yield now
            before = now
        if all(item.arrived >= item.wanted for item in now) or time.monotonic() > deadline:
            return
        await asyncio.sleep(_POLL)


def progress(cluster: Cluster, change: Change) -> tuple[InstanceProgress, ...]:
    """How far each machine is that runs the service and is alive."""
    service = cluster.configuration.services.get(change.service)
    if service is None:
        return ()
    bound = {tag.name for tag in cluster.configuration.tags.values() if change.service in tag.services}
    found = []
    for address, record in cluster.machines.items():
        concerned = change.machine in (None, address) and address in cluster.alive
        if not concerned or not bound.intersection(record.tags):
            continue
        reports = [report for report in record.instances if report.service == change.service]
        target = change.revision or _tree_revision(cluster, service, record)
        if service.has_endpoint:
            arrived = sum(
                endpoint.service == change.service
                and endpoint.machine == address
                and target == endpoint.revision
                for endpoint in cluster.endpoints
            )
        else:
            arrived = sum(report.state == "running" and target == report.revision for report in reports)
        told = [problem.reason for problem in problems_of(record, change.service)]
        trouble = next(iter([*told, *(report.reason for report in reports if report.reason)]), "")
        found.append(InstanceProgress(address, arrived, service.instances, trouble))
    return tuple(sorted(found))


def _tree_revision(cluster: Cluster, service: Service, record: MachineRecord) -> str:
    """What the machine runs without a revision of its own: the service's, or the tag in the tree."""
    tags = [cluster.configuration.tags[name] for name in record.tags if name in cluster.configuration.tags]
    return effective_service(service, tags, cluster.revisions).revision
