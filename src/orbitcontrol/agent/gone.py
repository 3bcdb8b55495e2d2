"""Proves machines gone: keeps what readings of the store and connects say of those that are waited for.

What the two add up to is decided by ``planning.gone``. Connects go to machines that somebody waits for and
that have no lease, twice in a TTL, and once to each that may have to be waited for one day: that it was
reached is remembered over restarts of the daemon. At rest nobody is connected to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from msgspec import structs

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Cell, Problems, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.agent.rollout_sight import boot_time
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.rollouts import LoadBalancer
from orbitcontrol.planning.gone import (
    HAS_A_LEASE,
    NOT_YET,
    Answer,
    Evidence,
    Judgement,
    ask_at,
    asked_all,
    is_looked_at,
    judged,
    noted,
    place_of,
)
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

AT_ONCE = 32
"""Connects at a time, over all machines."""

MOST = 2000
"""Machines of which it is remembered that they were reached; the longest unreached are forgotten first."""

_TIMEOUT = 1.0
_FILE = "reached.json"


class Asker(Protocol):
    """Asks for a TCP connection; ``probes.connect.TcpConnector`` in the daemon."""

    async def answer(self, address: str, *, timeout: float) -> Answer:
        """What ``host:port`` answers within ``timeout`` seconds."""


class GoneProofs:
    """``judgements`` has the machines that are looked at, and rings whenever one changes.

    ``ttl`` is that of leases, in seconds; ``clock`` goes on while the machine sleeps; ``tick`` is the time
    in seconds after which machines that were not reached are tried again.
    """

    def __init__(
        self,
        *,
        connector: Asker,
        files: StateFiles,
        problems: Problems,
        ttl: float,
        clock: Callable[[], float] = boot_time,
        tick: float = TICK,
    ) -> None:
        self.judgements: Cell[Mapping[str, Judgement]] = Cell("gone", {})
        self._connector = connector
        self._problems = problems
        self._ttl = ttl
        self._clock = clock
        self._tick = tick
        self._remembered = Remembered(files, _FILE, dict[str, str], {})
        self._reached = self._remembered.load()
        """Where each machine's daemon was reached, by address; the newest last."""
        self._named: dict[str, Mapping[str, str]] = {}
        self._tried: set[tuple[str, str]] = set()
        self._watched: dict[str, Evidence] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._wake = Wake()
        self._alarm = Alarm(self._wake, "asking again")

    def look(
        self,
        addresses: Collection[str],
        *,
        begun: float,
        alive: Collection[str],
        balancers: Mapping[str, LoadBalancer],
        checks: Mapping[str, str],
    ) -> Mapping[str, Judgement]:
        """Notes one reading of the store, and returns what is known of each address.

        It began at ``begun`` of the clock. ``addresses`` are waited for, ``alive`` have a lease in it, and
        ``checks`` says where daemons listen, by what they reported last. To be called with every reading,
        for as long as somebody is waited for.
        """
        now = self._clock()
        for address in self._watched.keys() & set(alive):
            del self._watched[address]
        for address in set(addresses) - set(alive):
            balancer = balancers.get(address) or LoadBalancer()
            before = self._watched.get(address)
            after = noted(
                before,
                address=address,
                check=checks.get(address) or balancer.check or self._reached.get(address, ""),
                binds=balancer.binds,
                begun=begun,
                now=now,
                ttl=self._ttl,
            )
            self._watched[address] = after
            if before is None or before.absent_since != after.absent_since:
                self._wake.ring("somebody is waited for")
        self._tell()
        known = self.judgements.value
        return {
            address: HAS_A_LEASE if address in alive else known.get(address, NOT_YET) for address in addresses
        }

    def meet(self, service: str, checks: Mapping[str, str]) -> None:
        """Who may have to be waited for on behalf of a service, and where their daemons listen.

        Replaces what was said of the service before. Those that were never reached are tried once, and again
        at every tick.
        """
        if self._named.get(service, {}) == checks:
            return
        self._named = {name: told for name, told in self._named.items() if name != service}
        if checks:
            self._named[service] = dict(checks)
        self._wake.ring("somebody is to be met")

    async def run(self) -> None:
        """Never returns."""
        try:
            await forever("gone", self._step, wake=self._wake, problems=self._problems, tick=self._tick)
        finally:
            self._alarm.cancel()

    async def _step(self, reasons: frozenset[str]) -> None:
        now = self._clock()
        due = [
            address
            for address, evidence in self._watched.items()
            if ask_at(evidence, ttl=self._ttl) <= now and is_looked_at(evidence, now=now, ttl=self._ttl)
        ]
        await asyncio.gather(
            *(self._ask_all(address) for address in due),
            *(self._meet(address, place) for address, place in self._unmet(again="tick" in reasons)),
        )
        self._tell()
        now = self._clock()
        coming = [
            ask_at(evidence, ttl=self._ttl)
            for evidence in self._watched.values()
            if is_looked_at(evidence, now=now, ttl=self._ttl)
        ]
        if coming:
            self._alarm.within(max(0.0, min(coming) - now))

    def _unmet(self, *, again: bool) -> list[tuple[str, str]]:
        """Whom to try to reach now, and where; with ``again`` also who was tried before."""
        named = {
            (address, place_of(address, check))
            for told in self._named.values()
            for address, check in told.items()
        }
        self._tried &= named
        unmet = {
            (address, place) for address, place in named if place and self._reached.get(address) != place
        }
        chosen = unmet if again else unmet - self._tried
        self._tried |= chosen
        return sorted(chosen)

    async def _meet(self, address: str, place: str) -> None:
        if await self._answer(place) in ("accepted", "refused"):
            self._note_reached(address, place)

    async def _ask_all(self, address: str) -> None:
        """One round of connects to all places of a machine."""
        evidence = self._watched.get(address)
        if evidence is None:
            return
        begun = self._clock()
        self._watched[address] = structs.replace(evidence, asked=begun)
        places = sorted(evidence.places)
        found = await asyncio.gather(*(self._answer(place) for place in places))
        answers = dict(zip(places, found, strict=True))
        for place in evidence.checks:
            if answers[place] in ("accepted", "refused"):
                self._note_reached(address, place)
        now = self._watched.get(address)
        if now is not None:
            self._watched[address] = asked_all(now, answers, begun=begun, now=self._clock())

    async def _answer(self, place: str) -> Answer:
        async with self._places:
            return await self._connector.answer(place, timeout=_TIMEOUT)

    def _note_reached(self, address: str, place: str) -> None:
        before = self._reached.pop(address, "")
        self._reached[address] = place
        if before == place:
            return
        while len(self._reached) > MOST:
            del self._reached[next(iter(self._reached))]
        try:
            self._remembered.save(self._reached)
        except OrbitError as error:
            _log.warning("who was reached is not remembered", machine=address, reason=error)

    def _tell(self) -> None:
        """Judges all anew, and forgets who is not looked at any more, a TTL after the last connect to him."""
        now = self._clock()
        self._watched = {
            address: evidence
            for address, evidence in self._watched.items()
            if is_looked_at(evidence, now=now, ttl=2 * self._ttl)
        }
        after = {
            address: judged(
                evidence,
                met=self._reached.get(address, "") in evidence.checks,
                now=now,
                ttl=self._ttl,
            )
            for address, evidence in self._watched.items()
        }
        for address, judgement in after.items():
            self._log_change(address, self.judgements.value.get(address), judgement)
        self.judgements.set(after)

    def _log_change(self, address: str, before: Judgement | None, after: Judgement) -> None:
        was_gone, is_gone = before is not None and before.state == "gone", after.state == "gone"
        if is_gone and not was_gone:
            _log.warning("machine is gone", machine=address, reason=after.reason)
        elif was_gone and not is_gone:
            _log.info("machine is not gone any more", machine=address, reason=after.reason)
