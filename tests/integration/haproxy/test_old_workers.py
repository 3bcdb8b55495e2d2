"""HAProxy's old workers after a reload: known, counted, and asked whether they can still reach a server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.check import run_program
from orbitcontrol.haproxy.master import MasterSocket
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.haproxy.workers import LeavingWorkers
from orbitcontrol.model.configuration import ProxyConfiguration
from support.etcd import free_ports
from support.haproxy import LoadBalancer, WebServer, eventually, serving
from support.haproxy_homes import DISTRIBUTION, NEWER, DistributionHome, HAProxyHome, on

pytestmark = pytest.mark.integration

EMPTY = ProxyConfiguration(tag="lb", template="")

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
H2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # SETTINGS
    + bytes([0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, ord("x")])  # HEADERS: GET http://x/
)


def config(home: HAProxyHome, *servers: WebServer, more: str = "") -> str:
    """All requests go to the first of the servers."""
    lines = "".join(
        f"    server {server.name} {server.address}{' backup' if number else ''}\n"
        for number, server in enumerate(servers)
    )
    return f"""\
global
    stats socket {home.socket} mode 600 level admin expose-fd listeners
    hard-stop-after 30s
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option idle-close-on-response
frontend web
    bind 127.0.0.1:{home.port}
    default_backend web
{more}backend web
{lines}"""


class Holding(WebServer):
    """Answers when it is told to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked = asyncio.Event()
        self.released = asyncio.Event()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        await self.released.wait()
        await super()._answer(reader, writer)


