"""Which commands take the running HAProxy's servers to those of a configuration, without a reload.

Three things are compared: the text that is *wanted*, the text on *disk*, and the servers that
*run*. The disk says with which options each server runs, because the file is written in an order
that keeps this true (below). Where the texts differ in more than their server lines, or a server's
line in more than its weight, only a reload helps; the answer then is its reason. Dead servers do not
wait for it: it may fail.

A batch has two halves with the writing of the file between them:

1. ``first``: dead servers go to maintenance at once; servers are added, set ready, corrected.
   HAProxy has accepted each line before it reaches the disk, so the file needs no check.
2. The file is replaced. It does not name what is on its way out.
3. ``then``: servers are drained, and those that left long ago removed.

HAProxy that dies before 2 comes back with the servers of before, after 2 with those that are wanted;
either way the next plan finds what is missing. So it does after a daemon that died in between: a server
that runs and that the file does not have is on its way out, or, if it is wanted, a reload.

A server on its way out goes from ``drain`` (only when its endpoint is draining, and no cookie or
table binds sessions to it) to ``maint`` when its sessions have ended, and is removed a minute
later. One that is wanted again meanwhile, with the same line, is set ready.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.haproxy_lines import Server, literal_address
from orbitcontrol.codec.haproxy_runtime import (
    Add,
    Command,
    EnableCheck,
    Remove,
    Running,
    RunningServer,
    SetAddress,
    SetState,
    SetUp,
    SetWeight,
)
from orbitcontrol.codec.haproxy_text import Layout, Section

KEPT = 60.0
"""Seconds in maintenance after which a server that left is removed."""

LONGEST_DRAIN = 600.0
"""Seconds after which a draining server goes to maintenance, sessions or not."""

_NO_SECTION = Section(servers={})


class Place(Struct, frozen=True, order=True):
    """A server of the running HAProxy."""

    section: str
    server: str


class Leaving(Struct, frozen=True, kw_only=True):
    """A server on its way out: the line it runs with (None: unknown), and in which state since when."""

    line: Server | None
    state: Literal["drain", "maint"]
    since: float


class Departures(Struct, frozen=True, kw_only=True):
    """What is known of servers on their way out.

    ``draining`` has the names and addresses (``web-10.0.0.1:80``, ``10.0.0.1:80``) of draining
    endpoints; ``idle`` the places whose sessions have ended.
    """

    leaving: Mapping[Place, Leaving] = {}
    draining: Collection[str] = ()
    idle: Collection[Place] = ()


class ServerPlan(Struct, frozen=True, kw_only=True):
    """A batch, and which servers are on their way out after it."""

    first: tuple[Command, ...] = ()
    then: tuple[Command, ...] = ()
    leaving: Mapping[Place, Leaving] = {}


class NeedsReload(Struct, frozen=True):
    """No commands do it; ``first`` takes dead servers out in any case."""

    reason: str
    first: tuple[Command, ...] = ()


def plan_servers(
    *,
    wanted: Layout,
    disk: Layout,
    running: Running,
    departures: Departures,
    now: float,
    added: Mapping[Place, Server] = {},
) -> ServerPlan | NeedsReload:
    """The batch for these texts and servers. ``now`` is seconds of the clock of ``Leaving.since``.

    ``added`` has the lines of servers that were added, and that may not have reached the disk.
    """
    if wanted.rest != disk.rest:
        return NeedsReload("more than its servers changed")
    batch = _Batch()
    for name, section in wanted.sections.items():
        runs, before = running.get(name, {}), disk.sections.get(name, _NO_SECTION)
        for server in _not_as_said(section.servers, before.servers, runs):
            place = Place(name, server.name)
            known = departures.leaving.get(place)
            line = known.line if known is not None else before.servers.get(server.name) or added.get(place)
            batch.keep(place, server, runs.get(server.name), line=line, returns=known is not None)
        for gone in sorted(runs.keys() - section.servers.keys()):
            if section.is_ours(gone) and before.is_ours(gone):
                place = Place(name, gone)
                line = before.servers.get(gone) or added.get(place)
                departure = _departure(
                    place, runs[gone], departures, line=line, sticky=section.sticky, now=now
                )
                batch.let_go(place, runs[gone], departure, now=now)
    if batch.reason is not None:
        return NeedsReload(batch.reason, tuple(batch.dead))
    return ServerPlan(first=(*batch.dead, *batch.first), then=tuple(batch.then), leaving=dict(batch.leaving))


def _not_as_said(
    wanted: Mapping[str, Server], before: Mapping[str, Server], runs: Mapping[str, RunningServer]
) -> list[Server]:
    """The wanted servers that do not run as their line says, or whose line is new: few of thousands."""
    return [
        server
        for name, server in wanted.items()
        if server.as_said is None
        or runs.get(name) != server.as_said
        or ((line := before.get(name)) is not server and line != server)
    ]


class _Batch:
    """A batch while it is made. ``reason``: why no commands do it."""

    def __init__(self) -> None:
        self.dead: list[Command] = []
        self.first: list[Command] = []
        self.then: list[Command] = []
        self.leaving: dict[Place, Leaving] = {}
        self.reason: str | None = None

    def keep(
        self, place: Place, wanted: Server, runs: RunningServer | None, *, line: Server | None, returns: bool
    ) -> None:
        """A server that is wanted, and that runs with ``line``, or not at all."""
        difference = _difference(place, line, wanted, runs)
        if difference is not None:
            self.reason = self.reason or difference
        elif runs is None:
            self.first.extend(_added(place.section, wanted))
        else:
            self.first.extend(_corrected(place.section, wanted, runs, line=line, returns=returns))

    def let_go(self, place: Place, runs: RunningServer, departure: Leaving, *, now: float) -> None:
        """A server that runs and is not wanted."""
        self.leaving[place] = departure
        if departure.state == "maint" and runs.admin != "maint":
            self.dead.append(SetState(section=place.section, server=place.server, state="maint"))
        else:
            self.then.extend(_departing(place, runs, departure, now))


def _added(section: str, server: Server) -> Iterator[Command]:
    yield Add(section=section, server=server.name, address=server.address, options=server.options)
    yield from _checks(section, server)
    if not server.disabled:
        yield from _ready(section, server)


def _ready(section: str, server: Server) -> Iterator[Command]:
    """From maintenance. One that was added would wait for the first word of its agent."""
    yield SetState(section=section, server=server.name, state="ready")
    if server.governed:
        yield SetUp(section=section, server=server.name)


def _checks(section: str, server: Server) -> Iterator[Command]:
    if "check" in server.options:
        yield EnableCheck(section=section, server=server.name)
    if "agent-check" in server.options:
        yield EnableCheck(section=section, server=server.name, agent=True)


def _difference(
    place: Place, runs_with: Server | None, wanted: Server, runs: RunningServer | None
) -> str | None:
    """Why the wanted server cannot be added, or a running one not become it; None when it can."""
    where = f"{place.section}/{place.server}"
    if runs is None:
        why_not = wanted.only_in_a_file()
        return f"server {where} cannot be added at runtime: {why_not}" if why_not else None
    if runs_with is None:
        return f"server {where} runs already, with options that are not known"
    if runs_with.without_weight() != wanted.without_weight():
        return f"the line of server {where} changed"
    return None


def _corrected(
    section: str, server: Server, runs: RunningServer, *, line: Server | None, returns: bool
) -> Iterator[Command]:
    """What makes a server that runs with ``line`` what its new line says.

    An agent's word on weight and state is not corrected, unless it ``returns`` from where we put it.
    """
    address = literal_address(server.address)
    if address is not None and not _is_at(runs, *address):
        yield SetAddress(section=section, server=server.name, host=address[0], port=address[1] or runs.port)
    weighs = line.weight if server.governed and line is not None else runs.weight
    if weighs != server.weight:
        yield SetWeight(section=section, server=server.name, weight=server.weight)
    if runs.unchecked and "check" in server.options and not server.disabled:
        yield EnableCheck(section=section, server=server.name)
    if runs.admin != ("maint" if server.disabled else "ready") and (returns or not server.governed):
        if server.disabled:
            yield SetState(section=section, server=server.name, state="maint")
        else:
            yield from _ready(section, server)
    elif runs.down and address is not None and not (server.checked or server.governed):
        yield SetUp(section=section, server=server.name)


def _departure(
    place: Place,
    runs: RunningServer,
    departures: Departures,
    *,
    line: Server | None,
    sticky: bool,
    now: float,
) -> Leaving:
    """In which state a server that is not wanted is to be; ``line`` is what it runs with by the disk."""
    known = departures.leaving.get(place)
    if known is not None:
        line = known.line
        if known.state == "maint":
            return known
    since = known.since if known is not None else now
    address = line.address if line is not None else f"{runs.host}:{runs.port}"
    drains = (
        not sticky
        and (place.server in departures.draining or address in departures.draining)
        and place not in departures.idle
        and now - since < LONGEST_DRAIN
    )
    return (
        Leaving(line=line, state="drain", since=since)
        if drains
        else Leaving(line=line, state="maint", since=now)
    )


def _departing(place: Place, runs: RunningServer, departure: Leaving, now: float) -> Iterator[Command]:
    if departure.state == "drain" and runs.admin != "drain":
        yield SetState(section=place.section, server=place.server, state="drain")
    elif departure.state == "maint" and now - departure.since >= KEPT:
        yield Remove(section=place.section, server=place.server)


def _is_at(runs: RunningServer, host: str, port: int) -> bool:
    if port not in (0, runs.port):
        return False
    try:
        return ipaddress.ip_address(runs.host) == ipaddress.ip_address(host)
    except ValueError:
        return False
