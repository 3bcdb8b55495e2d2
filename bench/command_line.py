"""How long a person waits for `orbitctl --help`, and for `orbitctl endpoints` with 100 services in etcd."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _figures import report
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Put
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer

RUNS = 15
SERVICES = 100
ORBITCTL = str(Path(sys.executable).with_name("orbitctl"))


def timed(*arguments: str) -> list[float]:
    """Seconds of each run, after one that warms the disk's cache."""
    seconds = []
    for _ in range(RUNS + 1):
        begun = time.perf_counter()
        subprocess.run([ORBITCTL, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


async def fill(url: str) -> None:
    """Puts one endpoint of each service."""
    store, keys = open_store(url), Keys()
    for number in range(SERVICES):
        endpoint = Endpoint(id=f"{number:08x}", machine="10.0.0.5", session="s", revision="R1")
        key = keys.endpoint(f"service-{number}", f"10.0.0.5:{20000 + number}")
        await store.commit([], [Put(key, encode(endpoint))])
    await store.close()


def main() -> None:
    report("orbitctl --help", timed("--help"), reach="80 ms")
    with tempfile.TemporaryDirectory() as directory:
        server = EtcdServer(Path(directory) / "etcd")
        server.start()
        try:
            url = f"etcd://{server.endpoint}"
            asyncio.run(fill(url))
            report(
                f"orbitctl endpoints, {SERVICES} services in etcd",
                timed("--store", url, "endpoints"),
                reach="250 ms",
            )
        finally:
            server.stop()


main()
