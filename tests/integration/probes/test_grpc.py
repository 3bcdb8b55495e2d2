from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import GrpcCheck
from orbitcontrol.probes.grpc import GrpcProber
from support.servers import answering, forever, free_port, full_backlog, resetting, serving, silent

pytestmark = pytest.mark.integration

LATE = 20.0
PATIENT: dict[str, Any] = {"connect_timeout": Duration(5), "response_timeout": Duration(5)}
"""For all that is not about time."""

Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]


@pytest_asyncio.fixture
async def prober() -> AsyncIterator[GrpcProber]:
    prober = GrpcProber()
    yield prober
    await prober.close()


@asynccontextmanager
async def server(answer: Answer, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """A gRPC server with the health service; requests and answers are the bytes of the protocol."""
    method: Any = grpc.unary_unary_rpc_method_handler(answer)
    service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
    served = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    served.add_generic_rpc_handlers((service,))
    bound = served.add_insecure_port(f"{host}:{port}")
    await served.start()
    try:
        yield bound
    finally:
        await served.stop(grace=None)


def saying(answer: bytes) -> Answer:
    async def handler(request: bytes, context: Any) -> bytes:
        return answer

    return handler


async def ask(
    prober: GrpcProber, run: Run, host_port: str, *, patient: bool = True, **fields: Any
) -> ProbeResult:
    begun = time.monotonic()
    check = GrpcCheck(host_port=host_port, **((PATIENT if patient else {}) | fields))
    result = await prober.probe(check, run)
    assert time.monotonic() - begun < LATE
    return result


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x08\x01", "SERVING"),
        (b"", "UNKNOWN"),
        (b"\x08\x02", "NOT_SERVING"),
        (b"\x08\x03", "SERVICE_UNKNOWN"),
        (b"\x08\x07", "status 7"),
    ],
)
async def test_serving_passes_and_every_other_status_fails_with_its_name(
    prober: GrpcProber, run: Run, answer: bytes, said: str
) -> None:
    async with server(saying(answer)) as port:
        result = await ask(prober, run, f"127.0.0.1:{port}")
    assert result.passed == (said == "SERVING")
    assert result.detail == (said if result.passed else f"127.0.0.1:{port}: the server says {said}")


async def test_the_service_that_is_asked_about_is_the_configured_one(prober: GrpcProber, run: Run) -> None:
    asked: list[bytes] = []

    async def handler(request: bytes, context: Any) -> bytes:
        asked.append(request)
        if request.endswith(b"orders"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b"\x08\x01"

    async with server(handler) as port:
        assert (await ask(prober, run, f"127.0.0.1:{port}")).passed
        assert (await ask(prober, run, f"localhost:{port}", service="shop")).passed
        unknown = await ask(prober, run, f"127.0.0.1:{port}", service="orders")
    assert asked == [b"", b"\x0a\x04shop", b"\x0a\x06orders"]
    assert unknown.detail == f"127.0.0.1:{port}: the server does not know the service 'orders'"


async def test_it_asks_on_ipv6(prober: GrpcProber, run: Run) -> None:
    async with server(saying(b"\x08\x01"), host="[::1]") as port:
        assert (await ask(prober, run, f"[::1]:{port}")).passed


async def test_a_server_without_the_health_service_is_told(prober: GrpcProber, run: Run) -> None:
    bare = grpc.aio.server()
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    result = await ask(prober, run, f"127.0.0.1:{port}")
    await bare.stop(grace=None)
    assert result.detail == f"127.0.0.1:{port}: the server has no grpc.health.v1.Health"


async def test_an_answer_that_never_comes_fails_in_time(prober: GrpcProber, run: Run) -> None:
    async def never(request: bytes, context: Any) -> bytes:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return b""

    async with server(never) as port:
        result = await ask(prober, run, f"127.0.0.1:{port}", patient=False)
    assert result.detail == f"127.0.0.1:{port}: no answer within 0.6 s"


async def test_an_answer_that_floods_is_not_read(prober: GrpcProber, run: Run) -> None:
    async with server(saying(b"\x0a\x80\x80\x80\x02" + b"x" * (4 << 20))) as port:
        result = await ask(prober, run, f"127.0.0.1:{port}", response_timeout=Duration(2))
    assert not result.passed
    assert "RESOURCE_EXHAUSTED" in result.detail


@pytest.mark.parametrize(
    "handler",
    [silent, resetting, answering(b"HTTP/1.1 200 OK\r\n\r\n"), forever(b"", b"flood" * 1000)],
    ids=["silent", "resets", "http", "floods"],
)
async def test_what_is_no_grpc_server_fails_in_time(prober: GrpcProber, run: Run, handler: Any) -> None:
    async with serving(handler) as port:
        result = await ask(prober, run, f"127.0.0.1:{port}", patient=False)
    assert not result.passed
    assert result.detail.startswith(f"127.0.0.1:{port}: ")


async def test_nobody_who_listens_and_nobody_who_accepts_are_told_apart(prober: GrpcProber, run: Run) -> None:
    assert "Connection refused" in (await ask(prober, run, f"127.0.0.1:{free_port()}")).detail
    async with full_backlog() as port:
        ignored = await ask(prober, run, f"127.0.0.1:{port}", patient=False)
    assert ignored.detail.endswith("no answer within 0.6 s")


async def test_a_server_that_is_back_passes_at_once(prober: GrpcProber, run: Run) -> None:
    async with server(saying(b"\x08\x01")) as port:
        assert (await ask(prober, run, f"127.0.0.1:{port}")).passed
    for _ in range(5):
        assert not (await ask(prober, run, f"127.0.0.1:{port}", patient=False)).passed
    async with server(saying(b"\x08\x01"), port=port):
        assert (await ask(prober, run, f"127.0.0.1:{port}")).passed


async def test_a_connection_is_kept_between_questions(prober: GrpcProber, run: Run) -> None:
    peers = set()

    async def handler(request: bytes, context: Any) -> bytes:
        peers.add(context.peer())
        return b"\x08\x01"

    async with server(handler) as port:
        for _ in range(5):
            assert (await ask(prober, run, f"127.0.0.1:{port}")).passed
    assert len(peers) == 1


async def test_a_channel_that_nobody_asks_with_is_closed(
    prober: GrpcProber, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbitcontrol.probes.grpc_channels._UNUSED", 0.05)
    closed = asyncio.Event()

    async def watched(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.create_task(_pass_on(far_reader, writer))
        await _pass_on(reader, far_writer)
        closed.set()
        back.cancel()
        far_writer.close()

    async with server(saying(b"\x08\x01")) as port, serving(watched) as way:
        assert (await ask(prober, run, f"127.0.0.1:{way}", response_timeout=Duration(2))).passed
        async with asyncio.timeout(20):
            await closed.wait()


async def test_a_channel_waits_for_an_answer_longer_than_it_is_kept_without_questions(
    prober: GrpcProber, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbitcontrol.probes.grpc_channels._UNUSED", 0.05)

    async def slow(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.3)
        return b"\x08\x01"

    async with server(slow) as port:
        assert (await ask(prober, run, f"127.0.0.1:{port}")).passed


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
