"""What to do about the containers of a machine that needs nobody's leave: start, clear away, or wait.

``plan_containers`` compares what is aimed at with what Docker shows. What runs is left alone, so a
daemon that comes up adopts what its predecessor left; what ended is started again on its own account,
as often as its backoff allows. To stop what runs, because it is outdated or not wanted, takes a turn:
that is the business of ``planning.rollouts``, which also says what is aimed at. While it has a service
in hand, nothing of that service is planned here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Update
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    is_kept,
    own_container,
    own_containers,
)
from orbitcontrol.planning.strangers import Evict, StrangerKey, evictable, whose


class Start(Struct, frozen=True, kw_only=True):
    """Create and start an instance that has no container alive; remove its ``ended`` ones first."""

    wanted: WantedContainer
    ended: tuple[ObservedContainer, ...]
    reason: str

    @property
    def key(self) -> InstanceKey:
        return self.wanted.key


class Remove(Struct, frozen=True, kw_only=True):
    """Remove a container that has ended and that nothing wants."""

    unwanted: OwnContainer
    reason: str

    @property
    def key(self) -> InstanceKey:
        return self.unwanted.key


Action = Start | Remove | Evict
ActionKey = InstanceKey | StrangerKey

StartKey = tuple[InstanceKey, str]
"""An instance at one configuration hash: another configuration owes nothing to the failures of this."""


class ContainerPlan(Struct, frozen=True, kw_only=True):
    """What to do now, what waits for its backoff, and what a stranger's container stands in the way of."""

    actions: tuple[Action, ...] = ()
    waiting: dict[InstanceKey, Backoff] = {}
    blocked: dict[InstanceKey, str] = {}


class Situation(Struct, frozen=True, kw_only=True):
    """All that a plan is made from besides what is aimed at. ``now`` is the backoffs' clock.

    ``published`` is None until it is known what is: no stranger that runs is stopped before that.
    ``busy`` instances have an action under way, and services ``in_hand`` are somebody else's for now.
    ``starts`` and ``stops`` are the backoffs of instances that ended or could not be started, and of those
    that could not be removed. ``holding`` is true while the store is not trusted: nothing is removed then.
    ``lost`` says of instances why what runs of them stays as it is. ``authoritative`` are names of images
    that only Orbit runs here, ``foreign_ports`` those of services that somebody else runs.
    """

    address: str
    observed: tuple[ObservedContainer, ...]
    held: Collection[str] = frozenset()
    holding: bool = False
    lost: Mapping[InstanceKey, str] = {}
    published: Collection[RunId] | None = frozenset()
    busy: Collection[ActionKey] = frozenset()
    in_hand: Collection[str] = frozenset()
    starts: Mapping[StartKey, Backoff] = {}
    stops: Mapping[ActionKey, Backoff] = {}
    now: float = 0.0
    authoritative: Collection[str] = frozenset()
    foreign_ports: Collection[int] = frozenset()


def alive_by_instance(
    own: Iterable[OwnContainer], wanted: Mapping[InstanceKey, WantedContainer]
) -> dict[InstanceKey, OwnContainer]:
    """The one container that stands for each instance: an up-to-date one before others, then the oldest."""

    def rank(container: OwnContainer) -> tuple[bool, str, str]:
        outdated = _is_outdated(container, wanted.get(container.key))
        return outdated, container.container.started_at, container.container.id

    best: dict[InstanceKey, OwnContainer] = {}
    for container in sorted((one for one in own if one.alive), key=rank):
        best.setdefault(container.key, container)
    return best


def plan_containers(aimed: Collection[WantedContainer], situation: Situation) -> ContainerPlan:
    """What to do now; applying all of it, and planning again, plans nothing more."""
    by_key = {one.key: one for one in aimed}
    own = own_containers(situation.observed, address=situation.address)
    alive = alive_by_instance(own, by_key)
    unwanted = _unwanted_strangers(situation)
    missing = [one for one in aimed if one.key not in alive and one.key.service not in situation.in_hand]
    leaving = {one.name for one in unwanted}
    blocked = {
        one.key: reason
        for one in missing
        if one.name not in leaving and (reason := _obstacle(one, situation))
    }
    kept = blocked.keys() | set(situation.busy)
    free = [one for one in missing if one.key not in kept and one.name not in leaving]
    starts, waiting = _starts(free, own, situation)
    taken = {one.key for one in starts} | set(situation.busy)
    removals = _removals(own, by_key, alive, taken, situation)
    evictions = _evictions(unwanted, situation)
    actions: tuple[Action, ...] = (*evictions, *removals, *starts)
    return ContainerPlan(actions=actions, waiting=waiting, blocked={**situation.lost, **blocked})


