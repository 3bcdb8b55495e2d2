"""One service added on a machine that has 100: from the end of the import to its published endpoint."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from _figures import report
from _hundred import SERVICES, Server, service, started
from support.etcd import EtcdServer
from support.machine import Cluster, eventually

RUNS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        etcd, server = EtcdServer(Path(name) / "etcd"), Server()
        etcd.start()
        cluster = Cluster(Path(name), f"etcd://{etcd.endpoint}")
        try:
            _, tree = started(cluster, server)
            seconds = []
            for run in range(RUNS):
                added = f"added{run}"
                text = json.dumps(service(added, server.port, port=20_000 + run))
                (tree / f"services/{added}.json").write_text(text)
                (tree / f"machineconfigurations/tags/app/services/{added}.json").write_text("{}")
                cluster.orbitctl("import", str(tree))
                begun = time.perf_counter()
                key = f"services/{added}/endpoints/"
                eventually(lambda key=key: cluster.stored(key), what="the endpoint published")  # type: ignore[misc]
                seconds.append(time.perf_counter() - begun)
            report(f"one service more than {SERVICES}, to its endpoint", seconds, reach="1000 ms")
        finally:
            for one in cluster.machines:
                one.close()
            server.stop()
            etcd.stop()


if __name__ == "__main__":
    main()
