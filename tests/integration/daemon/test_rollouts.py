"""Rollouts that go well: in which order containers are replaced, and what people may do meanwhile."""

from __future__ import annotations

import time

import pytest

from support.farm import FIRST, SECOND, Farm
from support.machine import eventually
from support.traffic import traffic

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(280),
    pytest.mark.parametrize("cluster", ["etcd"], indirect=True),
]


def told(farm: Farm, address: str, since: float) -> list[str]:
    """What Docker did to containers on a machine, without the times."""
    return [f"{action} {image}" for _, action, image in farm.story(address, since)]


def test_machines_replace_their_containers_in_turn_and_no_request_is_lost(farm: Farm) -> None:
    farm.start()
    with traffic(farm.serves) as wrong:
        begun = time.time()
        farm.set_revision("R2")
        for address in (FIRST, SECOND):
            assert told(farm, address, begun) == ["die R1", "start R2", "destroy R1"], "kept until R2 serves"
        first, second = sorted(farm.story(address, begun) for address in (FIRST, SECOND))
        assert first[-1][0] < second[0][0], "one machine after the other"

        before = farm.running()
        farm.bring("--wait", Update={"Order": "start-first"}, Attributes={"c": "blue"}, Relaunch={"Limit": 2})
        eventually(
            lambda: all(b'"blue"' in one.value for one in farm.cluster.stored("services/web/endpoints/")),
            what="the attributes published",
        )
        assert farm.running() == before, "nothing of a container changed"
        assert farm.outcomes() == ["R2 complete"]

        begun = time.time()
        farm.set_revision("slow")
        for address in (FIRST, SECOND):
            assert told(farm, address, begun) == ["start slow", "die R2", "destroy R2"], "the new one first"
    assert not wrong
    assert farm.slots() == []


def test_instances_come_and_go_without_a_restart_of_the_others(farm: Farm) -> None:
    farm.start()
    one = farm.ids(FIRST)["web"]
    with traffic(farm.serves) as wrong:
        farm.bring("--wait", Instances=2)
        eventually(lambda: len(farm.cluster.endpoints("web")) == 4, what="two instances on each machine")
        assert one in farm.ids(FIRST).values()

        begun = time.time()
        farm.set_revision("R2")
        assert told(farm, FIRST, begun) == ["die R1", "start R2", "destroy R1"] * 2, "one after the other"

        one = farm.ids(FIRST)["web-1"]
        farm.bring("--wait", Instances=1)
        assert list(farm.ids(FIRST).values()) == [one]
        assert len(farm.cluster.endpoints("web")) == 2

        command = ["sh", "-c", "exec httpd -f -p 9090 -h /www"]
        farm.bring("--wait", ContainerPort=9090, Config={"Cmd": command})
        assert farm.past()[0]["Cause"] == "configuration"
        assert one not in farm.ids(FIRST).values()
        assert set(farm.ids(FIRST)) == {"web"}
    assert not wrong

    tree = farm.cluster.directory / "tree"
    (tree / "machineconfigurations/tags/app/services/web.json").unlink()
    farm.cluster.orbitctl("import", "--yes", str(tree))
    eventually(lambda: farm.ids(FIRST) == farm.ids(SECOND) == {}, what="the service removed")
    for below in ("endpoints", "progress", "slots"):
        eventually(lambda: not farm.cluster.stored(f"services/web/{below}/"), what=f"no {below} left")  # noqa: B023


def test_people_decide_on_a_canary_and_a_newer_revision_takes_over_in_the_middle(farm: Farm) -> None:
    farm.start(Update={"Canary": 1})
    paused = farm.set_revision("R2", code=4)
    assert "promote" in paused.err
    assert farm.revisions() == ["R1", "R2"]
    farm.web("promote")
    assert farm.revisions() == ["R2", "R2"]

    farm.set_revision("R3", code=4)
    farm.web("rollback")
    assert farm.revisions() == ["R2", "R2"]
    assert farm.outcomes()[:2] == ["R2 complete", "R3 superseded"]

    farm.bring("--wait", Update={"MinHealthyTime": "60s"})
    following = farm.begins("service", "web", "set", "revision", "slow", "--no-verify")
    address = eventually(lambda: next(iter(proving(farm)), ""), what="healthy, but not for long enough")
    farm.bring("--wait")
    machine = farm.first if address == FIRST else farm.second
    before = machine.text().count('reason="checks passed"')
    farm.set_revision("R3")
    _, said = following.communicate(timeout=60)
    assert "revision slow was superseded by" in said
    assert farm.revisions() == ["R3", "R3"]
    assert machine.text().count('reason="checks passed"') == before + 1, "what nobody used was not published"


def proving(farm: Farm) -> list[str]:
    """The machines that wait for the end of ``MinHealthyTime``."""
    reason = "healthy, and has to stay so"
    return [one for one in (FIRST, SECOND) if farm.progress(one).get("Reason") == reason]


def test_a_rollout_is_paused_a_machine_has_its_own_revision_and_all_is_relaunched(farm: Farm) -> None:
    farm.start()
    farm.set_revision("slow", "--detach")
    eventually(farm.slots, what="a slot taken")
    farm.web("pause")
    eventually(lambda: not farm.slots(), what="what has begun is finished")
    assert farm.revisions() == ["R1", "slow"]
    farm.web("resume")
    assert farm.revisions() == ["slow", "slow"]

    farm.set_revision("R2", "on", "machine", SECOND)
    assert {one["Machine"]: one["Revision"] for one in farm.cluster.endpoints("web")} == {
        FIRST: "slow",
        SECOND: "R2",
    }
    farm.web("unset", "revision", "on", "machine", SECOND)
    assert farm.revisions() == ["slow", "slow"]

    before = farm.running()
    farm.web("relaunch")
    assert not set(before) & set(farm.running())
    assert farm.revisions() == ["slow", "slow"]
    assert farm.past()[0]["Cause"] == "relaunch"
