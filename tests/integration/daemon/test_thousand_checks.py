"""A thousand checks on one machine: each is asked, one that turns is told, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.machine import Cluster, eventually

pytestmark = pytest.mark.integration

CHECKS = 1000


class Programs:
    """Each answers 200 on a port of its own and keeps connections; one of them may fail.

    They are in a thread with a loop of its own.
    """

    def __init__(self) -> None:
        self.failing = 0
        self.ports: list[int] = []
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        servers = [await asyncio.start_server(self._answer, "127.0.0.1", 0) for _ in range(CHECKS)]
        self.ports = [server.sockets[0].getsockname()[1] for server in servers]
        self._started.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                status = b"500 No" if port == self.failing else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nok\n")
        writer.transport.abort()


@pytest.fixture
def programs() -> Iterator[Programs]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * CHECKS, hard))
    programs = Programs()
    yield programs
    programs.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_checks_need_no_more_than_a_shell_gives(tmp_path: Path, programs: Programs) -> None:
    files: dict[str, Any] = {}
    for number, port in enumerate(programs.ports):
        url = f"http://127.0.0.1:{port}/"
        check = {"Type": "http", "Url": url, "ResponseTimeout": "5s", "ConnectTimeout": "5s"}
        files[f"services/s{number}.json"] = {"Name": f"s{number}", "EndpointPort": port, "Checks": [check]}
        files[f"machineconfigurations/tags/app/services/s{number}.json"] = {}
    cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
    cluster.orbitctl("import", str(cluster.tree(files)))
    machine = cluster.machine()

    def published() -> dict[str, int]:
        found = cluster.stored("services/")
        return {item.key.split("/")[3]: item.mod_revision for item in found if "/endpoints/" in item.key}

    def all_published() -> dict[str, int]:
        found = published()
        return found if len(found) == CHECKS else {}

    try:
        machine.start(ready=False)
        _, hard = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (256, hard))  # it has hardly begun
        before = eventually(all_published, what="each service published")
        programs.failing = programs.ports[7]
        eventually(lambda: "s7" not in published(), what="the failing one withdrawn")
        programs.failing = 0
        after = eventually(all_published, what="and published again")
        assert {name for name in before if after[name] != before[name]} == {"s7"}
        eventually(lambda: not cluster.look("status")["Problems"], what="nothing wrong any more")
    finally:
        machine.close()
