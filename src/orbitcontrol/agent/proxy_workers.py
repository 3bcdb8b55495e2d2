"""How many of HAProxy's processes are still leaving, for the machine's record.

Looked at after each reload and, while any leaves, again after growing pauses; never while none does,
but for the slow tick, which finds reloads by others. Most are gone in a moment: only those that a
second look finds again are told of. What is told changes with their number and with who is the
oldest, not with their age: the record is not to be written for the passing of time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.codec.times import in_utc
from orbitcontrol.model.state import ProxyWorkers
from orbitcontrol.planning.leaving_workers import LeavingWorker
from orbitcontrol.ports import ProxyProcesses

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between two looks while any process leaves; each pause is twice the one before."""

_RELOADED = "reloaded"


class ProxyWorkersLoop:
    """Keeps ``board.proxy_workers``."""

    def __init__(
        self,
        *,
        board: Board,
        workers: ProxyProcesses,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
        tick: float = TICK,
    ) -> None:
        self._board = board
        self._workers = workers
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._tick = tick
        self._wake = Wake()
        self._again = Alarm(self._wake, "some leave")
        self._pause = first_pause
        self._seen: frozenset[int] = frozenset()
        self._told: tuple[int, ...] = ()

    def look(self) -> None:
        """Has them looked at: HAProxy was reloaded."""
        self._wake.ring(_RELOADED)

    async def run(self) -> None:
        """Never returns."""
        try:
            await forever(
                "workers", self._step, wake=self._wake, problems=self._board.problems, tick=self._tick
            )
        finally:
            self._again.cancel()

    async def _step(self, reasons: frozenset[str]) -> None:
        leaving = await self._workers.leaving()
        self._tell([worker for worker in leaving if worker.pid in self._seen])
        self._seen = frozenset(worker.pid for worker in leaving)
        if not leaving or _RELOADED in reasons:
            self._pause = self._first_pause
        if leaving:
            self._again.within(self._pause)
            self._pause = min(self._pause * 2, self._longest_pause)

    def _tell(self, leaving: Sequence[LeavingWorker]) -> None:
        """Publishes the number and the beginning, where one of them changed."""
        told = (len(leaving), leaving[0].pid) if leaving else ()
        if told == self._told:
            return
        self._told = told
        since = in_utc(time.time() - leaving[0].seconds) if leaving else ""
        self._board.proxy_workers.set(ProxyWorkers(leaving=len(leaving), since=since) if leaving else None)
