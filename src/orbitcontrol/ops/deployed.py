"""One service's deployment as the store has it at one moment: what every command on a rollout begins with.

The reading gives the comparisons that belong to it: a transaction with them holds only if nothing that
was read has changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from msgspec import UNSET, Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import OrbitError, StoreAmbiguous, StoreConflict, UndecodableValue
from orbitcontrol.model.rollouts import Aim, Cause, Rollout
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import ConfigMeta, Deployment, MachineRecord
from orbitcontrol.model.stored import Absent, Compare, KeyValue, Range, Unchanged
from orbitcontrol.ops.cluster import read_cluster, require_service
from orbitcontrol.planning.rollout_records import Scope, aim_of, begun
from orbitcontrol.ports import Store

T = TypeVar("T")

_ATTEMPTS = 5


class Act(Struct, frozen=True, kw_only=True):
    """Who does something to a service's rollout, and when: RFC 3339 in UTC.

    ``id`` is random, for the rollout that may begin with it.
    """

    service: str
    id: str
    user: str
    time: str


class Deployed(Struct, frozen=True, kw_only=True):
    """What is set for a service, its rollout, and who takes part in one.

    ``deployments`` are by machine, "" for all machines; ``live`` are the machines that are alive and bind
    the service, ``drained`` those of them that are to be empty. ``compares`` hold while all of it but
    ``history`` and ``live`` is as it was read.
    """

    service: Service
    generation: int
    deployments: dict[str, Deployment]
    rollout: Rollout | None
    history: tuple[KeyValue, ...]
    live: tuple[str, ...]
    drained: frozenset[str]
    compares: tuple[Compare, ...]

    def require_container(self) -> None:
        """Raises ``OrbitError`` for a service that somebody else runs."""
        if self.service.container is None:
            raise OrbitError(f"service {self.service.name}: it has no container, so it has no revision")

    def standing(self, machine: str | None = None) -> Aim:
        """What is set at this moment: for all machines, or for one of them."""
        own = self.deployments.get(machine) if machine is not None else None
        deployment = own or self.deployments.get("")
        return aim_of(deployment, generation=self.generation, own=own is not None)

    def beginning(
        self,
        act: Act,
        *,
        cause: Cause,
        target: Aim,
        machine: str | None = None,
    ) -> Rollout:
        """The rollout that the act begins."""
        scope: Scope = UNSET if machine is None else (machine,)
        return begun(
            id=act.id,
            cause=cause,
            scope=scope,
            target=target,
            standing=self.standing(machine),
            present=self.rollout,
            policy=self.service.update,
            live=len(self.live),
            user=act.user,
            started=act.time,
        )

    def participants(self, rollout: Rollout) -> tuple[str, ...]:
        """The machines that can act for the rollout now: alive, in its scope, not drained."""
        return tuple(each for each in self.live if rollout.concerns(each) and each not in self.drained)


async def persistently(subject: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Reads and writes until nobody else has written in between; ``subject`` is the service or machine."""
    for _ in range(_ATTEMPTS):
        try:
            return await attempt()
        except (StoreConflict, StoreAmbiguous):
            continue  # somebody else wrote, or it may have happened: look again
    raise OrbitError(f"{subject}: others keep changing it; try again")


async def read_deployed(store: Store, keys: Keys, service: str) -> Deployed:
    """Reads it at one revision. Raises ``OrbitError`` with the nearest name when there is no such service."""
    singles = (keys.service_config(service), keys.meta, keys.revision(service), keys.rollout(service))
    reading = await store.read(
        *map(Range.single, singles),
        keys.machine_revisions(service),
        keys.history(service),
        keys.tag_configs,
        keys.machines,
        keys.all_alive,
        keys.drains,
    )
    configured, meta, revision, rollout, of_machines, history, tags, machines, alive, drains = reading.ranges
    if not configured:
        require_service((await read_cluster(store, keys)).configuration, service)
    deployments = [(keys.below(item.key)[-1], item) for item in of_machines]
    deployments += [("", item) for item in revision]
    bound = {keys.below(item.key)[2] for item in tags if keys.below(item.key)[3:] == ("services", service)}
    here = {keys.below(item.key)[-1] for item in alive}
    carrying = {address for address, carried in _tags(keys, machines).items() if bound.intersection(carried)}
    known = (*configured, *meta, *revision, *rollout)
    return Deployed(
        service=decode(configured[0].value, Service, key=configured[0].key),
        generation=decode(meta[0].value, ConfigMeta, key=meta[0].key).generation if meta else 0,
        deployments={name: decode(item.value, Deployment, key=item.key) for name, item in deployments},
        rollout=decode(rollout[0].value, Rollout, key=rollout[0].key) if rollout else None,
        history=history,
        live=tuple(sorted(carrying & here)),
        drained=frozenset(keys.below(item.key)[-1] for item in drains),
        compares=(
            *(Unchanged(item.key, item.mod_revision) for item in (*known, *of_machines)),
            *(Absent(Range.single(key)) for key in singles if key not in {item.key for item in known}),
        ),
    )


def _tags(keys: Keys, machines: Iterable[KeyValue]) -> dict[str, tuple[str, ...]]:
    """The tags of each machine; a record that cannot be read counts for nothing here."""
    found: dict[str, tuple[str, ...]] = {}
    for item in machines:
        try:
            found[keys.below(item.key)[-1]] = decode(item.value, MachineRecord, key=item.key).tags
        except UndecodableValue:
            continue
    return found
