"""Asks HAProxy about endpoints that wait: the worker that serves, and those that leave.

What its answers mean: ``planning.acknowledging``. An HAProxy that cannot be asked is a reason to wait,
as everything else that is found here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from orbitcontrol.agent.proxy_sessions import ended
from orbitcontrol.codec.haproxy_stat import StatRow
from orbitcontrol.errors import HAProxyError
from orbitcontrol.planning.acknowledging import (
    Asked,
    InForce,
    names_of,
    places_of,
    rows_of,
    servers_at,
    sessions_in,
    why_not_routed,
    why_reachable,
)
from orbitcontrol.planning.proxy import has_admin_socket
from orbitcontrol.planning.servers import Place
from orbitcontrol.ports import Proxy


class Look:
    """One look at HAProxy, under one configuration, for some endpoints.

    ``why`` says of each why it still waits, "" where nothing is known against it, and ``sessions`` how
    many it has in the worker that serves.
    """

    def __init__(self, proxy: Proxy, in_force: InForce, waiting: AbstractSet[Asked]) -> None:
        self.why: dict[Asked, str] = dict.fromkeys(waiting, "")
        self.sessions: dict[Asked, int] = dict.fromkeys(waiting, 0)
        self._proxy = proxy
        self._in_force = in_force
        self._servers = servers_at(in_force.layout, {one.address for one in waiting})
        self._places = {one: places_of(one, self._servers[one.address], in_force.leaving) for one in waiting}

    @property
    def routed(self) -> list[Asked]:
        """Those that get sessions."""
        return [one for one, reason in self.why.items() if not (reason or one.draining)]

    @property
    def drained(self) -> list[Asked]:
        """Those that get none any more."""
        return [one for one, reason in self.why.items() if one.draining and not reason]

    async def at_serving(self) -> None:
        """Asks the worker that serves. Where no sessions are said to be left, it is asked once more."""
        if not self._in_force.runs:
            for one in self.why:
                self.why[one] = (
                    why_reachable(self._servers[one.address], {}) if one.draining else "HAProxy does not run"
                )
            return
        try:
            await ended(self.why.keys(), self._ask)
        except HAProxyError as error:
            self.why = dict.fromkeys(self.why, str(error))

    async def at_leaving(self) -> None:
        """Asks the workers that leave, about those that are drained as far as is known."""
        if not self._in_force.runs or not self.drained:
            return
        sections = self._in_force.layout.sections.keys()
        names = {one: names_of(one, self._places[one], sections) for one in self.drained}
        servers = {name: one.address for one, every in names.items() for name in every}
        try:
            unquiet = await self._proxy.workers.unquiet(servers, present=self._in_force.text)
        except HAProxyError as error:
            self.why |= dict.fromkeys(names, str(error))
            return
        for one, every in names.items():
            self.why[one] = next((unquiet[name] for name in sorted(every) if name in unquiet), "")

    async def _ask(self, asked: AbstractSet[Asked]) -> Mapping[Asked, int]:
        """For ``ended``: the sessions of drains; what there is nothing more to ask about has some."""
        rows = await self._statistics(asked)
        for one in asked:
            servers = self._servers[one.address]
            mine = None if rows is None else rows_of(one, self._places[one], rows)
            if one.draining:
                self.why[one] = why_reachable(servers, mine or {})
                self.sessions[one] = sessions_in(mine or {})
            else:
                self.why[one] = why_not_routed(servers, mine, settled=self._in_force.settled)
        return {one: self.sessions[one] if one.draining and not self.why[one] else 1 for one in asked}

    async def _statistics(self, asked: Collection[Asked]) -> tuple[StatRow, ...] | None:
        """What it says; None where it cannot say anything, and runs what its file says."""
        places = frozenset[Place]().union(*(self._places[one] for one in asked))
        try:
            return await self._proxy.statistics({one.address for one in asked}, places)
        except HAProxyError:
            if has_admin_socket(self._in_force.text):
                raise
            return None
