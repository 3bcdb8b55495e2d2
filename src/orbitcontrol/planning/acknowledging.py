"""What a load balancer may tell whoever waits for it: an endpoint is routed to, or drained.

An endpoint asks for it with ``Ack`` in its value, and each publication (its ``Id``) is answered by
itself. The answer rests on three things that must agree, each read after the one before:

1. the configuration *in force* was made with this very publication in this state, HAProxy has taken it,
   and the file on disk says the same;
2. the worker that serves says of the servers concerned what it should: every one of them is ready, and up
   by HAProxy's own check where its line has one; or none of them gets new sessions;
3. for a drain: no worker that leaves can reach the endpoint (``planning.leaving_workers``).

A drain is answered when nothing new can come, with the sessions that are left, and once more when they
have ended. An endpoint that the template has no server for (of another zone, perhaps) is routed to as
far as this load balancer is concerned once the wanted template has been judged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from orbitcontrol.codec.haproxy_lines import Server, literal_address
from orbitcontrol.codec.haproxy_stat import StatRow
from orbitcontrol.codec.haproxy_text import Layout
from orbitcontrol.model.rollouts import Ack
from orbitcontrol.planning import rotation
from orbitcontrol.planning.rotation import Published, Routes
from orbitcontrol.planning.servers import Leaving, Place

_NUMBER = re.compile(r"[0-9]+")

ROUTED = Ack(step="routed")
DRAINED = Ack(step="drained")


class Asked(Struct, frozen=True, order=True):
    """One publication that waits for an answer: ``host:port`` and ``Id``, up or draining."""

    service: str
    address: str
    id: str
    draining: bool


class Written(Struct, frozen=True, order=True):
    """Which publication an acknowledgement is for."""

    service: str
    id: str


class InForce(Struct, frozen=True, kw_only=True):
    """The configuration that HAProxy has taken, on the disk too, and what it was made of.

    ``routes`` are all endpoints that were known, ``unfit`` those that got nothing although they are up.
    ``leaving`` are servers on their way out. ``settled``: the wanted template is not still under way.
    Without ``runs`` HAProxy certainly does not run, and would start with this text.
    """

    text: str
    layout: Layout
    routes: Routes
    unfit: frozenset[rotation.Place] = frozenset()
    leaving: Mapping[Place, Leaving] = {}
    settled: bool = True
    runs: bool = True

    def has_taken(self, asked: Asked) -> bool:
        """True when it was made with this publication, in this state."""
        endpoint = self.routes.get(asked.service, {}).get(asked.address)
        return (
            endpoint is not None
            and endpoint.id == asked.id
            and (endpoint.state == "draining") is asked.draining
            and (asked.draining or rotation.Place(asked.service, asked.address) not in self.unfit)
        )


def asked_for(published: Published, services: Collection[str]) -> frozenset[Asked]:
    """The publications in these services that wait for an answer."""
    return frozenset(
        Asked(service, address, endpoint.id, endpoint.state == "draining")
        for service, entries in published.items()
        if service in services
        for address, endpoint in entries.items()
        if endpoint is not None and endpoint.ack
    )


def unanswered(asked: Iterable[Asked], acks: Mapping[Written, Ack]) -> frozenset[Asked]:
    """Those for which there is still something to tell."""
    return frozenset(
        one
        for one in asked
        if acks.get(Written(one.service, one.id)) != (DRAINED if one.draining else ROUTED)
    )


def obsolete(
    acks: Collection[Written], *, published: Published, services: Collection[str]
) -> frozenset[Written]:
    """The acknowledgements whose publication is gone, or whose service is no business of ours any more.

    A service that was not listed yet, and a value that cannot be read, say nothing.
    """
    present: dict[str, set[str] | None] = {}
    for service in {ack.service for ack in acks} & published.keys():
        entries = published[service].values()
        readable = [endpoint for endpoint in entries if endpoint is not None]
        present[service] = {each.id for each in readable} if len(readable) == len(entries) else None
    found = set()
    for ack in acks:
        ids = present.get(ack.service)
        if ack.service not in services or (ids is not None and ack.id not in ids):
            found.add(ack)
    return frozenset(found)


def servers_at(layout: Layout, addresses: Collection[str]) -> dict[str, dict[Place, Server]]:
    """The servers of a configuration at each of the addresses, but for those that are disabled there."""
    found: dict[str, dict[Place, Server]] = {address: {} for address in addresses}
    for name, section in layout.sections.items():
        for server in (*section.servers.values(), *section.others):
            if not server.disabled and (entries := found.get(_address(server))) is not None:
                entries[Place(name, server.name)] = server
    return found


def places_of(asked: Asked, servers: Iterable[Place], leaving: Mapping[Place, Leaving]) -> frozenset[Place]:
    """The servers that may stand for the endpoint in HAProxy, as far as it is known by their names."""
    gone = (
        place
        for place, each in leaving.items()
        if each.line is not None and _address(each.line) == asked.address
    )
    return frozenset([*servers, *gone])


def names_of(asked: Asked, places: Collection[Place], sections: Collection[str]) -> frozenset[str]:
    """What workers that leave may call the servers, as ``backend/server``; they know them by address, too.

    An address that has to be looked up is another one there: then the name that templates are offered counts.
    """
    usual = f"{asked.service}-{asked.address}"
    known = {f"{place.section}/{place.server}" for place in places}
    if literal_address(asked.address) is None:
        known |= {f"{section}/{usual}" for section in sections}
    return frozenset(known or {f"{asked.service}/{usual}"})


def rows_of(asked: Asked, places: Collection[Place], rows: Iterable[StatRow]) -> dict[Place, StatRow]:
    """What HAProxy says of these servers, and of all others at the endpoint's address."""
    found = {Place(row.proxy, row.server): row for row in rows}
    return {place: row for place, row in found.items() if row.address == asked.address or place in places}


