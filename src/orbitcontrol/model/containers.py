"""Containers as Orbit wants them, and containers and images as Docker reports them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ContainerState = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]

_ALIVE = frozenset({"running", "paused", "restarting"})


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """A container to create: its name and the body of Docker's ``POST /containers/create``."""

    name: str
    image: str
    body: dict[str, Any]


class PublishedPort(Struct, frozen=True):
    """A container's TCP port ``inside`` that the host publishes as ``address:outside``."""

    inside: int
    outside: int
    address: str = ""


class ObservedContainer(Struct, frozen=True, kw_only=True):
    """A container as the engine has it.

    ``image`` is the reference that it was made from. ``started_at`` is Docker's own text. ``config``
    and ``host_config`` are Docker's objects, known of running containers only.
    """

    id: str
    name: str
    image: str
    image_id: str = ""
    state: ContainerState
    started_at: str = ""
    exit_code: int = 0
    labels: dict[str, str] = {}
    published: tuple[PublishedPort, ...] = ()
    config: dict[str, Any] = {}
    host_config: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """True while its process may be there: it must be stopped before it can be removed."""
        return self.state in _ALIVE

    @property
    def ports(self) -> dict[int, int]:
        """The host's port of each published one."""
        return {port.inside: port.outside for port in self.published}


class ContainerEvent(Struct, frozen=True):
    """Something happened to a container: Docker's action ("start", "die", …), its id and name."""

    action: str
    id: str
    name: str


class ObservedImage(Struct, frozen=True, kw_only=True):
    """An image of the engine. ``created`` and ``tagged`` (here, the last time) are seconds since the epoch.

    ``tags`` and ``digests`` are references: ``name:tag`` and ``name@sha256:…``.
    """

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    created: float = 0.0
    tagged: float = 0.0


class ContainerHealth(Struct, frozen=True, kw_only=True):
    """What the image's own HEALTHCHECK says: Docker's word, "none" without one, and what it printed last."""

    status: str
    started_at: str
    output: str = ""
