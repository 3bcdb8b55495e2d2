"""etcd loses its disks under load: back empty after 15 s, filled from the tree 15 s later.

200 requests a second through HAProxy to two containers, all the time. Nothing may fail, and no
container may be restarted.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from _requests import load
from support.docker import engine_of_its_own
from support.etcd import EtcdServer
from support.machine import Cluster, eventually
from support.site import Site

RATE = 200
AWAY = 15.0


async def disaster(site: Site, etcd: EtcdServer, tree: Path) -> tuple[int, int, float]:
    """Requests sent and failed, and seconds from the import to the endpoints published again."""
    done = asyncio.Event()
    traffic = asyncio.create_task(load(site.port, done, rate=RATE))
    await asyncio.sleep(2)
    etcd.kill()
    shutil.rmtree(etcd.directory / "data")
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(etcd.start)
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(site.cluster.orbitctl, "import", str(tree))
    begun = time.perf_counter()
    await asyncio.to_thread(
        eventually, lambda: len(site.cluster.stored("services/web/")) == 2, what="both endpoints published"
    )
    took = time.perf_counter() - begun
    await asyncio.to_thread(site.cluster.orbitctl, "recover", "--write")
    await asyncio.sleep(5)
    done.set()
    return *(await traffic), took


def main() -> None:
    with tempfile.TemporaryDirectory() as name, engine_of_its_own(Path(name) / "docker") as engine:
        etcd = EtcdServer(Path(name) / "etcd")
        etcd.start()
        site = Site(Cluster(Path(name), f"etcd://{etcd.endpoint}"), engine)
        try:
            site.engine.image("web:R1", says="this is R1")
            tree = site.tree(site.web(image="web:R1", Instances=2))
            site.cluster.orbitctl("import", str(tree))
            site.machine.start()
            eventually(site.get, what="the service served")
            before = site.started_at()
            sent, failed, took = asyncio.run(disaster(site, etcd, tree))
            restarted = sum(site.started_at().get(name) != started for name, started in before.items())
            print(
                f"etcd wiped at {RATE} requests/s: {failed} of {sent} failed, "
                f"{restarted} containers restarted "
                f"(to reach: 0, 0); endpoints there {took:.1f} s after the import (5 s)"
            )
        finally:
            site.machine.close()
            site.stop_haproxy()
            etcd.stop()


main()
