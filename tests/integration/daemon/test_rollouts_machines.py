"""Machines that are drained, containers that are started anew because they fail, and machines of before."""

from __future__ import annotations

import socket
import time

import pytest

from support.farm import BALANCER, FIRST, SECOND, Farm
from support.machine import eventually
from support.traffic import traffic

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(280),
    pytest.mark.parametrize("cluster", ["etcd"], indirect=True),
]


def long_session(farm: Farm) -> socket.socket:
    """A request whose body takes for ever."""
    client = socket.create_connection((BALANCER, farm.port))
    client.sendall(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nhalf of it")
    return client


def test_a_drained_machine_is_empty_and_stays_so_until_it_is_undrained(farm: Farm) -> None:
    farm.start()
    with traffic(farm.serves) as wrong:
        drained = farm.cluster.orbitctl("machine", SECOND, "drain")
        assert "is empty" in drained.err
        assert farm.ids(SECOND) == {}
        assert [one["Machine"] for one in farm.cluster.endpoints("web")] == [FIRST]
    assert not wrong
    farm.second.stop()
    farm.second.start()
    farm.set_revision("R2")
    assert farm.ids(SECOND) == {}
    with traffic(farm.serves) as wrong:
        farm.cluster.orbitctl("machine", SECOND, "undrain")
        eventually(lambda: farm.revisions() == ["R2", "R2"], what="it runs what is wanted now")
    assert not wrong
    with long_session(farm):
        eventually(farm.busy, what="a session")
        cut = farm.cluster.orbitctl("machine", FIRST, "drain", "--deadline", "4s")
        assert "sessions left" in cut.err
    assert [one["Machine"] for one in farm.cluster.endpoints("web")] == [SECOND]


def test_a_container_whose_checks_keep_failing_is_started_anew_as_often_as_allowed(farm: Farm) -> None:
    farm.start(Relaunch={"After": "1s", "Limit": 1})
    first = farm.engines[FIRST]
    one = farm.ids(FIRST)["web"]
    first.docker("exec", "web", "sh", "-c", "busybox rm /www/index.html")
    eventually(lambda: farm.ids(FIRST).get("web", one) != one, what="started anew")
    eventually(lambda: len(farm.cluster.endpoints("web")) == 2, what="published")
    assert farm.past() == []
    two = farm.ids(FIRST)
    first.docker("exec", "web", "sh", "-c", "busybox rm /www/index.html")
    eventually(lambda: len(farm.cluster.endpoints("web")) == 1, what="withdrawn")
    withdrawn = time.monotonic()
    eventually(lambda: time.monotonic() > withdrawn + 3, what="twice After, and more")
    assert farm.ids(FIRST) == two, "not more often than Limit"
    farm.web("relaunch")
    assert len(farm.cluster.endpoints("web")) == 2, "mended by people"
    assert farm.ids(FIRST) != two


def test_containers_of_the_version_before_are_taken_over_as_they_are(farm: Farm) -> None:
    farm.start()
    before = [farm.story(address, 0) for address in (FIRST, SECOND)]
    for machine in (farm.first, farm.second):
        machine.stop()
        (machine.directory / "state" / "rollouts.json").unlink()
    for item in farm.cluster.stored("services/web/progress/"):
        farm.cluster.write(item.key.removeprefix(f"{farm.cluster.base}/"), None)
    with traffic(farm.serves) as wrong:
        for machine in (farm.first, farm.second):
            machine.start()
        for address in (FIRST, SECOND):
            eventually(lambda: farm.progress(address).get("Step") == "done", what="taken over")  # noqa: B023
        assert [farm.story(address, 0) for address in (FIRST, SECOND)] == before
        assert farm.rollout() == {}
        farm.set_revision("R2")
    assert not wrong
