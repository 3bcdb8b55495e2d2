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
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from orbitcontrol.agent.acknowledging_looks import Look
from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.batches import batches
from orbitcontrol.agent.board import Board, Cell, Session, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.proxy_registration import Registration
from orbitcontrol.agent.proxy_rotation import EndpointWatch
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import LeaseLost, StoreError, UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.model.rollouts import Ack
from orbitcontrol.model.stored import Delete, Operation, Put, Range
from orbitcontrol.planning.acknowledging import (
    ROUTED,
    Asked,
    InForce,
    Written,
    asked_for,
    differs_in_numbers,
    drained,
    obsolete,
    unanswered,
)
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
        self._waiting: dict[Asked, tuple[float, str]] = {}
        """Since when each waits that could not be answered, and why."""

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
        look = Look(self._proxy, in_force, ready)
        await look.at_serving()
        await self._put(self._still(in_force, dict.fromkeys(look.routed, ROUTED)), acks, session)
        await look.at_leaving()
        drains = {
            one: ack
            for one in look.drained
            if (ack := drained(acks.get(_written(one)), sessions=look.sessions[one])) is not None
        }
        await self._put(self._still(in_force, drains), acks, session)
        if unanswered(ready, acks):
            self._alarm.within(self._pause)
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        return look.why

    def _still(self, asked_under: InForce, news: Mapping[Asked, Ack]) -> dict[Asked, Ack]:
        """What holds still: HAProxy may have been told something else since it was asked."""
        now = self.in_force.value
        if now is None or now.runs is not asked_under.runs:
            return {}
        return {one: ack for one, ack in news.items() if now.has_taken(one)}

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
        """Names what keeps an endpoint waiting, once that takes long; not each change of its numbers."""
        now = time.monotonic()
        before, self._waiting = self._waiting, {}
        for one, reason in why.items():
            if reason:
                since, told = before.get(one, (now, reason))
                self._waiting[one] = since, told if differs_in_numbers(told, reason) else reason
        self._board.problems.report(
            "acknowledging",
            {
                f"endpoint {one.service} {one.address}": _told(one, reason)
                for one, (since, reason) in self._waiting.items()
                if now - since >= _PATIENCE
            },
        )

    def _key(self, written: Written) -> str:
        return self._at.keys.ack(written.service, written.id, self._at.address)


def _written(asked: Asked) -> Written:
    return Written(asked.service, asked.id)


def _told(asked: Asked, reason: str) -> str:
    return f"not {'drained' if asked.draining else 'routed to'} yet: {reason}"


def _decoded(value: bytes, key: str) -> Ack:
    """One that cannot be read is as good as one that says the least: it is written anew or deleted."""
    try:
        return decode(value, Ack, key=key)
    except UndecodableValue:
        return Ack(step="routed", sessions=-1)
