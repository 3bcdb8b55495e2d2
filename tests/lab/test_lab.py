"""The lab itself: what it promises to the tests and benchmarks that use it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import faults
from lab.cluster import Lab, answering
from lab.leftovers import left_of, processes_naming, remove_leftovers
from support.machine import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(hosts=3, balancers=2) as lab:
        lab.import_tree()
        lab.wait_until_ready()
        lab.wait_until_routed()
        yield lab
    assert left_of(lab.name) == []


def test_requests_of_all_kinds_are_answered_by_every_replica_through_both_balancers(lab: Lab) -> None:
    with lab.load(rate=200) as load:
        time.sleep(8)
    report = load.report
    assert report.failures == []
    assert report.retries == []
    assert report.summary.answers == {"R1": report.summary.sent}
    assert len({each.instance for each in report.sightings}) == 3
    assert {each.target for each in report.sightings} == set(lab.targets)


def test_a_container_that_is_stopped_under_its_requests_is_seen_to_lose_them(lab: Lab) -> None:
    victim = lab.hosts[2]
    before = answering(lab.targets[0], times=6)
    with lab.load(rate=100, slow=1.0) as load:
        time.sleep(2)
        stopped = time.monotonic()
        victim.engine.docker("stop", "web")
        eventually(
            lambda: len({each.instance for each in load.sightings()}) == 4, what="a new container answers"
        )
    failures = load.report.failures
    assert {each.kind for each in failures} & {"truncated", "status"}
    assert all(each.at >= stopped for each in failures)
    assert len(answering(lab.targets[0], times=6) - before) == 1


def test_a_frozen_daemon_and_a_deaf_host_leave_the_others_answers_as_they_are(lab: Lab) -> None:
    deaf, unheard = lab.hosts[1], lab.hosts[0]
    with faults.frozen(deaf.daemon), faults.deaf(deaf, unheard.address):
        assert len(answering(deaf.target, times=6)) == 2, "the replica that it does not hear cannot answer"
        assert len(answering(unheard.target, times=6)) == 2, "answers to the other are lost on the way back"
    lab.wait_until_ready()
    lab.wait_until_routed()


def test_a_host_that_lost_its_power_is_missed_until_it_is_out_and_comes_back_with_its_disk(lab: Lab) -> None:
    victim = lab.hosts[2]
    with lab.load(rate=200, timeout=5) as load:
        time.sleep(2)
        off = time.monotonic()
        victim.power_off()
        for target in lab.targets:
            eventually(
                lambda target=target: len(answering(target, times=12)) == 2,  # type: ignore[misc]
                what=f"{target} without {victim.address}",
            )
        time.sleep(1)
    failures = load.report.failures
    assert failures, "nobody told HAProxy, so it must have sent some requests to a dead host"
    assert all(each.at >= off for each in failures)
    assert {each.kind for each in failures} <= {"status", "truncated", "timeout", "closed"}
    victim.boot()
    lab.wait_until_ready()
    lab.wait_until_routed()


def test_a_lab_whose_process_is_killed_ends_and_the_next_one_removes_what_is_left() -> None:
    killed = subprocess.Popen([ROOT / "scripts/lab", "--hosts", "1"], stdout=subprocess.DEVNULL)
    name = f"orbit-lab-{killed.pid}-0"
    eventually(
        lambda: any("dockerd" in words for _, words in processes_naming(name)), what="an engine has started"
    )
    killed.kill()
    killed.wait()
    eventually(lambda: not list(processes_naming(name)), what="every process has ended")
    assert left_of(name), "names of namespaces stay, at least"
    assert name in remove_leftovers()
    assert left_of(name) == []
