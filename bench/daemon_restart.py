"""Requests lost while the daemon of a load balancer is stopped and started: none should be.

200 requests a second, each on a connection of its own, through HAProxy to two containers.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from _requests import load
from support.docker import engine_of_its_own
from support.machine import Cluster, eventually
from support.site import Site

RATE = 200
RESTARTS = 3
SETTLE = 4.0


async def restarts(site: Site) -> tuple[int, int]:
    """Stops and starts the daemon under load; requests sent and failed."""
    done = asyncio.Event()
    traffic = asyncio.create_task(load(site.port, done, rate=RATE))
    for _ in range(RESTARTS):
        await asyncio.sleep(SETTLE)
        await asyncio.to_thread(site.machine.stop)
        await asyncio.to_thread(site.machine.start)
    await asyncio.sleep(SETTLE)
    done.set()
    return await traffic


def main() -> None:
    with tempfile.TemporaryDirectory() as name, engine_of_its_own(Path(name) / "docker") as engine:
        directory = Path(name)
        cluster = Cluster(directory, f"sqlite://{directory}/store.db")
        site = Site(cluster, engine)
        try:
            site.engine.image("web:R1", says="this is R1")
            cluster.orbitctl("import", str(site.tree(site.web(image="web:R1", Instances=2))))
            site.machine.start()
            eventually(site.get, what="the service served")
            sent, failed = asyncio.run(restarts(site))
            what = f"{RESTARTS} restarts of the daemon at {RATE} requests/s"
            print(f"{what}: {failed} of {sent} failed (to reach: 0)")
        finally:
            site.machine.close()
            site.stop_haproxy()


main()
