"""HAProxy's workers that leave after a reload: what can still reach a server through them.

A worker that leaves listens no more and goes on with its connections. Nobody can tell it to spare a
server, it refuses such commands; and a connection that has not sent its whole request yet can still
be given any of its servers, those of an earlier configuration too. So a server is *quiet* in it only
when

- the server has no session and nobody in its queue, and
- every client's session is at some server: the sessions of all frontends together are as many as
  those of all servers together,

read twice, a moment apart. The sums speak of each other only while one client connection is one
session at one server. That does not hold

- for HTTP/2 and QUIC: a frontend counts connections there, a server their requests. Where the
  configuration lets clients negotiate one of them, the worker is quiet when it has exited
  (``uncountable``). Without a word in the configuration a client may begin HTTP/2 on a plain HTTP
  frontend (``option disable-h2-upgrade`` forbids it); HAProxy counts the connections that did;
- for agents of ``filter spoe``: their sessions are at servers, and no frontend counts them.

A session at one server may still go to another when its connect fails there and ``option
redispatch`` is set; it then meets a stopped server as a new connection does, and is tried again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from orbitcontrol.codec.haproxy import Worker
from orbitcontrol.codec.haproxy_stat import StatRow

_H2_BY_DEFAULT = (2, 8)
"""From this version on an ``ssl`` bind without ``alpn`` speaks HTTP/2."""


class LeavingWorker(Struct, frozen=True, kw_only=True):
    """A worker that finishes its old connections.

    ``seconds`` is how long it has been leaving, at least. ``sessions`` are the clients' connections
    that it has; None where it did not say.
    """

    pid: int
    seconds: float
    sessions: int | None = None


def seconds_leaving(worker: Worker, workers: Sequence[Worker]) -> float:
    """How long it has been leaving, at least: since the oldest of those that came after it started."""
    return max((other.uptime for other in workers if other.reloads < worker.reloads), default=0.0)


def oldest_first(workers: Sequence[Worker]) -> list[Worker]:
    """Those of the workers that leave."""
    return sorted((worker for worker in workers if worker.leaving), key=lambda worker: -worker.reloads)


def unquiet(readings: Sequence[Sequence[StatRow]], servers: Mapping[str, str]) -> dict[str, str]:
    """The servers that are not quiet in a worker, each with why.

    ``readings`` are what it said to ``show stat``, two at least. ``servers`` maps ``backend/server`` to
    ``host:port``: a server is found by either, because an earlier configuration may have named it
    otherwise. One that the worker does not have gets nothing from it.
    """
    found: dict[str, str] = {}
    for rows in readings:
        undecided = _undecided(rows)
        for name, address in servers.items():
            mine = [row for row in rows if _is(row, name, address)]
            if mine and (reason := _sessions(mine) or undecided):
                found.setdefault(name, reason)
    return found


def _is(row: StatRow, name: str, address: str) -> bool:
    if row.kind != "server":
        return False
    return f"{row.proxy}/{row.server}" == name or (address != "" and row.address == address)


def _sessions(rows: Sequence[StatRow]) -> str:
    sessions, queued = sum(row.sessions for row in rows), sum(row.queued for row in rows)
    return f"sessions {sessions}, queued {queued}" if sessions or queued else ""


def _undecided(rows: Sequence[StatRow]) -> str:
    """Why clients of this worker may still choose any of its servers; "" when none can."""
    frontends = [row for row in rows if row.kind == "frontend"]
    clients = sum(row.sessions for row in frontends)
    at_servers = sum(row.sessions for row in rows if row.kind == "server")
    if clients != at_servers:
        return f"clients may still choose it: {clients} connected, {at_servers} sessions at servers"
    if clients and any(row.h2_connections is None for row in frontends):
        return "clients may still choose it: this HAProxy does not tell how many speak HTTP/2"
    if multiplexed := sum(row.h2_connections or 0 for row in frontends):
        return f"clients may still choose it: {multiplexed} of them speak HTTP/2"
    return ""


def uncountable(text: str, *, version: tuple[int, int] | None) -> str | None:
    """Why sessions in a worker with this configuration cannot be compared; None where they can.

    What cannot be told from the text counts as a reason: a variable, the certificates of a
    ``crt-list``, a ``version`` that is not known.
    """
    return next(_reasons(text, version), None)


def _reasons(text: str, version: tuple[int, int] | None) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        match line.replace('"', "").replace("'", "").split():
            case ["bind", addresses, *options]:
                if "quic" in addresses or "$" in addresses:
                    yield f"line {number} of its configuration lets clients speak QUIC"
                elif _speaks_h2(options, version):
                    yield f"line {number} of its configuration lets clients speak HTTP/2"
            case ["filter", "spoe", *_]:
                yield f"line {number} of its configuration has agents, whose sessions no frontend counts"
            case _:
                pass


def _speaks_h2(options: Sequence[str], version: tuple[int, int] | None) -> bool:
    """Whether a client may come to HTTP/2 through a ``bind`` with these options."""
    values = dict(itertools.pairwise(options))
    if any(option.startswith("$") for option in options):
        return True
    if (proto := values.get("proto")) is not None:
        return proto not in {"h1", "none"}
    if "ssl" not in options:
        return False
    offered = [values[option] for option in ("alpn", "npn") if option in values]
    if offered:
        return any("h2" in protocols or "$" in protocols for protocols in offered)
    if "crt-list" in options:
        return True
    return "no-alpn" not in options and (version is None or version >= _H2_BY_DEFAULT)
