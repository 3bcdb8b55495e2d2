"""Checks as a tree writes them, carried out by the daemon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.machine import Cluster, eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def health_service() -> Iterator[int]:
    """A gRPC server that says SERVING, in a thread with a loop of its own; its port."""
    started, ports, loop = threading.Event(), [0], asyncio.new_event_loop()

    async def answer(request: bytes, context: Any) -> bytes:
        return b"\x08\x01"

    async def serve(stop: asyncio.Event) -> None:
        method: Any = grpc.unary_unary_rpc_method_handler(answer)
        server = grpc.aio.server()
        service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        server.add_generic_rpc_handlers((service,))
        ports[0] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(grace=None)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)))
    thread.start()
    assert started.wait(30)
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_a_service_needs_all_of_its_checks_and_a_daemon_that_ends_leaves_none(
    cluster: Cluster, health_service: int, tmp_path: Path
) -> None:
    well, pids = tmp_path / "well", tmp_path / "pids"
    often = {"Interval": "100ms", "ResponseTimeout": "5s"}
    service = {
        "Name": "web",
        "EndpointPort": health_service,
        "Checks": [
            {"Type": "grpc", "HostPort": "${ENDPOINT_HOST}:${ENDPOINT_PORT}", **often},
            {"Type": "exec", "Command": f"echo looked at $ENDPOINT_PORT; test -e {well}", **often},
            {
                "Type": "exec",
                "Command": ["sh", "-c", f"setsid sleep 600 >/dev/null & echo $! >>{pids}"],
                **often,
            },
        ],
    }
    files = {"services/web.json": service, "machineconfigurations/tags/app/services/web.json": {}}
    cluster.orbitctl("import", str(cluster.tree(files)), "--yes")
    machine = cluster.machine()
    machine.start()

    def reasons() -> str:
        problems = cluster.look("status")["Problems"]
        return " ".join(each["Reason"] for each in problems if "service web" in each["Subject"])

    ended = f"the command ended with 1: looked at {health_service}"
    eventually(lambda: ended in reasons(), what="the reason in status")
    assert cluster.endpoints("web") == []
    well.touch()
    eventually(lambda: cluster.endpoints("web"), what="published once each check passes")
    well.unlink()
    eventually(lambda: not cluster.endpoints("web"), what="withdrawn when one fails")
    machine.stop()
    eventually(lambda: not any(runs(pid) for pid in pids.read_text().split()), what="nothing left")


def runs(pid: str) -> bool:
    """True while the process is there; one that nobody has waited for yet has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False
