"""Containers as Orbit wants them and as Docker reports them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ContainerState = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """A container to create: its name and the body of Docker's ``POST /containers/create``."""

    name: str
    image: str
    body: dict[str, Any]


class ObservedContainer(Struct, frozen=True, kw_only=True):
    """A container as the engine has it.

    ``started_at`` is Docker's own text. ``ports`` maps the container's TCP ports to the host's.
    """

    id: str
    name: str
    image: str
    state: ContainerState
    started_at: str = ""
    exit_code: int = 0
    labels: dict[str, str] = {}
    ports: dict[int, int] = {}


class ContainerEvent(Struct, frozen=True):
    """Something happened to a container: Docker's action ("start", "die", …), its id and name."""

    action: str
    id: str
    name: str
