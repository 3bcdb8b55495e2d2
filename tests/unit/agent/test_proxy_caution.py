"""Since when a load balancer is careful with its store, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from msgspec import structs

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.proxy_caution import Caution
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.rotation import Place, Sight
from support.loops import desired

A = "10.0.0.1:80"
OLD = Endpoint(id="1", machine="10.0.0.1", session="s1")
TTL = 10.0


class Balancer:
    """Caution on a board, with a clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.board = Board()
        self.alarm = Alarm(Wake(), "caution")
        self.caution = Caution(board=self.board, ttl=TTL, alarm=self.alarm)

    def holds(self, reason: str) -> None:
        self.board.desired.set(structs.replace(desired(), holding=reason))


@pytest.fixture
async def balancer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Balancer]:
    balancer = Balancer()
    clock = SimpleNamespace(monotonic=lambda: balancer.now)
    monkeypatch.setattr("orbitcontrol.agent.proxy_caution.time", clock)
    yield balancer
    balancer.alarm.cancel()


async def test_it_lasts_for_twice_the_ttl_after_the_store_was_seen_to_go_back(balancer: Balancer) -> None:
    assert not balancer.caution.is_due()
    balancer.board.history.went_back.set(balancer.now)
    assert balancer.caution.is_due()
    balancer.now += 2 * TTL - 1
    assert balancer.caution.is_due()
    balancer.now += 1
    assert not balancer.caution.is_due()


async def test_a_daemon_that_was_off_meanwhile_is_careful_from_its_first_look(balancer: Balancer) -> None:
    balancer.holds("the store went back")
    assert balancer.caution.is_due()
    balancer.now += 2 * TTL
    assert not balancer.caution.is_due(), "however long people let it hold"
    balancer.holds("the store was filled anew")
    assert balancer.caution.is_due(), "another loss"
    balancer.holds("")
    assert not balancer.caution.is_due(), "people have confirmed it"


async def test_doubt_is_that_of_the_first_reading_until_the_store_goes_back_once_more(
    balancer: Balancer,
) -> None:
    balancer.board.history.went_back.set(balancer.now)
    assert balancer.caution.is_due()
    assert _reads(balancer, revision=50, written=40) == {Place("web", A)}
    assert _reads(balancer, revision=60, written=55) == set()
    assert _reads(balancer, revision=45, written=40) == {Place("web", A)}
    assert _reads(balancer, revision=50, written=46) == set()


def _reads(balancer: Balancer, *, revision: int, written: int) -> frozenset[Place]:
    sight = Sight(
        revision=revision,
        endpoints={"web": {A: OLD}},
        alive={"10.0.0.1": Alive(session="s1")},
        written={Place("web", A): written},
    )
    return balancer.caution.unproven(sight, known={})
