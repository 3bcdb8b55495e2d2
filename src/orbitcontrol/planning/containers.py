"""What to do about the containers of a machine: start, replace, remove, or wait.

``plan_containers`` compares what is wanted with what Docker shows. What matches is left alone, so a
daemon that comes up adopts what its predecessor left.

Two rules keep a service serving. What ended is started again on its own account, as often as its
backoff allows. What runs but is outdated is replaced one instance at a time, and one that serves
only when all the others that are up to date have proven themselves: a revision that does not work
takes out one instance, not all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.runs import RunId, Verdict
from orbitcontrol.model.service import Update
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
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


class Replace(Struct, frozen=True, kw_only=True):
    """Withdraw, stop and remove a container that is outdated, then start what is wanted instead."""

    wanted: WantedContainer
    outdated: OwnContainer
    reason: str

    @property
    def key(self) -> InstanceKey:
        return self.wanted.key


class Remove(Struct, frozen=True, kw_only=True):
    """Withdraw, stop (if it runs) and remove a container that nothing wants. ``grace`` in seconds."""

    unwanted: OwnContainer
    grace: float
    reason: str

    @property
    def key(self) -> InstanceKey:
        return self.unwanted.key


Action = Start | Replace | Remove | Evict
ActionKey = InstanceKey | StrangerKey

StartKey = tuple[InstanceKey, str]
"""An instance at one configuration hash: another configuration owes nothing to the failures of this."""


class ContainerPlan(Struct, frozen=True, kw_only=True):
    """What to do now, what waits for its backoff, and what a stranger's container stands in the way of."""

    actions: tuple[Action, ...] = ()
    waiting: dict[InstanceKey, Backoff] = {}
    blocked: dict[InstanceKey, str] = {}


class Situation(Struct, frozen=True, kw_only=True):
    """All that a plan is made from besides what is wanted. ``now`` is the backoffs' clock.

    ``published`` is None until it is known what is: nothing that runs is stopped before that.
    ``busy`` instances have an action under way; ``starts`` and ``stops`` are the backoffs of
    instances that ended or could not be started, and of those that could not be stopped. ``holding``
    is true while the store is not trusted: nothing is removed then. ``authoritative`` are names of
    images that only Orbit runs here, ``foreign_ports`` those of services that somebody else runs.
    """

    address: str
    observed: tuple[ObservedContainer, ...]
    held: Collection[str] = frozenset()
    holding: bool = False
    verdicts: Mapping[RunId, Verdict] = {}
    published: Collection[RunId] | None = frozenset()
    busy: Collection[ActionKey] = frozenset()
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


def plan_containers(wanted: Collection[WantedContainer], situation: Situation) -> ContainerPlan:
    """What to do now; applying all of it, and planning again, plans nothing more."""
    by_key = {one.key: one for one in wanted}
    own = own_containers(situation.observed, address=situation.address)
    alive = alive_by_instance(own, by_key)
    unwanted = _unwanted_strangers(situation)
    outdated = [one for one in wanted if _is_outdated(alive.get(one.key), one)]
    leaving = {one.name for one in unwanted}
    awaited = {one.key for one in outdated if one.name in leaving}
    blocked = {
        one.key: reason
        for one in outdated
        if one.key not in awaited and (reason := _obstacle(one, situation))
    }
    blocked |= {key: reason for key, own in alive.items() if (reason := _lost_revision(own, by_key.get(key)))}
    kept = blocked.keys() | awaited | set(situation.busy)
    free = [one for one in wanted if one.key not in kept]
    starts, waiting = _starts([one for one in free if one.key not in alive], own, situation)
    crowded = {one.key for one in own if one is not alive.get(one.key)}  # the spare one goes first
    alone = [one for one in free if one.key not in crowded]
    replacements = _replacements(alone, by_key, alive, situation)
    taken = {one.key for one in starts} | {one.key for one in replacements} | set(situation.busy)
    removals = _removals(own, by_key, alive, taken, situation)
    evictions = _evictions(unwanted, situation)
    actions: tuple[Action, ...] = (*evictions, *removals, *starts, *replacements)
    return ContainerPlan(actions=actions, waiting=waiting, blocked=blocked)


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
        ended = [one for one in own if one.key == wanted.key]
        if any(one.container.state == "removing" for one in ended):
            continue  # its name is free when Docker says that it is gone
        backoff = situation.starts.get((wanted.key, wanted.config_hash))
        if backoff is not None and backoff.ready_at > situation.now:
            waiting[wanted.key] = backoff
            continue
        containers = tuple(one.container for one in ended)
        starts.append(Start(wanted=wanted, ended=containers, reason=_why_start(containers)))
    return starts, waiting


