"""From the Docker Engine API's JSON to what Orbit calls a container.

Of the API's two views, ``GET /containers/json`` is cheap and has everything but the start time
and the exit code; ``GET /containers/{id}/json`` is exact but costs a call each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from orbitcontrol.model.containers import ContainerState, ObservedContainer

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
        ports={
            port["PrivatePort"]: port["PublicPort"]
            for port in entry.get("Ports") or []
            if port.get("Type") == "tcp" and port.get("PublicPort")
        },
    )


def inspected(container: ObservedContainer, details: Mapping[str, Any]) -> ObservedContainer:
    """The listed container, corrected by ``GET /containers/{id}/json``.

    The list lags: it says "running" until the engine has tidied up after a container that ended.
    """
    state = details["State"]
    return structs.replace(
        container,
        state=_state(state["Status"]),
        started_at=state.get("StartedAt", ""),
        exit_code=state.get("ExitCode", 0),
    )


def _own_name(names: list[str]) -> str:
    """The container's name; with legacy links it is also listed as ``/other/alias``."""
    return next((name[1:] for name in names if name.count("/") == 1), "")


def _state(text: str) -> ContainerState:
    """Docker's word; one that this release does not know counts as running, so nothing is replaced."""
    return next((state for state in _STATES if state == text), "running")
