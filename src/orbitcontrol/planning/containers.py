"""Which containers a machine is to run, and what to do about those it does run.

``wanted_containers`` turns the configuration into containers with a hash each; ``plan_containers``
compares them with what Docker shows. A container belongs to a machine by its labels, and is what
is wanted when its hash is: nothing else about it is compared, so a daemon that comes up adopts
what its predecessor left.

Two rules keep a service serving. What ended is started again on its own account, as often as its
backoff allows. What runs but is outdated is replaced one instance at a time, and one that serves
only when all the others that are up to date have proven themselves: a revision that does not work
takes out one instance, not all.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from orbitcontrol.codec.imageref import canonical
from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.containers import ContainerSpec, ObservedContainer
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.service import Container, Service, Update
from orbitcontrol.planning.backoff import Backoff

LABEL_SERVICE = "orbitcontrol.service"
LABEL_INSTANCE = "orbitcontrol.instance"
LABEL_REVISION = "orbitcontrol.revision"
LABEL_REVISION_SOURCE = "orbitcontrol.revision-source"
LABEL_SERIAL = "orbitcontrol.serial"
LABEL_CONFIG_HASH = "orbitcontrol.config-hash"
LABEL_MACHINE = "orbitcontrol.machine"
LABEL_PORT = "orbitcontrol.port"

_DEFAULT_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
_ALIVE = frozenset({"running", "paused", "restarting"})


class InstanceKey(Struct, frozen=True, order=True):
    """One instance of a service on this machine; instances count from 1."""

    service: str
    instance: int = 1

    def __str__(self) -> str:
        return f"{self.service} (instance {self.instance})"


class WantedContainer(Struct, frozen=True, kw_only=True):
    """A container to run. ``port`` is where it answers: 0 for a worker, None for one yet to be picked."""

    key: InstanceKey
    name: str
    image: str
    address: str
    port: int | None
    config_hash: str
    effective: EffectiveService


class OwnContainer(Struct, frozen=True, kw_only=True):
    """A container that Orbit created for this machine, as its labels tell it."""

    container: ObservedContainer
    key: InstanceKey
    config_hash: str
    revision: str
    port: int

    @property
    def alive(self) -> bool:
        """True while its process may be there: it must be stopped before it can be removed."""
        return self.container.state in _ALIVE

    @property
    def ended(self) -> bool:
        """True when it ran and does not any more."""
        return self.container.state in {"exited", "dead"}

    @property
    def run_id(self) -> RunId:
        return RunId(self.key.service, self.key.instance, self.container.id, self.container.started_at)


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


Action = Start | Replace | Remove

StartKey = tuple[InstanceKey, str]
"""An instance at one configuration hash: another configuration owes nothing to the failures of this."""


class ContainerPlan(Struct, frozen=True, kw_only=True):
    """What to do now, what waits for its backoff, and what a stranger's container stands in the way of."""

    actions: tuple[Action, ...] = ()
    waiting: dict[InstanceKey, Backoff] = {}
    blocked: dict[InstanceKey, str] = {}


class Situation(Struct, frozen=True, kw_only=True):
    """All that a plan is made from besides what is wanted. ``now`` is the backoffs' clock.

    ``busy`` instances have an action under way; ``starts`` and ``stops`` are the backoffs of
    instances that ended or could not be started, and of those that could not be stopped.
    """

    address: str
    observed: tuple[ObservedContainer, ...]
    held: Collection[str] = frozenset()
    verdicts: Mapping[RunId, Verdict] = {}
    published: Collection[RunId] = frozenset()
    busy: Collection[InstanceKey] = frozenset()
    starts: Mapping[StartKey, Backoff] = {}
    stops: Mapping[InstanceKey, Backoff] = {}
    now: float = 0.0


def wanted_containers(desired: Desired) -> tuple[WantedContainer, ...]:
    """Every container that the machine is to run, by service and instance."""
    address = desired.machine.address
    return tuple(
        _wanted(effective, container, instance, address)
        for _, effective in sorted(desired.services.items())
        if (container := effective.service.container) is not None
        for instance in range(1, effective.service.instances + 1)
    )


