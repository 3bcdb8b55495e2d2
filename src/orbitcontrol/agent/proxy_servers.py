"""Keeps the running HAProxy's servers true to a text, without reloads.

Observes the servers, has ``planning.servers`` plan a batch, and carries it out around the writing of
the file. It looks again while servers are on their way out, and every ``LOOK_EVERY`` seconds in any
case: what somebody else changed through the runtime socket is put right, and told. In between it goes
on from what HAProxy was told (``planning.server_model``), unless that led to a refusal or a reload.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from msgspec import Struct

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.proxy_sessions import ended
from orbitcontrol.codec.haproxy_lines import Server
from orbitcontrol.codec.haproxy_runtime import Add, Command, Remove, Running
from orbitcontrol.codec.haproxy_text import Layout
from orbitcontrol.errors import HAProxyError, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.server_model import after
from orbitcontrol.planning.servers import (
    Departures,
    Leaving,
    NeedsReload,
    Place,
    ServerPlan,
    plan_servers,
)
from orbitcontrol.ports import Proxy

_log = Log(__name__)

LOOK_EVERY = 10.0
"""Seconds between two looks at servers of which nothing new is known."""

_TOLD_FOR = 60.0
"""Seconds for which a correction is among the problems."""

_NAMED = 5
"""How many commands of a batch are logged."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at servers that drain."""


class Version(Struct, frozen=True):
    """A configuration's text, and what it consists of."""

    text: str
    layout: Layout


class NotWritten(HAProxyError):
    """HAProxy runs the wanted servers; the disk does not say so."""


class ServerKeeper:
    """``leaving`` are the servers on their way out. ``look_every`` is in seconds."""

    def __init__(self, *, proxy: Proxy, alarm: Alarm, look_every: float) -> None:
        self.leaving: Mapping[Place, Leaving] = {}
        self._proxy = proxy
        self._alarm = alarm
        self._look_every = look_every
        self._added: dict[Place, Server] = {}
        self._seen: Running | None = None
        """The servers as HAProxy last said, and was told since; None where it must be asked."""
        self._seen_at = -math.inf
        self._pause = _FIRST_PAUSE
        self._right = ""
        self._corrected = ""
        self._corrected_at = -math.inf

    @property
    def corrected(self) -> str:
        """What was put right lately, because somebody else had changed it."""
        is_new = time.monotonic() - self._corrected_at < _TOLD_FOR
        return self._corrected if is_new else ""

    def forget(self) -> None:
        """HAProxy was loaded anew: it has the servers of the file, and no others."""
        self.leaving = {}
        self._added = {}
        self._seen = None
        self._right = ""

    async def converge(
        self,
        wanted: Version,
        disk: Version,
        *,
        draining: Collection[str],
        save: Callable[[], Awaitable[None]],
    ) -> str | None:
        """Makes HAProxy run the wanted servers and the disk say so; why only a reload can do it.

        ``save`` has what the text rests on written to the disk, which comes before the text.
        Raises HAProxyError when HAProxy did not do its part, NotWritten when the disk did not; what takes
        servers out of rotation is done in any case.
        """
        departures = Departures(leaving=self.leaving, draining=draining, idle=await self._idle())
        is_known = self._seen is not None and time.monotonic() - self._seen_at < self._look_every
        reason = await self._batch(wanted, disk, departures, save, look=not is_known)
        if reason is not None and is_known:  # it may be another one by now
            reason = await self._batch(wanted, disk, departures, save, look=True)
        return reason

    async def _batch(
        self,
        wanted: Version,
        disk: Version,
        departures: Departures,
        save: Callable[[], Awaitable[None]],
        *,
        look: bool,
    ) -> str | None:
        """Plans from what runs and carries it out; why only a reload can do it."""
        running, self._seen = await self._running(look=look), None
        plan = plan_servers(
            wanted=wanted.layout,
            disk=disk.layout,
            running=running,
            departures=departures,
            now=time.monotonic(),
            added=self._added,
        )
        self._note_added(wanted, plan.first)
        refused = await self._proxy.execute(plan.first)
        if isinstance(plan, NeedsReload):
            return plan.reason
        if refused:
            return f"HAProxy does not take it at runtime: {refused[0]}"
        failure = await self._write(wanted, disk, save)
        refused = await self._proxy.execute(plan.then)
        self._note(wanted, plan)
        stay = {reason.partition(": ")[0] for reason in refused}
        removed = [each for each in plan.then if isinstance(each, Remove) and each.where not in stay]
        gone = {Place(each.section, each.server) for each in removed}
        self.leaving = {place: each for place, each in plan.leaving.items() if place not in gone}
        for reason in refused:
            _log.info("a server stays for now", reason=reason)
        self._look_again()
        if isinstance(failure, HAProxyError):
            raise NotWritten(str(failure)) from failure
        if failure is not None:
            raise failure
        self._added = {}
        if not refused:
            self._seen = after(running, (*plan.first, *plan.then))
        self._right = wanted.text
        return None

    async def _running(self, *, look: bool) -> Running:
        """The servers as HAProxy says; without a ``look`` as it last said, and was told since."""
        if self._seen is not None and not look:
            return self._seen
        running = await self._proxy.servers()
        self._seen_at = time.monotonic()
        return running

    def _note_added(self, wanted: Version, commands: Collection[Command]) -> None:
        """What runs from now on, and is not on the disk before the whole batch was taken."""
        for each in commands:
            if isinstance(each, Add):
                line = wanted.layout.sections[each.section].servers[each.server]
                self._added[Place(each.section, each.server)] = line

    async def _write(
        self, wanted: Version, disk: Version, save: Callable[[], Awaitable[None]]
    ) -> OrbitError | None:
        """Replaces the file where it differs; why that failed."""
        try:
            await save()
            if wanted.text != disk.text:
                await self._proxy.replace(wanted.text)
        except OrbitError as error:
            return error
        return None

    async def _idle(self) -> frozenset[Place]:
        """The draining servers whose sessions have ended."""
        draining = [place for place, leaving in self.leaving.items() if leaving.state == "drain"]
        return await ended(draining, self._proxy.sessions)

    def _note(self, wanted: Version, plan: ServerPlan) -> None:
        """Logs the batch. One for a text of which all was right already puts right what somebody else did."""
        batch = [
            command
            for command in (*plan.first, *plan.then)
            if Place(command.section, command.server) not in self.leaving
        ]
        if not batch:
            return
        commands = "; ".join(command.text() for command in batch[:_NAMED])
        if wanted.text == self._right:
            self._corrected = f"somebody else changed its servers; put right: {commands}"
            self._corrected_at = time.monotonic()
            _log.warning("servers put right", commands=commands, count=len(batch))
        else:
            _log.info("servers changed at runtime", commands=commands, count=len(batch))

    def _look_again(self) -> None:
        """Sees to the next look: soon while something drains, at the latest after ``LOOK_EVERY``."""
        if any(leaving.state == "drain" for leaving in self.leaving.values()):
            self._alarm.within(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
            self._alarm.within(self._look_every)
