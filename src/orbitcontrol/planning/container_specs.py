"""Containers as Orbit asks Docker for them, and how it knows its own again.

The author's ``Config`` and ``HostConfig`` pass through; Orbit adds labels, limits for the log, and
the published port. A container is this machine's by its labels, and it is what is wanted when its
configuration hash is: nothing else about it is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from orbitcontrol.codec.imageref import canonical
from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.containers import ContainerSpec, ObservedContainer
from orbitcontrol.model.runs import Run, RunId
from orbitcontrol.model.service import Container, Service

LABEL_SERVICE = "orbitcontrol.service"
LABEL_INSTANCE = "orbitcontrol.instance"
LABEL_REVISION = "orbitcontrol.revision"
LABEL_REVISION_SOURCE = "orbitcontrol.revision-source"
LABEL_SERIAL = "orbitcontrol.serial"
LABEL_CONFIG_HASH = "orbitcontrol.config-hash"
LABEL_MACHINE = "orbitcontrol.machine"
LABEL_PORT = "orbitcontrol.port"
LABEL_ROLLOUT = "orbitcontrol.rollout"

_KEPT = ".kept-"
_ID_IN_NAME = 12
_DEFAULT_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


class InstanceKey(Struct, frozen=True, order=True):
    """One instance of a service on this machine; instances count from 1."""

    service: str
    instance: int = 1

    def __str__(self) -> str:
        return f"{self.service} (instance {self.instance})"


class WantedContainer(Struct, frozen=True, kw_only=True):
    """A container to run. ``port`` is where it answers: 0 for a worker, None for one yet to be picked.

    ``rollout`` is the one that it is started in, and ``relaunch`` the one that wants it started anew whatever
    runs already; "" for none.
    """

    key: InstanceKey
    name: str
    image: str
    address: str
    port: int | None
    config_hash: str
    effective: EffectiveService
    rollout: str = ""
    relaunch: str = ""


class OwnContainer(Struct, frozen=True, kw_only=True):
    """A container that Orbit created for this machine, as its labels tell it."""

    container: ObservedContainer
    key: InstanceKey
    config_hash: str
    revision: str
    revision_source: str
    serial: int
    port: int
    rollout: str = ""

    @property
    def alive(self) -> bool:
        """True while its process may be there: it must be stopped before it can be removed."""
        return self.container.alive

    @property
    def ended(self) -> bool:
        """True when it ran and does not any more."""
        return self.container.state in {"exited", "dead"}

    @property
    def run_id(self) -> RunId:
        return RunId(self.key.service, self.key.instance, self.container.id, self.container.started_at)


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
    body["Labels"] = {**(container.config.get("Labels") or {}), **orbit_labels(wanted, port)}
    if service.container_port is not None and not on_host_network(container):
        inside = f"{service.container_port}/tcp"
        body["ExposedPorts"] = {**(container.config.get("ExposedPorts") or {}), inside: {}}
        host_config["PortBindings"] = _bindings(
            host_config.get("PortBindings") or {}, inside, wanted.address, port
        )
    return ContainerSpec(name=wanted.name, image=wanted.image, body=body)


def own_containers(observed: Iterable[ObservedContainer], *, address: str) -> tuple[OwnContainer, ...]:
    """Those that Orbit created for this machine."""
    return tuple(
        own for container in observed if (own := own_container(container, address=address)) is not None
    )


def own_container(container: ObservedContainer, *, address: str) -> OwnContainer | None:
    """The container as this machine's own; None for a stranger. Labels Orbit cannot have written make one."""
    labels = container.labels
    if labels.get(LABEL_MACHINE) != address or not labels.get(LABEL_SERVICE):
        return None
    try:
        key = InstanceKey(labels[LABEL_SERVICE], int(labels.get(LABEL_INSTANCE, "")))
        port = int(labels.get(LABEL_PORT, ""))
        serial = int(labels.get(LABEL_SERIAL, "0"))
    except ValueError:
        return None
    return OwnContainer(
        container=container,
        key=key,
        config_hash=labels.get(LABEL_CONFIG_HASH, ""),
        revision=labels.get(LABEL_REVISION, ""),
        revision_source=labels.get(LABEL_REVISION_SOURCE, ""),
        serial=serial,
        port=port,
        rollout=labels.get(LABEL_ROLLOUT, ""),
    )


def kept_name(own: OwnContainer, name: str) -> str:
    """What a container is called while it is kept for the way back."""
    return f"{name}{_KEPT}{own.container.id[:_ID_IN_NAME]}"


def is_kept(own: OwnContainer) -> bool:
    """True for a container that has given up its name for its successor."""
    return own.container.name.endswith(f"{_KEPT}{own.container.id[:_ID_IN_NAME]}")


def run_of(own: OwnContainer, effective: EffectiveService, *, address: str) -> Run:
    """The run that a living container is, answering where it was published when it was created."""
    return Run(id=own.run_id, effective=effective, host=address, port=own.port, revision=own.revision)


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
    if on_host_network(container):
        return service.endpoint_port or service.container_port or 0
    return None if service.picks_port else service.endpoint_port


def on_host_network(container: Container) -> bool:
    """True when Docker publishes nothing, because the container has the host's own network."""
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


def orbit_labels(wanted: WantedContainer, port: int) -> dict[str, str]:
    """What makes a container known again as this instance, answering on ``port``."""
    return {
        LABEL_SERVICE: wanted.key.service,
        LABEL_INSTANCE: str(wanted.key.instance),
        LABEL_REVISION: wanted.effective.revision,
        LABEL_REVISION_SOURCE: wanted.effective.revision_source,
        LABEL_SERIAL: str(wanted.effective.serial),
        LABEL_CONFIG_HASH: wanted.config_hash,
        LABEL_MACHINE: wanted.address,
        LABEL_PORT: str(port),
        LABEL_ROLLOUT: wanted.rollout,
    }


def _bindings(written: Mapping[str, Any], inside: str, address: str, port: int) -> dict[str, Any]:
    """The author's bindings and Orbit's own, unless they already publish that very port.

    The engine matches the names of a binding's fields without case, so they are read likewise.
    """
    existing = list(written.get(inside) or [])
    stated = [{name.lower(): value for name, value in binding.items()} for binding in existing]
    covered = any(
        str(binding.get("hostport")) == str(port)
        and binding.get("hostip", "") in {"", "0.0.0.0", "::", address}  # noqa: S104 -- compared, not bound
        for binding in stated
    )
    own = [] if covered else [{"HostIp": address, "HostPort": str(port)}]
    return {**written, inside: [*existing, *own]}
