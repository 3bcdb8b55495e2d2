"""From the Docker Engine API's JSON to what Orbit calls a container.

Of the API's two views, ``GET /containers/json`` is cheap and has everything but the start time
and the exit code; ``GET /containers/{id}/json`` is exact but costs a call each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from orbitcontrol.codec.times import since_epoch
from orbitcontrol.model.containers import (
    ContainerState,
    ObservedContainer,
    ObservedImage,
    PublishedPort,
)

_EXIT_CODE = re.compile(r"^Exited \((\d+)\)")
_STATES: frozenset[ContainerState] = frozenset(
    ("created", "running", "paused", "restarting", "removing", "exited", "dead")
)


def listed(entry: Mapping[str, Any]) -> ObservedContainer:
    """One entry of ``GET /containers/json``. Its exit code stands in its status, for people."""
    ended = _EXIT_CODE.match(entry.get("Status", ""))
    return ObservedContainer(
        id=entry["Id"],
        name=_own_name(entry.get("Names") or []),
        image=entry.get("Image", ""),
        state=_state(entry.get("State", "")),
        exit_code=int(ended[1]) if ended else 0,
        labels=entry.get("Labels") or {},
        image_id=entry.get("ImageID", ""),
        published=tuple(
            PublishedPort(port["PrivatePort"], port["PublicPort"], port.get("IP", ""))
            for port in entry.get("Ports") or []
            if port.get("Type") == "tcp" and port.get("PublicPort")
        ),
    )


def inspected(container: ObservedContainer, details: Mapping[str, Any]) -> ObservedContainer:
    """The listed container, corrected by ``GET /containers/{id}/json``.

    The list lags: it says "running" until the engine has tidied up after a container that ended. And
    it names the image by its id when the tag has moved on to another one.
    """
    state, config = details["State"], details.get("Config") or {}
    return structs.replace(
        container,
        image=config.get("Image") or container.image,
        config=config,
        host_config=details.get("HostConfig") or {},
        state=_state(state["Status"]),
        started_at=state.get("StartedAt", ""),
        exit_code=state.get("ExitCode", 0),
    )


def is_inspected(container: ObservedContainer) -> bool:
    """True when the list does not say all that matters of the container."""
    return container.state == "running" or container.image.startswith("sha256:")


def image(entry: Mapping[str, Any], details: Mapping[str, Any]) -> ObservedImage:
    """One entry of ``GET /images/json``, with ``GET /images/{id}/json`` for the exact times."""
    return ObservedImage(
        id=entry["Id"],
        tags=_references(entry.get("RepoTags")),
        digests=_references(entry.get("RepoDigests")),
        created=seconds(details.get("Created")),
        tagged=seconds((details.get("Metadata") or {}).get("LastTagTime")),
    )


def references(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Every reference to the image of one entry of ``GET /images/json``."""
    return (*_references(entry.get("RepoTags")), *_references(entry.get("RepoDigests")))


def seconds(time: str | None) -> float:
    """``2026-01-31T12:00:00.123456789Z`` in seconds since the epoch; 0 for none."""
    return since_epoch(time) if time else 0.0


def _references(written: list[str] | None) -> tuple[str, ...]:
    return tuple(one for one in written or [] if not one.startswith("<none>"))


def _own_name(names: list[str]) -> str:
    """The container's name; with legacy links it is also listed as ``/other/alias``."""
    return next((name[1:] for name in names if name.count("/") == 1), "")


def _state(text: str) -> ContainerState:
    """Docker's word; one that this release does not know counts as running, so nothing is replaced."""
    return next((state for state in _STATES if state == text), "running")
