"""An endpoint is written to etcd, or deleted there, until HAProxy has it in rotation, or out of it.

The real daemon, etcd and HAProxy, with 100 servers, then with 5,000. The clock runs from before the
write is sent to the moment in which HAProxy itself says so on its runtime socket. Then a burst of
1,000 changes. Nothing of it may be a reload.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from orbitcontrol.codec.haproxy_runtime import parse_servers
from orbitcontrol.codec.haproxy_stat import parse_statistics
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import Delete, Operation, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer, free_ports
from support.machine import Cluster, eventually

RUNS = 300
LARGE_RUNS = 50
BURST = 1000
MACHINES = [f"10.9.0.{number}" for number in range(1, 101)]
KEYS = Keys("/orbit")
TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 10s
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
    timeout http-request 5s
    retries 3
    option redispatch
frontend web
    bind 127.0.0.1:@PORT@
    default_backend web
backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }} weight {{ e.attributes.weight | default(10) }}
    {% endfor %}
"""


class Runtime:
    """HAProxy's runtime socket, asked by somebody who stands beside it, every ``pause`` seconds."""

    def __init__(self, path: Path, *, pause: float) -> None:
        self._pause = pause
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self.ask("prompt")
        self.ask("set timeout cli 1h")

    def ask(self, command: str) -> str:
        self._socket.sendall(f"{command}\n".encode())
        reply = b""
        while not reply.endswith(b"\n> "):
            part = self._socket.recv(1 << 20)
            assert part, "HAProxy ended the connection: was it reloaded?"
            reply += part
        return reply.removesuffix(b"\n> ").decode()

    def ready(self) -> set[str]:
        """The servers that get new connections."""
        servers = (parse_servers(self.ask("show servers state web")) or {}).get("web", {})
        return {name for name, server in servers.items() if server.admin == "ready"}

    def has(self, server: str) -> bool:
        """Whether there is such a server; a cheap question."""
        return "initial" in self.ask(f"get weight web/{server}")

    def is_ready(self, server: str) -> bool:
        return server in self.ready()

    def number(self, server: str) -> str:
        """HAProxy's own number of it."""
        rows = (line.split() for line in self.ask("show servers state web").splitlines()[2:])
        return next(row[2] for row in rows if row and row[3] == server)

    def is_out(self, number: str) -> bool:
        """Whether it gets nothing any more; a cheap question."""
        rows = parse_statistics(self.ask(f"show stat -1 4 {number}"))
        return bool(rows) and all("MAINT" in row.status for row in rows)

    def until(self, holds: Callable[[], bool]) -> float:
        """The moment in which it holds."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, "not in 30 s"
            time.sleep(self._pause)
        return time.perf_counter()


def endpoint(number: int) -> tuple[str, bytes]:
    """Key and value of the endpoint with this number; each has an address of its own."""
    machine = MACHINES[number % len(MACHINES)]
    address = f"{machine}:{20000 + number}"
    value = Endpoint(id=f"id{number}", machine=machine, session="bench")
    return KEYS.endpoint("web", address), encode(value)


def name(number: int) -> str:
    return f"web-{endpoint(number)[0].rpartition('/')[2]}"


async def in_chunks(store: Store, operations: list[Operation]) -> None:
    for begin in range(0, len(operations), 100):
        await store.commit([], operations[begin : begin + 100])


async def measure(store: Store, runtime: Runtime, *, first: int, runs: int, reach: str) -> None:
    """Endpoints that come and go one after the other, beside those that are there."""
    came, went = [], []
    for number in range(first, first + runs):
        key, value = endpoint(number)
        begun = time.perf_counter()
        await store.commit([], [Put(key, value)])
        came.append(runtime.until(partial(runtime.has, name(number))) - begun)
        runtime.until(partial(runtime.is_ready, name(number)))
        server = runtime.number(name(number))
        await asyncio.sleep(0.05)
        begun = time.perf_counter()
        await store.commit([], [Delete(Range.single(key))])
        went.append(runtime.until(partial(runtime.is_out, server)) - begun)
        await asyncio.sleep(0.05)
    show(f"written to etcd -> in rotation, {first} servers", came, reach)
    show(f"deleted in etcd -> out of rotation, {first} servers", went, reach)


def show(what: str, seconds: list[float], reach: str) -> None:
    cuts = quantiles(seconds, n=100)
    print(
        f"{what}: p50 {median(seconds) * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, "
        f"worst {max(seconds) * 1000:.1f} ms of {len(seconds)} (to reach: {reach})",
        flush=True,
    )


async def burst(store: Store, runtime: Runtime, *, first: int) -> None:
    """Twenty machines publish or withdraw fifty endpoints each, at once: each in one transaction."""
    there = {name(number) for number in range(first)}
    leaving = range(BURST // 2)
    coming = range(first, first + BURST // 2)
    wanted = (there - {name(number) for number in leaving}) | {name(number) for number in coming}
    changes: list[Operation] = [Put(*endpoint(number)) for number in coming]
    changes += [Delete(Range.single(endpoint(number)[0])) for number in leaving]
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for part in range(20):
            group.create_task(store.commit([], changes[part::20]))
    took = runtime.until(lambda: runtime.ready() == wanted) - begun
    print(f"burst of {BURST} changes -> all applied: {took:.2f} s (to reach: 0.8 s)", flush=True)


async def fill(store: Store, runtime: Runtime, numbers: range) -> None:
    await in_chunks(store, [Put(*endpoint(number)) for number in numbers])
    wanted = {name(number) for number in range(numbers.stop)}
    runtime.until(lambda: runtime.ready() == wanted)


async def run(url: str, socket_path: Path) -> None:
    store = open_store(url)
    try:
        alive = encode(Alive(session="bench", registered=True))
        await in_chunks(store, [Put(KEYS.alive(machine), alive) for machine in MACHINES])
        runtime = Runtime(socket_path, pause=0.001)
        await fill(store, runtime, range(100))
        await measure(store, runtime, first=100, runs=RUNS, reach="p50 10 ms, p99 40 ms")
        await fill(store, runtime, range(100, 1000))
        await burst(store, runtime, first=1000)
        await in_chunks(store, [Put(*endpoint(number)) for number in range(BURST // 2)])
        runtime = Runtime(socket_path, pause=0.005)  # an answer about 5,000 servers takes that long
        await fill(store, runtime, range(1000, 5000))
        await measure(store, runtime, first=5000, runs=LARGE_RUNS, reach="p50 60 ms")
    finally:
        await store.close()


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory() as directory:
        etcd = EtcdServer(Path(memory) / "etcd")
        etcd.start()
        cluster = Cluster(Path(directory), f"etcd://{etcd.endpoint}")
        home = Path(directory) / "haproxy"
        port = free_ports(1)[0]
        files: dict[str, Any] = {
            "services/web.json": {"Name": "web", "EndpointPort": 80},
            "machineconfigurations/tags/lb/haproxy.tpl": TEMPLATE.replace("@PORT@", str(port)),
        }
        cluster.orbitctl("import", str(cluster.tree(files)))
        machine = cluster.machine(tags="lb", haproxy_managed=True, haproxy_config_path=str(home))
        try:
            machine.start()
            eventually((home / "haproxy.sock").exists, what="HAProxy runs")
            asyncio.run(run(cluster.store, home / "haproxy.sock"))
            loads = machine.text().count("HAProxy reload")
            print(f"reloads: {loads - 1} after the first configuration (to reach: 0)")
        finally:
            machine.close()
            os.kill(int((home / "haproxy.pid").read_text()), signal.SIGTERM)
            etcd.stop()


main()
