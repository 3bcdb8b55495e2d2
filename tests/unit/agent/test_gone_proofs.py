"""Proofs that a machine is gone: who is connected to, how often, and what is remembered of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import pytest

from orbitcontrol.agent import gone
from orbitcontrol.agent.board import Problems
from orbitcontrol.agent.gone import AT_ONCE, GoneProofs
from orbitcontrol.model.rollouts import LoadBalancer
from orbitcontrol.planning.gone import CLOSED_PORT, Answer, Judgement
from orbitcontrol.statedir import StateDirectory
from support.loops import running, until

TTL = 0.02
MACHINE, OTHER = "10.0.0.2", "10.0.0.3"
CHECK, CLOSED, BIND = f"{MACHINE}:1500", f"{MACHINE}:{CLOSED_PORT}", f"{MACHINE}:80"
BALANCER = LoadBalancer(check=CHECK, binds=(BIND,))


class Network:
    """Everybody is ``silent`` but those who answer as they are told to. ``asked`` lists all connects."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.most = 0
        self._open = 0
        self._changed = asyncio.Condition()

    async def answer(self, address: str, *, timeout: float) -> Answer:
        self._open += 1
        self.most = max(self.most, self._open)
        await asyncio.sleep(0)
        self._open -= 1
        async with self._changed:
            self.asked.append(address)
            self._changed.notify_all()
        return self.answers.get(address, "silent")

    async def was_asked(self, times: int) -> None:
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= times)


class Site:
    """A daemon's proofs, with a clock that a test sets."""

    def __init__(self, directory: Path, *, tick: float = 300) -> None:
        self.network = Network()
        self.now = 100.0
        self.proofs = GoneProofs(
            connector=self.network,
            files=StateDirectory(directory),
            problems=Problems(),
            ttl=TTL,
            clock=lambda: self.now,
            tick=tick,
        )

    def look(
        self, *addresses: str, alive: Collection[str] = (), begun: float | None = None
    ) -> Mapping[str, Judgement]:
        return self.proofs.look(
            addresses or (MACHINE,),
            begun=self.now if begun is None else begun,
            alive=alive,
            balancers={MACHINE: BALANCER},
            checks={},
        )

    async def met(self) -> None:
        """The daemon of the machine was reached."""
        self.network.answers[CHECK] = "refused"
        self.proofs.meet("web", {MACHINE: CHECK})
        await self.network.was_asked(1)
        self.network.answers.clear()

    async def waited(self, rounds: int) -> Judgement:
        """What is known when the machine was looked at and asked so often, twice in a TTL."""
        for _ in range(rounds):
            self.now += TTL / 2
            asked = len(self.network.asked)
            self.look()
            await self.network.was_asked(asked + 3)
        return self.look()[MACHINE]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    async with running(site.proofs):
        yield site


async def test_one_that_was_met_and_is_silent_is_gone_until_it_has_a_lease_again(site: Site) -> None:
    await site.met()
    assert (await site.waited(6)).state == "unknown"
    assert (await site.waited(1)).state == "gone"
    assert site.look(alive=[MACHINE])[MACHINE].state == "alive"
    assert (await site.waited(6)).state == "unknown"
    assert (await site.waited(1)).state == "gone"


async def test_an_answer_rings_at_those_who_wait(site: Site) -> None:
    await site.met()
    assert (await site.waited(7)).state == "gone"
    site.network.answers[BIND] = "accepted"
    site.now += TTL / 2
    told = await until(site.proofs.judgements, lambda seen: seen[MACHINE].state == "alive")
    assert BIND in told[MACHINE].reason


async def test_one_that_was_never_met_is_held_until_it_is(site: Site) -> None:
    assert "never reached" in (await site.waited(10)).reason
    site.network.answers[CHECK] = "accepted"
    assert (await site.waited(2)).state == "alive"
    site.network.answers.clear()
    assert (await site.waited(9)).state == "gone"


