"""The workers of HAProxy that leave after a reload, through its master socket.

The master names them (``show proc``) and passes commands on to each (``@!PID``). What they answer is
judged by ``planning.leaving_workers``. Nothing is asked unless somebody wants to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from orbitcontrol.codec.haproxy import Worker
from orbitcontrol.codec.haproxy_stat import StatRow, is_complete, parse_info, parse_statistics
from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.master import PATIENCE, MasterSocket, NobodyListens
from orbitcontrol.log import Log
from orbitcontrol.planning.leaving_workers import (
    LeavingWorker,
    oldest_first,
    seconds_leaving,
    uncountable,
    unquiet,
)

_log = Log(__name__)

BETWEEN = 0.02
"""Seconds between the two readings of a worker."""

DEADLINE = 10.0
"""Seconds for one look at all workers."""

_STATISTICS = "show stat -1 5 -1"
"""Frontends (1) and servers (4) of all proxies."""

_Said = tuple[StatRow, ...] | str
"""What a worker says of itself; in words why it said nothing."""


class LeavingWorkers:
    """See ``ports.ProxyProcesses``."""

    def __init__(self, master: MasterSocket) -> None:
        self._master = master
        self._noted: dict[int, str | None] = {}

    async def note(self, text: str | None) -> None:
        """Remembers what the workers that serve now were loaded with; called before each reload."""
        try:
            workers = await self._master.workers()
        except NobodyListens:
            return
        except HAProxyError as error:
            _log.info("the workers that a reload makes leave are not known", reason=error)
            return
        known = {worker.pid for worker in workers}
        self._noted = {pid: reason for pid, reason in self._noted.items() if pid in known}
        for worker in workers:
            if text is not None and not worker.leaving:
                self._noted[worker.pid] = uncountable(text, version=worker.version)

    async def leaving(self) -> tuple[LeavingWorker, ...]:
        """The workers that leave now, the longest first."""
        try:
            async with asyncio.timeout(DEADLINE):
                workers = await self._master.workers(patience=PATIENCE)
                return tuple(
                    [
                        LeavingWorker(
                            pid=worker.pid,
                            seconds=seconds_leaving(worker, workers),
                            sessions=await self._sessions(worker.pid),
                        )
                        for worker in oldest_first(workers)
                    ]
                )
        except NobodyListens:
            return ()
        except TimeoutError:
            raise self._too_slow() from None

    async def unquiet(self, servers: Mapping[str, str], *, present: str) -> dict[str, str]:
        """The servers that are not quiet in every worker that leaves, each with why.

        ``servers`` maps ``backend/server`` to ``host:port``. ``present`` is the configuration on disk,
        for the workers of which nobody noted what they were loaded with.
        """
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._unquiet(servers, present)
        except TimeoutError:
            raise self._too_slow() from None

    async def _unquiet(self, servers: Mapping[str, str], present: str) -> dict[str, str]:
        before = await self._master.workers(patience=PATIENCE)
        found: dict[int, dict[str, str]] = {}
        countable: list[int] = []
        for worker in oldest_first(before):
            if (reason := self._uncountable(worker, present)) is not None:
                found[worker.pid] = dict.fromkeys(servers, f"it has not exited, and {reason}")
            else:
                countable.append(worker.pid)
        first = {pid: await self._statistics(pid) for pid in countable}
        if countable:
            await asyncio.sleep(BETWEEN)
        for pid, earlier in first.items():
            later = earlier if isinstance(earlier, str) else await self._statistics(pid)
            found[pid] = _judged(earlier, later, servers)
        after = oldest_first(await self._master.workers(patience=PATIENCE))
        for worker in after:  # a reload by somebody else came between
            found.setdefault(worker.pid, dict.fromkeys(servers, "it began to leave a moment ago"))
        verdict: dict[str, str] = {}
        for worker in after:
            for server, reason in found[worker.pid].items():
                verdict.setdefault(server, f"HAProxy's old worker {worker.pid}: {reason}")
        return verdict

    def _uncountable(self, worker: Worker, present: str) -> str | None:
        if worker.pid in self._noted:
            return self._noted[worker.pid]
        return uncountable(present, version=worker.version)

    async def _statistics(self, pid: int) -> _Said:
        try:
            reply = await self._master.command(f"@!{pid} {_STATISTICS}")
        except HAProxyError as error:
            return str(error)
        rows = parse_statistics(reply) if is_complete(reply) else ()
        return rows or "it did not answer in full"

    async def _sessions(self, pid: int) -> int | None:
        try:
            return parse_info(await self._master.command(f"@!{pid} show info")).get("CurrConns")
        except HAProxyError:
            return None

    def _too_slow(self) -> HAProxyError:
        return HAProxyError(f"{self._master.path}: HAProxy's old workers did not answer in {DEADLINE:g} s")


def _judged(first: _Said, second: _Said, servers: Mapping[str, str]) -> dict[str, str]:
    if isinstance(first, str):
        return dict.fromkeys(servers, first)
    if isinstance(second, str):
        return dict.fromkeys(servers, second)
    return unquiet([first, second], servers)
