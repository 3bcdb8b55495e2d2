"""A daemon that is frozen until its lease is gone, and then goes on."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docker import Engine
from support.etcd import EtcdServer, free_ports
from support.machine import Cluster, Machine, eventually
from support.webserver import WebServer

WEB, HOST = "services/web/endpoints/", "services/host/endpoints/"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CHECK = {"Type": "http", "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/", "Interval": "200ms"}


@pytest.fixture
def cluster(tmp_path: Path, etcd_server: EtcdServer) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, f"etcd://{etcd_server.endpoint}", base=f"/{secrets.token_hex(4)}")
    yield cluster
    for machine in cluster.machines:
        machine.close()


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer("127.0.0.1")
    (server.port,) = free_ports(1)
    server.start()
    yield server
    server.stop()


def test_a_daemon_that_slept_through_the_end_of_its_lease_registers_anew_and_asks_before_it_publishes(
    cluster: Cluster, engine: Engine, server: WebServer
) -> None:
    """One of its services goes on while it sleeps, the other one goes wrong, and takes long to be down."""
    cluster.orbitctl("import", str(tree_of(cluster, engine, server)))
    machine = cluster.machine(docker_host=engine.host, lease_ttl="5s")
    machine.start()
    [earlier] = sessions(cluster, "alive/")
    assert sessions(cluster, WEB) == sessions(cluster, HOST) == [earlier]
    container = engine.inspect("web", "{{.Id}} {{.State.StartedAt}}")

    os.kill(machine.pid, signal.SIGSTOP)
    eventually(lambda: not cluster.stored("alive/"), what="its lease ended")
    server.status = 500
    before = len(machine.text())
    os.kill(machine.pid, signal.SIGCONT)

    eventually(lambda: registered(cluster), what="registered anew")
    [session] = sessions(cluster, "alive/")
    assert session != earlier
    assert sessions(cluster, WEB) == [session]
    assert sessions(cluster, HOST) == []
    assert engine.inspect("web", "{{.Id}} {{.State.StartedAt}}") == container
    assert published(machine, "host", after=before) == 0, "on what was known before it slept"
    assert published(machine, "web", after=before) == 1
    server.status = 200
    eventually(lambda: sessions(cluster, HOST) == [session], what="published with a new proof")


def tree_of(cluster: Cluster, engine: Engine, server: WebServer) -> Path:
    engine.image("web:R1", says="this is web")
    web = {
        "Name": "web",
        "ContainerPort": 8080,
        "Checks": [{**CHECK, "ResponseTimeout": "2s"}],
        "Container": {"Config": {"Image": "web:R1", "Cmd": ["httpd", "-f", "-p", "8080", "-h", "/www"]}},
    }
    host = {"Name": "host", "EndpointPort": server.port, "Checks": [{**CHECK, "Fall": 10}]}
    folder = "machineconfigurations/tags/app/services"
    return cluster.tree(
        {
            "services/web.json": web,
            "services/host.json": host,
            f"{folder}/web.json": {},
            f"{folder}/host.json": {},
        }
    )


def sessions(cluster: Cluster, below: str) -> list[str]:
    return [str(json.loads(item.value)["Session"]) for item in cluster.stored(below)]


def registered(cluster: Cluster) -> bool:
    return any(json.loads(item.value).get("Registered") for item in cluster.stored("alive/"))


def published(machine: Machine, service: str, *, after: int) -> int:
    """How often the daemon says to have published the service since its log had that length."""
    lines = machine.text()[after:].splitlines()
    return sum("endpoint published" in line and f"service={service}" in line for line in lines)