async def test_who_was_met_is_remembered_by_the_next_daemon_with_where_it_listens(
    site: Site, tmp_path: Path
) -> None:
    await site.met()
    await site.waited(1)
    later = Site(tmp_path)
    async with running(later.proofs):
        for _ in range(7):
            later.now += TTL / 2
            asked = len(later.network.asked)
            told = later.proofs.look([MACHINE], begun=later.now, alive=(), balancers={}, checks={})
            await later.network.was_asked(asked + 2)
        told = later.proofs.look([MACHINE], begun=later.now, alive=(), balancers={}, checks={})
    assert told[MACHINE].state == "gone"
    assert set(later.network.asked) == {CHECK, CLOSED}


async def test_a_daemon_that_listens_elsewhere_now_is_to_be_met_there(site: Site) -> None:
    await site.met()
    for _ in range(8):
        site.now += TTL / 2
        asked = len(site.network.asked)
        site.proofs.look(
            [MACHINE], begun=site.now, alive=(), balancers={}, checks={MACHINE: f"{MACHINE}:1501"}
        )
        await site.network.was_asked(asked + 2)
    assert "never reached" in site.proofs.judgements.value[MACHINE].reason


async def test_each_is_met_once_and_those_without_success_again_at_each_tick(tmp_path: Path) -> None:
    site = Site(tmp_path, tick=0.05)
    site.network.answers[CHECK] = "accepted"
    async with running(site.proofs):
        site.proofs.meet("web", {MACHINE: CHECK, OTHER: f"{OTHER}:1500"})
        site.proofs.meet("api", {MACHINE: CHECK})
        await site.network.was_asked(5)
    assert site.network.asked.count(CHECK) == 1


async def test_nobody_is_connected_to_while_nobody_is_waited_for(site: Site) -> None:
    await site.met()
    site.look(OTHER, alive=[OTHER])
    site.proofs.meet("api", {MACHINE: CHECK})
    await asyncio.sleep(20 * TTL)
    assert site.network.asked == [CHECK]


async def test_however_often_somebody_looks_a_machine_is_asked_twice_in_a_ttl(site: Site) -> None:
    for _ in range(20):
        site.look()
        await asyncio.sleep(TTL)
    assert sorted(site.network.asked) == sorted([CHECK, CLOSED, BIND])


async def test_whom_nobody_looks_at_is_asked_no_more_and_forgotten(site: Site) -> None:
    await site.waited(1)
    await asyncio.sleep(5 * TTL)  # by the clock of this test no time passes
    site.now += 1.1 * TTL
    await asyncio.sleep(20 * TTL)
    assert len(site.network.asked) == 3
    site.now += TTL
    site.look(OTHER)
    assert MACHINE not in site.proofs.judgements.value


async def test_after_a_pause_between_a_reading_and_its_use_nothing_is_known(site: Site) -> None:
    await site.met()
    await site.waited(7)
    begun, site.now = site.now, site.now + 100
    assert site.look(begun=begun)[MACHINE].state == "unknown"


async def test_of_very_many_machines_some_are_asked_at_a_time(site: Site) -> None:
    site.look(*(f"10.0.1.{number}" for number in range(100)))
    await site.network.was_asked(100)
    assert site.network.most == AT_ONCE


async def test_a_bounded_number_of_machines_is_remembered_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gone, "MOST", 2)
    site = Site(tmp_path)
    async with running(site.proofs):
        for number in range(1, 5):
            site.network.answers[f"10.0.0.{number}:1500"] = "accepted"
            site.proofs.meet("web", {f"10.0.0.{number}": f"10.0.0.{number}:1500"})
            await site.network.was_asked(number)
            await asyncio.sleep(TTL)
    assert (
        (tmp_path / "reached.json")
        .read_text()
        .endswith('{"10.0.0.3":"10.0.0.3:1500","10.0.0.4":"10.0.0.4:1500"}')
    )
