"""What a machine remembers of its services' rollouts over restarts of the daemon.

The progress is in the store as well; without the store, or with one that lost it, this is what says whether
a machine starts a service in its new revision or in the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, structs

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.rollouts import Progress
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

_FILE = "rollouts.json"


class ServiceMemory(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``settled``: the service as it was last completed here; ``relaunches``: seconds since the epoch."""

    settled: EffectiveService | None = None
    progress: Progress | None = None
    relaunches: tuple[float, ...] = ()


class RolloutMemory:
    """Of all services of the machine; saved whenever something changes."""

    def __init__(self, files: StateFiles) -> None:
        self._remembered = Remembered(files, _FILE, dict[str, ServiceMemory], {})
        self._services = self._remembered.load()

    @property
    def services(self) -> Mapping[str, ServiceMemory]:
        return MappingProxyType(self._services)

    def of(self, service: str) -> ServiceMemory:
        """What is remembered of the service."""
        return self._services.get(service, ServiceMemory())

    def forget(self, service: str) -> None:
        """Nothing is left of the service here."""
        self.note(service, settled=None, progress=None, relaunches=())

    def note(self, service: str, **changes: object) -> None:
        """Replaces fields. What the disk does not take is remembered for the life of this daemon."""
        after = structs.replace(self.of(service), **changes)
        if after == self._services.get(service, ServiceMemory()):
            return
        self._services = {**self._services, service: after}
        if after == ServiceMemory():
            del self._services[service]
        try:
            self._remembered.save(self._services)
        except OrbitError as error:
            _log.warning("rollouts not remembered", service=service, reason=error)
