"""What a machine knows by itself of one service, as the planning of rollouts wants it (``Local``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from msgspec import structs

from orbitcontrol.agent.board import Board, Standing
from orbitcontrol.agent.rollout_memory import RolloutMemory
from orbitcontrol.codec.times import since_epoch
from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.runs import RunId, Verdict
from orbitcontrol.model.service import Relaunch, Update
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer, containers_of
from orbitcontrol.planning.containers import lost_revisions
from orbitcontrol.planning.relaunch import due_in
from orbitcontrol.planning.rollouts import Health, Local

T = TypeVar("T")


class Facts:
    """What the board says, by service; put in order once for each value that a cell takes."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._health: dict[RunId, Health] = {}
        self._verdicts: Mapping[RunId, Verdict] = {}
        self._groups: dict[str, tuple[object, dict[str, list[Any]]]] = {}
        self._wanted: dict[tuple[str, str], tuple[EffectiveService, tuple[WantedContainer, ...]]] = {}

    def containers(self, use: str, effective: EffectiveService, address: str) -> tuple[WantedContainer, ...]:
        """The service's containers; worked out anew when ``use`` has another value than before."""
        before = self._wanted.get((effective.name, use))
        if before is None or before[0] is not effective:
            before = (effective, containers_of(effective, address))
            self._wanted[effective.name, use] = before
        return before[1]

    def own(self, service: str) -> tuple[OwnContainer, ...]:
        """The containers of the service."""
        own = self._board.rollouts.own.value or ()
        return tuple(self._grouped("own", own, own, lambda one: one.key.service).get(service, ()))

    def processes(self, service: str) -> tuple[RunId, ...]:
        """Its runs that have no container."""
        runs = self._board.runs.value or ()
        mine = self._grouped("runs", runs, runs, lambda run: run.id.service).get(service, ())
        return tuple(sorted(run.id for run in mine if not run.id.container_id))

    def endpoints(self, service: str) -> dict[RunId, Endpoint]:
        """What is published for it."""
        published = self._board.rollouts.publications.value
        groups = self._grouped("endpoints", published, published.items(), lambda item: item[0].service)
        return dict(groups.get(service, ()))

    def health(self, service: str) -> dict[RunId, Health]:
        """How its runs are, and since when."""
        verdicts = self._board.verdicts.value
        if verdicts is not self._verdicts:
            self._verdicts = verdicts
            self._health = {run: _aged(self._health.get(run), verdict) for run, verdict in verdicts.items()}
        groups = self._grouped("health", self._health, self._health.items(), lambda item: item[0].service)
        return dict(groups.get(service, ()))

    def _grouped(
        self, name: str, value: object, items: Iterable[T], service_of: Callable[[T], str]
    ) -> Mapping[str, list[T]]:
        """The items by service, as long as the cell has this very value."""
        before = self._groups.get(name)
        if before is not None and before[0] is value:
            return before[1]
        groups: dict[str, list[Any]] = {}
        for item in items:
            groups.setdefault(service_of(item), []).append(item)
        self._groups[name] = (value, groups)
        return groups


def _aged(before: Health | None, verdict: Verdict) -> Health:
    same = before is not None and (before.up, before.judged) == (verdict.up, verdict.judged)
    since = before.since if same and before is not None else boot_time()
    return Health(up=verdict.up, judged=verdict.judged, since=since, reason=verdict.reason)


def boot_time() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def local_of(service: str, *, board: Board, memory: RolloutMemory, facts: Facts, ttl: float) -> Local | None:
    """What is known of the service; None while too little is known to change anything of it.

    That is: no session, a store that is not trusted, a configuration of the service that cannot be read,
    Docker silent, or a revision that the store has lost.
    """
    desired, standing = board.desired.value, board.rollouts.standing.value
    session = board.session.value
    if desired is None or standing is None or session is None or board.publisher.value != session.id:
        return None
    if desired.holding or service in desired.held or board.rollouts.own.value is None:
        return None
    effective = desired.services.get(service)
    mine = facts.own(service)
    target = target_of(service, facts, desired, standing)
    if lost_revisions(mine, {one.key: one for one in target}):
        return None
    emptied = standing.drain is not None
    return Local(
        address=desired.machine.address,
        session=session.id,
        service=service,
        bound=effective is not None,
        emptied=emptied,
        has_endpoint=effective is None or effective.service.has_endpoint,
        ttl=ttl,
        target=() if emptied else target,
        settled=settled_of(service, facts, memory, desired.machine.address),
        progress=memory.of(service).progress,
        generation=desired.generation,
        known=standing.revision,
        update=effective.service.update if effective is not None else Update(),
        relaunch=effective.service.relaunch if effective is not None else Relaunch(),
        own=mine,
        processes=facts.processes(service),
        health=facts.health(service),
        endpoints=facts.endpoints(service),
    )


def timed(local: Local, standing: Standing | None) -> Local:
    """With what changes by itself as time goes on."""
    ages = {one.run_id: _age(one) for one in local.own if one.alive}
    is_over = standing is not None and _is_over(standing)
    return structs.replace(local, ages=ages, out_of_time=is_over)


def settled_of(
    service: str, facts: Facts, memory: RolloutMemory, address: str
) -> tuple[WantedContainer, ...] | None:
    """The containers of the service as it was last completed here."""
    settled = memory.of(service).settled
    return None if settled is None else facts.containers("settled", settled, address)


def target_of(
    service: str, facts: Facts, desired: Desired, standing: Standing | None
) -> tuple[WantedContainer, ...]:
    """The containers that the store wants of the service on this machine."""
    effective = desired.services.get(service)
    if effective is None:
        return ()
    address = desired.machine.address
    containers = facts.containers("target", effective, address)
    rollout = standing.rollouts.get(service) if standing is not None else None
    if rollout is None or not rollout.concerns(address):
        return containers
    relaunch = rollout.id if rollout.cause == "relaunch" else ""
    return tuple(structs.replace(one, rollout=rollout.id, relaunch=relaunch) for one in containers)


def condemned_of(local: Local, *, earlier: tuple[float, ...]) -> tuple[frozenset[RunId], float | None]:
    """The runs that are to be started anew because they keep failing, and when to look again, in seconds."""
    now, clock = time.time(), boot_time()
    waits: list[float] = []
    condemned: set[RunId] = set()
    for own in local.own:
        health = local.health.get(own.run_id)
        if not own.alive or health is None or health.up or not health.judged:
            continue
        due = due_in(local.relaunch, failing_for=clock - health.since, earlier=earlier, now=now)
        if due == 0:
            condemned.add(own.run_id)
        elif due is not None:
            waits.append(due)
    return frozenset(condemned), min(waits, default=None)


def _age(own: OwnContainer) -> float:
    with suppress(ValueError):
        return max(0.0, time.time() - since_epoch(own.container.started_at))
    return 0.0


def _is_over(standing: Standing) -> bool:
    deadline = standing.drain.deadline if standing.drain is not None else ""
    with suppress(ValueError):
        return deadline != "" and time.time() >= since_epoch(deadline)
    return False