def container_spec(wanted: WantedContainer, *, port: int) -> ContainerSpec:
    """What to ask Docker for: the author's own objects plus labels, log limits and published port.

    ``port`` is ``wanted.port``, or the picked one. Orbit alone restarts, so Docker is told not to.
    """
    service = wanted.effective.service
    container = service.container or Container()
    host_config = {**container.host_config, "RestartPolicy": {"Name": "no"}}
    if not host_config.get("LogConfig"):
        host_config["LogConfig"] = _DEFAULT_LOG
    body = {**container.config, "Image": wanted.image, "HostConfig": host_config}
    body["Labels"] = {**(container.config.get("Labels") or {}), **_labels(wanted, port)}
    if service.container_port is not None and not _on_host_network(container):
        inside = f"{service.container_port}/tcp"
        body["ExposedPorts"] = {**(container.config.get("ExposedPorts") or {}), inside: {}}
        host_config["PortBindings"] = _bindings(
            host_config.get("PortBindings") or {}, inside, wanted.address, port
        )
    return ContainerSpec(name=wanted.name, image=wanted.image, body=body)


def own_containers(observed: Iterable[ObservedContainer], *, address: str) -> tuple[OwnContainer, ...]:
    """Those that Orbit created for this machine. Labels it cannot have written make a stranger."""
    return tuple(own for container in observed if (own := _own(container, address)) is not None)


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


def run_of(own: OwnContainer, effective: EffectiveService, *, address: str) -> Run:
    """The run that a living container is, answering where it was published when it was created."""
    return Run(id=own.run_id, effective=effective, host=address, port=own.port, revision=own.revision)


def plan_containers(wanted: Collection[WantedContainer], situation: Situation) -> ContainerPlan:
    """What to do now; applying all of it, and planning again, plans nothing more."""
    by_key = {one.key: one for one in wanted}
    own = own_containers(situation.observed, address=situation.address)
    alive = alive_by_instance(own, by_key)
    blocked = {one.key: reason for one in wanted if (reason := _obstacle(one, situation))}
    blocked = {key: reason for key, reason in blocked.items() if _is_outdated(alive.get(key), by_key[key])}
    free = [one for one in wanted if one.key not in blocked and one.key not in situation.busy]
    starts, waiting = _starts([one for one in free if one.key not in alive], own, situation)
    crowded = {one.key for one in own if one is not alive.get(one.key)}  # the spare one goes first
    alone = [one for one in free if one.key not in crowded]
    replacements = _replacements(alone, by_key, alive, situation)
    taken = {one.key for one in starts} | {one.key for one in replacements} | set(situation.busy)
    removals = _removals(own, by_key, alive, taken, situation)
    return ContainerPlan(actions=(*removals, *starts, *replacements), waiting=waiting, blocked=blocked)


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
    busy = {key.service for key in situation.busy}
    replacements = []
    for service, ones in outdated.items():
        first = min(ones, key=lambda one: (_serves(alive[one.key], situation), one.key))
        backoff = situation.stops.get(first.key)
        if service in busy or (backoff is not None and backoff.ready_at > situation.now):
            continue
        if _serves(alive[first.key], situation) and not _others_proven(service, wanted, alive, situation):
            continue
        old = alive[first.key]
        replacements.append(Replace(wanted=first, outdated=old, reason=_why_replace(first, old)))
    return replacements


def _removals(
    own: Iterable[OwnContainer],
    wanted: Mapping[InstanceKey, WantedContainer],
    alive: Mapping[InstanceKey, OwnContainer],
    taken: set[InstanceKey],
    situation: Situation,
) -> list[Remove]:
    """One container for each instance that has too many, or that nothing wants."""
    removals: dict[InstanceKey, Remove] = {}
    for one in own:
        if one.key.service in situation.held or one.key in taken or one.container.state == "removing":
            continue
        if one.key in wanted and (one is alive.get(one.key) or one.key not in alive):
            continue
        backoff = situation.stops.get(one.key)
        if backoff is not None and backoff.ready_at > situation.now:
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
        published = current.port == 0 or current.run_id in situation.published
        if verdict is None or not verdict.up or not published:
            return False
    return True


