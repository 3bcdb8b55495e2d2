"""Tells whoever waits that an endpoint is routed to, or drained: ``services/<service>/acks/…``.

What may be told, and on what it rests: ``planning.acknowledging``. Woken by endpoints and by each
configuration that comes into force; only what has no event (HAProxy's own checks, sessions, workers that
leave) is asked for again, after short pauses that grow. Nothing is asked or written unless an
endpoint waits for it.

The acknowledgements lie under the machine's lease. What is there is read with each session and whenever
the store may hold something else than was last written, so that a daemon that starts anew takes back what
an earlier one told of endpoints that are gone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.batches import batches
from orbitcontrol.agent.board import Board, Cell, Session, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.proxy_registration import Registration
from orbitcontrol.agent.proxy_rotation import EndpointWatch
from orbitcontrol.agent.proxy_sessions import ended
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.codec.haproxy_stat import StatRow
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import HAProxyError, LeaseLost, StoreError, UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.model.rollouts import Ack
from orbitcontrol.model.stored import Delete, Operation, Put, Range
from orbitcontrol.planning.acknowledging import (
    ROUTED,
    Asked,
    InForce,
    Written,
    asked_for,
    drained,
    obsolete,
    places_of,
    rows_of,
    servers_at,
    sessions_in,
    unanswered,
    why_not_routed,
    why_reachable,
)
from orbitcontrol.planning.proxy import has_admin_socket
from orbitcontrol.planning.servers import Place
from orbitcontrol.ports import Proxy

_log = Log(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two looks at what has no event; each pause is half as long again as the one before."""
_PATIENCE = 3.0
"""Seconds after which it is among the problems why an endpoint still waits."""
_DOUBTS = frozenset({"tick", "session", "relisted"})
"""Reasons of a wake after which the store may hold something else than was last read or written."""


