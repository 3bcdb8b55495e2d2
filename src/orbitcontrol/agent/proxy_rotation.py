"""Observes which endpoints a load balancer is to know: what is published, withdrawn, orphaned.

What is absent from the watches is looked up in one reading of the store before it is acted upon,
be it a withdrawal or the end of an orphan's time: watches have no common order, and may lag. While a
store that went back is not believed (``agent.proxy_caution``) each look is one reading of everything.

A daemon that starts while its store is away has nothing listed. After a moment it goes on with what it
remembers, so that what its own machine, and its connects to orphans, say can be acted upon.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from msgspec import Struct, structs

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Cell
from orbitcontrol.agent.orphans import OrphanConnects
from orbitcontrol.agent.proxy_caution import Caution
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.errors import StoreError
from orbitcontrol.log import Log
from orbitcontrol.model.state import Alive
from orbitcontrol.planning.fitness import Local, unfit
from orbitcontrol.planning.orphans import Orphan, aged, followed, overdue, serving, standstill, told
from orbitcontrol.planning.restored import everything
from orbitcontrol.planning.rotation import (
    Place,
    Published,
    Rotation,
    Sight,
    everywhere,
    nowhere,
    overlaid,
    rotate,
    with_unlisted,
    without,
)

_log = Log(__name__)

_RETRY = 5.0
_PATIENCE = 2.0
"""Seconds after the start for which services are waited for that the store has not listed yet."""
_OLDER = "the store went back: what it says of this endpoint counts when its machine says so, too"


class EndpointWatch(Protocol):
    """Where endpoints come from; ``agent.follower.EndpointFollower`` in the daemon."""

    endpoints: Cell[Published]
    alive: Cell[Mapping[str, Alive] | None]

    def follow(self, services: frozenset[str]) -> None:
        """Replaces the set of services whose endpoints are wanted."""

    def list_again(self, services: AbstractSet[str]) -> None:
        """Has nothing of these services known until they were listed once more, from now on."""

    async def read(self, services: frozenset[str]) -> Sight:
        """Endpoints and ``alive`` records at one revision. Raises StoreError."""

    async def look(self, places: frozenset[Place]) -> Sight:
        """The same, of endpoints at these places alone."""


class Known(Struct, frozen=True, kw_only=True):
    """A rotation with its orphans, and why the clocks of some of them stand still."""

    rotation: Rotation
    orphans: tuple[Orphan, ...] = ()
    standstill: Mapping[Place, str] = {}

    def troubles(self, checked: frozenset[Place]) -> dict[str, str]:
        """What is wrong with endpoints: subject → reason. HAProxy looks after the ``checked`` ones."""
        found = {
            _subject(place): "its value in the store cannot be read; it stays as it was last known"
            for place in self.rotation.unreadable
        }
        found |= {_subject(place): _OLDER for place in self.rotation.unproven}
        served = serving(self.rotation, self.orphans, checked=checked) if self.orphans else {}
        for orphan in self.orphans:
            if orphan.place in self.rotation.orphans - self.rotation.unfit:
                found[_subject(orphan.place)] = told(
                    orphan,
                    self.rotation.routes[orphan.service][orphan.address],
                    serves=orphan.address in served[orphan.service],
                    checked=orphan.place in checked,
                    standstill=self.standstill.get(orphan.place, ""),
                )
        return found


class Rotator:
    """Makes rotations. ``marks`` of the orphans' clocks live as long as it does."""

    def __init__(
        self,
        *,
        board: Board,
        watch: EndpointWatch,
        memory: ProxyMemory,
        connects: OrphanConnects,
        alarm: Alarm,
        ttl: float,
    ) -> None:
        self._board = board
        self._caution = Caution(board=board, ttl=ttl, alarm=alarm)
        self._watch = watch
        self._memory = memory
        self._connects = connects
        self._alarm = alarm
        self._marks: dict[Place, float] = {}
        self._unfit: dict[Place, str] = {}
        self._begun = time.monotonic()

    async def rotate(self, trouble: dict[str, str]) -> Known:
        """The rotation of now, with every end of an endpoint confirmed; clocks go on by what is proven."""
        before, known = self._memory.state.orphans, self._memory.state.endpoints
        seen = Sight(endpoints=self._watch.endpoints.value, alive=self._watch.alive.value or {})
        if self._caution.is_due():
            rotation = await self._cautious(seen)
            now = self._orphans_of(rotation, before, age=True)
        else:
            rotation = rotate(known=known, published=seen.endpoints, alive=seen.alive, confirmed=nowhere)
            now = await self._ended(seen, self._orphans_of(rotation, before, age=True))
        now = self._without_unfit(self._with_unlisted(now))
        self._log_changes({orphan.place for orphan in before}, now)
        if failure := await self._memory.note_orphans(now.orphans):
            trouble["state directory"] = failure
        self._board.orphaned.set(bool(now.rotation.orphans))
        return now

    def _with_unlisted(self, now: Known) -> Known:
        """With what is remembered of services that the store has not told of since the start."""
        known = self._memory.state.endpoints
        if not known.keys() - now.rotation.routes.keys():
            return now
        if (left := self._begun + _PATIENCE - time.monotonic()) > 0:
            self._alarm.within(left)
            return now
        rotation = with_unlisted(now.rotation, known=known, orphans={one.place for one in now.orphans})
        reasons = dict.fromkeys(rotation.orphans - now.rotation.orphans, "the store does not answer")
        return structs.replace(now, rotation=rotation, standstill={**now.standstill, **reasons})

    def _without_unfit(self, now: Known) -> Known:
        """With what this machine knows of its own services, which needs no store."""
        board, desired = self._board, self._board.desired.value
        if desired is None:
            return now
        local = Local(
            address=desired.machine.address,
            runs=board.runs.value,
            verdicts=board.verdicts.value,
            unseen=board.unseen.value,
            stands_for=board.stands_for.value,
        )
        found = unfit(now.rotation.routes, local)
        for place in sorted(found.keys() - self._unfit.keys()):
            _log.warning("endpoint of this machine is out", **_fields(place), reason=found[place])
        for place in sorted(self._unfit.keys() - found.keys()):
            if place.address in now.rotation.routes.get(place.service, {}):
                _log.info("endpoint of this machine is back", **_fields(place), reason="its checks pass")
        self._unfit = found
        return structs.replace(now, rotation=structs.replace(now.rotation, unfit=frozenset(found)))

    async def _cautious(self, seen: Sight) -> Rotation:
        """The rotation from one reading of everything, as far as a store that went back is believed."""
        known = self._memory.state.endpoints
        try:
            sight = await self._watch.read(frozenset(seen.endpoints))
        except StoreError as error:
            _log.warning("a store that went back cannot be read, endpoints stay as they are", reason=error)
            self._alarm.within(_RETRY)
            return rotate(
                known=known,
                published=seen.endpoints,
                alive={},
                confirmed=nowhere,
                unproven=everything(seen, known=known),
            )
        return rotate(
            known=known,
            published=sight.endpoints,
            alive=sight.alive,
            confirmed=everywhere,
            unproven=self._caution.unproven(sight, known=known),
        )

    async def _ended(self, seen: Sight, now: Known) -> Known:
        """With the ends of endpoints that are due carried out, if one reading of the store confirms them."""
        ending = now.rotation.suspected | overdue(now.orphans, still=now.standstill.keys())
        if not ending:
            return now
        try:
            sight = await self._watch.look(ending)
        except StoreError as error:
            _log.warning("ends of endpoints not confirmed, they stay", reason=error)
            self._alarm.within(_RETRY)
            return now
        if self._caution.is_due():  # this very reading has shown it
            self._alarm.within(0)
            return now
        known = self._memory.state.endpoints
        newer = overlaid(seen.endpoints, sight.endpoints, places=ending)
        rotation = rotate(known=known, published=newer, alive=sight.alive, confirmed=ending.__contains__)
        now = self._orphans_of(rotation, now.orphans, age=False)
        over = overdue(now.orphans, still=now.standstill.keys()) & ending
        return structs.replace(now, rotation=without(rotation, over))

    def _orphans_of(self, rotation: Rotation, before: tuple[Orphan, ...], *, age: bool) -> Known:
        known, writes = self._memory.state.endpoints, self._board.writes.value
        still = standstill(rotation, known=known, writes=writes)
        reached = self._connects.reached.value
        orphans = tuple(
            structs.replace(orphan, reach=reached.get(orphan.place, orphan.reach))
            for orphan in followed(before, rotation=rotation, known=known)
        )
        if age:
            orphans, self._marks = aged(
                orphans, marks=self._marks, still=still, writes=writes, now=time.monotonic()
            )
        return Known(rotation=rotation, orphans=orphans, standstill=still)

    def _log_changes(self, before: set[Place], now: Known) -> None:
        rotation = now.rotation
        for place in sorted(rotation.orphans - before):
            _log.warning("endpoint orphaned", **_fields(place), reason="its machine is gone")
        for places, reason in (
            (rotation.withdrawn, "its machine withdrew it"),
            (rotation.replaced, "its address belongs to another service"),
            (rotation.timed_out, "its machine did not return in time"),
        ):
            for place in sorted(places):
                _log.info("endpoint goes out", **_fields(place), reason=reason)
        for place in sorted(before):
            if rotation.is_published(place):
                _log.info("endpoint no longer orphaned", **_fields(place), reason="published again")


def _subject(place: Place) -> str:
    return f"endpoint {place.service} {place.address}"


def _fields(place: Place) -> dict[str, str]:
    return {"service": place.service, "endpoint": place.address}
