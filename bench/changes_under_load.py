"""1,000 changes of endpoints and 20 reloads in the middle of traffic.

Six servers stay, and forty others come and go, drained before they go as a planned stop does it; the
template changes 20 times in a way that only a reload brings in. Meanwhile clients ask 1,000 times a
second: most on new connections, some on connections that they keep; those try once more on a new one
when theirs was closed, as HTTP allows. The template has neither retries nor redispatch, which would hide
a lost request.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer, free_ports
from support.machine import Cluster, eventually

CHANGES = 1000
RELOADS = 20
RATE = 900
KEPT_CLIENTS = 10
KEPT_RATE = 10
STEADY = 6
COMING = 40
MACHINE = "10.9.0.1"
SEED = 1
KEYS = Keys("/orbit")
TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 30s
    maxconn @MAXCONN@
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    timeout http-request 5s
    retries 0
frontend web
    bind 127.0.0.1:@PORT@
    default_backend web
backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }}
    {% endfor %}
"""


@dataclass
class Tally:
    """What clients saw."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    tried_again: int = 0


def serve(ports: list[int], begun: Any) -> None:
    """Answers every request on all ports, on kept connections too; a process of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def main() -> None:
        servers = [await asyncio.start_server(answer, "127.0.0.1", port) for port in ports]
        begun.set()
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(main())


async def one_request(port: int, tally: Tally) -> None:
    """A client that connects, asks and goes."""
    tally.sent += 1
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                status = (await reader.read()).split(b"\r\n", 1)[0]
            finally:
                writer.close()
    except OSError as error:
        tally.failed.append(repr(error))
        return
    if b" 200 " not in status:
        tally.failed.append(status.decode() or "nothing")


async def keeping(port: int, tally: Tally, done: asyncio.Event) -> None:
    """A client that keeps its connection, and takes a new one when it was closed between requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not done.is_set():
        tally.sent += 1
        for attempt in range(2):
            try:
                async with asyncio.timeout(10):
                    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(2)
                if b" 200 " not in head.split(b"\r\n", 1)[0]:
                    tally.failed.append(head.split(b"\r\n", 1)[0].decode())
                break
            except (OSError, asyncio.IncompleteReadError) as error:
                writer.close()
                if attempt:
                    tally.failed.append(repr(error))
                tally.tried_again += not attempt
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(1 / KEPT_RATE)
    writer.close()


async def arriving(port: int, tally: Tally, done: asyncio.Event) -> None:
    """New connections at ``RATE`` a second."""
    begun, number = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while not done.is_set():
            number += 1
            group.create_task(one_request(port, tally))
            await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))


def clients(port: int, stop: Any, result: Any) -> None:
    """All clients, in a process of their own."""

    async def main() -> None:
        fresh, kept, done = Tally(), Tally(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(arriving(port, fresh, done))
            for _ in range(KEPT_CLIENTS):
                group.create_task(keeping(port, kept, done))
            await asyncio.to_thread(stop.wait)
            done.set()
        result.put((fresh, kept))

    asyncio.run(main())


def endpoint(port: int, *, draining: bool = False) -> Put:
    value = Endpoint(id=f"id{port}", machine=MACHINE, session="bench", state="draining" if draining else "up")
    return Put(KEYS.endpoint("web", f"127.0.0.1:{port}"), encode(value))


async def changing(store: Store, ports: list[int], retemplate: Retemplate) -> int:
    """Endpoints come, drain and go; now and then the template changes. The number of changes."""
    random.seed(SEED)
    out, there, changes = list(ports), list[int](), 0
    while changes < CHANGES:
        if there and (not out or random.random() < 0.5):
            port = there.pop(random.randrange(len(there)))
            await store.commit([], [endpoint(port, draining=True)])
            await asyncio.sleep(0.01)
            await store.commit([], [Delete(Range.single(KEYS.endpoint("web", f"127.0.0.1:{port}")))])
            out.append(port)
            changes += 2
        else:
            port = out.pop(0)
            await store.commit([], [endpoint(port)])
            there.append(port)
            changes += 1
        if changes * RELOADS // CHANGES > retemplate.reloads:
            await asyncio.to_thread(retemplate)
        await asyncio.sleep(0.01)
    return changes


class Retemplate:
    """Imports the template with another ``maxconn``, the first time before there is a machine."""

    def __init__(self, cluster: Cluster, template: str) -> None:
        self._cluster, self._template = cluster, template
        self.reloads = -1

    def __call__(self) -> None:
        self.reloads += 1
        files: dict[str, Any] = {
            "services/web.json": {"Name": "web", "EndpointPort": 80},
            "machineconfigurations/tags/lb/haproxy.tpl": self._template.replace(
                "@MAXCONN@", str(4000 + self.reloads)
            ),
        }
        waiting = ["--wait"] if self.reloads else []
        self._cluster.orbitctl("import", str(self._cluster.tree(files)), "--no-haproxy-check", *waiting)


async def run(url: str, ports: list[int], port: int, retemplate: Retemplate) -> None:
    store = open_store(url)
    stop = multiprocessing.Event()
    result: multiprocessing.Queue[tuple[Tally, Tally]] = multiprocessing.Queue()
    load = multiprocessing.Process(target=clients, args=(port, stop, result), daemon=True)
    try:
        alive = encode(Alive(session="bench", registered=True))
        steady = [endpoint(each) for each in ports[:STEADY]]
        await store.commit([], [Put(KEYS.alive(MACHINE), alive), *steady])
        await asyncio.to_thread(eventually, lambda: answers(port), what="a server in rotation")
        load.start()
        begun = time.perf_counter()
        changes = await changing(store, ports[STEADY:], retemplate)
        took = time.perf_counter() - begun
    finally:
        stop.set()
        await store.close()
    fresh, kept = await asyncio.to_thread(result.get, timeout=60)
    print(
        f"{changes} changes, {retemplate.reloads} reloads, {(fresh.sent + kept.sent) / took:.0f} requests/s: "
        f"{len(fresh.failed)} of {fresh.sent} failed on new connections, {len(kept.failed)} of {kept.sent} "
        f"on kept ones, where {kept.tried_again} were tried again (to reach: 0, 0)"
    )
    for what in sorted(set(fresh.failed + kept.failed)):
        print(f"  {what}")


def answers(port: int) -> bool:
    tally = Tally()
    asyncio.run(one_request(port, tally))
    return not tally.failed


def main() -> None:
    port, *ports = free_ports(1 + STEADY + COMING)
    started = multiprocessing.Event()
    servers = multiprocessing.Process(target=serve, args=(ports, started), daemon=True)
    servers.start()
    started.wait(10)
    with tempfile.TemporaryDirectory() as directory:
        etcd = EtcdServer(Path(directory) / "etcd")
        etcd.start()
        cluster = Cluster(Path(directory), f"etcd://{etcd.endpoint}")
        home = Path(directory) / "haproxy"
        retemplate = Retemplate(cluster, TEMPLATE.replace("@PORT@", str(port)))
        retemplate()
        machine = cluster.machine(tags="lb", haproxy_managed=True, haproxy_config_path=str(home))
        try:
            machine.start()
            asyncio.run(run(cluster.store, ports, port, retemplate))
        finally:
            machine.close()
            servers.terminate()
            os.kill(int((home / "haproxy.pid").read_text()), signal.SIGTERM)
            etcd.stop()


main()
