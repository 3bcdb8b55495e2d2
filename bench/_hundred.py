"""A machine with 100 services that somebody else runs: one local server plays all of them."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.etcd import EtcdServer, free_ports
from support.machine import Cluster, Machine, eventually

SERVICES = 100


def service(name: str, server: int, *, port: int) -> dict[str, Any]:
    """A service whose check asks the server for a page of its own every 2 s."""
    check = {
        "Type": "http",
        "Url": f"http://127.0.0.1:{server}/{name}",
        "Interval": "2s",
        "ResponseTimeout": "2s",
    }
    return {"Name": name, "EndpointPort": port, "Checks": [check]}


def files_of(services: list[dict[str, Any]]) -> dict[str, Any]:
    """A tree that binds all of them to the tag ``app``."""
    bound: dict[str, Any] = {
        f"machineconfigurations/tags/app/services/{one['Name']}.json": {} for one in services
    }
    return {f"services/{one['Name']}.json": one for one in services} | bound


@dataclass(frozen=True, kw_only=True)
class Hundred:
    """What runs, and the tree that the services came from."""

    etcd: EtcdServer
    server: Server
    cluster: Cluster
    machine: Machine
    tree: Path


class Server:
    """Answers 200 to everything, but 500 to the page that ``fail`` names; in a process of its own."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self._process = multiprocessing.Process(target=_serve, args=(self.port,), daemon=True)
        self._process.start()

    def fail(self, page: str) -> None:
        """The page that fails from now on; "" for none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/fail/{page}") as answer:
            answer.read()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(port: int) -> None:
    failing = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal failing
        try:
            while True:
                page = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1][1:]
                if page.startswith(b"fail/"):
                    failing = page.removeprefix(b"fail/")
                status = b"500 No" if page == failing else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nok\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def a_hundred() -> Iterator[Hundred]:
    """The machine on an etcd of its own, all services published; ended with the block."""
    with tempfile.TemporaryDirectory() as name:
        etcd, server = EtcdServer(Path(name) / "etcd"), Server()
        etcd.start()
        cluster = Cluster(Path(name), f"etcd://{etcd.endpoint}")
        try:
            services = [service(f"s{n}", server.port, port=10_000 + n) for n in range(SERVICES)]
            tree = cluster.tree(files_of(services))
            cluster.orbitctl("import", str(tree))
            machine = cluster.machine()
            machine.start()
            eventually(lambda: len(cluster.endpoints()) == SERVICES, what="all services published")
            yield Hundred(etcd=etcd, server=server, cluster=cluster, machine=machine, tree=tree)
        finally:
            for one in cluster.machines:
                one.close()
            server.stop()
            etcd.stop()
