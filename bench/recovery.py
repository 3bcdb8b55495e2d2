"""`docker kill` of a service's only instance, until the next one answers through HAProxy.

Check interval 500 ms. A client asks HAProxy without pause; an answer counts when it comes from a
container that was not there before.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from _figures import report
from support.docker import engine_of_its_own
from support.machine import Cluster, eventually
from support.site import Site

RUNS = 5


def outage(site: Site) -> float:
    """Kills the container; seconds until HAProxy answers from its successor."""
    before = site.started_at()["web"]
    begun = time.perf_counter()
    site.engine.docker("kill", "web")
    while site.get() or site.started_at().get("web", before) == before:
        time.sleep(0.002)
    eventually(site.get, what="an answer of the new container")
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
