"""`docker kill` of a service's only instance, until the next one answers through HAProxy.

Check interval 500 ms. From the moment that `docker kill` has returned a new client asks every 20 ms,
whatever became of those before it; the clock runs from before the kill to the first answer.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from _figures import report
from _requests import ask
from support.docker import engine_of_its_own
from support.machine import Cluster, eventually
from support.site import Site

RUNS = 5
EVERY = 0.02


async def first_answer(port: int) -> None:
    """Returns at the first answer; clients that wait for theirs are let go."""
    clients: set[asyncio.Task[bool]] = set()
    try:
        while True:
            clients.add(asyncio.create_task(ask(port)))
            done, clients = await asyncio.wait(clients, timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
            if any(client.result() for client in done):
                return
            await asyncio.sleep(EVERY if done else 0)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def outage(site: Site) -> float:
    """Kills the container; seconds until HAProxy answers from its successor."""
    begun = time.perf_counter()
    site.engine.docker("kill", "web")
    asyncio.run(first_answer(site.port))
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory() as name, engine_of_its_own(Path(name) / "docker") as engine:
        directory = Path(name)
        cluster = Cluster(directory, f"sqlite://{directory}/store.db")
        site = Site(cluster, engine)
        try:
            site.engine.image("web:R1", says="this is R1")
            cluster.orbitctl("import", str(site.tree(site.web(image="web:R1"))))
            site.machine.start()
            eventually(site.get, what="the service served")
            seconds = []
            for _ in range(RUNS):
                time.sleep(11)  # ten healthy seconds forget the last end, as between two accidents
                seconds.append(outage(site))
            report("docker kill to an answer through HAProxy", seconds, reach="1000 ms, worst 2000 ms")
        finally:
            site.machine.close()
            site.stop_haproxy()


main()
