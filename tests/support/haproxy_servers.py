"""What a load balancer's servers are: by what runs, by what the file says, and by what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.codec.haproxy_runtime import parse_servers
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.model.state import Alive, Endpoint, Reload
from support.haproxy import LoadBalancer, WebServer, an_endpoint, eventually
from support.haproxy_homes import DISTRIBUTION, NEWER, HAProxyHome, on
from support.haproxy_model import Servers, loads

BOTH_VERSIONS = on((True, DISTRIBUTION), (True, NEWER))
Three = tuple["SlowServer", "SlowServer", "SlowServer"]


class SlowServer(WebServer):
    """Answers ``GET /slow`` when ``go`` is set. ``asked`` is set when such a request has come."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n")
        if b"/slow" in line:
            self.asked.set()
            await self.go.wait()
        await super()._answer(reader, writer)


@pytest.fixture
async def three() -> AsyncIterator[Three]:
    """Three servers: ``one``, ``two`` and ``three``."""
    servers = (SlowServer("one"), SlowServer("two"), SlowServer("three"))
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        server.go.set()
        await server.stop()


def name(server: WebServer) -> str:
    return f"web-{server.address}"


def put(balancer: LoadBalancer, *servers: WebServer, **endpoints: Endpoint) -> None:
    """Publishes these endpoints of ``web``, and no others: what is missing was withdrawn."""
    balancer.watch.alive.set({"10.0.0.1": Alive(session="s1", registered=True)})
    found = {server.address: an_endpoint() for server in servers}
    balancer.watch.endpoints.set({"web": found | endpoints})


def drained(server: WebServer) -> dict[str, Endpoint]:
    return {server.address: an_endpoint(state="draining")}


async def running(home: HAProxyHome) -> Servers:
    return parse_servers(await home.runtime("show servers state")) or {}


async def states(balancer: LoadBalancer) -> dict[str, str]:
    """The states of the servers of ``web``."""
    return {key: each.admin for key, each in (await running(balancer.home)).get("web", {}).items()}


async def becomes(balancer: LoadBalancer, server: WebServer, state: str | None) -> None:
    """Waits until the server is in this state; None: it is not there."""

    async def holds() -> bool:
        return (await states(balancer)).get(name(server)) == state

    await eventually(holds, f"{name(server)} is {state}")


async def agreed(balancer: LoadBalancer, *servers: WebServer) -> None:
    """Waits until these run, as the file says, and no others get anything."""

    async def holds() -> bool:
        now = (await running(balancer.home)).get("web", {})
        serving_now = {key: each for key, each in now.items() if each.admin == "ready"}
        said = loads(layout(balancer.home.config.read_text())).get("web", {})
        return serving_now == said and serving_now.keys() == {name(server) for server in servers}

    await eventually(holds, "what runs is what the file says")


class Reloads:
    """What a test's changes may cost. ``home`` is the HAProxy that they are counted of."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self._workers: frozenset[int] = frozenset()
        self._recorded = 0

    async def begin(self) -> None:
        self._workers = (await self._balancer.home.processes()).workers
        self._recorded = len(self.ledger)

    @property
    def ledger(self) -> tuple[Reload, ...]:
        return self._balancer.board.reloads.value

    @property
    def reasons(self) -> list[str]:
        return [each.reason for each in self.ledger[self._recorded :]]

    async def none(self) -> None:
        assert (await self._balancer.home.processes()).workers == self._workers
        assert self.reasons == []


async def reloads_of(balancer: LoadBalancer) -> Reloads:
    counted = Reloads(balancer)
    await counted.begin()
    return counted


async def looks_again(balancer: LoadBalancer) -> None:
    """Waits until the loop has looked at its servers once more: it puts right what is changed by hand."""
    server = next(key for key, state in (await states(balancer)).items() if state == "ready")
    await balancer.home.runtime(f"set server web/{server} state drain")

    async def is_right() -> bool:
        return (await states(balancer))[server] == "ready"

    await eventually(is_right, "another look")


def with_line(balancer: LoadBalancer, line: str = "{{ e.address }}", section: str = "") -> None:
    """Has the template write its servers with this line, and its backend with more lines."""
    template = balancer.home.template.replace("{{ e.name }} {{ e.address }}", f"{{{{ e.name }}}} {line}")
    balancer.home.template = template.replace(
        "    balance roundrobin\n", f"    balance roundrobin\n{section}"
    )
