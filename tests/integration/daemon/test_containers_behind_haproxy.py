"""The main job: containers on the machine's engine, checked, published, and served by HAProxy."""

import http.client
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.docker import Engine
from support.etcd import free_ports
from support.machine import Cluster, Machine, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LEGACY_TREE = Path(__file__).parents[2] / "data" / "legacy-tree"

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
        return {
            name: self.engine.inspect(name, "{{.Id}} {{.State.StartedAt}}") for name in self.engine.names()
        }

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


def test_two_instances_are_served_a_killed_one_returns_and_a_new_revision_arrives(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.engine.image("web:R2", says="this is R2")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1", Instances=2))))
    site.machine.start()
    endpoints = site.cluster.endpoints("web")
    assert len({endpoint["Port"] for endpoint in endpoints}) == 2
    assert all(20000 <= endpoint["Port"] <= 29999 for endpoint in endpoints)
    assert site.engine.names() == {"web-1", "web-2"}
    eventually(lambda: site.get() == "this is R1", what="served by HAProxy")

    killed = site.started_at()["web-1"]
    site.engine.docker("kill", "web-1")
    eventually(lambda: site.started_at().get("web-1", killed) != killed, what="another container web-1")
    eventually(lambda: len(site.cluster.endpoints("web")) == 2, what="both published again")
    eventually(lambda: site.get() == "this is R1", what="still served")

    site.cluster.orbitctl("service", "web", "set", "revision", "R2")
    assert {endpoint["Revision"] for endpoint in site.cluster.endpoints("web")} == {"R2"}
    eventually(lambda: site.get() == "this is R2", what="the new revision served")

    site.cluster.orbitctl("service", "web", "unset", "revision")
    eventually(lambda: site.get() == "this is R1", what="the tree's revision again")


def test_a_restarted_daemon_changes_nothing(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1", Instances=2))))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")
    eventually(lambda: "Registered" in str(site.cluster.stored("alive/")[0].value), what="registered")
    before = site.started_at(), site.workers(), site.cluster.stored("services/")
    site.machine.stop()
    assert site.get() == "this is R1"
    site.machine.start()
    eventually(
        lambda: site.machine.text().count("configuration in force") == 2, what="the configuration read"
    )
    assert site.get() == "this is R1"
    assert (site.started_at(), site.workers(), site.cluster.stored("services/")) == before
    assert site.machine.text().count("HAProxy loaded") == 1


def test_a_refused_template_leaves_the_last_good_one_serving_with_current_endpoints(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    good = site.tree(site.web(image="web:R1"))
    site.cluster.orbitctl("import", str(good))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")

    bad = TEMPLATE.replace("    retries 3\n", "    retries 3\n    contimeout 5000\n")
    site.tree(site.web(image="web:R1"), template=bad)
    refused = site.cluster.orbitctl("import", str(good), code=None)
    assert refused.code == 1
    assert "haproxy.tpl:7" in refused.err
    site.cluster.orbitctl("import", str(good), "--no-haproxy-check")

    def verdict() -> str:
        return str(site.cluster.orbitctl("machines", "-o", "json").json[0]["Haproxy"])

    eventually(lambda: verdict().startswith("rejected"), what="the rejection reported")
    assert "haproxy.tpl:7" in verdict()
    assert "contimeout" in verdict()
    assert site.get() == "this is R1"

    site.engine.docker("kill", "web")
    eventually(lambda: site.get() == "", what="the ended container out of rotation", timeout=10)
    eventually(lambda: site.get() == "this is R1", what="the new container served by the last good template")


def test_one_image_that_cannot_be_had_delays_nobody(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    tree = site.tree(site.web(image="web:R1"))
    broken = {"Name": "broken", "Container": {"Config": {"Image": "127.0.0.1:9/none:1"}}}
    (tree / "services/broken.json").write_text(json.dumps(broken))
    (tree / "machineconfigurations/tags/app/services/broken.json").write_text("{}")
    site.cluster.orbitctl("import", str(tree))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="the good service served")
    status = site.cluster.orbitctl("status", "-o", "json").json
    assert any("broken" in problem["Subject"] for problem in status["Problems"])


def test_a_value_that_nobody_can_read_holds_its_service_and_nothing_else(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1"))))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")
    before = site.started_at()

    site.cluster.write("config/services/web", b"{not json")
    site.cluster.write(
        "deployments/web/revision", b'{"Revision": "R9", "Serial": 1, "DeploymentTime": "", "User": ""}'
    )

    def reported() -> bool:
        problems = site.cluster.orbitctl("status", "-o", "json").json["Problems"]
        return any(each["Subject"] == "127.0.0.1: service web" for each in problems)

    eventually(reported, what="the unreadable value reported")
    assert site.started_at() == before
    assert site.get() == "this is R1"
    assert len(site.cluster.endpoints("web")) == 1


def test_the_tree_of_the_older_implementation_runs_once_its_template_is_brought_up_to_date(
    site: Site, tmp_path: Path
) -> None:
    answer_on_3500(site.engine, "ubuntu:latest", says="an old friend")
    tree = tmp_path / "legacy"
    shutil.copytree(LEGACY_TREE, tree)
    refused = site.cluster.orbitctl("validate", str(tree), code=1)
    assert "machineconfigurations/tags/testtag/haproxy.tpl:" in refused.err
    assert "contimeout" in refused.err

    template = TEMPLATE.replace('endpoints("web")', 'endpoints("ubuntu")') % {"port": site.port}
    (tree / "machineconfigurations/tags/testtag/haproxy.tpl").write_text(template)
    site.cluster.orbitctl("validate", str(tree))
    site.cluster.orbitctl("import", str(tree))
    site.machine = site.new_machine("testtag")
    site.machine.start()
    [endpoint] = site.cluster.endpoints("ubuntu")
    assert endpoint["Port"] == 3500
    assert site.engine.inspect("ubuntu", "{{.Config.Hostname}}") == "ubuntu-test"
    eventually(lambda: site.get("/check") == "an old friend", what="the legacy service served by HAProxy")


def answer_on_3500(engine: Engine, image: str, *, says: str) -> None:
    """An image whose own command answers on ``/check``, as the older tree's check asks."""
    base = engine.image(f"{image.partition(':')[0]}-base:1", says=says)
    command = "busybox cp /www/index.html /www/check && exec httpd -f -p 3500 -h /www"
    container = engine.docker("create", base, "true")
    engine.docker("commit", "--change", f"CMD {json.dumps(['sh', '-c', command])}", container, image)
    engine.docker("rm", container)
