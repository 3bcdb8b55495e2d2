"""The ports that Orbit picks for containers, and the file that remembers when each was last used."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from orbitcontrol.errors import DockerError
from orbitcontrol.log import Log
from orbitcontrol.planning.container_specs import InstanceKey
from orbitcontrol.planning.ports import Ledger, PortRange, marked, pick_port

_log = Log(__name__)


class PortLedger(Protocol):
    """Where the ledger outlives the daemon."""

    def load(self) -> Ledger:
        """The ledger as it was last saved; empty when there is none."""

    def save(self, ledger: Ledger) -> None:
        """Replaces it. Failing to is logged, never raised: the ledger only makes good picks better."""


class PortLedgerFile:
    """A ledger as a JSON object in one file: port → seconds since the epoch.

    It is replaced by rename, without waiting for the disk: after a power failure an older or an
    empty ledger is good enough.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Ledger:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[int, float])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("port ledger cannot be read, starting a new one", path=self._path, reason=error)
            return {}

    def save(self, ledger: Ledger) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        try:
            temporary.write_bytes(msgspec.json.encode(dict(ledger)))
            temporary.replace(self._path)
        except OSError as error:
            _log.warning("port ledger cannot be written", path=self._path, reason=error)


class PortPicker:
    """Hands out ports of the range: none in use, none handed out a moment ago."""

    def __init__(self, within: PortRange, ledger: PortLedger) -> None:
        self._within = within
        self._file = ledger
        self._ledger = ledger.load()
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
            self._file.save(self._ledger)