def lost_revisions(
    own: Iterable[OwnContainer], wanted: Mapping[InstanceKey, WantedContainer]
) -> dict[InstanceKey, str]:
    """Why outdated containers stay all the same: serials only grow, so the store lost their revision."""
    return {
        one.key: f"revision {one.revision} stays: it was set with serial {one.serial}, and the store has "
        f"only {wanted[one.key].effective.serial}; run orbitctl recover"
        for one in own
        if one.alive
        and one.key in wanted
        and _is_outdated(one, wanted[one.key])
        and one.serial > wanted[one.key].effective.serial
    }


def _unwanted_strangers(situation: Situation) -> tuple[ObservedContainer, ...]:
    """Strangers of authoritative images. None while some service is held: it might want any of them."""
    if situation.holding or situation.held:
        return ()
    return evictable(
        situation.observed,
        address=situation.address,
        authoritative=situation.authoritative,
        foreign_ports=situation.foreign_ports,
    )


def _evictions(unwanted: Iterable[ObservedContainer], situation: Situation) -> list[Evict]:
    """Those that can be removed now: not while an endpoint stands for one, as of a forgotten adoption."""
    serving = {run.container_id for run in situation.published or ()}
    reason = "its image is authoritative, and no service wants it"
    evictions = [
        Evict(stranger=one, grace=Update().stop_timeout, reason=reason)
        for one in unwanted
        if one.state != "removing"
        and one.id not in serving
        and not (one.alive and situation.published is None)
    ]
    return [one for one in evictions if one.key not in situation.busy and not _pauses(one.key, situation)]


def _pauses(key: ActionKey, situation: Situation) -> bool:
    """True while the last failure to stop or remove it is not to be followed by another attempt yet."""
    backoff = situation.stops.get(key)
    return backoff is not None and backoff.ready_at > situation.now


def _starts(
    missing: Iterable[WantedContainer], own: Collection[OwnContainer], situation: Situation
) -> tuple[list[Start], dict[InstanceKey, Backoff]]:
    """Instances without a living container: those to start now, and those whose backoff runs."""
    starts: list[Start] = []
    waiting: dict[InstanceKey, Backoff] = {}
    for wanted in missing:
        ended = [one for one in own if one.key == wanted.key and not is_kept(one)]
        if any(one.container.state == "removing" for one in ended):
            continue  # its name is free when Docker says that it is gone
        backoff = situation.starts.get((wanted.key, wanted.config_hash))
        if backoff is not None and backoff.ready_at > situation.now:
            waiting[wanted.key] = backoff
            continue
        containers = tuple(one.container for one in ended)
        starts.append(Start(wanted=wanted, ended=containers, reason=_why_start(containers)))
    return starts, waiting


def _removals(
    own: Iterable[OwnContainer],
    aimed: Mapping[InstanceKey, WantedContainer],
    alive: Mapping[InstanceKey, OwnContainer],
    taken: Collection[ActionKey],
    situation: Situation,
) -> list[Remove]:
    """One ended container for each instance that has another, or that nothing wants.

    One that is kept for the way back is left to whoever keeps it.
    """
    if situation.holding:
        return []
    spared = {*situation.held, *situation.in_hand}
    removals: dict[InstanceKey, Remove] = {}
    for one in own:
        if one.alive or one.container.state == "removing" or is_kept(one):
            continue
        if one.key.service in spared or one.key in taken or _pauses(one.key, situation):
            continue
        if one.key in aimed and one.key not in alive:
            continue
        removals.setdefault(one.key, Remove(unwanted=one, reason=_why_remove(one, aimed)))
    return list(removals.values())


def _is_outdated(own: OwnContainer | None, wanted: WantedContainer | None) -> bool:
    return own is None or wanted is None or own.config_hash != wanted.config_hash


def _obstacle(wanted: WantedContainer, situation: Situation) -> str:
    """Why the wanted name cannot be had, when a container that is not this instance's holds it."""
    for container in situation.observed:
        if container.name != wanted.name:
            continue
        own = own_container(container, address=situation.address)
        if own is None:
            return (
                f"a container named {wanted.name} exists and {whose(wanted, container)}: it is left alone; "
                f"rename or remove it (docker rename {wanted.name} …) and the service starts"
            )
        if own.key != wanted.key:
            return f"the container {wanted.name} belongs to {own.key}: give one of the services another name"
    return ""


def _why_start(ended: tuple[ObservedContainer, ...]) -> str:
    if not ended:
        return "no container runs"
    last = max(ended, key=lambda container: container.started_at)
    if last.state == "created":
        return "its container was created but never started"
    return f"its container ended with exit code {last.exit_code}"


def _why_remove(own: OwnContainer, wanted: Mapping[InstanceKey, WantedContainer]) -> str:
    if own.key in wanted:
        return "another container is this instance"
    if any(key.service == own.key.service for key in wanted):
        return f"instance {own.key.instance} of {own.key.service} is not wanted any more"
    return f"no container of {own.key.service} is wanted on this machine any more"
