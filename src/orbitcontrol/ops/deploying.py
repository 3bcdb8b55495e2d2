"""Setting a revision and taking it back: what people want, and the rollout that brings it about.

A revision lives in the store only, ``import`` never touches it. Setting one for the whole service
takes back what was set for single machines; ``Serial`` grows with every setting, whoever it is for,
so that a store restored from an older backup can be told from the present.

The revision and its rollout are written in one transaction: no machine sees one without the other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct, structs

from orbitcontrol.codec.imageref import with_revision
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.codec.wording import nearest
from orbitcontrol.errors import OrbitError, UsageError
from orbitcontrol.model.rollouts import Aim, Rollout
from orbitcontrol.model.state import Deployment
from orbitcontrol.model.stored import Absent, Compare, Delete, Operation, Put, Range
from orbitcontrol.ops.cluster import Cluster, machine_views, read_cluster
from orbitcontrol.ops.deployed import Act, Deployed, persistently, read_deployed
from orbitcontrol.planning.overrides import overridden
from orbitcontrol.planning.rollout_records import aim_of, is_under_way, operations_of
from orbitcontrol.ports import Store

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


Verify = Callable[[tuple[str, ...]], Awaitable[None]]
"""Raises ``OrbitError`` when one of the images does not exist, or nobody can tell whether it does."""


class Change(Act, frozen=True, kw_only=True):
    """A revision to set: ``revision`` None goes back to the tree's tag; ``machine`` None is all."""

    revision: str | None
    machine: str | None


class _Writing(Struct, frozen=True, kw_only=True):
    """What a change writes, and what its machines are then to run."""

    operations: tuple[Operation, ...]
    target: Aim


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of an act. ``written`` is false when the store said just that already.

    ``rollout`` is the one that is to bring it about, None when nothing is left to do.
    """

    written: bool
    rollout: Rollout | None
    participants: tuple[str, ...] = ()


async def set_revision(store: Store, keys: Keys, change: Change, *, verify: Verify | None = None) -> Outcome:
    """Writes the revision and begins its rollout.

    Where that revision is set already nothing is begun, unless the rollout to it has failed.

    ``verify`` is asked about the images that machines would run, after all else has been looked at and
    before anything is written. Not when a revision is taken back: what the tree names is not new.

    Raises ``UsageError`` for a revision that cannot be an image tag, ``OrbitError`` for a service
    that does not exist or has no container, and for a machine that nobody knows.
    """
    if change.revision is not None and not _TAG.fullmatch(change.revision):
        raise UsageError(
            f"revision {change.revision!r}: an image's tag has letters, digits, '_', '.' and '-', at most 128"
        )
    return await persistently(f"service {change.service}", lambda: _attempt(store, keys, change, verify))


async def _attempt(store: Store, keys: Keys, change: Change, verify: Verify | None) -> Outcome:
    """One reading and one transaction that holds only if nothing it read has changed."""
    deployed = await read_deployed(store, keys, change.service)
    deployed.require_container()
    if change.machine is not None and change.revision is not None:
        await require_machine(store, keys, change.machine)
    present = deployed.rollout
    concerned = present if present is not None and _concerns(present, change) else None
    writing = _writing(keys, change, deployed, anew=concerned is not None and concerned.state == "failed")
    if writing is None:
        return Outcome(
            written=present is not None and present.id == change.id,
            rollout=concerned if concerned is not None and is_under_way(concerned) else None,
            participants=() if concerned is None else deployed.participants(concerned),
        )
    if verify is not None and change.revision is not None:
        await verify(images_at(await read_cluster(store, keys), change, change.revision))
    rollout = deployed.beginning(change, cause="revision", target=writing.target, machine=change.machine)
    begins = operations_of(keys, change.service, rollout, present=present, history=deployed.history)
    await store.commit(
        [*deployed.compares, *_new_key(keys, change, deployed)], [*writing.operations, *begins]
    )
    return Outcome(written=True, rollout=rollout, participants=deployed.participants(rollout))


def _concerns(rollout: Rollout, change: Change) -> bool:
    return change.machine is None or rollout.concerns(change.machine)


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


async def require_machine(store: Store, keys: Keys, address: str) -> None:
    """Raises ``OrbitError`` for a machine without a record: what is asked of it would wait for ever."""
    if await store.get(keys.machine(address)) is not None:
        return
    near = nearest(address, (machine.address for machine in machine_views(await read_cluster(store, keys))))
    hint = f"did you mean {near}?" if near else "`orbitctl machines` lists those that are known"
    raise OrbitError(f"machine {address}: no daemon has registered with this address; {hint}")


def _writing(keys: Keys, change: Change, deployed: Deployed, *, anew: bool) -> _Writing | None:
    """None when the store says just that already, and it is not to be tried ``anew``."""
    place = change.machine or ""
    existing = deployed.deployments.get(place)
    others = [name for name in deployed.deployments if name != ""] if change.machine is None else []
    newest = _deployment(change, deployed.deployments.values())
    if change.machine is not None and change.revision is None:
        return None if existing is None else _taken_back(keys, change, deployed, newest)
    same = change.revision is None if existing is None else existing.revision == change.revision
    if same and not others and not anew:
        return None
    takes_back = [Delete(keys.machine_revisions(change.service))] if others else []
    return _Writing(
        operations=(Put(_key(keys, change), encode(newest)), *takes_back),
        target=aim_of(newest, generation=deployed.generation, own=change.machine is not None),
    )


def _taken_back(keys: Keys, change: Change, deployed: Deployed, newest: Deployment) -> _Writing:
    """Ends a machine's own revision. The service's stays, with a serial above the one that goes.

    Otherwise the machine would see an older serial than it runs, and take the store for a lost one.
    """
    before = deployed.deployments.get("")
    after = newest if before is None else structs.replace(before, serial=newest.serial)
    return _Writing(
        operations=(
            Put(keys.revision(change.service), encode(after)),
            Delete(Range.single(_key(keys, change))),
        ),
        target=aim_of(after, generation=deployed.generation),
    )


def _key(keys: Keys, change: Change) -> str:
    if change.machine is not None:
        return keys.machine_revision(change.service, change.machine)
    return keys.revision(change.service)


def _new_key(keys: Keys, change: Change, deployed: Deployed) -> list[Compare]:
    """That a machine's own revision is not there yet, where it was not: nobody else has set it meanwhile."""
    if change.machine is None or change.machine in deployed.deployments:
        return []
    return [Absent(Range.single(_key(keys, change)))]


def _deployment(change: Change, before: Iterable[Deployment]) -> Deployment:
    """The change as a deployment, with a serial above all of ``before``."""
    return Deployment(
        revision=change.revision,
        serial=max((deployment.serial for deployment in before), default=0) + 1,
        deployment_time=change.time,
        user=change.user,
    )
