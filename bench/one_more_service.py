"""One service added on a machine that has 100: from the end of the import to its published endpoint."""

from __future__ import annotations

import json
import time

from _figures import report
from _hundred import SERVICES, a_hundred, service
from support.machine import eventually

RUNS = 5


def main() -> None:
    with a_hundred() as hundred:
        cluster, tree, seconds = hundred.cluster, hundred.tree, []
        for run in range(RUNS):
            added = f"added{run}"
            text = json.dumps(service(added, hundred.server.port, port=20_000 + run))
            (tree / f"services/{added}.json").write_text(text)
            (tree / f"machineconfigurations/tags/app/services/{added}.json").write_text("{}")
            cluster.orbitctl("import", str(tree))
            begun = time.perf_counter()
            key = f"services/{added}/endpoints/"
            eventually(lambda key=key: cluster.stored(key), what="the endpoint published")  # type: ignore[misc]
            seconds.append(time.perf_counter() - begun)
        report(f"one service more than {SERVICES}, to its endpoint", seconds, reach="1000 ms")


if __name__ == "__main__":
    main()
