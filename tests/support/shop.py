"""A service on two machines, one of which is also the load balancer, and a client of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.planning.proxy import loaded
from support.etcd import free_ports
from support.machine import Cluster, eventually
from support.site import TEMPLATE
from support.webserver import WebServer

LOST, BALANCER = "127.0.0.2", "127.0.0.3"


class Shop:
    """A service on two machines, one of which is also the load balancer."""

    def __init__(self, cluster: Cluster, servers: dict[str, WebServer], *, lease_ttl: str) -> None:
        self.cluster = cluster
        self.servers = servers
        self.haproxy = cluster.directory / "haproxy"
        self.haproxy.mkdir()
        (self.port,) = free_ports(1)
        self.lost = cluster.machine(LOST, tags="app", lease_ttl=lease_ttl)
        self.balancer = cluster.machine(
            BALANCER,
            tags="app,lb",
            lease_ttl=lease_ttl,
            haproxy_managed=True,
            haproxy_config_path=str(self.haproxy),
        )
        service = {
            "Name": "web",
            "EndpointPort": servers[LOST].port,
            "Checks": [
                {
                    "Type": "http",
                    "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/",
                    "Interval": "200ms",
                    "ResponseTimeout": "5s",
                }
            ],
        }
        tree = cluster.tree(
            {
                "services/web.json": service,
                "machineconfigurations/tags/app/services/web.json": {},
                "machineconfigurations/tags/lb/haproxy.tpl": TEMPLATE % {"port": self.port},
            }
        )
        cluster.orbitctl("import", str(tree), "--yes")

    def start(self) -> None:
        for machine in (self.lost, self.balancer):
            machine.start()
        eventually(self.settled, what="both machines behind HAProxy")
        assert self.answers(4) == {LOST, BALANCER}

    def settled(self) -> bool:
        """True when the balancer has seen HAProxy load a configuration with both servers."""
        try:
            text = (self.haproxy / "haproxy.cfg").read_text()
            state = (self.balancer.directory / "state" / "haproxy.json").read_text()
        except OSError:
            return False
        return loaded(layout(text)) in state and all(f"web-{host}:" in text for host in (LOST, BALANCER))

    def answers(self, times: int) -> set[str]:
        """Who answers through HAProxy; "" for whatever is no answer."""
        return {self.get() for _ in range(times)}

    def published(self) -> set[str]:
        return {str(row["Machine"]) for row in self.cluster.endpoints("web")}

    def told(self) -> str:
        """What ``status`` says of the lost machine's endpoint."""
        problems: list[dict[str, Any]] = self.cluster.look("status")["Problems"]
        return " ".join(each["Reason"] for each in problems if f"endpoint web {LOST}:" in each["Subject"])

    def get(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.read().decode().strip() if answer.status == 200 else ""
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def stop_haproxy(self) -> None:
        self.balancer.close()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.haproxy / "haproxy.pid").read_text()), signal.SIGTERM)


@contextlib.contextmanager
def shop_on(cluster: Cluster, *, lease_ttl: str = "2s") -> Iterator[Shop]:
    """A shop whose servers run and whose daemons do not yet."""
    servers = {LOST: WebServer(LOST), BALANCER: WebServer(BALANCER)}
    (port,) = free_ports(1)
    for host, server in servers.items():
        server.port = port
        server.body = host.encode()
        server.start()
    shop = Shop(cluster, servers, lease_ttl=lease_ttl)
    try:
        yield shop
    finally:
        shop.stop_haproxy()
        for machine in cluster.machines:
            machine.close()
        for server in servers.values():
            server.stop()


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    with shop_on(cluster) as shop:
        yield shop