def _replacements(
    candidates: Iterable[WantedContainer],
    wanted: Mapping[InstanceKey, WantedContainer],
    alive: Mapping[InstanceKey, OwnContainer],
    situation: Situation,
) -> list[Replace]:
    """At most one outdated container a service, and none that serves while another is not proven."""
    outdated: dict[str, list[WantedContainer]] = defaultdict(list)
    for one in candidates:
        if one.key in alive and _is_outdated(alive[one.key], one):
            outdated[one.key.service].append(one)
    if situation.published is None:
        return []
    busy = {key.service for key in situation.busy if isinstance(key, InstanceKey)}
    replacements = []
    for service, ones in outdated.items():
        first = min(ones, key=lambda one: (_worth(alive[one.key], situation), one.key))
        if service in busy or _pauses(first.key, situation):
            continue
        if _worth(alive[first.key], situation) and not _others_proven(service, wanted, alive, situation):
            continue
        old = alive[first.key]
        replacements.append(Replace(wanted=first, outdated=old, reason=_why_replace(first, old)))
    return replacements


def _removals(
    own: Iterable[OwnContainer],
    wanted: Mapping[InstanceKey, WantedContainer],
    alive: Mapping[InstanceKey, OwnContainer],
    taken: Collection[ActionKey],
    situation: Situation,
) -> list[Remove]:
    """One container for each instance that has too many, or that nothing wants."""
    if situation.holding:
        return []
    removals: dict[InstanceKey, Remove] = {}
    for one in own:
        if one.key.service in situation.held or one.key in taken or one.container.state == "removing":
            continue
        if one.key in wanted and (one is alive.get(one.key) or one.key not in alive):
            continue
        if _pauses(one.key, situation) or (one.alive and situation.published is None):
            continue
        grace = wanted[one.key].effective.service.update if one.key in wanted else Update()
        reason = _why_remove(one, wanted)
        removals.setdefault(one.key, Remove(unwanted=one, grace=grace.stop_timeout, reason=reason))
    return list(removals.values())


def _others_proven(
    service: str,
    wanted: Mapping[InstanceKey, WantedContainer],
    alive: Mapping[InstanceKey, OwnContainer],
    situation: Situation,
) -> bool:
    """True when every instance of the service that is not outdated runs, is up, and is published."""
    for key, one in wanted.items():
        if key.service != service:
            continue
        current = alive.get(key)
        if current is None:
            return False
        if _is_outdated(current, one):
            continue
        verdict = situation.verdicts.get(current.run_id)
        reachable = current.port == 0 or _is_published(current, situation)
        if verdict is None or not verdict.up or not reachable:
            return False
    return True


def _worth(own: OwnContainer, situation: Situation) -> int:
    """0 when its checks say that it does not serve, 1 while that is not known, 2 when it serves."""
    verdict = situation.verdicts.get(own.run_id)
    if _is_published(own, situation) or (verdict is not None and verdict.up):
        return 2
    return 0 if verdict is not None and verdict.judged else 1


def _is_published(own: OwnContainer, situation: Situation) -> bool:
    return situation.published is not None and own.run_id in situation.published


def _lost_revision(own: OwnContainer, wanted: WantedContainer | None) -> str:
    """Why an outdated container stays all the same: serials only grow, so the store lost its revision."""
    if wanted is None or not _is_outdated(own, wanted) or own.serial <= wanted.effective.serial:
        return ""
    return (
        f"revision {own.revision} stays: it was set with serial {own.serial}, and the store has only "
        f"{wanted.effective.serial}; run orbitctl recover"
    )


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


def _why_replace(wanted: WantedContainer, outdated: OwnContainer) -> str:
    if outdated.revision != wanted.effective.revision:
        return f"revision {outdated.revision} becomes {wanted.effective.revision}"
    return "its configuration changed"


def _why_remove(own: OwnContainer, wanted: Mapping[InstanceKey, WantedContainer]) -> str:
    if own.key in wanted:
        return "another container is this instance"
    if any(key.service == own.key.service for key in wanted):
        return f"instance {own.key.instance} of {own.key.service} is not wanted any more"
    return f"no container of {own.key.service} is wanted on this machine any more"
