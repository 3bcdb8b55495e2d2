"""``why``: the way of an endpoint's last change, as the daemons themselves tell it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from support.etcd import free_ports
from support.machine import Cluster, Machine, eventually
from support.site import TEMPLATE
from support.webserver import WebServer

pytestmark = pytest.mark.integration

APP, BALANCER, FROZEN = "127.0.0.2", "127.0.0.3", "127.0.0.4"
BIND = TEMPLATE.replace("bind 127.0.0.1:%(port)d", "bind {{ machine.address }}:%(port)d")


class Shop:
    """A service on one machine, behind two load balancers."""

    def __init__(self, cluster: Cluster, server: WebServer) -> None:
        self.cluster = cluster
        self.server = server
        self.endpoint = f"{APP}:{server.port}"
        self.app = cluster.machine(APP, tags="app", lease_ttl="60s")
        self.balancers = {address: self._balancer(address) for address in (BALANCER, FROZEN)}
        url = "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"
        check = {"Type": "http", "Url": url, "Interval": "100ms", "ResponseTimeout": "5s"}
        service = {"Name": "web", "EndpointPort": server.port, "Checks": [check]}
        files: dict[str, Any] = {
            "services/web.json": service,
            "machineconfigurations/tags/app/services/web.json": {},
            "machineconfigurations/tags/lb/haproxy.tpl": BIND % {"port": free_ports(1)[0]},
        }
        cluster.orbitctl("import", str(cluster.tree(files)))

    def _balancer(self, address: str) -> Machine:
        return self.cluster.machine(
            address,
            tags="lb",
            lease_ttl="60s",
            haproxy_managed=True,
            haproxy_config_path=str(self.cluster.directory / f"lb{address[-1]}"),
        )

    def start(self) -> None:
        machines = (self.app, *self.balancers.values())
        for machine in machines:
            machine.start(ready=False)
        for machine in machines:
            eventually(machine.is_ready, what=f"{machine.address} ready")

    def told(self, *wanted: str) -> dict[str, Any]:
        """The way of the endpoint, once it has these steps."""

        def look() -> dict[str, Any] | None:
            way: dict[str, Any] = self.cluster.look("why", self.endpoint)
            return way if [step["Step"] for step in way["Steps"]] == [*wanted] else None

        way = eventually(look, what=f"the way {wanted}")
        assert way is not None
        return way

    def close(self) -> None:
        for address, machine in self.balancers.items():
            machine.close()
            with contextlib.suppress(OSError, ValueError):
                pid = (self.cluster.directory / f"lb{address[-1]}" / "haproxy.pid").read_text()
                os.kill(int(pid), signal.SIGTERM)


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    server = WebServer(APP)
    server.start()
    shop = Shop(cluster, server)
    yield shop
    shop.close()
    server.stop()


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_the_way_of_an_endpoint_is_told_from_its_check_to_each_load_balancer(shop: Shop) -> None:
    shop.start()
    published = shop.told("proven", "published", "routed", "routed")
    proven, written, *applied = published["Steps"]
    assert (published["Service"], published["Endpoint"], published["State"]) == ("web", shop.endpoint, "up")
    assert proven["Reason"] == "checks passed"
    (key,) = shop.cluster.stored("services/web/endpoints/")
    assert written["Revision"] == key.mod_revision
    assert {step["Reason"] for step in applied} <= {"reload", "runtime"}
    # one machine here, one clock: each step comes after what caused it
    assert proven["At"] <= written["At"] <= min(step["At"] for step in applied)

    os.kill(shop.balancers[FROZEN].pid, signal.SIGSTOP)
    shop.server.status = 500
    way = shop.told("failed", "withdrawn", "out", "waiting")
    assert [step["Machine"] for step in way["Steps"]] == [APP, APP, BALANCER, FROZEN]
    assert (way["Id"], way["State"]) == (published["Id"], "")
    assert "status 500" in way["Steps"][0]["Reason"]
    assert way["Steps"][1]["Revision"] > written["Revision"]
    assert way["Steps"][-1]["Reason"] == "not yet applied"

    # a daemon that starts anew has not forgotten it
    shop.balancers[BALANCER].stop()
    shop.balancers[BALANCER].start()
    os.kill(shop.balancers[FROZEN].pid, signal.SIGCONT)
    after = shop.told("failed", "withdrawn", "out", "out")
    assert way["Steps"][:3] == after["Steps"][:3]

    named = shop.cluster.orbitctl("why", f"web-{shop.endpoint}")
    [head, _, titles, *rows] = named.out.splitlines()
    assert head == f"web-{shop.endpoint}: not published"
    assert titles.split() == ["TIME", "MS", "MACHINE", "STEP", "STORE", "REVISION", "REASON"]
    assert [row.split()[2:4] for row in rows[:2]] == [[APP, "failed"], [APP, "withdrawn"]]

    unknown = shop.cluster.orbitctl("why", f"127.0.0.9:{shop.server.port}", code=1)
    assert "no such endpoint" in unknown.err
    shop.cluster.write(f"services/api/endpoints/{shop.endpoint}", key.value)
    ambiguous = shop.cluster.orbitctl("why", shop.endpoint, code=2)
    assert f"api-{shop.endpoint}, web-{shop.endpoint}" in ambiguous.err
