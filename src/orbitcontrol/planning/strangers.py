"""Containers that Orbit did not create: which it takes over, which it removes, which it leaves alone.

- One that runs under the name that an instance of a service is to have, made from the wanted image
  and of nothing that contradicts the service, **is** that instance: it is adopted, not restarted.
  The labels that Orbit would have given it are remembered for it, and from then on it is a container
  like any other: checked, published, replaced when it is outdated, removed when nothing wants it.
- One of an **authoritative** image that nothing wants is evicted: those who wrote the image's name
  into ``authoritative_names`` said that nobody but Orbit runs it.
- Any other is left alone, whatever it stands in the way of.

A container labelled for another machine belongs to that machine's daemon and is none of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

from orbitcontrol.codec.imageref import fully_qualified, qualified_name
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.service import Container
from orbitcontrol.planning.container_specs import (
    LABEL_MACHINE,
    LABEL_SERVICE,
    InstanceKey,
    WantedContainer,
    on_host_network,
    orbit_labels,
    own_container,
    own_containers,
)

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- compared, not bound
_COMPARED_WHOLE = frozenset({"Cmd", "Entrypoint"})
_DEFAULT_NETWORKS = frozenset({"", "bridge", "default"})


class Adoption(Struct, frozen=True, kw_only=True):
    """A container that is to count as an instance, and the labels that say so."""

    container: ObservedContainer
    key: InstanceKey
    labels: dict[str, str]


class StrangerKey(Struct, frozen=True, order=True):
    """A container that is no instance of a service."""

    name: str
    container_id: str

    def __str__(self) -> str:
        return self.name


class Evict(Struct, frozen=True, kw_only=True):
    """Stop (if it runs) and remove a stranger's container of an authoritative image."""

    stranger: ObservedContainer
    grace: float
    reason: str

    @property
    def key(self) -> StrangerKey:
        return StrangerKey(self.stranger.name, self.stranger.id)


def adoptions(
    wanted: Iterable[WantedContainer], observed: Collection[ObservedContainer], *, address: str
) -> tuple[Adoption, ...]:
    """Each instance that no container of Orbit's stands for, and a stranger does."""
    present = {own.key for own in own_containers(observed, address=address) if own.alive}
    by_name = {container.name: container for container in observed if is_adoptable(container)}
    found = []
    for one in wanted:
        container = by_name.get(one.name)
        if container is None or one.key in present or contradictions(one, container):
            continue
        port = _port(one, container)
        if port is not None:
            labels = orbit_labels(one, port)
            found.append(Adoption(container=container, key=one.key, labels=labels))
    return tuple(found)


def with_labels(
    observed: Iterable[ObservedContainer], labels: Mapping[str, Mapping[str, str]]
) -> tuple[ObservedContainer, ...]:
    """The containers as if those that were adopted (by id) carried Orbit's labels."""
    return tuple(
        structs.replace(container, labels={**container.labels, **labels[container.id]})
        if container.id in labels and is_unlabelled(container)
        else container
        for container in observed
    )


def is_unlabelled(container: ObservedContainer) -> bool:
    """True for a container that no daemon of Orbit's has created."""
    return not {LABEL_MACHINE, LABEL_SERVICE} & container.labels.keys()


def is_adoptable(container: ObservedContainer) -> bool:
    """True when nothing about the container itself speaks against adopting it."""
    return container.state == "running" and is_unlabelled(container)


def contradictions(wanted: WantedContainer, container: ObservedContainer) -> tuple[str, ...]:
    """The fields in which a running container is not what the service says; () when it may stand for it.

    Compared is what the service states: whatever it leaves open, the container may have. Lists need to
    hold what is stated (``Cmd`` and ``Entrypoint`` to equal it), and so do maps. ``RestartPolicy`` has no
    effect in Orbit, so it is not compared.
    """
    stated = wanted.effective.service.container or Container()
    config = {name: value for name, value in stated.config.items() if name != "Image"}
    host = {name: value for name, value in stated.host_config.items() if name != "RestartPolicy"}
    differing = [
        *([] if _has_image(wanted, container) else ["Config.Image"]),
        *(f"Config.{name}" for name in _differing(config, container.config)),
        *(f"HostConfig.{name}" for name in _differing(host, container.host_config)),
    ]
    if _port(wanted, container) is None:
        differing.append(f"the published port {wanted.effective.service.container_port}/tcp")
    return tuple(differing)


def whose(wanted: WantedContainer, container: ObservedContainer) -> str:
    """Why a container cannot stand for the instance whose name it has, to follow its name in a sentence."""
    owner = container.labels.get(LABEL_MACHINE)
    if owner:
        return f"belongs to the machine {owner}"
    if not (is_adoptable(container) and _has_image(wanted, container)):
        return "was not created by Orbit"
    differing = ", ".join(contradictions(wanted, container))
    return f"was not created by Orbit and cannot be adopted, because it differs in {differing}"


def evictable(
    observed: Iterable[ObservedContainer],
    *,
    address: str,
    authoritative: Collection[str],
    foreign_ports: Collection[int],
) -> tuple[ObservedContainer, ...]:
    """The strangers of authoritative images.

    ``foreign_ports`` are those of services here that somebody else runs: a container that answers
    there is what such a service is, so it is wanted.
    """
    names = {qualified_name(name) for name in authoritative}
    return tuple(
        container
        for container in observed
        if names
        and own_container(container, address=address) is None
        and container.labels.get(LABEL_MACHINE, address) == address
        and qualified_name(container.image) in names
        and not {port.outside for port in container.published} & set(foreign_ports)
    )


def _has_image(wanted: WantedContainer, container: ObservedContainer) -> bool:
    return fully_qualified(container.image) == fully_qualified(wanted.image)


def _port(wanted: WantedContainer, container: ObservedContainer) -> int | None:
    """Where the container answers as the instance is to answer; None when it does not."""
    service = wanted.effective.service
    inside = service.container_port
    if inside is None or on_host_network(service.container or Container()):
        return wanted.port
    return next(
        (
            port.outside
            for port in container.published
            if port.inside == inside
            and port.address in {*_EVERY_ADDRESS, wanted.address}
            and wanted.port in {None, port.outside}
        ),
        None,
    )


def _differing(stated: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    return [name for name, value in stated.items() if not _holds(actual.get(name), value, name=name)]


def _holds(actual: Any, stated: Any, *, name: str = "") -> bool:
    """True when what is stated is so; stating nothing (``null``, an empty text, list or map) always is."""
    if stated in (None, "", [], {}):
        return True
    if name == "NetworkMode" and stated in _DEFAULT_NETWORKS:
        return actual in _DEFAULT_NETWORKS
    match stated, actual:
        case dict(), dict():
            return all(key in actual and _holds(actual[key], value) for key, value in stated.items())
        case list(), list() if name not in _COMPARED_WHOLE:
            return all(any(_holds(item, value) for item in actual) for value in stated)
        case str(), list():  # Docker keeps a text for Cmd or Entrypoint as a list of one
            return actual == [stated]
        case _:
            return bool(actual == stated) or not (actual or stated)
