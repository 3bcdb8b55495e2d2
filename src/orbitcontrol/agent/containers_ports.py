"""The ports that Orbit picks for containers; when each was last used is remembered over restarts."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import DockerError, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.container_specs import InstanceKey
from orbitcontrol.planning.ports import PortRange, marked, pick_port
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

_LEDGER = "ports.json"


class PortPicker:
    """Hands out ports of the range: none in use, none handed out a moment ago."""

    def __init__(self, within: PortRange, files: StateFiles) -> None:
        self._within = within
        self._remembered = Remembered(files, _LEDGER, dict[int, float], {})
        self._ledger = self._remembered.load()
        self._used: frozenset[int] = frozenset()
        self._reserved: dict[InstanceKey, int] = {}

    def observe(self, used: Iterable[int]) -> None:
        """Tells which ports are in use now, by containers or by the configuration of services."""
        now_used = frozenset(used)
        self._mark(self._used - now_used)
        self._used = now_used

    def pick(self, key: InstanceKey) -> int:
        """A port for the instance, reserved until ``release``. Raises DockerError when none is left."""
        port = pick_port(self._within, used=self._used | set(self._reserved.values()), ledger=self._ledger)
        if port is None:
            raise DockerError(
                f"all ports of {self._within} are in use: give the daemon a larger --port-range"
            )
        self._reserved[key] = port
        self._mark({port})
        return port

    def release(self, key: InstanceKey) -> None:
        """Ends the reservation: from now on the container itself shows that its port is in use."""
        port = self._reserved.pop(key, None)
        if port is not None:
            self._used |= {port}

    def _mark(self, ports: Collection[int]) -> None:
        if any(port in self._within for port in ports):
            self._ledger = marked(self._ledger, ports, within=self._within, now=time.time())
            try:
                self._remembered.save(self._ledger)
            except OrbitError as error:  # the ledger only makes good picks better
                _log.warning("port ledger not saved", reason=error)
