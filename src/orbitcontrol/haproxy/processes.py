"""The processes of HAProxy that leave after a reload, where no master socket names them.

For an HAProxy that is reloaded by an operator's command alone. Its runtime socket tells who serves;
who leaves is read off ``/proc``: the other HAProxys with the serving worker's parent, and those that
were seen to serve before a reload, for an HAProxy without a master. They cannot be asked anything,
so a server is quiet when all of them have exited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from orbitcontrol.codec.haproxy_stat import parse_info
from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.master import MasterSocket, NobodyListens
from orbitcontrol.log import Log
from orbitcontrol.planning.leaving_workers import LeavingWorker

_log = Log(__name__)

_INSTEAD = "give --haproxy-master-socket"


_Life = tuple[int, int]
"""A pid and when its process started, which tells it from a later one with the same pid."""


class _Process(Struct, frozen=True):
    """A process as ``/proc`` shows it; ``started`` is in ticks since the machine's start."""

    pid: int
    name: str
    parent: int
    started: int

    @property
    def life(self) -> _Life:
        return self.pid, self.started


class LeavingProcesses:
    """See ``ports.ProxyProcesses``. ``socket`` says where the runtime socket is now."""

    def __init__(self, socket: Callable[[], str]) -> None:
        self._path = socket
        self._served: set[_Life] = set()
        self._reloaded: _Life | None = None
        self._since: dict[_Life, float] = {}

    @property
    def _socket(self) -> MasterSocket:
        """The runtime socket: it takes a line and answers it, as the master's does."""
        return MasterSocket(Path(self._path()))

    async def note(self, text: str | None) -> None:  # noqa: ARG002 -- what it was loaded with decides nothing
        """Remembers who serves now; called before each reload."""
        try:
            self._reloaded = (await self._serving()).life
        except HAProxyError as error:
            _log.info("the process that a reload makes leave is not known", reason=error)
        else:
            self._served.add(self._reloaded)

    def stays(self) -> None:
        """Nobody leaves: the reload that was announced has failed."""
        self._reloaded = None

    async def leaving(self) -> tuple[LeavingWorker, ...]:
        """The processes that leave now, the longest first."""
        try:
            serving = await self._serving()
        except NobodyListens:
            return ()
        left = await self._left(serving)
        if serving.life == self._reloaded:  # it does not know yet that it is to leave
            left.append(serving)
        now = time.monotonic()
        self._since = {process.life: self._since.get(process.life, now) for process in left}
        return tuple(
            LeavingWorker(pid=process.pid, seconds=now - self._since[process.life]) for process in left
        )

    async def unquiet(self, servers: Mapping[str, str], *, present: str) -> dict[str, str]:  # noqa: ARG002 -- nor does what is present
        """All of the servers with why, while a process leaves."""
        serving = await self._serving()
        if serving.life == self._reloaded:
            return dict.fromkeys(servers, f"HAProxy's process {serving.pid} still serves after the reload")
        left = await self._left(serving)
        if not left:
            return {}
        reason = f"HAProxy's old process {left[0].pid} has not exited; {_INSTEAD}, and it can be asked"
        return dict.fromkeys(servers, reason)

    async def _left(self, serving: _Process) -> list[_Process]:
        """Those that leave, the oldest first."""
        seen = {process.life: process for process in await asyncio.to_thread(_processes)}
        self._served &= seen.keys()
        master = next((each for each in seen.values() if each.pid == serving.parent), None)
        has_master = master is not None and master.name == serving.name
        left = [
            process
            for process in seen.values()
            if process.life != serving.life
            and (process.life in self._served or (has_master and _are_siblings(process, serving)))
        ]
        return sorted(left, key=lambda process: process.started)

    async def _serving(self) -> _Process:
        try:
            pid = parse_info(await self._socket.command("show info")).get("Pid", 0)
        except NobodyListens:
            raise NobodyListens(
                f"{self._socket.path}: no HAProxy listens here, so nobody knows which of its processes "
                f"still leave; {_INSTEAD}"
            ) from None
        process = await asyncio.to_thread(_process, pid)
        if process is None or not process.name.startswith("haproxy"):
            raise HAProxyError(
                f"{self._socket.path}: HAProxy's process {pid} cannot be seen from here, so nobody knows "
                f"which of its processes still leave; {_INSTEAD}"
            )
        return process


def _are_siblings(one: _Process, other: _Process) -> bool:
    return one.name == other.name and one.parent == other.parent


def _processes() -> list[_Process]:
    found = (_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [process for process in found if process is not None]


def _process(pid: int) -> _Process | None:
    """The process, unless it has ended (proc(5): the name is in brackets, and may hold any)."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    state, parent, *fields = tail.split()
    if state in {"Z", "X"}:
        return None
    return _Process(pid, head.partition("(")[2], int(parent), int(fields[17]))