def _serves(own: OwnContainer, situation: Situation) -> bool:
    verdict = situation.verdicts.get(own.run_id)
    return own.run_id in situation.published or (verdict is not None and verdict.up)


def _is_outdated(own: OwnContainer | None, wanted: WantedContainer | None) -> bool:
    return own is None or wanted is None or own.config_hash != wanted.config_hash


def _obstacle(wanted: WantedContainer, situation: Situation) -> str:
    """Why the wanted name cannot be had, when a container that is not this instance's holds it."""
    for container in situation.observed:
        if container.name != wanted.name:
            continue
        own = _own(container, situation.address)
        if own is None:
            owner = container.labels.get(LABEL_MACHINE)
            whose = f"belongs to the machine {owner}" if owner else "was not created by Orbit"
            return (
                f"a container named {wanted.name} exists and {whose}: it is left alone; "
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


def _wanted(
    effective: EffectiveService, container: Container, instance: int, address: str
) -> WantedContainer:
    service = effective.service
    return WantedContainer(
        key=InstanceKey(service.name, instance),
        name=service.name if service.instances == 1 else f"{service.name}-{instance}",
        image=canonical(str(container.config.get("Image", ""))),
        address=address,
        port=_port(service, container),
        config_hash=_config_hash(service, container, address),
        effective=effective,
    )


def _port(service: Service, container: Container) -> int | None:
    if _on_host_network(container):
        return service.endpoint_port or service.container_port or 0
    return None if service.picks_port else service.endpoint_port


def _on_host_network(container: Container) -> bool:
    return container.host_config.get("NetworkMode") == "host"


def _config_hash(service: Service, container: Container, address: str) -> str:
    """What makes two containers interchangeable, as sixteen hex digits.

    Not part of it: who asked for the revision, the picked port, what Orbit adds by itself (a new
    release that adds something else must not replace every container), and ``RestartPolicy``,
    which has no effect.
    """
    host_config = {name: value for name, value in container.host_config.items() if name != "RestartPolicy"}
    content = {
        "Config": {**container.config, "Image": canonical(str(container.config.get("Image", "")))},
        "HostConfig": host_config,
        "ContainerPort": service.container_port,
        "EndpointPort": service.endpoint_port,
        "Address": address,
    }
    encoded = msgspec.json.encode(content, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]


def _labels(wanted: WantedContainer, port: int) -> dict[str, str]:
    return {
        LABEL_SERVICE: wanted.key.service,
        LABEL_INSTANCE: str(wanted.key.instance),
        LABEL_REVISION: wanted.effective.revision,
        LABEL_REVISION_SOURCE: wanted.effective.revision_source,
        LABEL_SERIAL: str(wanted.effective.serial),
        LABEL_CONFIG_HASH: wanted.config_hash,
        LABEL_MACHINE: wanted.address,
        LABEL_PORT: str(port),
    }


def _bindings(written: Mapping[str, Any], inside: str, address: str, port: int) -> dict[str, Any]:
    """The author's bindings and Orbit's own, unless they already publish that very port."""
    existing = list(written.get(inside) or [])
    covered = any(
        str(binding.get("HostPort")) == str(port)
        and binding.get("HostIp", "") in {"", "0.0.0.0", "::", address}  # noqa: S104 -- compared, not bound
        for binding in existing
    )
    own = [] if covered else [{"HostIp": address, "HostPort": str(port)}]
    return {**written, inside: [*existing, *own]}


def _own(container: ObservedContainer, address: str) -> OwnContainer | None:
    labels = container.labels
    if labels.get(LABEL_MACHINE) != address or not labels.get(LABEL_SERVICE):
        return None
    try:
        key = InstanceKey(labels[LABEL_SERVICE], int(labels.get(LABEL_INSTANCE, "")))
        port = int(labels.get(LABEL_PORT, ""))
    except ValueError:
        return None
    return OwnContainer(
        container=container,
        key=key,
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        revision=labels.get(LABEL_REVISION, ""),
        port=port,
    )
