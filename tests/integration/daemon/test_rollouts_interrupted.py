"""Rollouts whose daemons, load balancers or store are taken away in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.docker import Engine
from support.etcd import EtcdServer, free_ports
from support.farm import BALANCER, FIRST, SECOND, Farm
from support.machine import Cluster, Machine, eventually
from support.traffic import traffic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]
on_etcd = pytest.mark.parametrize("cluster", ["etcd"], indirect=True)

MOMENTS = (
    "rollout: take",
    "step=draining",
    "stopping container",
    "container ended",
    "starting container",
    "container started",
    "endpoint published .* checks passed",
    "container removed",
)
"""Words of the daemon's log, in their order: it is killed when it has written them."""


def says(machine: Machine, words: str, *, after: int) -> bool:
    """True when a line of the log has all the words, in their order."""
    wanted = words.split(" .* ")
    lines = machine.text()[after:].replace('"', "").splitlines()
    return any(all(each in line for each in wanted) for line in lines)


def killed_when(machine: Machine, words: str, *, after: int) -> None:
    """Kills the daemon as soon as it has written the words."""
    deadline = time.monotonic() + 60
    while not says(machine, words, after=after):
        assert time.monotonic() < deadline, f"{words}\n{machine.text()[after:]}"
        time.sleep(0.001)
    machine.stop(signal.SIGKILL)


@on_etcd
def test_what_a_killed_daemon_left_half_done_is_finished_by_its_next_start(farm: Farm) -> None:
    farm.start()
    with traffic(farm.serves) as wrong:
        for number, moment in enumerate(MOMENTS):
            revision = ("R2", "R3")[number % 2]
            after = len(farm.first.text())
            farm.set_revision(revision, "--detach")
            killed_when(farm.first, moment, after=after)
            up = [one for one in farm.cluster.endpoints("web") if one["State"] == "up"]
            assert any(one["Machine"] == SECOND for one in up), f"the other one is out, too: {moment}"
            farm.first.start()
            eventually(lambda: farm.rollout()["State"] == "complete", what=f"finished after: {moment}")
            assert farm.revisions() == [revision, revision]
            assert farm.slots() == []
            assert set(farm.ids(FIRST)) == {"web"}, "nothing kept is left"
    assert not wrong


@on_etcd
def test_a_daemon_that_is_asked_to_end_in_the_middle_ends_at_once_and_goes_on_when_it_is_back(
    farm: Farm,
) -> None:
    farm.start(Update={"HealthyDeadline": "60s"})
    farm.set_revision("slow", "on", "machine", FIRST, "--detach")
    eventually(lambda: farm.progress(FIRST).get("Step") == "verifying", what="in the middle")
    assert farm.first.stop() == 0
    assert farm.slots(), "it is out, and nobody else may be"
    farm.first.start()
    eventually(lambda: farm.rollout()["State"] == "complete", what="finished")
    assert farm.revisions() == ["R1", "slow"]


@on_etcd
def test_a_load_balancer_that_does_not_confirm_holds_the_rollout_and_is_named(farm: Farm) -> None:
    farm.start()
    os.kill(farm.balancer.pid, signal.SIGSTOP)
    following = farm.begins("service", "web", "set", "revision", "R2", "--no-verify", "--timeout", "100s")
    silent = f"load balancer {BALANCER} has not confirmed"
    eventually(lambda: silent in farm.web().out, what="named")
    assert silent in farm.cluster.orbitctl("status").out
    runners = (farm.first, farm.second)
    eventually(lambda: any("drain taken back" in one.text() for one in runners), what="taken back")
    [holder] = [one.address for one in runners if "drain taken back" in one.text()]
    eventually(lambda: states(farm)[holder] == "up", what="it goes on serving")
    assert farm.revisions() == ["R1", "R1"]
    assert farm.get() == "R1"
    os.kill(farm.balancer.pid, signal.SIGCONT)
    _, said = following.communicate(timeout=100)
    assert f"waits for load balancer {BALANCER} to confirm" in said
    assert following.returncode == 0, said
    assert farm.revisions() == ["R2", "R2"]


def test_a_rollout_goes_on_when_the_store_is_back_and_what_ends_meanwhile_is_started_again(
    tmp_path: Path, own_etcd: EtcdServer, engine: Engine, second_engine: Engine
) -> None:
    farm = Farm(Cluster(tmp_path, f"etcd://{own_etcd.endpoint}"), (engine, second_engine))
    [port] = free_ports(1)  # without the store a load balancer hears of no other
    try:
        farm.start(EndpointPort=port, Update={"HealthyDeadline": "60s"})
        farm.set_revision("slow", "--detach")
        address = eventually(lambda: in_the_middle(farm), what="a new container that is not healthy yet")
        other = next(one for one in (FIRST, SECOND) if one != address)
        own_etcd.kill()
        for each in (FIRST, SECOND):
            farm.engines[each].docker("kill", "web")
        images: Callable[[], bool] = lambda: farm.images() == {address: ["farm:R1"], other: ["farm:R1"]}  # noqa: E731
        eventually(images, what="both run what was completed last")
        eventually(lambda: farm.get() == "R1", what="served without the store")
        own_etcd.start()
        eventually(lambda: farm.rollout()["State"] == "complete", what="the rollout done")
        assert farm.revisions() == ["slow", "slow"], farm.web("history").out
        assert set(farm.ids(FIRST)) == set(farm.ids(SECOND)) == {"web"}
        assert farm.slots() == []
    finally:
        farm.close()


def states(farm: Farm) -> dict[str, str]:
    """The state of each machine's endpoint."""
    return {one["Machine"]: one["State"] for one in farm.cluster.endpoints("web")}


def in_the_middle(farm: Farm) -> str:
    """The machine that verifies its new container; "" while none does."""
    return next((one for one in (FIRST, SECOND) if farm.progress(one).get("Step") == "verifying"), "")
