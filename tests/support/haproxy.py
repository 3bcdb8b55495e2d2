"""A load balancer for tests: a real HAProxy with small HTTP servers behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.agent.board import Board, Cell, Session
from orbitcontrol.agent.proxy import ProxyLoop
from orbitcontrol.agent.proxy_rotation import EndpointWatch
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import HAProxyError, StoreUnreachable
from orbitcontrol.model.configuration import Desired, MachineIdentity, ProxyConfiguration
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.proxy import ProxyState, loaded
from orbitcontrol.planning.rotation import Place, Published, Sight, at
from orbitcontrol.ports import Store
from orbitcontrol.probes.connect import TcpConnector
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.open import open_store
from support.haproxy_homes import HAProxyHome

LEASE_TTL = 600.0


def an_endpoint(machine: str = "10.0.0.1", session: str = "s1", **fields: object) -> Endpoint:
    values: dict[str, object] = {"id": "1", "machine": machine, "session": session, **fields}
    return Endpoint(**values)  # type: ignore[arg-type]


class WebServer:
    """Answers every request with its own name; stopped and started again on the same port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        port = int(self.address.rpartition(":")[2] or 0)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            for _ in range(4):  # who was accepted a moment ago gets to ``_serve``, which closes in any case
                await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:  # also of a client that the end of the test finds silent
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.name.encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()


class Sightings:
    """An ``EndpointWatch`` that a test fills by hand. ``followed`` is what the loop asked for."""

    def __init__(self) -> None:
        self.endpoints: Cell[Published] = Cell("endpoints", {})
        self.alive: Cell[Mapping[str, Alive] | None] = Cell("alive", {})
        self.followed: Cell[frozenset[str]] = Cell("followed", frozenset())
        self.unreachable = False
        self.listed_again: list[frozenset[str]] = []

    def list_again(self, services: AbstractSet[str]) -> None:
        self.listed_again.append(frozenset(services))  # what a test publishes is the newest there is

    def follow(self, services: frozenset[str]) -> None:
        self.followed.set(services)

    async def read(self, services: frozenset[str]) -> Sight:
        if self.unreachable:
            raise StoreUnreachable("the store does not answer")
        published = {name: self.endpoints.value.get(name, {}) for name in services}
        return Sight(endpoints=published, alive=self.alive.value or {})

    async def look(self, places: frozenset[Place]) -> Sight:
        sight = await self.read(frozenset(place.service for place in places))
        return structs.replace(sight, endpoints=at(sight.endpoints, places))

    def publish(self, service: str, *addresses: str) -> None:
        entries = {address: an_endpoint() for address in addresses}
        self.endpoints.set({**self.endpoints.value, service: entries})


