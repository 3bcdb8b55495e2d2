"""Keeps this load balancer registered under the services that it routes to, or may still route to.

When that is, and why: ``planning.registration``. HAProxy gets nothing of a service before its key is in
the store and its endpoints were listed again; what HAProxy has already goes on whatever the store says.

Written by a task of its own, so that a store that does not answer holds up nothing that HAProxy could
be told. What may be in the store is on the disk before it is: a daemon that starts anew, also without
its template, knows what to keep and what to take back. Keys are read when the store may hold something
else than was last written, and written only where they differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from collections.abc import Set as AbstractSet

from msgspec import Struct

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.batches import batches
from orbitcontrol.agent.board import Board, Cell, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.proxy_rotation import EndpointWatch
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.haproxy_binds import binds
from orbitcontrol.codec.haproxy_text import Layout
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import HAProxyError, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.rollouts import LoadBalancer
from orbitcontrol.model.stored import Delete, Operation, Put, Range
from orbitcontrol.planning.registration import Witness, still_known
from orbitcontrol.planning.servers import Place
from orbitcontrol.ports import ProxyProcesses, StateFiles

_log = Log(__name__)

_FILE = "registrations.json"
_DOUBTS = frozenset({"tick", "session", "relisted"})
"""Reasons of a wake after which the store may hold something else than was last read or written."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two looks at who still knows a service that was dropped."""
_AHEAD = 2.0
"""Seconds for which HAProxy's start waits for a registration that should be there already."""


