"""The lab itself: what it promises to the tests and benchmarks that use it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import faults
from lab.cluster import NOBODY, Lab, answering
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
    assert "truncated" in {each.kind for each in failures}, "answers were under way in it"
    assert all(each.at >= stopped for each in failures)
    assert len(answering(lab.targets[0], times=6) - before) == 1


def test_faults_last_as_long_as_their_blocks(lab: Lab) -> None:
    first, second, third = lab.hosts
    with faults.frozen(second.daemon), faults.deaf(second, first.address):
        assert NOBODY in answering(second.target, times=3), "it does not hear the first one's replica"
        assert NOBODY in answering(first.target, times=3), "it hears no question of the first one"
    with faults.cut_off(third), faults.frozen_haproxy(first), faults.frozen_member(lab.etcd.members[0]):
        assert not third.listens()
        assert answering(first.target, times=1) == {NOBODY}
    lab.wait_until_ready()
    lab.wait_until_routed()


def test_what_is_killed_comes_back(lab: Lab) -> None:
    first, second, third = lab.hosts
    masters, answered = first.haproxy_pids(), answering(first.target, times=6)
    faults.kill_haproxy(first)
    lab.etcd.members[0].kill()
    second.daemon.kill()
    third.dockerd.kill()
    assert not second.listens()
    assert not third.engine_answers()
    second.daemon.start()
    third.start_dockerd()
    third.wait_for_engine()
    lab.start_member("one")
    lab.etcd.members[0].wait_until_healthy()
    lab.wait_until_ready()
    lab.wait_until_routed()
    assert not set(masters) & set(first.haproxy_pids())
    assert answering(first.target, times=6) == answered, "no container was started anew"


def test_a_host_that_lost_its_power_is_missed_until_it_is_out_and_comes_back_with_its_disk(lab: Lab) -> None:
    victim = lab.hosts[2]
    with lab.load(rate=200, timeout=5) as load:
        time.sleep(2)
        off = time.monotonic()
        victim.power_off()
        for target in lab.targets:
            eventually(
                lambda target=target: NOBODY not in answering(target, times=9),  # type: ignore[misc]
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
    try:
        eventually(
            lambda: any("dockerd" in words for _, words in processes_naming(name)), what="an engine starts"
        )
        killed.kill()
        killed.wait()
        eventually(lambda: not list(processes_naming(name)), what="every process has ended")
        assert left_of(name), "names of namespaces stay, at least"
        assert name in remove_leftovers()
        assert left_of(name) == []
    finally:
        for pid, _ in processes_naming(name):
            os.kill(pid, signal.SIGKILL)