class LoadBalancer:
    """A ``ProxyLoop`` on a real HAProxy, with the store's side in the test's hand."""

    def __init__(self, home: HAProxyHome, store: Store) -> None:
        self.home = home
        self.watch = Sightings()
        self.files = StateDirectory(home.directory / "state")
        self.state = Remembered(self.files, "haproxy.json", ProxyState, ProxyState())
        self.board = Board()
        self.at = BalancerStore(
            store=store,
            keys=Keys(base=f"/{secrets.token_hex(4)}"),
            address="10.0.0.1",
            check="10.0.0.1:1500",
        )
        self.lease = 0
        self._task: asyncio.Task[None] | None = None
        self._generation = 0

    def start(self) -> None:
        """Starts the loop, as a daemon does."""
        self.board.session.set(Session(id="s1", lease=self.lease, resumed=False))
        loop = ProxyLoop(
            board=self.board,
            at=self.at,
            proxy=self.home.adapter(),
            watch=self.endpoint_watch(),
            connector=TcpConnector(),
            files=self.files,
            lease_ttl=10,
            tick=5,
            connect_every=0.2,
            look_every=0.5,
        )
        self._task = asyncio.create_task(loop.run())

    def endpoint_watch(self) -> EndpointWatch:
        """Where the loop has its endpoints from."""
        return self.watch

    async def stop(self) -> None:
        """Ends the loop, as a daemon that ends does: HAProxy goes on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def restart(self) -> None:
        await self.stop()
        board, self.board = self.board, Board()
        self.board.desired.set(board.desired.value)
        self.start()

    def import_template(self, template: str | None, **fields: object) -> int:
        """Makes it what the machine should have; the generation it came with."""
        self._generation += 1
        values: dict[str, object] = {"tag": "lb", "template": template, **fields}
        proxy = None if template is None else ProxyConfiguration(**values)  # type: ignore[arg-type]
        self.board.desired.set(
            Desired(
                epoch="e",
                generation=self._generation,
                machine=MachineIdentity(address="10.0.0.1", tags=("lb",)),
                known_services={name: Service(name=name) for name in ("web", "api")},
                proxy=proxy,
            )
        )
        return self._generation

    async def judged(self, generation: int, *, accepted: bool) -> str:
        """Waits for the verdict on a generation; its error."""
        cell = self.board.proxy_verdict
        assert await cell.wait_for(
            lambda verdict: verdict is not None and verdict.generation == generation, timeout=20
        ), self.board.problems.cell.value
        assert cell.value is not None
        assert cell.value.accepted is accepted, cell.value
        return cell.value.error

    async def problem(self, subject: str, words: str = "") -> str:
        """Waits until something with these words is reported about the subject."""

        def found() -> list[str]:
            reported = self.board.problems.cell.value
            return [each.reason for each in reported if each.subject == subject and words in each.reason]

        assert await self.board.problems.cell.wait_for(lambda _: bool(found()), timeout=20), (
            self.board.problems.cell.value
        )
        return found()[0]

    async def routes_to(self, *addresses: str) -> None:
        """Waits until HAProxy itself says that it has exactly these servers of ``web``."""
        wanted = {f"web-{address}" for address in addresses}
        await eventually(lambda: self._has(wanted), f"servers {wanted}")

    async def settled(self) -> None:
        """Waits until the loop has seen HAProxy load what is on the disk."""

        async def holds() -> bool:
            return self.state.load().applied == loaded(layout(self.home.config.read_text()))

        await eventually(holds, "the file on disk seen to be loaded")

    async def _has(self, wanted: set[str]) -> bool:
        return await self.home.servers() == wanted


async def serving(balancer: LoadBalancer, *servers: WebServer) -> int:
    """A load balancer in service with these servers; the generation of its template."""
    balancer.watch.publish("web", *(server.address for server in servers))
    generation = balancer.import_template(balancer.home.template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    await balancer.routes_to(*(server.address for server in servers))
    return generation


async def killed_and_back(balancer: LoadBalancer) -> None:
    """Kills HAProxy and waits until another one serves."""
    before = await balancer.home.processes()
    os.kill(before.master, signal.SIGKILL)

    async def back() -> bool:
        return (await balancer.home.processes()).master != before.master and await answers(balancer)

    await eventually(back, "another HAProxy serves")


async def answers(balancer: LoadBalancer) -> bool:
    """Whether HAProxy has a server that answers."""
    return (await balancer.home.get()).startswith("200")


async def eventually(holds: object, what: str, *, within: float = 20) -> None:
    """Asks again until ``await holds()`` is true; an error of HAProxy's or of the network is a no."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(OSError, HAProxyError):
            if await holds():  # type: ignore[operator]
                return
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture
async def balancer(haproxy_home: HAProxyHome, tmp_path: Path) -> AsyncIterator[LoadBalancer]:
    """A load balancer whose daemon is not started yet."""
    await haproxy_home.begin()
    store = open_store(f"sqlite://{tmp_path}/store.db")
    found = LoadBalancer(haproxy_home, store)
    found.lease = await store.grant(LEASE_TTL)
    yield found
    await found.stop()
    await store.close()


@pytest.fixture
async def web_servers() -> AsyncIterator[tuple[WebServer, WebServer]]:
    """Two servers, named ``one`` and ``two``."""
    servers = (WebServer("one"), WebServer("two"))
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()
