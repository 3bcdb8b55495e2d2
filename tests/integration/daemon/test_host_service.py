"""A service without a container: somebody else runs the process, Orbit checks and publishes it."""

import json
import signal
from typing import Any

import pytest

from orbitcontrol.model.stored import KeyValue
from support.machine import Cluster, eventually
from support.webserver import WebServer

pytestmark = pytest.mark.integration


def web(port: int, **check: Any) -> dict[str, Any]:
    return {
        "Name": "web",
        "EndpointPort": port,
        "Checks": [
            {
                "Type": "http",
                "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/",
                "Interval": "100ms",
                "ResponseTimeout": "2s",
                **check,
            }
        ],
        "Attributes": {"weight": "7"},
    }


def import_web(cluster: Cluster, service: dict[str, Any]) -> None:
    tree = cluster.tree(
        {"services/web.json": service, "machineconfigurations/tags/app/services/web.json": {}}
    )
    cluster.orbitctl("import", str(tree), "--yes")


def test_it_is_published_while_it_is_healthy_and_withdrawn_while_it_is_not(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_web(cluster, web(webserver.port))
    cluster.machine().start()
    [endpoint] = cluster.endpoints("web")
    assert endpoint["Endpoint"] == f"127.0.0.1:{webserver.port}"
    assert (endpoint["Machine"], endpoint["State"]) == ("127.0.0.1", "up")

    webserver.status = 500
    eventually(lambda: not cluster.endpoints("web"), what="withdrawn after failed checks")

    def told() -> bool:
        problems = cluster.look("status")["Problems"]
        return any("service web" in each["Subject"] and "status 500" in each["Reason"] for each in problems)

    eventually(told, what="the reason in status")

    webserver.status = 204
    eventually(lambda: cluster.endpoints("web"), what="published again")

    webserver.stop()
    eventually(lambda: not cluster.endpoints("web"), what="withdrawn when nobody answers")


def test_it_is_not_published_before_it_has_passed_rise_checks_and_the_string_was_seen(
    cluster: Cluster, webserver: WebServer
) -> None:
    webserver.body = b"starting"
    import_web(cluster, web(webserver.port, ExpectString="ready", Rise=3))
    machine = cluster.machine()
    machine.start()
    assert cluster.endpoints("web") == []
    webserver.body = b"is ready now"
    asked = webserver.asked
    eventually(lambda: cluster.endpoints("web"), what="published once the string is there")
    assert webserver.asked - asked >= 3


def test_a_changed_tree_is_followed_without_a_restart(cluster: Cluster, webserver: WebServer) -> None:
    import_web(cluster, web(webserver.port))
    machine = cluster.machine()
    machine.start()
    [before] = cluster.endpoints("web")
    pid = machine.pid

    tree = cluster.tree(
        {
            "services/other.json": {
                "Name": "other",
                "EndpointPort": webserver.port + 1,
                "Checks": [{"Type": "dummy"}],
            },
            "services/web.json": web(webserver.port),
            "machineconfigurations/tags/app/services/other.json": {},
            "machineconfigurations/tags/app/services/web.json": {},
        }
    )
    cluster.orbitctl("import", str(tree))
    eventually(lambda: cluster.endpoints("other"), what="the new service published")
    assert cluster.endpoints("web") == [before]

    (tree / "machineconfigurations/tags/app/services/web.json").unlink()
    cluster.orbitctl("import", str(tree), "--yes")
    eventually(lambda: not cluster.endpoints("web"), what="the unbound service withdrawn")
    assert cluster.endpoints("other")
    assert machine.pid == pid


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_comes_back_within_its_lease_changes_nothing(
    cluster: Cluster, webserver: WebServer, how: signal.Signals
) -> None:
    import_web(cluster, web(webserver.port))
    machine = cluster.machine(lease_ttl="30s")
    machine.start()
    before = at_rest(cluster)
    code = machine.stop(how)
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    assert everything(cluster) == before
    machine.start()
    eventually(lambda: "session resumed" in machine.text(), what="the session resumed")
    assert everything(cluster) == before


def test_a_daemon_that_comes_back_after_its_lease_proves_everything_anew(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_web(cluster, web(webserver.port))
    machine = cluster.machine(lease_ttl="2s")
    machine.start()
    machine.stop()
    eventually(lambda: not cluster.endpoints("web"), what="the endpoint gone with its lease")
    webserver.status = 500
    machine.start()
    assert cluster.endpoints("web") == []
    webserver.status = 200
    eventually(lambda: cluster.endpoints("web"), what="published after new proof")


def test_a_daemon_that_loses_its_lease_publishes_anew_under_another_session(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_web(cluster, web(webserver.port))
    cluster.machine(lease_ttl="2s").start()
    [before] = cluster.stored("services/web/endpoints/")
    cluster.revoke(before.lease)

    def after() -> list[KeyValue]:
        return [item for item in cluster.stored("services/web/endpoints/") if item.lease != before.lease]

    [endpoint] = eventually(after, what="the endpoint published again")
    assert endpoint.key == before.key
    [alive] = cluster.stored("alive/")
    assert alive.lease == endpoint.lease
    assert json.loads(alive.value)["Session"] == json.loads(endpoint.value)["Session"]
    assert json.loads(alive.value)["Session"] != json.loads(before.value)["Session"]


def test_a_second_daemon_on_the_same_address_refuses_and_names_the_holder(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_web(cluster, web(webserver.port))
    first = cluster.machine(lease_ttl="2s")
    first.start()
    [before] = cluster.endpoints("web")
    second = cluster.machine(lease_ttl="2s")
    second.directory = cluster.directory / "second"
    second.directory.mkdir()
    second.log = second.directory / "log"
    second.start(ready=False)
    assert second.ended() == 1
    session = cluster.look("machines")[0]["Session"]
    assert session in second.text()
    assert "127.0.0.1" in second.text()
    assert cluster.endpoints("web") == [before]


def test_a_second_daemon_on_the_same_state_directory_is_told_so(cluster: Cluster) -> None:
    machine = cluster.machine()
    machine.start(ready=False)
    eventually(lambda: "session begun" in machine.text(), what="the first daemon running")
    same = cluster.machine()
    same.log = cluster.directory / "same.log"
    same.start(ready=False)
    assert same.ended() == 1
    assert "another orbitctl daemon uses this state directory" in same.text()


def test_nothing_is_written_while_nothing_changes(cluster: Cluster, webserver: WebServer) -> None:
    import_web(cluster, web(webserver.port))
    cluster.machine().start()
    before = at_rest(cluster)
    asked = webserver.asked
    eventually(lambda: webserver.asked > asked + 20, what="twenty more checks")
    assert everything(cluster) == before


def at_rest(cluster: Cluster) -> list[KeyValue]:
    """Everything, once the machine's record says that its service runs."""

    def told() -> bool:
        return any(b'"running"' in record.value for record in cluster.stored("machines/"))

    eventually(told, what="the machine's record up to date")
    return everything(cluster)


def everything(cluster: Cluster) -> list[KeyValue]:
    """All keys with the revisions that would differ if somebody had written them again."""
    return cluster.stored("")


def test_a_service_that_goes_up_and_down_waits_longer_and_longer_and_says_so(
    cluster: Cluster, webserver: WebServer
) -> None:
    import_web(cluster, web(webserver.port))
    cluster.machine().start()
    for _ in range(3):
        webserver.status = 500
        eventually(lambda: not cluster.endpoints("web"), what="withdrawn at once")
        webserver.status = 200
        eventually(lambda: cluster.endpoints("web"), what="published again")

    def told() -> bool:
        return "goes up and down" in str(cluster.look("status")["Problems"])

    def told_while_it_waits() -> bool:
        return cluster.endpoints("web") == [] and told()

    webserver.status = 500
    eventually(lambda: not cluster.endpoints("web"), what="withdrawn at once")
    webserver.status = 200
    eventually(told_while_it_waits, what="the wait told")
    eventually(lambda: cluster.endpoints("web"), what="published after its wait")
    eventually(lambda: not told(), what="the problem ended")
