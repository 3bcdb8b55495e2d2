"""The cost of checks at rest: a thousand http checks every 2 s, all passing, in a process of their own.

What is measured is the health loop with its prober, from the first answer on: CPU of one core, memory,
how many questions were asked, and how often other loops were woken. The server that answers is a
process of its own and not counted.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.runs import Run, RunId
from orbitcontrol.model.service import HttpCheck, Service
from orbitcontrol.probes.http import HttpProber

CHECKS = (100, 1000)
RUNS = 3
SETTLE = 6.0
MEASURE = 10.0

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Answering(asyncio.Protocol):
    """The cheapest server that there is: an answer for each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER * data.count(b"\r\n\r\n"))


async def serve(port: multiprocessing.Queue[int]) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=4096)
    port.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serving(port: multiprocessing.Queue[int]) -> None:
    _all_descriptors()
    asyncio.run(serve(port))


def _all_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_of(number: int, port: int) -> Run:
    check = HttpCheck(url="http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/health")
    service = Service(name=f"s{number}", checks=(check,))
    return Run(
        id=RunId(service.name),
        effective=EffectiveService(service=service, revision=""),
        host="127.0.0.1",
        port=port,
    )


async def measure(count: int, port: int) -> dict[str, float]:
    """CPU in per cent of a core, memory in MB, and how long it took until all were up."""
    board = Board()
    prober = HttpProber()
    loop = HealthLoop(board=board, probers={HttpCheck: prober})
    board.proven.set(frozenset())
    board.runs.set(tuple(run_of(number, port) for number in range(count)))
    begun = time.perf_counter()
    task = asyncio.create_task(loop.run())
    await board.verdicts.wait_for(
        lambda verdicts: len(verdicts) == count and all(one.up for one in verdicts.values()), timeout=60
    )
    up = time.perf_counter() - begun
    await asyncio.sleep(SETTLE)
    wakes = Wake()
    board.verdicts.subscribe(wakes)
    board.problems.cell.subscribe(wakes)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(MEASURE)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    woken = await wakes.wait(0.01)
    assert woken == {"tick"}, f"other loops were woken: {woken}"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await prober.close()
    return {"cpu": 100 * cpu / wall, "rss": memory(), "up": up}


def memory() -> float:
    """This process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure_apart(count: int, port: int) -> dict[str, float]:
    """``measure`` in a fresh process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(count), str(port), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    answer: dict[str, float] = json.loads(output)
    return answer


def main() -> None:
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serving, args=(port,), daemon=True)
    server.start()
    number = port.get(timeout=10)
    for count in CHECKS:
        found = [asyncio.run(measure_apart(count, number)) for _ in range(RUNS)]
        cpu, rss, up = (statistics.median(one[name] for one in found) for name in ("cpu", "rss", "up"))
        print(
            f"{count} http checks every 2 s: {cpu:.1f} % of a core, {rss:.0f} MB, nobody woken;"
            f" all up {up:.2f} s after the start (median of {RUNS})"
        )
    server.terminate()
    server.join()


if len(sys.argv) > 1:
    _all_descriptors()
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))))
elif __name__ == "__main__":
    main()
