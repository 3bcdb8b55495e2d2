from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import TcpCheck
from orbitcontrol.names import Address, Names
from orbitcontrol.probes.tcp import TcpProber
from support.servers import free_port, full_backlog, serving, silent

pytestmark = pytest.mark.integration


HASTY: dict[str, Any] = {"connect_timeout": Duration(0.3)}


async def ask(run: Run, host_port: str, prober: TcpProber | None = None, **fields: Any) -> ProbeResult:
    """Asks; patiently unless ``fields`` say otherwise, because most of it is not about time."""
    check = TcpCheck(host_port=host_port, **({"connect_timeout": Duration(5)} | fields))
    return await (prober or TcpProber()).probe(check, run)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_it_passes_where_a_connection_is_accepted(run: Run, name: str) -> None:
    async with serving(silent) as port:
        assert await ask(run, f"{name}:{port}") == ProbeResult(passed=True, detail="connected")


async def test_it_passes_on_ipv6(run: Run) -> None:
    async with serving(silent, host="::1") as port:
        assert (await ask(run, f"[::1]:{port}")).passed
        assert not (await ask(run, f"127.0.0.1:{port}")).passed


async def test_the_reason_says_what_came_back(run: Run) -> None:
    refused = f"127.0.0.1:{free_port()}"
    assert (await ask(run, refused)).detail == f"{refused}: Connection refused"
    async with full_backlog() as port:
        ignored = await TcpProber().probe(TcpCheck(host_port=f"127.0.0.1:{port}"), run)
    assert ignored.detail == f"127.0.0.1:{port}: no connection within 0.3 s"


@pytest.mark.parametrize("written", ["web", "web:", ":80", "web:http", "web:0", "web:65536", "web:٣"])
async def test_what_is_not_host_and_port_fails_with_that_reason(run: Run, written: str) -> None:
    assert (await ask(run, written)).detail == f"{written!r} is not host:port"


@pytest.mark.parametrize("name", ["no-such-name.invalid", "x" * 70 + ".invalid", "a..b"])
async def test_a_name_without_an_address_fails(run: Run, name: str) -> None:
    result = await ask(run, f"{name}:80", connect_timeout=Duration(2))
    assert (result.passed, result.counts) == (False, True)


async def test_a_connection_to_itself_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody listening, the system may pick the asked-for port for the asking side, too."""
    port = free_port()
    real = socket.socket

    def bound(*arguments: int) -> socket.socket:
        connection = real(*arguments)
        connection.bind(("127.0.0.1", port))
        return connection

    monkeypatch.setattr("orbitcontrol.probes.tcp.socket.socket", bound)
    assert (await ask(run, f"127.0.0.1:{port}")).detail == f"127.0.0.1:{port}: Connection refused"


async def test_every_address_of_a_name_has_its_share_of_the_time(run: Run) -> None:
    class TwoFaced(Names):
        async def addresses(self, host: str) -> tuple[Address, ...]:
            return (Address(socket.AF_INET6, "::1"), Address(socket.AF_INET, "127.0.0.1"))

    async with serving(silent) as port:
        assert (await ask(run, f"web:{port}", TcpProber(TwoFaced()))).passed


@pytest.fixture
def dead_name_servers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The system's resolver, as it is when its servers do not answer; a call lets it go on."""
    back = threading.Event()
    real = socket.getaddrinfo

    def stuck(host: str, *arguments: Any, **named: Any) -> Any:
        if host.endswith(".stuck") and not named["flags"] & socket.AI_NUMERICHOST:
            back.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *arguments, **named)

    monkeypatch.setattr("orbitcontrol.names.socket.getaddrinfo", stuck)
    return back.set


async def test_names_that_nobody_answers_for_delay_no_other_check(
    run: Run, dead_name_servers: Callable[[], None]
) -> None:
    prober = TcpProber()
    async with serving(silent) as port, asyncio.TaskGroup() as group:
        stuck = [group.create_task(ask(run, f"{number}.stuck:80", prober, **HASTY)) for number in range(100)]
        begun = time.monotonic()
        assert (await ask(run, f"127.0.0.1:{port}", prober)).passed
        # None of them has taken a thread that others share.
        assert await asyncio.to_thread(lambda: time.monotonic() - begun) < 2
        assert not any([(await task).passed for task in stuck])
        again = await ask(run, "0.stuck:80", prober, **HASTY)
        assert "no connection within" in again.detail
    dead_name_servers()