class Acknowledging:
    """Keeps the acknowledgements of one load balancer. ``in_force`` is told by the proxy loop."""

    def __init__(
        self,
        *,
        board: Board,
        at: BalancerStore,
        proxy: Proxy,
        watch: EndpointWatch,
        registration: Registration,
        tick: float = TICK,
    ) -> None:
        self.in_force: Cell[InForce | None] = Cell("configuration in force", None)
        self._board = board
        self._at = at
        self._proxy = proxy
        self._watch = watch
        self._registration = registration
        self._tick = tick
        self._wake = Wake()
        self._alarm = Alarm(self._wake, "another look")
        self._pause = _FIRST_PAUSE
        self._acks: dict[Written, Ack] | None = None
        """What the lease carries; None where it must be read."""
        self._waiting_since: dict[Asked, float] = {}

    async def run(self) -> None:
        """Never returns."""
        board = self._board
        for cell in (board.session, board.relisted, self._watch.endpoints):
            cell.subscribe(self._wake)
        self.in_force.subscribe(self._wake)
        self._registration.registered.subscribe(self._wake)
        try:
            await forever(
                "acknowledging", self._step, wake=self._wake, problems=board.problems, tick=self._tick
            )
        finally:
            self._alarm.cancel()

    async def _step(self, reasons: frozenset[str]) -> None:
        session = self._board.session.value
        if session is None:
            return
        if reasons & _DOUBTS:
            self._acks = None
        if reasons - {"another look"}:
            self._pause = _FIRST_PAUSE
        try:
            acks = await self._observed(session)
            services = self._registration.held | self._registration.registered.value
            published = self._watch.endpoints.value
            await self._take_back(acks, obsolete(acks, published=published, services=services))
            waiting = unanswered(asked_for(published, services), acks)
            why = await self._answer(waiting, acks, session) if waiting else {}
        except StoreError as error:
            self._acks = None  # whether it happened is not known
            if isinstance(error, LeaseLost):
                self._board.lease_doubt.ring("acknowledgement refused")
            raise
        self._report(why)

    async def _observed(self, session: Session) -> dict[Written, Ack]:
        """The acknowledgements of this machine that the lease carries."""
        if self._acks is not None:
            return self._acks
        found: dict[Written, Ack] = {}
        keys = sorted(
            key for key in await self._at.store.lease_keys(session.lease) if self._written_as(key) is not None
        )
        for batch in batches(keys, self._at.store.limits.operations):
            reading = await self._at.store.read(*(Range.single(key) for key in batch))
            for item in (item for items in reading.ranges for item in items):
                if (written := self._written_as(item.key)) is not None:
                    found[written] = _decoded(item.value, item.key)
        self._acks = found
        return found

    def _written_as(self, key: str) -> Written | None:
        match self._at.keys.below(key):
            case ("services", service, "acks", publication, address) if address == self._at.address:
                return Written(service, publication)
            case _:
                return None

    async def _answer(
        self, waiting: AbstractSet[Asked], acks: dict[Written, Ack], session: Session
    ) -> dict[Asked, str]:
        """Writes what can be told now. Why the others wait that HAProxy was already told of."""
        in_force = self.in_force.value
        ready = frozenset(one for one in waiting if in_force is not None and in_force.has_taken(one))
        if in_force is None or not ready:
            return {}
        try:
            found, why = await self._judged(ready, in_force)
        except HAProxyError as error:
            found, why = {}, dict.fromkeys(ready, str(error))
        now = self.in_force.value  # HAProxy may have been told something else since it was asked
        if now is None or now.runs is not in_force.runs:
            found = {}
        news = {
            one: ack
            for one, sessions in found.items()
            if now is not None
            and now.has_taken(one)
            and (ack := _news(one, sessions, acks.get(_written(one)))) is not None
        }
        await self._put(news, acks, session)
        if unanswered(ready, acks):
            self._alarm.within(self._pause)
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        return why

    async def _judged(
        self, ready: AbstractSet[Asked], in_force: InForce
    ) -> tuple[dict[Asked, int], dict[Asked, str]]:
        """The sessions of those that can be answered for (0 of those routed to); why not the others."""
        servers = servers_at(in_force.layout, {one.address for one in ready})
        if not in_force.runs:
            why = {
                one: why_reachable(servers[one.address].keys(), {})
                if one.draining
                else "HAProxy does not run"
                for one in ready
            }
            return {one: 0 for one, reason in why.items() if not reason}, why
        places = {one: places_of(one, servers[one.address], in_force.leaving) for one in ready}
        why, counted = {}, dict.fromkeys(ready, 0)

        async def sessions(left: AbstractSet[Asked]) -> Mapping[Asked, int]:
            rows = await self._statistics(left, places, in_force.text)
            for one in left:
                lines = servers[one.address]
                mine = None if rows is None else rows_of(one, places[one], rows)
                if one.draining:
                    why[one] = why_reachable(lines.keys(), mine or {})
                    counted[one] = sessions_in(mine or {})
                else:
                    why[one] = why_not_routed(lines, mine, settled=in_force.settled)
            return {one: counted[one] or (1 if why[one] or not one.draining else 0) for one in left}

        await ended(ready, sessions)
        quiet = [one for one in ready if one.draining and not why[one]]
        why |= await self._unquiet(quiet, places, in_force.text)
        return {one: counted[one] for one in ready if not why[one]}, why

    async def _statistics(
        self, asked: AbstractSet[Asked], places: Mapping[Asked, Collection[Place]], text: str
    ) -> tuple[StatRow, ...] | None:
        """What the worker that serves says of these; None where it cannot, and runs what its file says."""
        named = frozenset[Place]().union(*(places[one] for one in asked))
        try:
            return await self._proxy.statistics({one.address for one in asked}, named)
        except HAProxyError:
            if has_admin_socket(text):
                raise
            return None

    async def _unquiet(
        self, drains: Collection[Asked], places: Mapping[Asked, Collection[Place]], text: str
    ) -> dict[Asked, str]:
        """Why workers that leave may still reach some of them."""
        if not drains:
            return {}
        names = {
            one: [f"{place.section}/{place.server}" for place in places[one]]
            or [f"{one.service}/{one.service}-{one.address}"]
            for one in drains
        }
        servers = {name: one.address for one in drains for name in names[one]}
        unquiet = await self._proxy.workers.unquiet(servers, present=text)
        return {one: next((unquiet[name] for name in names[one] if name in unquiet), "") for one in drains}

    async def _put(self, news: Mapping[Asked, Ack], acks: dict[Written, Ack], session: Session) -> None:
        for batch in batches(
            sorted(news.items(), key=lambda item: item[0]), self._at.store.limits.operations
        ):
            await self._at.store.commit(
                [], [Put(self._key(_written(one)), encode(ack), session.lease) for one, ack in batch]
            )
            for one, ack in batch:
                acks[_written(one)] = ack
                _log.info(
                    "acknowledged",
                    service=one.service,
                    endpoint=one.address,
                    step=ack.step,
                    sessions=ack.sessions,
                )

    async def _take_back(self, acks: dict[Written, Ack], gone: Iterable[Written]) -> None:
        deletes: list[tuple[Written, Operation]] = [
            (written, Delete(Range.single(self._key(written)))) for written in sorted(gone)
        ]
        for batch in batches(deletes, self._at.store.limits.operations):
            await self._at.store.commit([], [operation for _, operation in batch])
            for written, _ in batch:
                acks.pop(written, None)

    def _report(self, why: Mapping[Asked, str]) -> None:
        """Names what keeps an endpoint waiting, once that takes long."""
        now = time.monotonic()
        self._waiting_since = {
            one: self._waiting_since.get(one, now) for one, reason in why.items() if reason
        }
        self._board.problems.report(
            "acknowledging",
            {
                f"endpoint {one.service} {one.address}": _told(one, why[one])
                for one, since in self._waiting_since.items()
                if now - since >= _PATIENCE
            },
        )

    def _key(self, written: Written) -> str:
        return self._at.keys.ack(written.service, written.id, self._at.address)


def _written(asked: Asked) -> Written:
    return Written(asked.service, asked.id)


def _told(asked: Asked, reason: str) -> str:
    return f"not {'drained' if asked.draining else 'routed to'} yet: {reason}"


def _news(asked: Asked, sessions: int, before: Ack | None) -> Ack | None:
    """What to write of one that can be answered for; None when it is there already."""
    return drained(before, sessions=sessions) if asked.draining else ROUTED


def _decoded(value: bytes, key: str) -> Ack:
    """One that cannot be read is as good as one that says the least: it is written anew or deleted."""
    try:
        return decode(value, Ack, key=key)
    except UndecodableValue:
        return Ack(step="routed", sessions=-1)
