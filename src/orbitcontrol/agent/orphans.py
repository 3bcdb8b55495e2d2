"""Connects to orphans, to learn which of them this machine reaches.

Only orphans are connected to, and of them only those that HAProxy does not look after itself: at
rest this costs nothing. A round asks all of them, some at a time, each for a bounded time; what it
finds is told at its end, so that however many come and go they are one change of HAProxy. What
answers add up to is decided by ``planning.orphans``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from msgspec import structs

from orbitcontrol.agent.board import Cell, Problems, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.planning.orphans import Reach, after_connect
from orbitcontrol.planning.rotation import Place

EVERY = 3.0
"""Seconds between two rounds."""

AT_ONCE = 32
_TIMEOUT = 1.0


class Connector(Protocol):
    """Asks for a TCP connection; ``probes.connect.TcpConnector`` in the daemon."""

    async def connects(self, address: str, *, timeout: float) -> bool | None:
        """True when ``host:port`` accepts within ``timeout`` seconds; None when it could not be asked."""


class OrphanConnects:
    """Watches the orphans it is given; ``reached`` has what is known of each, and changes only with it.

    ``every`` is the pause between two rounds, in seconds.
    """

    def __init__(self, *, connector: Connector, problems: Problems, every: float = EVERY) -> None:
        self.reached: Cell[Mapping[Place, Reach]] = Cell("orphans reached", {})
        self._connector = connector
        self._problems = problems
        self._every = every
        self._watched: dict[Place, Reach] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._wake = Wake()

    def watch(self, orphans: Mapping[Place, Reach]) -> None:
        """Replaces the set of orphans; of a new one this is what was known before."""
        if orphans.keys() - self._watched.keys():
            self._wake.ring("orphans")
        self._watched = {place: self._watched.get(place, reach) for place, reach in orphans.items()}
        known = self.reached.value
        self.reached.set({place: known[place] for place in self._watched if place in known})

    async def run(self) -> None:
        """Never returns."""
        await forever("orphans", self._round, wake=self._wake, problems=self._problems)

    async def _round(self, _: frozenset[str]) -> None:
        if not self._watched:
            return
        asked = tuple(self._watched)
        answers = await asyncio.gather(*(self._connects(place.address) for place in asked))
        for place, reached in zip(asked, answers, strict=True):
            if reached is not None and place in self._watched:
                self._watched[place] = after_connect(self._watched[place], reached=reached)
        self.reached.set(
            {place: structs.replace(reach, contrary=0) for place, reach in self._watched.items()}
        )
        await asyncio.sleep(self._every)
        self._wake.ring("again")

    async def _connects(self, address: str) -> bool | None:
        async with self._places:
            return await self._connector.connects(address, timeout=_TIMEOUT)
