"""What a machine with 100 services costs while nothing changes, and when one of them fails and returns.

HTTP checks every 2 s, etcd as the store. CPU is the daemon's own, as a share of one core; writes are
revisions of the store.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from _hundred import SERVICES, a_hundred
from support.etcd import EtcdServer
from support.machine import eventually

RUNS = 3
SECONDS = 10.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def revision(server: EtcdServer) -> int:
    return int(server.etcdctl("get", "none", "-w", "fields").split('"Revision" :')[1].split()[0])


def main() -> None:
    with a_hundred() as run:
        etcd, cluster, pid = run.etcd, run.cluster, run.machine.pid
        time.sleep(5)  # the machine's record follows what was published
        shares, before = [], revision(etcd)
        for _ in range(RUNS):
            used, begun = cpu_seconds(pid), time.perf_counter()
            time.sleep(SECONDS)
            shares.append((cpu_seconds(pid) - used) / (time.perf_counter() - begun) * 100)
        written = revision(etcd) - before
        print(
            f"{SERVICES} services at rest: {median(shares):.1f} % of a core "
            f"({min(shares):.1f} to {max(shares):.1f}), {resident_mib(pid):.0f} MiB, "
            f"{written} writes in {RUNS * SECONDS:.0f} s (to reach: 4 %, 80 MiB, 0)"
        )
        before = revision(etcd)
        run.server.fail("s7")
        eventually(lambda: len(cluster.endpoints()) == SERVICES - 1, what="the failing one withdrawn")
        run.server.fail("")
        eventually(lambda: len(cluster.endpoints()) == SERVICES, what="and published again")
        time.sleep(3)
        print(f"one of them fails and returns: {revision(etcd) - before} writes")


if __name__ == "__main__":
    main()
