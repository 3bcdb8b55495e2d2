"""Rollouts among several hosts, under load: what they promise, and that only the drain keeps it.

``bench/rollouts.py`` does the same at length.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import faults
from lab.cluster import Lab, answering
from lab.images import REVISIONS
from lab.load import Report
from lab.rollouts import Trouble, begin, rolled_out, serving
from lab.witness import Witness
from support.machine import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

R1 = REVISIONS[0]
ROLLED_BACK = 3


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(hosts=3, balancers=2) as lab:
        serving(lab, R1, HealthyDeadline="6s")
        yield lab


def posts_tried_again(report: Report) -> int:
    return sum(each.request.method == "POST" for each in report.retries)


def answers(lab: Lab) -> set[str]:
    """The revisions that answer through all load balancers."""
    return {revision for target in lab.targets for revision, _ in answering(target, times=6)}


def test_a_rollout_loses_no_request_and_takes_out_one_machine_after_the_other(lab: Lab) -> None:
    with Witness(lab.cluster) as witness, lab.load(rate=150) as load:
        rolled_out(lab, "R2")
        rolled_out(lab, "R1")
    assert load.report.failures == []
    assert posts_tried_again(load.report) == 0
    assert set(load.report.summary.answers) == {"R1", "R2"}
    assert witness.overstepped == []
    assert (witness.most_holding, witness.most_lacking) == (1, 1)
    assert answers(lab) == {"R1"}


def test_without_waiting_for_the_drain_the_same_rollout_loses_requests(lab: Lab) -> None:
    with ExitStack() as stack:
        for host in lab.hosts:
            stack.enter_context(faults.heedless(host))
        lab.wait_until_ready()
        with lab.load(rate=150) as load:
            rolled_out(lab, "R2")
            rolled_out(lab, "R1")
    lab.wait_until_ready()
    assert load.report.failures


@pytest.mark.parametrize("bad", ["unhealthy", "exits"])
def test_a_revision_that_is_no_good_costs_no_request_and_goes_back_by_itself(lab: Lab, bad: str) -> None:
    with Witness(lab.cluster) as witness, lab.load(rate=150) as load:
        ran = begin(lab, bad)
        eventually(
            lambda: len(witness.courses) == 2 and witness.ended(None), what="the way back is at its end"
        )
    assert ran.code == ROLLED_BACK, ran.out
    assert load.report.failures == []
    assert posts_tried_again(load.report) == 0
    assert set(load.report.summary.answers) == {"R1"}
    assert [one.state for one in witness.courses.values()] == ["failed", "complete"]
    assert witness.overstepped == []
    assert answers(lab) == {"R1"}


def test_daemons_that_are_killed_and_frozen_neither_lose_requests_nor_leave_a_rollout_open(lab: Lab) -> None:
    seed = int.from_bytes(os.urandom(4))
    with Witness(lab.cluster) as witness, lab.load(rate=100) as load:
        trouble = Trouble(lab, witness, seed=seed)
        ends = [
            trouble.befall("R2", kills=3, within=8, freeze=5).state,
            trouble.befall("R1", kills=3, within=8).state,
        ]
        lab.wait_until_ready()
    assert ends == ["complete", "complete"], trouble
    assert load.report.failures == [], trouble
    assert posts_tried_again(load.report) == 0
    assert witness.overstepped == [], trouble
    assert witness.most_holding == 1
    assert answers(lab) == {"R1"}


def test_a_single_instance_on_a_single_machine_starts_first_and_loses_no_request() -> None:
    with Lab(hosts=1, balancers=1) as lab:
        serving(lab, R1, Order="start-first")
        with Witness(lab.cluster) as witness, lab.load(rate=150) as load:
            rolled_out(lab, "R2")
    assert load.report.failures == []
    assert load.report.retries == []
    assert witness.overstepped == []
