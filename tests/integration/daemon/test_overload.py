"""The machine runs out of something: it is named in status, and the rest goes on."""

import resource
from pathlib import Path
from typing import Any

import pytest

from support.machine import Cluster, eventually
from support.scarcity import no_space_left, small_disk
from support.webserver import WebServer

pytestmark = pytest.mark.integration


def service(name: str, port: int, *, endpoint: int = 80) -> dict[str, Any]:
    check = {"Type": "http", "Url": f"http://127.0.0.1:{port}/", "Interval": "100ms", "ResponseTimeout": "2s"}
    return {"Name": name, "EndpointPort": endpoint, "Checks": [check]}


def import_services(cluster: Cluster, *services: dict[str, Any]) -> None:
    files = {f"services/{one['Name']}.json": one for one in services}
    bound: dict[str, Any] = {
        f"machineconfigurations/tags/app/services/{one['Name']}.json": {} for one in services
    }
    cluster.orbitctl("import", str(cluster.tree(files | bound)))


def problems(cluster: Cluster) -> str:
    found = cluster.look("status")["Problems"]
    return "\n".join(f"{each['Subject']}: {each['Reason']}" for each in found)


def test_a_daemon_without_file_descriptors_says_that_it_cannot_ask_and_withdraws_nothing(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_services(cluster, service("web", webserver.port))
    machine = cluster.machine()
    machine.start()
    [before] = cluster.stored("services/web/endpoints/")
    _, hard = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{machine.pid}/fd").iterdir()))
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (used // 2, hard))
    webserver.stop()
    webserver.start()  # whose connections are new, and need descriptors
    eventually(lambda: "cannot ask: Too many open files" in problems(cluster), what="the lack told")
    assert cluster.stored("services/web/endpoints/") == [before]
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (hard, hard))
    eventually(lambda: "cannot ask" not in problems(cluster), what="the lack ended")
    assert cluster.stored("services/web/endpoints/") == [before]


def test_a_full_disk_holds_up_no_publication_and_no_withdrawal(
    cluster: Cluster, webserver: WebServer, tmp_path: Path
) -> None:
    import_services(cluster, service("web", webserver.port))
    machine = cluster.machine()
    with small_disk(machine.directory):
        machine.start()
        with no_space_left(machine.directory):
            both = service("web", webserver.port), service("other", webserver.port, endpoint=81)
            import_services(cluster, *both)
            eventually(lambda: cluster.endpoints("other"), what="the new service published")
            eventually(lambda: "No space left" in problems(cluster), what="the full disk told")
            webserver.status = 500
            eventually(lambda: not cluster.endpoints(), what="both withdrawn")
            webserver.status = 200
            eventually(lambda: len(cluster.endpoints()) == 2, what="both published again")
        eventually(lambda: "No space left" not in problems(cluster), what="the problem ended")
        machine.close()
