"""Two machines with an engine each that run one web service, and a load balancer before them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.docker import Engine
from support.etcd import free_ports
from support.machine import ORBITCTL, Cluster, Machine, Ran, environment, eventually

FIRST, SECOND, BALANCER = "127.0.0.1", "127.0.0.2", "127.0.0.3"

TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 10s
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    timeout http-request 5s
frontend www
    bind 127.0.0.3:%(port)d
    default_backend web
backend web
    {%% for e in endpoints("web") -%%}
    server {{ e.name }} {{ e.address }}
    {%% endfor %%}
"""
"""Neither retries nor redispatch: they would hide a request that went to a container about to stop."""

_TOLD = ("die", "start", "destroy")

COMMAND = ["sh", "-c", 'eval "$AT_FIRST"; exec httpd -f -p 8080 -h /www']

UPDATE = {"StopTimeout": "1s", "MinHealthyTime": "0s", "HealthyDeadline": "8s", "DrainTimeout": "5s"}


class Farm:
    """``first`` and ``second`` run containers, ``balancer`` runs HAProxy."""

    def __init__(self, cluster: Cluster, engines: tuple[Engine, Engine]) -> None:
        self.cluster = cluster
        self.engines = dict(zip((FIRST, SECOND), engines, strict=True))
        self.port = free_ports(1)[0]
        self.haproxy = cluster.directory / "haproxy"
        self.haproxy.mkdir()
        self.first = self._runner(FIRST)
        self.second = self._runner(SECOND)
        self.balancer = cluster.machine(
            BALANCER,
            tags="lb",
            docker_host=engines[0].host,
            haproxy_managed=True,
            haproxy_config_path=str(self.haproxy),
            lease_ttl="10s",
        )
        self._following: list[subprocess.Popen[str]] = []
        for revision, at_first in {
            "R1": "",
            "R2": "",
            "R3": "",
            "slow": "sleep 2",
            "exits": "echo no database; exit 7",
            "sick": "busybox rm /www/index.html",
        }.items():
            for engine in engines:
                engine.image(f"farm:{revision}", says=revision, environment={"AT_FIRST": at_first})

    def _runner(self, address: str) -> Machine:
        return self.cluster.machine(
            address, tags="app", docker_host=self.engines[address].host, lease_ttl="10s"
        )

    def service(self, **fields: Any) -> dict[str, Any]:
        """The service as its file has it; ``Update`` replaces some of its fields only."""
        check = {
            "Type": "http",
            "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/",
            "Interval": "300ms",
            "ResponseTimeout": "5s",
            "ConnectTimeout": "5s",
        }
        config = {"Image": "farm:R1", "Cmd": COMMAND, "StopSignal": "SIGKILL"}
        update = {**UPDATE, **fields.pop("Update", {})}
        return {
            "Name": "web",
            "ContainerPort": 8080,
            "Checks": [check],
            "Container": {"Config": config | fields.pop("Config", {})},
            "Update": update,
            **fields,
        }

    def bring(self, *options: str, code: int = 0, **fields: Any) -> Ran:
        """Imports the tree with the service."""
        tree = self.cluster.tree(
            {
                "services/web.json": self.service(**fields),
                "machineconfigurations/tags/app/services/web.json": {},
                "machineconfigurations/tags/lb/haproxy.tpl": TEMPLATE % {"port": self.port},
            }
        )
        return self.cluster.orbitctl("import", str(tree), *options, code=code)

    def start(self, **fields: Any) -> None:
        """Imports the tree, starts all machines, and returns when the load balancer serves R1."""
        self.bring(**fields)
        for machine in self.cluster.machines:
            machine.start(ready=False)
        for machine in self.cluster.machines:
            eventually(machine.is_ready, what=f"machine {machine.address} ready\n{machine.text()}")
        eventually(lambda: self.get() == "R1", what="served by HAProxy")

    def get(self) -> str:
        """The body that HAProxy answers with; "" when it does not answer with 200."""
        connection = http.client.HTTPConnection(BALANCER, self.port, timeout=25)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read().decode().strip()
        except OSError:
            return ""
        else:
            return body if answer.status == 200 else ""
        finally:
            connection.close()

    def busy(self) -> bool:
        """True while HAProxy has a session with a container."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.haproxy / "haproxy.sock"))
            client.sendall(b"show stat\n")
            text = client.makefile().read()
        rows = [line.split(",") for line in text.splitlines() if line.startswith("web,web-")]
        return any(row[4] != "0" for row in rows)

    def serves(self) -> str:
        """The same for every good answer."""
        return "served" if self.get() else ""

    def web(self, *words: str, code: int | None = 0) -> Ran:
        """``orbitctl service web …``."""
        return self.cluster.orbitctl("service", "web", *words, code=code)

    def set_revision(self, revision: str, *words: str, code: int | None = 0) -> Ran:
        where = ("--docker-host", self.engines[FIRST].host)
        return self.web("set", "revision", revision, *words, *where, code=code)

    def begins(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        process = subprocess.Popen(
            [*ORBITCTL, *self.cluster.options, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._following.append(process)
        return process

    def ids(self, address: str) -> dict[str, str]:
        """Each container's name and id on a machine."""
        listed = self.engines[address].docker("ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}")
        return dict(line.split() for line in listed.splitlines())

    def story(self, address: str, since: float) -> list[tuple[float, str, str]]:
        """What Docker did on a machine: when, what, and to the container of which image."""
        listed = self.engines[address].docker(
            *("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}"),
            *(word for action in _TOLD for word in ("--filter", f"event={action}")),
            *("--filter", "type=container", "--format"),
            "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.image}}",
        )
        told = [line.split() for line in listed.splitlines()]
        return [(int(at) / 1e9, action, image.partition(":")[2]) for at, action, image in told]

    def running(self) -> list[str]:
        """The containers that serve, by id, in the order of their machines."""
        return [self.ids(address).get("web", "") for address in self.engines]

    def images(self) -> dict[str, list[str]]:
        """What runs on each machine."""
        return {
            address: sorted(engine.docker("ps", "--format", "{{.Image}}").split())
            for address, engine in self.engines.items()
        }

    def revisions(self) -> list[str]:
        """Of all endpoints."""
        return sorted(one["Revision"] for one in self.cluster.endpoints("web"))

    def rollout(self) -> dict[str, Any]:
        found = self.cluster.stored("deployments/web/rollout")
        return dict(json.loads(found[0].value)) if found else {}

    def slots(self) -> list[dict[str, Any]]:
        return [json.loads(item.value) for item in self.cluster.stored("services/web/slots/")]

    def progress(self, address: str) -> dict[str, Any]:
        found = self.cluster.stored(f"services/web/progress/{address}")
        return dict(json.loads(found[0].value)) if found else {}

    def past(self) -> list[dict[str, Any]]:
        """The rollouts that are over, the newest first."""
        return list(self.web("history", "-o", "json").json)

    def outcomes(self) -> list[str]:
        return [f"{one['To']} {one['Outcome']}" for one in self.past() if one["Ended"]]

    def close(self) -> None:
        for process in self._following:
            process.kill()
            process.communicate()
        for machine in self.cluster.machines:
            machine.close()
        pid_file = self.haproxy / "haproxy.pid"
        if pid_file.exists():
            pid = int(pid_file.read_text().split()[0])
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{pid}").exists(), what="HAProxy ended")


@pytest.fixture
def farm(cluster: Cluster, engine: Engine, second_engine: Engine) -> Iterator[Farm]:
    farm = Farm(cluster, (engine, second_engine))
    yield farm
    farm.close()