def why_not_routed(
    servers: Mapping[Place, Server], rows: Mapping[Place, StatRow] | None, *, settled: bool
) -> str:
    """Why the endpoint is not in rotation; "" when it is, or when nothing here routes to it.

    Without ``rows`` HAProxy has loaded the servers from its file, and cannot be asked.
    """
    if not servers:
        return "" if settled else "the wanted template is not applied yet"
    if rows is None:
        checked = sorted(place for place, server in servers.items() if "check" in server.options)
        return f"HAProxy does not tell whether {_where(checked[0])} passes its check" if checked else ""
    return next(
        (reason for place, server in servers.items() if (reason := _why_not(place, server, rows.get(place)))),
        "",
    )


def why_reachable(servers: Collection[Place], rows: Mapping[Place, StatRow]) -> str:
    """Why new sessions may still get to a draining endpoint from the worker that serves; "" when none can."""
    if servers:
        return f"the template has server {_where(min(servers))} of its own for it"
    return next(
        (
            f"server {_where(place)} still gets sessions"
            for place, row in rows.items()
            if not row.status.startswith(("MAINT", "DRAIN"))
        ),
        "",
    )


def sessions_in(rows: Mapping[Place, StatRow]) -> int:
    """The sessions at these servers, with those that wait for them."""
    return sum(row.sessions + row.queued for row in rows.values())


def drained(before: Ack | None, *, sessions: int) -> Ack | None:
    """What to write of a drain, with so many sessions left; None when it says nothing new.

    Their number is told once, and then only that they have ended: each write wakes others.
    """
    if sessions == 0:
        return None if before == DRAINED else DRAINED
    if before is not None and before.step == "drained":
        return None
    return Ack(step="drained", sessions=sessions)


def differs_in_numbers(one: str, other: str) -> bool:
    """True for two reasons that say the same of other numbers: each change of a problem is a write."""
    return _NUMBER.sub("", one) == _NUMBER.sub("", other)


def _why_not(place: Place, server: Server, row: StatRow | None) -> str:
    where = f"server {_where(place)}"
    if row is None:
        return f"HAProxy does not have {where} yet"
    if row.status.startswith("MAINT"):
        return f"{where} is in maintenance"
    if "check" in server.options and "OK" not in row.check:
        return f"{where} has not passed HAProxy's own check: {row.check or 'no check yet'}"
    is_light = row.status.startswith("DRAIN") and server.weight == 0
    if server.governed or is_light or row.status.startswith(("UP", "no check")):
        return ""  # an agent says itself how much its server gets
    return f"{where} is {row.status}"


def _address(server: Server) -> str:
    return server.address.rpartition("@")[2]


def _where(place: Place) -> str:
    return f"{place.section}/{place.server}"