class _Registrations(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The services whose keys may be in the store; ``known`` is False where that is not known at all."""

    services: tuple[str, ...] = ()
    known: bool = False


class Routing(Struct, frozen=True, kw_only=True):
    """What a load balancer routes to after a round of its loop.

    ``routed`` are the services that HAProxy has, ``asked`` those that templates ask for, ``leaving`` the
    servers on their way out. Without being ``certain`` of them nothing is taken back. ``over``: HAProxy does
    not run and is not to be started.
    """

    routed: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    leaving: frozenset[Place] = frozenset()
    certain: bool = False
    over: bool = False


class Registration:
    """``registered`` are the services that HAProxy may be given. ``failure`` says why others wait.

    Nothing is taken back before ``settle`` was called for the first time.
    """

    def __init__(
        self,
        *,
        board: Board,
        at: BalancerStore,
        files: StateFiles,
        watch: EndpointWatch,
        workers: ProxyProcesses,
        tick: float = TICK,
    ) -> None:
        self.registered: Cell[frozenset[str]] = Cell("load balancer registered", frozenset())
        self.failure = ""
        self._board = board
        self._at = at
        self._remembered = Remembered(files, _FILE, _Registrations, _Registrations())
        self._watch = watch
        self._workers = workers
        self._tick = tick
        self._wake = Wake()
        self._again = Alarm(self._wake, "some leave")
        self._pause = _FIRST_PAUSE
        self._saved = _Registrations()
        self._stored: dict[str, bytes] | None = None
        """What the store has; None where it must be read."""
        self._is_scan_due = True
        """Keys that are not remembered may be in the store, too."""
        self._admitted: set[str] = set()
        self._admitted_binds: set[str] = set()
        self._value: LoadBalancer | None = None
        """What is to be written; None before anything is known of where HAProxy listens."""
        self._wanted: frozenset[str] = frozenset()
        self._routing = Routing()
        self._known_by: dict[str, frozenset[Witness]] = {}

    @property
    def held(self) -> frozenset[str]:
        """The services whose keys are in the store, or may be."""
        return frozenset(self._saved.services)

    @property
    def _kept(self) -> frozenset[str]:
        """What is not taken back."""
        return self._wanted | self._routing.asked | self._admitted

    async def load(self, routed: Collection[str]) -> None:
        """Reads what an earlier daemon saved; it had registered all that it had HAProxy take."""
        self._saved = await asyncio.to_thread(self._remembered.load)
        self._is_scan_due = not self._saved.known
        self.registered.set(self.held & frozenset(routed))

    def admits(self, services: AbstractSet[str], layout: Layout, *, routed: Collection[str]) -> bool:
        """Whether HAProxy may be given a configuration with these services; it sees to it that it may.

        What HAProxy has ``routed`` to already is never held up. None of them is taken back before
        ``settle``.
        """
        self._admitted |= services
        self._admitted_binds.update(binds(layout.rest, host=self._at.address))
        before = () if self._value is None else self._value.binds  # the round is not over
        self._value = self._value_of(self._admitted_binds.union(before))
        missing = services - self.registered.value
        if missing:
            self._wake.ring("a configuration")
        return missing <= frozenset(routed)

    async def ahead(self, services: AbstractSet[str], layout: Layout) -> None:
        """Registers what HAProxy is about to be started with from the disk; waits only a moment for it."""
        if not self.admits(services, layout, routed=()):
            await self.registered.wait_for(lambda registered: services <= registered, timeout=_AHEAD)

    def settle(self, routing: Routing) -> None:
        """A round of the proxy loop is over."""
        before = (self._routing, self._wanted)
        self._routing = routing
        self._wanted = routing.routed | self._admitted
        if self._admitted:
            self._value = self._value_of(self._admitted_binds)
        self._admitted.clear()
        self._admitted_binds.clear()
        is_other = before != (self._routing, self._wanted)
        if is_other or (self._stored is not None and self._puts(self._stored)):
            self._wake.ring("a round")

    async def run(self) -> None:
        """Never returns."""
        board = self._board
        for cell in (board.session, board.relisted):
            cell.subscribe(self._wake)
        board.history.went_back.subscribe(self._wake)
        try:
            await forever(
                "registration", self._step, wake=self._wake, problems=board.problems, tick=self._tick
            )
        finally:
            self._again.cancel()

    def _value_of(self, listens: AbstractSet[str]) -> LoadBalancer:
        return LoadBalancer(check=self._at.check, binds=tuple(sorted(listens)))

    async def _step(self, reasons: frozenset[str]) -> None:
        if self._board.session.value is None:
            self.failure = "this machine has no session in the store"
            return
        if reasons & _DOUBTS:
            self._stored = None
        if self._board.history.went_back.name in reasons:
            self._stored, self._is_scan_due = None, True
        try:
            stored = await self._observed()
            await self._put(stored)
            await self._take_back(stored)
        except OrbitError as error:  # the store's, or of the disk that is to remember
            self._stored = None  # whether it happened is not known
            self.failure = str(error)
            raise
        self.failure = ""

    async def _observed(self) -> dict[str, bytes]:
        """The keys of this load balancer as the store has them, read where that is not known."""
        desired = self._board.desired.value
        scans = self._is_scan_due and desired is not None
        if self._stored is not None and not scans:
            return self._stored
        services = self.held | self._wanted | self._admitted
        if scans and desired is not None:
            services |= desired.known_services.keys()
        found: dict[str, bytes] = {}
        for batch in batches(sorted(services), self._at.store.limits.operations):
            reading = await self._at.store.read(*(Range.single(self._key(service)) for service in batch))
            found |= {
                service: entries[0].value
                for service, entries in zip(batch, reading.ranges, strict=True)
                if entries
            }
        self._stored = found
        if scans:
            self._is_scan_due = False
            await self._remember(self.held | found.keys())
        return found

    def _puts(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        """What is to be written: service → value."""
        if self._value is None:
            return {}
        value = encode(self._value)
        services = self._wanted | self._admitted | (self.held & self._routing.asked)
        return {service: value for service in sorted(services) if stored.get(service) != value}

    async def _put(self, stored: dict[str, bytes]) -> None:
        """Writes what differs, and has what is new listed again before HAProxy may have it."""
        puts = self._puts(stored)
        if puts:
            await self._remember(self.held | puts.keys())
            await self._commit([Put(self._key(service), value) for service, value in puts.items()])
            stored.update(puts)
        new = (self._wanted | self._admitted) & stored.keys() - self.registered.value
        if not new:
            return
        self._watch.list_again(new & puts.keys())
        self.registered.set(self.registered.value | new)
        _log.info("registered as load balancer", services=",".join(sorted(new)))

    async def _take_back(self, stored: dict[str, bytes]) -> None:
        """Deletes the keys of services that nobody knows any more who could route to them."""
        dropped = self.held - self._kept
        if not self._routing.certain or not dropped:
            self._known_by, self._pause = {}, _FIRST_PAUSE
            return
        try:
            present = await self._witnesses()
        except HAProxyError as error:
            _log.info("nobody knows who leaves, registrations stay", reason=error)
            self._look_again()
            return
        self._known_by = still_known(self._known_by, dropped=dropped, present=present)
        over = {service for service, witnesses in self._known_by.items() if not witnesses}
        over -= self._kept  # since then a round may have begun
        if len(over) < len(self._known_by):
            self._look_again()
        if over:
            self.registered.set(self.registered.value - over)
            await self._commit([Delete(Range.single(self._key(service))) for service in sorted(over)])
            for service in over:
                stored.pop(service, None)
            await self._remember(self.held - over)
            _log.info("no load balancer any more", services=",".join(sorted(over)))

    async def _witnesses(self) -> frozenset[Witness]:
        """All that may still know a service that was dropped. Raises HAProxyError where it cannot be told."""
        if self._routing.over:
            return frozenset()
        await self._workers.unquiet({}, present="")  # says so where no HAProxy answers: it may still run
        pids = {worker.pid for worker in await self._workers.leaving()}
        return frozenset[Witness](pids | self._routing.leaving)

    def _look_again(self) -> None:
        self._again.within(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _commit(self, operations: list[Operation]) -> None:
        for batch in batches(operations, self._at.store.limits.operations):
            await self._at.store.commit([], batch)

    async def _remember(self, services: AbstractSet[str]) -> None:
        known = self._saved.known or not self._is_scan_due
        saved = _Registrations(services=tuple(sorted(services)), known=known)
        if saved != self._saved:
            await asyncio.to_thread(self._remembered.save, saved)
            self._saved = saved

    def _key(self, service: str) -> str:
        return self._at.keys.load_balancer(service, self._at.address)
