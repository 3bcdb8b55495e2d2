"""A load balancer whose HAProxy others run: a daemon with an operator's options takes it over."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from support.haproxy_homes import DISTRIBUTION, DistributionHome, HAProxyHome, on
from support.machine import Cluster, eventually
from support.webserver import WebServer

pytestmark = [pytest.mark.integration, on((False, DISTRIBUTION))]


@pytest.fixture
async def elsewhere(haproxy_home: HAProxyHome) -> DistributionHome:
    assert isinstance(haproxy_home, DistributionHome)
    await haproxy_home.begin()
    return haproxy_home


def test_a_daemon_with_an_operators_options_takes_it_over(
    elsewhere: DistributionHome, webserver: WebServer, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
    service = {
        "Name": "web",
        "EndpointPort": webserver.port,
        "Checks": [{"Type": "http", "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"}],
    }
    tree = {
        "services/web.json": service,
        "machineconfigurations/tags/lb/services/web.json": {},
        "machineconfigurations/tags/lb/haproxy.tpl": elsewhere.template,
    }
    cluster.orbitctl("import", str(cluster.tree(tree)))
    webserver.body = b"from the service"
    machine = cluster.machine(
        tags="lb",
        haproxy_binary=elsewhere.binary,
        haproxy_config_path=str(elsewhere.config.parent),
        haproxy_socket=str(elsewhere.socket.parent / "*.sock"),
        haproxy_master_socket=str(elsewhere.master.path),
        haproxy_reload_command=elsewhere.reload_command,
    )

    def verdict() -> str:
        [row] = cluster.look("machines")
        return str(row["Haproxy"])

    try:
        machine.start()
        told = eventually(verdict, what="HAProxy's verdict")
        assert told == "accepted", machine.text()
        eventually(lambda: "from the service" in fetched(elsewhere.port), what="the service's answer")
        assert f"stats socket {elsewhere.socket} " in elsewhere.config.read_text()
        newest = json.loads(fetched_from(machine.listen, "/status"))["Reloads"][-1]
        assert newest["Outcome"] == "loaded"
        assert "template, certificates or files changed" in newest["Reason"]
        [row] = cluster.look("machines")
        assert (row["Reloaded"], row["ReloadReason"]) == (newest["At"], newest["Reason"])
        machine.stop()
        assert "from the service" in fetched(elsewhere.port)
    finally:
        machine.close()


def fetched(port: int) -> str:
    return fetched_from(f"127.0.0.1:{port}", "/")


def fetched_from(place: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{place}{path}", timeout=10) as answer:
        return str(answer.read().decode())
