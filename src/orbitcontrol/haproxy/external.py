"""HAProxy run by somebody else (systemd, a container): it is only told to reload.

By its master socket, whose answer says how it went; or by the operator's command, whose exit
status does. With both, the command reloads and the socket shows whether the new worker came up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.haproxy.check import run_program
from orbitcontrol.haproxy.master import PATIENCE, MasterSocket
from orbitcontrol.haproxy.processes import LeavingProcesses
from orbitcontrol.haproxy.workers import LeavingWorkers
from orbitcontrol.planning.proxy import Life

COMMAND_DEADLINE = 30.0


class ExternalProcess:
    """A running HAProxy that is not ours to start or stop. ``socket`` says where its runtime socket is."""

    def __init__(
        self, *, reload_command: str | None, master_socket: Path | None, socket: Callable[[], str]
    ) -> None:
        self._command = reload_command
        self._master = MasterSocket(master_socket) if master_socket else None
        self._processes = LeavingProcesses(socket)
        self.workers = LeavingWorkers(self._master) if self._master else self._processes

    def subscribe(self, notify: Callable[[str], None]) -> None:
        """Nothing to tell: whoever runs it watches it."""

    async def ensure(self, *, start: bool) -> Life:  # noqa: ARG002 -- the same call as of a managed one
        """Others see to that."""
        return "running"

    async def load(self) -> None:
        """Has HAProxy read the file on disk. Raises as ``ManagedProcess.load``."""
        if self._command is None and self._master is None:
            raise HAProxyError(
                "nothing says how to reload HAProxy: give --haproxy-managed, --haproxy-reload-command "
                "or --haproxy-master-socket"
            )
        if self._command is None:
            assert self._master is not None  # noqa: S101 -- one of the two is there
            await self._master.reload()
            return
        before = await self._master.processes(patience=PATIENCE) if self._master else None
        status, output = await run_program(["/bin/sh", "-c", self._command], deadline=COMMAND_DEADLINE)
        if status != 0:
            self._processes.stays()
            raise HAProxyRejected(
                [f"the reload command ended with {status}: {output.strip()[-500:] or 'it said nothing'}"]
            )
        if self._master is not None and before is not None:
            await self._master.outcome(before)

    async def close(self) -> None:
        """Nothing is held."""
