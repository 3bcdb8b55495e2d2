"""``import --wait``: what the machines themselves make of an import, as the one who imports sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.etcd import free_ports
from support.machine import Cluster, Machine, Ran, eventually
from support.site import TEMPLATE

pytestmark = pytest.mark.integration

FREE, TAKEN, PLAIN = "127.0.0.2", "127.0.0.3", "127.0.0.4"
BIND = TEMPLATE.replace("bind 127.0.0.1:%(port)d", "bind {{ machine.address }}:%(port)d")
PATH = "machineconfigurations/tags/lb/haproxy.tpl"


class Fleet:
    """Two load balancers, on one of which a port is taken, and a machine that only has services."""

    def __init__(self, cluster: Cluster, taken: int) -> None:
        self.cluster = cluster
        self.taken = taken
        self.balancers = {address: self._balancer(address) for address in (FREE, TAKEN)}
        self.plain = cluster.machine(PLAIN, tags="app", lease_ttl="60s")

    def _balancer(self, address: str) -> Machine:
        return self.cluster.machine(
            address,
            tags="lb",
            lease_ttl="60s",
            haproxy_managed=True,
            haproxy_config_path=str(self._haproxy(address)),
        )

    def _haproxy(self, address: str) -> Path:
        """Where its HAProxy lives; short, because sockets lie there."""
        return self.cluster.directory / f"lb{address[-1]}"

    def start(self) -> None:
        """Starts all three; each has judged its services after that."""
        machines = (*self.balancers.values(), self.plain)
        for machine in machines:
            machine.start(ready=False)
        for machine in machines:
            eventually(machine.is_ready, what=f"{machine.address} ready")

    def tree(self, *, port: int, template: str = BIND, interval: str = "2s") -> str:
        service = {"Name": "web", "EndpointPort": 9, "Checks": [{"Type": "dummy", "Interval": interval}]}
        files: dict[str, Any] = {
            "services/web.json": service,
            "machineconfigurations/tags/app/services/web.json": {},
            PATH: template % {"port": port},
        }
        return str(self.cluster.tree(files))

    def imported(self, *options: str, code: int, **tree: Any) -> tuple[Ran, dict[str, dict[str, Any]]]:
        """What ``import --wait -o json`` did, and its verdicts by machine."""
        ran = self.cluster.orbitctl("import", self.tree(**tree), "--wait", "-o", "json", *options, code=code)
        return ran, {verdict["Machine"]: verdict for verdict in ran.json["Verdicts"]}

    def close(self) -> None:
        for address, machine in self.balancers.items():
            machine.close()
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self._haproxy(address) / "haproxy.pid").read_text()), signal.SIGTERM)


@pytest.fixture
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    with socket.socket() as taken:
        taken.bind((TAKEN, 0))
        taken.listen()
        fleet = Fleet(cluster, taken.getsockname()[1])
        yield fleet
        fleet.close()


def states(verdicts: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {address: verdict["State"] for address, verdict in verdicts.items()}


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_each_machine_that_an_import_touches_says_what_it_makes_of_it(fleet: Fleet) -> None:
    (port,) = free_ports(1)
    first = fleet.cluster.orbitctl("import", fleet.tree(port=port, interval="1s"), "--wait")
    assert "No machine is known" in first.err
    fleet.start()

    # a change that touches all, is good everywhere, and is larger than one transaction
    many = {f"services/s{n}.json": {"Name": f"s{n}", "Checks": [{"Type": "dummy"}]} for n in range(130)}
    fleet.cluster.tree(many)
    ran, verdicts = fleet.imported(port=port, code=0)
    assert states(verdicts) == dict.fromkeys((FREE, TAKEN, PLAIN), "accepted")
    assert (ran.json["Generation"], ran.json["Written"]) == (2, True)
    assert f"  {FREE}  accepted" in ran.err

    # what `haproxy -c` cannot know: the port is taken on one of them
    ran, verdicts = fleet.imported(port=fleet.taken, code=1)
    assert states(verdicts) == {FREE: "accepted", TAKEN: "rejected"}
    assert verdicts[TAKEN]["Reason"].startswith(f"{PATH}: not loaded: ")
    assert f"{TAKEN}:{fleet.taken}" in verdicts[TAKEN]["Reason"]
    assert "Generation 3 is in the store, and stays: 1 rejected." in ran.err

    # the same again changes nothing, does not wait, and everybody says the same of what is in force
    ran, verdicts = fleet.imported(port=fleet.taken, code=1)
    assert states(verdicts) == {FREE: "accepted", TAKEN: "rejected", PLAIN: "accepted"}
    assert (ran.json["Written"], "Waiting" in ran.err) == (False, False)

    # what `haproxy -c` of the machine says, in the template's file and line
    bad = BIND.replace("mode http", "mode nonsense")
    line = next(number for number, text in enumerate(bad.splitlines(), 1) if "nonsense" in text)
    _, verdicts = fleet.imported("--no-haproxy-check", port=port, template=bad, code=1)
    assert states(verdicts) == {FREE: "rejected", TAKEN: "rejected"}
    assert verdicts[FREE]["Reason"].startswith(f"{PATH}:{line}: ")
    table = fleet.cluster.orbitctl("import", fleet.tree(port=port, template=bad), "--wait", code=1)
    assert table.err.startswith(f"{PATH}:{line}: "), "without the option the import itself refuses it"

    # a service is another matter: HAProxy's refusal stands for the new generation as well
    _, verdicts = fleet.imported("--no-haproxy-check", port=port, template=bad, interval="3s", code=1)
    assert states(verdicts) == {FREE: "rejected", TAKEN: "rejected", PLAIN: "accepted"}
    assert {verdict["Generation"] for verdict in verdicts.values()} == {5}


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_the_waiting_ends_and_names_who_has_not_answered(fleet: Fleet) -> None:
    (port,) = free_ports(1)
    fleet.cluster.orbitctl("import", fleet.tree(port=port, interval="1s"))
    fleet.start()
    frozen, gone = fleet.balancers[TAKEN], fleet.plain
    os.kill(frozen.pid, signal.SIGSTOP)
    gone.stop()
    (alive,) = (key for key in fleet.cluster.stored("alive/") if key.key.endswith(PLAIN))
    fleet.cluster.revoke(alive.lease)

    ran, verdicts = fleet.imported("--timeout", "3s", port=port, code=4)
    assert states(verdicts) == {FREE: "accepted", TAKEN: "pending", PLAIN: "unreachable"}
    assert "stays: 1 pending, 1 unreachable." in ran.err
    assert "They go on by themselves" in ran.err
    assert f"  {PLAIN}  unreachable: " in ran.err

    os.kill(frozen.pid, signal.SIGCONT)
    gone.start()
    same = fleet.tree(port=port)
    eventually(
        lambda: fleet.cluster.orbitctl("import", same, "--wait", code=None).code == 0,
        what="all accept what is in force",
    )


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_a_machine_with_two_templates_rejects_them_with_the_reason(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    machine = cluster.machine(
        FREE, tags="lb,edge", haproxy_managed=True, haproxy_config_path=str(tmp_path / "haproxy")
    )
    files: dict[str, Any] = {"services/web.json": {"Name": "web"}}
    cluster.orbitctl("import", str(cluster.tree(files)))
    machine.start()
    for tag in ("edge", "lb"):
        files[f"machineconfigurations/tags/{tag}/haproxy.tpl"] = TEMPLATE % {"port": port}
    ran = cluster.orbitctl("import", str(cluster.tree(files)), "--wait", code=1)
    [title, row] = ran.out.splitlines()[-2:]
    assert title.split() == ["MACHINE", "STATE", "GENERATION", "REASON"]
    assert row.split()[:3] == [FREE, "rejected", "2"]
    assert "lb and edge of this machine both carry haproxy.tpl" in row