class Client:
    """A connection to HAProxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """One whole answer."""
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            return await self._reader.readexactly(length)


Connect = Callable[[bytes], Awaitable[Client]]
Servers = tuple[WebServer, WebServer]
BOTH = on((True, DISTRIBUTION), (True, NEWER))


@pytest.fixture
async def connect(haproxy_home: HAProxyHome) -> AsyncIterator[Connect]:
    """Connects to HAProxy, sends something, and returns when the serving worker has the connection."""
    clients: list[Client] = []

    async def connected(data: bytes) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", haproxy_home.port))
        clients.append(client)
        client.send(data)

        async def has_it() -> bool:
            return f"CurrConns: {len(clients)}\n" in await haproxy_home.runtime("show info")

        await eventually(has_it, "HAProxy has accepted it")
        return client

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
async def held() -> AsyncIterator[Holding]:
    server = Holding("held")
    await server.start()
    yield server
    server.released.set()
    await server.stop()


@pytest.fixture
async def proxy(haproxy_home: HAProxyHome) -> AsyncIterator[HAProxy]:
    adapter = haproxy_home.adapter()
    yield adapter
    await adapter.close()


async def unquiet(proxy: HAProxy, *servers: WebServer) -> dict[str, str]:
    """Which of the servers are not quiet, by name; the file on disk has not changed since the last reload."""
    asked = {f"web/{server.name}": server.address for server in servers}
    found = await proxy.workers.unquiet(asked, present=await proxy.current() or "")
    return {name.removeprefix("web/"): reason for name, reason in found.items()}


async def nobody_leaves(proxy: HAProxy) -> bool:
    return not await proxy.workers.leaving()


@BOTH
async def test_a_half_sent_request_may_choose_any_server_that_its_worker_was_loaded_with(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    spare, new = web_servers
    await proxy.apply(config(haproxy_home, held, spare), EMPTY)
    (old,) = (await haproxy_home.processes()).workers
    assert await nobody_leaves(proxy)
    client = await connect(REQUEST[:20])
    await proxy.apply(config(haproxy_home, new), EMPTY)

    (leaving,) = await proxy.workers.leaving()
    assert (leaving.pid, leaving.sessions) == (old, 1)
    reasons = await unquiet(proxy, held, spare, new)
    assert reasons.keys() == {"held", "one"}  # it has not heard of the new one
    for reason in reasons.values():
        assert reason == (
            f"HAProxy's old worker {old}: clients may still choose it: 1 connected, 0 sessions at servers"
        )
    for command in (
        "set server web/held state drain",
        "set weight web/held 0",
        "set server web/held state maint",
    ):
        assert "Proxy is disabled" in await haproxy_home.master.command(f"@!{old} {command}")

    client.send(REQUEST[20:])
    await held.asked.wait()
    assert await unquiet(proxy, held, spare) == {"held": f"HAProxy's old worker {old}: sessions 1, queued 0"}
    held.released.set()
    assert await client.answer() == b"held"
    await eventually(lambda: nobody_leaves(proxy), "the old worker has exited")
    assert await unquiet(proxy, held, spare) == {}


@BOTH
async def test_a_connection_between_two_requests_may_choose_any_server(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, web_servers: Servers
) -> None:
    one, two = web_servers
    await proxy.apply(config(haproxy_home, one), EMPTY)
    client = await connect(REQUEST)
    assert await client.answer() == b"one"
    await proxy.apply(config(haproxy_home, two), EMPTY)
    assert "1 connected, 0 sessions" in (await unquiet(proxy, one))["one"]
    client.send(REQUEST)
    assert await client.answer() == b"one"
    await eventually(lambda: nobody_leaves(proxy), "the old worker has exited")


@BOTH
async def test_a_client_that_began_http2_unasked_may_choose_any_server_beside_its_requests(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    spare, new = web_servers
    await proxy.apply(config(haproxy_home, held, spare), EMPTY)
    await connect(H2_REQUEST)
    await held.asked.wait()
    await proxy.apply(config(haproxy_home, new), EMPTY)
    reasons = await unquiet(proxy, held, spare)
    assert "sessions 1" in reasons["held"]
    assert "1 of them speak HTTP/2" in reasons["one"]


@BOTH
async def test_a_worker_that_lets_clients_negotiate_http2_is_quiet_when_it_has_exited(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    spare, new = web_servers
    (port,) = free_ports(1)
    more = f"frontend more\n    bind 127.0.0.1:{port} proto h2\n    default_backend web\n"
    await proxy.apply(config(haproxy_home, held, spare, more=more), EMPTY)
    client = await connect(REQUEST)
    await held.asked.wait()
    await proxy.apply(config(haproxy_home, new), EMPTY)
    assert "it has not exited, and line 14 of its configuration lets" in (await unquiet(proxy, spare))["one"]
    # a daemon that came later knows the present configuration alone
    later = haproxy_home.adapter()
    assert await unquiet(later, spare) == {}
    await later.close()
    held.released.set()
    assert await client.answer() == b"held"
    await eventually(lambda: nobody_leaves(proxy), "the old worker has exited")
    assert await unquiet(proxy, spare) == {}


async def test_an_old_worker_that_does_not_answer_is_not_quiet(
    haproxy_home: HAProxyHome,
    proxy: HAProxy,
    connect: Connect,
    web_servers: Servers,
) -> None:
    one, two = web_servers
    await proxy.apply(config(haproxy_home, one), EMPTY)
    (old,) = (await haproxy_home.processes()).workers
    await connect(REQUEST[:20])
    await proxy.apply(config(haproxy_home, two), EMPTY)
    os.kill(old, signal.SIGSTOP)
    try:
        assert "no answer" in (await unquiet(proxy, one))["one"]
        (leaving,) = await proxy.workers.leaving()
        assert leaving.sessions is None
    finally:
        os.kill(old, signal.SIGCONT)


class Between:
    """A socket that passes commands on to a master, and what it says through ``meddle``."""

    def __init__(self, master: MasterSocket, meddle: Callable[[str, str], Awaitable[str]]) -> None:
        self._master = master
        self._meddle = meddle
        self.path = master.path.with_name("between.sock")

    async def __aenter__(self) -> LeavingWorkers:
        self._server = await asyncio.start_unix_server(self._pass_on, self.path)
        return LeavingWorkers(MasterSocket(self.path))

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.read(-1)).decode().strip()
        writer.write((await self._meddle(command, await self._master.command(command))).encode())
        writer.close()


async def test_an_answer_that_was_cut_off_says_nothing_of_what_it_lacks(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    spare, new = web_servers
    await proxy.apply(config(haproxy_home, held, spare), EMPTY)
    await connect(REQUEST)
    await held.asked.wait()
    await proxy.apply(config(haproxy_home, new), EMPTY)
    assert await unquiet(proxy, spare) == {}

    async def cut(command: str, reply: str) -> str:
        return reply.partition("web,one,")[0] if "show stat" in command else reply

    async with Between(haproxy_home.master, cut) as workers:
        found = await workers.unquiet({"web/one": spare.address}, present="")
    assert "it did not answer in full" in found["web/one"]

    async def cut_masters(command: str, reply: str) -> str:
        return reply.partition("# old workers")[0] if command == "show proc" else reply

    async with Between(haproxy_home.master, cut_masters) as workers:
        with pytest.raises(HAProxyError, match="did not say in full which workers it has"):
            await workers.unquiet({"web/held": held.address}, present="")


async def test_a_worker_that_begins_to_leave_while_others_are_asked_is_not_quiet(
    haproxy_home: HAProxyHome, proxy: HAProxy, connect: Connect, web_servers: Servers
) -> None:
    one, two = web_servers
    await proxy.apply(config(haproxy_home, one), EMPTY)
    await connect(REQUEST[:20])

    async def reload(command: str, reply: str) -> str:
        if not (await haproxy_home.processes()).leaving:
            await proxy.apply(config(haproxy_home, two), EMPTY)
        return reply

    async with Between(haproxy_home.master, reload) as workers:
        found = await workers.unquiet({"web/one": one.address}, present="")
    assert "it began to leave a moment ago" in found["web/one"]


@on((False, DISTRIBUTION), (False, NEWER))
async def test_without_a_master_socket_an_old_worker_is_quiet_when_it_has_exited(
    haproxy_home: HAProxyHome, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    assert isinstance(haproxy_home, DistributionHome)
    await haproxy_home.begin()
    proxy = haproxy_home.reloaded_by(command=haproxy_home.reload_command)
    before = (await haproxy_home.processes()).workers
    await proxy.apply(config(haproxy_home, held), EMPTY)
    await eventually(lambda: serves_another(haproxy_home, before), "the first reload")
    (old,) = (await haproxy_home.processes()).workers
    client = await connect(REQUEST)
    await held.asked.wait()
    await proxy.apply(config(haproxy_home, web_servers[1]), EMPTY)
    assert (await unquiet(proxy, held)).keys() == {"held"}  # whether the new worker serves yet or not
    await eventually(lambda: serves_another(haproxy_home, frozenset({old})), "the second reload")
    later = haproxy_home.reloaded_by(command=haproxy_home.reload_command)
    for each in (proxy, later):  # one was told of the reload, the other finds it
        assert [leaving.pid for leaving in await each.workers.leaving()] == [old]
        assert f"old process {old} has not exited" in (await unquiet(each, held, *web_servers))["held"]
    held.released.set()
    assert await client.answer() == b"held"
    await eventually(lambda: nobody_leaves(proxy), "the old worker has exited")
    assert await unquiet(proxy, held) == {}


async def serves_another(home: HAProxyHome, than: frozenset[int]) -> bool:
    return bool((await home.processes()).workers - than)


async def test_an_haproxy_without_a_master_is_known_by_having_served(
    haproxy_home: HAProxyHome, connect: Connect, held: Holding, web_servers: Servers
) -> None:
    text = config(haproxy_home, held).replace("global\n", f"global\n    pidfile {haproxy_home.pid_file}\n")
    haproxy_home.config.write_text(text)
    command = f"{haproxy_home.binary} -D -f {haproxy_home.config} -sf $(cat {haproxy_home.pid_file})"
    settings = HAProxySettings(config_dir=haproxy_home.directory, reload_command=command)
    proxy = HAProxy(settings)
    await run_program(["/bin/sh", "-c", command.partition(" -sf")[0]], deadline=10)
    try:
        old = int(haproxy_home.pid_file.read_text())
        client = await connect(REQUEST)
        await held.asked.wait()
        with pytest.raises(HAProxyError, match="the reload command ended with 1"):
            await proxy.apply("nonsense\n", EMPTY)
        assert await unquiet(proxy, held) == {}
        await proxy.apply(text.replace(held.address, web_servers[1].address), EMPTY)
        assert [leaving.pid for leaving in await proxy.workers.leaving()] == [old]
        assert f"old process {old} has not exited" in (await unquiet(proxy, held))["held"]
        held.released.set()
        assert await client.answer() == b"held"
        await eventually(lambda: nobody_leaves(proxy), "the old process has exited")
        assert await unquiet(proxy, held) == {}
    finally:
        os.kill(int(haproxy_home.pid_file.read_text()), signal.SIGKILL)


async def test_where_nobody_listens_nobody_leaves_and_nothing_is_known_to_be_quiet(
    haproxy_home: HAProxyHome,
) -> None:
    by_command = HAProxy(HAProxySettings(config_dir=haproxy_home.directory, reload_command="false"))
    for proxy in (haproxy_home.adapter(), by_command):
        assert await nobody_leaves(proxy)
        with pytest.raises(HAProxyError, match=r"\.sock: no HAProxy"):
            await proxy.workers.unquiet({}, present="")
        await proxy.close()


async def test_a_load_balancer_tells_of_an_old_worker_while_it_is_there(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.home.port)
    writer.write(REQUEST[:20])

    async def has_it() -> bool:
        return "CurrConns: 1\n" in await balancer.home.runtime("show info")

    await eventually(has_it, "HAProxy has accepted it")
    reloading = balancer.home.template.replace("retries 3", "retries 2")
    await balancer.judged(balancer.import_template(reloading), accepted=True)
    told = balancer.board.proxy_workers
    assert await told.wait_for(lambda value: value is not None and value.leaving == 1, timeout=20)
    writer.write(REQUEST[20:])
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert await told.wait_for(lambda value: value is None, timeout=20)
