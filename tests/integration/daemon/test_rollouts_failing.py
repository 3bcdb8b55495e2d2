"""Rollouts that fail: why is said everywhere, what served serves again, and the way back goes by itself."""

from __future__ import annotations

import socket

import pytest

from support.etcd import free_ports
from support.farm import FIRST, SECOND, Farm
from support.machine import eventually
from support.traffic import traffic

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(280),
    pytest.mark.parametrize("cluster", ["etcd"], indirect=True),
]

ENDED = "its container ended with exit code 7; its log ends: no database"


def test_a_bad_revision_goes_back_by_itself_and_the_old_containers_serve_again(farm: Farm) -> None:
    farm.start()
    before = farm.running()
    with traffic(farm.serves) as wrong:
        for revision, reason in {
            "exits": ENDED,
            "sick": "not healthy within 8s: http://",
            "none": "could not pull farm:none",
        }.items():
            followed = farm.set_revision(revision, "--no-verify", code=3)
            assert reason in followed.err.splitlines()[-1]
            assert farm.running() == before, "kept, and started again"
            back, failed = farm.past()[:2]
            assert (failed["Outcome"], back["Outcome"], back["RevertOf"]) == (
                "failed",
                "complete",
                failed["Id"],
            )
            assert reason in failed["Reason"]
            assert farm.revisions() == ["R1", "R1"]
            assert farm.slots() == []
        assert "does not have it" in farm.set_revision("none", code=1).err
    assert not wrong


def test_without_the_way_back_a_failed_rollout_stays_failed_and_the_next_one_mends_it(farm: Farm) -> None:
    farm.start(Update={"AutoRevert": False})
    before = farm.running()
    with traffic(farm.serves) as wrong:
        followed = farm.set_revision("exits", code=1)
        assert ENDED in followed.err.splitlines()[-1]
        shown = farm.web().out
        assert "failed, revision (tree) → exits" in shown
        assert ENDED in shown
        eventually(lambda: farm.revisions() == ["R1", "R1"], what="the old ones serve")
        assert farm.running() == before
        farm.web("rollback")
        assert farm.running() == before

        broken = {"Env": ["AT_FIRST=echo no database; exit 7"]}
        refused = farm.bring("--wait", Config=broken, code=1)
        assert ENDED in refused.err
        assert farm.past()[0]["Outcome"] == "failed"
        eventually(lambda: farm.revisions() == ["R1", "R1"], what="the old ones serve again")
        assert farm.running() == before
        late = farm.bring("--wait", "--timeout", "1s", Config={"Env": ["AT_FIRST=sleep 3"]}, code=4)
        assert "still being replaced" in late.err
        eventually(lambda: farm.outcomes()[0] == " complete", what="mended")
        farm.bring("--wait")
    assert not wrong
    assert not set(before) & set(farm.running())


def test_a_way_back_that_fails_says_so_and_stops(farm: Farm) -> None:
    """The first machine has R2 already and has lost what R1 was, when R2 fails on the second."""
    farm.start()
    first, second = (farm.engines[address] for address in (FIRST, SECOND))
    farm.set_revision("R2", "on", "machine", FIRST)
    second.docker("tag", "farm:exits", "farm:R2")
    first.docker("tag", "farm:exits", "farm:R1")
    try:
        followed = farm.set_revision("R2", code=1)
    finally:
        for engine, reference in ((first, "farm:R1"), (second, "farm:R2")):
            engine.remove_image(reference)
    assert "failed, and so did going back" in followed.err
    assert ENDED in followed.err.splitlines()[-1]
    assert farm.outcomes()[:2] == [" failed", "R2 failed"]
    eventually(lambda: farm.revisions() == ["R1", "R2"], what="each runs what it had")
    assert farm.slots() == []


def test_a_port_that_somebody_else_has_taken_fails_the_machine(farm: Farm) -> None:
    here, there = free_ports(2)
    farm.start(EndpointPort=here)
    before = farm.ids(SECOND)
    with traffic(farm.serves) as wrong, socket.create_server((SECOND, there)):
        failed = farm.bring("--wait", EndpointPort=there, code=1)
        assert "address already in use" in failed.err
        eventually(lambda: len(farm.revisions()) == 2, what="the old one serves again")
        assert farm.ids(SECOND) == before
        farm.bring("--wait", EndpointPort=here)
    assert not wrong
    assert farm.ids(SECOND) == before
