"""Endpoints: what is proven on this machine, published under its lease, and nothing else written.

The loop holds what it believes to be in the store and writes only differences, so an undisturbed
machine writes nothing. The belief comes from the store itself whenever it may be wrong: with each
session, after every commit whose outcome is unknown, after the store was away, and at the slow tick,
the keys of the lease are listed and read.

Which run an endpoint stands for is known to this machine alone. It is kept in the state directory,
so that a daemon that resumes its session can tell an endpoint of a container that still runs from
one whose container was replaced meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.batches import batches
from orbitcontrol.agent.board import Board, Guard, Session, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import LeaseLost, OrbitError, StoreError, UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Endpoint, Step
from orbitcontrol.model.stored import Compare, Delete, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.planning.endpoints import (
    Action,
    Address,
    Publish,
    Published,
    Publisher,
    Sight,
    Withdraw,
    plan_endpoints,
)
from orbitcontrol.planning.flapping import CALM, Flapping, publishable_at, withdrawn
from orbitcontrol.ports import StateFiles, Store

_log = Log(__name__)

_RUNS = "endpoints.json"
_SAVE_AGAIN = 10.0
_DOUBTS = frozenset({"tick", "relisted"})
"""Reasons of a wake after which the store may hold something else than was last read or written."""


class EndpointsLoop:
    """Publishes and withdraws the endpoints of one machine; keeps ``board.published``."""

    def __init__(
        self,
        *,
        board: Board,
        store: Store,
        keys: Keys,
        machine: MachineIdentity,
        files: StateFiles,
        new_id: Callable[[], str],
    ) -> None:
        self._board = board
        self._store = store
        self._keys = keys
        self._machine = machine
        self._runs = Remembered(files, _RUNS, dict[str, RunId], {})
        self._new_id = new_id
        self._wake = Wake()
        self._session = ""
        """The session whose endpoints ``_published`` were read; "" when they must be read anew."""
        self._published: dict[Address, Published] = {}
        self._revisions: dict[Address, int] = {}
        """The revision of the store at which each of them was last written."""
        self._seen: set[RunId] = set()
        """The runs that were there since this daemon started, as far as they matter still."""
        self._flapping: dict[tuple[str, int], Flapping] = {}
        self._alarm = Alarm(self._wake, "another try")
        self._saved = self._runs.load()
        board.stands_for.set(self._saved)
        self._is_saved = True

    async def run(self) -> None:
        """Never returns."""
        board = self._board
        for cell in (board.session, board.verdicts, board.runs, board.unseen, board.desired):
            cell.subscribe(self._wake)
        board.rollouts.directives.subscribe(self._wake)
        board.presumed.subscribe(self._wake)
        board.relisted.subscribe(self._wake)
        await forever("endpoints", self._step, wake=self._wake, problems=board.problems)

    async def _step(self, reasons: frozenset[str]) -> None:
        session = self._board.session.value
        if session is None:
            return
        if self._session != session.id or reasons & _DOUBTS:
            await self._observe(session)
        runs, desired = self._board.runs.value, self._board.desired.value
        if runs is None or desired is None:
            return
        self._seen |= {run.id for run in runs}
        directives = self._board.rollouts.directives.value
        presumed = {(run.service, run.instance) for run in self._board.presumed.value}
        actions = plan_endpoints(
            publisher=Publisher(self._machine.address, session.id, desired.machine.zone),
            sight=Sight(
                runs=runs,
                verdicts=self._board.verdicts.value,
                directives=None if directives is None else directives.runs,
                unseen=self._board.unseen.value,
                seen=self._seen,
                delayed=self._delayed() | presumed,
            ),
            published=self._published,
            new_id=self._new_id,
        )
        await self._apply(actions, session, {} if directives is None else directives.guards)
        self._board.rollouts.directed.set(directives)
        if not self._is_saved:
            self._remember(())
        self._seen &= {run.id for run in runs} | self._board.published.value
        self._board.rollouts.offered.set(self._board.rollouts.offered.value & self._seen)

    def _delayed(self) -> frozenset[tuple[str, int]]:
        """The instances that flap and have to wait; who is up and waits is told, with the reason."""
        now = asyncio.get_running_loop().time()
        self._flapping = {key: one for key, one in self._flapping.items() if now - one.last < CALM}
        waiting = {key: publishable_at(one) - now for key, one in self._flapping.items()}
        waiting = {key: seconds for key, seconds in waiting.items() if seconds > 0}
        for seconds in waiting.values():
            self._alarm.within(seconds)
        up = {(run.service, run.instance) for run, one in self._board.verdicts.value.items() if one.up}
        self._board.problems.report(
            "flapping",
            {
                f"service {service}": f"instance {instance} goes up and down: its publication waits"
                for service, instance in waiting.keys() & up
            },
        )
        return frozenset(waiting)

    async def _observe(self, session: Session) -> None:
        """Reads what the lease really carries."""
        self._session = ""
        try:
            listed = await self._store.lease_keys(session.lease)
        except LeaseLost:
            self._board.lease_doubt.ring("lease unknown to the store")
            raise
        prefix = self._keys.services.start
        keys = sorted(key for key in listed if key.startswith(prefix))
        self._published, self._revisions = {}, {}
        for batch in batches(keys, self._store.limits.operations):
            reading = await self._store.read(*(Range.single(key) for key in batch))
            for item in (item for items in reading.ranges for item in items):
                self._take(item)
        self._session = session.id
        self._settle()
        self._board.publisher.set(session.id)
        if self._board.proven.value is None:
            self._board.proven.set(self._board.published.value if session.resumed else frozenset())

    def _take(self, item: KeyValue) -> None:
        match self._keys.below(item.key):
            case ("services", service, "endpoints", host_port):
                try:
                    endpoint = decode(item.value, Endpoint, key=item.key)
                except UndecodableValue as error:
                    _log.warning("endpoint of this machine is unreadable, writing it anew", reason=error)
                    endpoint = Endpoint(id="", machine="", session="")
                run = self._saved.get(endpoint.id)
                address = Address(service, host_port)
                self._published[address] = Published(endpoint, run)
                self._revisions[address] = item.mod_revision
            case _:
                pass

    async def _apply(self, actions: Sequence[Action], session: Session, guards: Mapping[str, Guard]) -> None:
        for batch in batches(actions, self._store.limits.operations):
            self._remember(batch)
            try:
                revision = await self._store.commit(
                    self._compares(batch, guards), [self._operation(action, session) for action in batch]
                )
            except StoreError as error:
                self._session = ""  # whether it happened is not known: look before the next step
                if isinstance(error, LeaseLost):
                    self._board.lease_doubt.ring("put refused")
                raise
            for action in batch:
                self._note(action, revision)
            self._settle()

    def _compares(self, batch: Sequence[Action], guards: Mapping[str, Guard]) -> list[Compare]:
        """What is deleted must still be our own: after a lost lease it may be another session's.

        A put needs no such guard, because its lease must be alive. What is marked to drain is, as long as its
        service's slot is this machine's.
        """
        marked = {
            action.address.service
            for action in batch
            if isinstance(action, Publish) and action.published.endpoint.state == "draining"
        }
        slots: list[Compare] = [
            Unchanged(guards[service].key, guards[service].revision)
            for service in sorted(marked)
            if service in guards
        ]
        return slots + [
            Unchanged(
                self._keys.endpoint(action.address.service, action.address.host_port),
                self._revisions[action.address],
            )
            for action in batch
            if isinstance(action, Withdraw)
        ]

    def _operation(self, action: Action, session: Session) -> Operation:
        key = self._keys.endpoint(action.address.service, action.address.host_port)
        match action:
            case Publish(published=published):
                return Put(key, encode(published.endpoint), session.lease)
            case _:
                return Delete(Range.single(key))

    def _note(self, action: Action, revision: int) -> None:
        fields = {"service": action.address.service, "endpoint": action.address.host_port}
        written = {**fields, "reason": action.reason}
        match action:
            case Publish(published=published):
                before = self._published.get(action.address)
                endpoint = published.endpoint
                is_new = before is None or before.endpoint.id != endpoint.id
                self._published[action.address] = published
                self._revisions[action.address] = revision
                step: Step = "published" if is_new else "updated"
                self._board.trace.note(**written, step=step, id=endpoint.id, revision=revision)
                if is_new:
                    self._board.trace.link(**fields, step="proven", id=endpoint.id)
                _log.info("endpoint published", **written)
            case Withdraw(failed=failed):
                before = self._published.pop(action.address)
                del self._revisions[action.address]
                gone = before.endpoint.id
                self._board.trace.note(**written, step="withdrawn", id=gone, revision=revision)
                self._board.trace.link(**fields, step="failed" if failed else "ended", id=gone)
                if failed:
                    key = (action.address.service, before.endpoint.instance)
                    now = asyncio.get_running_loop().time()
                    self._flapping[key] = withdrawn(self._flapping.get(key, Flapping()), now=now)
                _log.info("endpoint withdrawn", **written)

    def _remember(self, batch: Sequence[Action]) -> None:
        """Saves which run each new endpoint stands for, before anybody can see the endpoint.

        A disk that does not take it holds nothing up: without it a daemon that starts anew withdraws
        the endpoint and proves it again.
        """
        new = {
            action.published.endpoint.id: action.published.run
            for action in batch
            if isinstance(action, Publish)
        }
        offered = self._board.rollouts.offered
        offered.set(offered.value | {run for run in new.values() if run is not None})
        runs = {item.endpoint.id: item.run for item in self._published.values()} | new
        known = {endpoint: run for endpoint, run in runs.items() if run is not None}
        if self._is_saved and known.items() <= self._saved.items():
            return
        self._saved = known
        self._board.stands_for.set(known)
        trouble = {}
        try:
            self._runs.save(known)
        except OrbitError as error:
            trouble["state directory"] = str(error)
        self._is_saved = not trouble
        if trouble:
            self._alarm.within(_SAVE_AGAIN)
        self._board.problems.report("endpoints", trouble)

    def _settle(self) -> None:
        """Tells the other loops what is published now."""
        published = {item.run: item.endpoint for item in self._published.values() if item.run is not None}
        self._board.published.set(frozenset(published))
        self._board.rollouts.publications.set(published)
