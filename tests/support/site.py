"""A machine that runs containers and HAProxy, as most do, and a client of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.docker import Engine
from support.etcd import free_ports
from support.machine import Cluster, Machine, eventually

TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 10s
defaults
    mode http
    retries 3
    option redispatch
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    timeout http-request 5s
frontend www
    bind 127.0.0.1:%(port)d
    default_backend web
backend web
    {%% for e in endpoints("web") -%%}
    server {{ e.name }} {{ e.address }}
    {%% endfor %%}
"""


class Site:
    """A machine that runs containers and HAProxy, and a client of it."""

    def __init__(self, cluster: Cluster, engine: Engine) -> None:
        self.cluster = cluster
        self.engine = engine
        self.port = free_ports(1)[0]
        self.haproxy = cluster.directory / "haproxy"
        self.haproxy.mkdir()
        self.machine = self.new_machine("app,lb")

    def new_machine(self, tags: str) -> Machine:
        return self.cluster.machine(
            tags=tags,
            docker_host=self.engine.host,
            haproxy_managed=True,
            haproxy_config_path=str(self.haproxy),
            lease_ttl="20s",
        )

    def web(self, *, image: str, **fields: Any) -> dict[str, Any]:
        return {
            "Name": "web",
            "ContainerPort": 8080,
            "Checks": [
                {
                    "Type": "http",
                    "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/",
                    "Interval": "500ms",
                    "ResponseTimeout": "5s",
                    "ConnectTimeout": "5s",
                }
            ],
            "Update": {"StopTimeout": "1s"},
            "Container": {"Config": {"Image": image, "Cmd": ["httpd", "-f", "-p", "8080", "-h", "/www"]}},
            **fields,
        }

    def tree(self, service: dict[str, Any], *, template: str = TEMPLATE) -> Path:
        return self.cluster.tree(
            {
                "services/web.json": service,
                "machineconfigurations/tags/app/services/web.json": {},
                "machineconfigurations/tags/lb/haproxy.tpl": template % {"port": self.port},
            }
        )

    def set_revision(self, revision: str, *options: str) -> None:
        """Sets it on this machine, whose engine has the image."""
        where = ("--docker-host", self.engine.host)
        self.cluster.orbitctl("service", "web", "set", "revision", revision, *where, *options)

    def get(self, path: str = "/") -> str:
        """The body that HAProxy answers with; "" when it does not answer with 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode().strip()
        except OSError:
            return ""
        else:
            return body if answer.status == 200 else ""
        finally:
            connection.close()

    def started_at(self) -> dict[str, str]:
        """Each container's name and when it was started."""
        found = {}
        for name in self.engine.names():
            with contextlib.suppress(AssertionError):  # it was removed since it was listed
                found[name] = self.engine.inspect(name, "{{.Id}} {{.State.StartedAt}}")
        return found

    def workers(self) -> str:
        return (self.haproxy / "haproxy.pid").read_text() + self.processes()

    def processes(self) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.haproxy / "haproxy-master.sock"))
            client.sendall(b"show proc\n")
            client.shutdown(socket.SHUT_WR)
            text = b""
            while piece := client.recv(4096):
                text += piece
        lines = text.decode().splitlines()
        return "\n".join(" ".join(line.split()[:3]) for line in lines if "worker" in line)

    def stop_haproxy(self) -> None:
        pid_file = self.haproxy / "haproxy.pid"
        if pid_file.exists():
            pid = int(pid_file.read_text().split()[0])
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                return
            eventually(lambda: not Path(f"/proc/{pid}").exists(), what="HAProxy ended")


@pytest.fixture
def site(cluster: Cluster, engine: Engine) -> Iterator[Site]:
    site = Site(cluster, engine)
    yield site
    site.machine.close()
    site.stop_haproxy()
