"""Connects to orphans: to those alone, some at a time, and told when they add up to something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.agent.board import Problems
from orbitcontrol.agent.orphans import AT_ONCE, OrphanConnects
from orbitcontrol.planning.orphans import FALL, Reach
from orbitcontrol.planning.rotation import Place

A, B = Place("web", "10.0.0.1:80"), Place("web", "10.0.0.2:80")
OUT = Reach(out=True, departures=1)


class Network:
    """Answers connects as it is told. ``asked`` counts them; ``most`` is how many there were at once."""

    def __init__(self) -> None:
        self.answers: dict[str, bool | None] = {}
        self.asked = 0
        self.most = 0
        self._open = 0
        self.rounds = asyncio.Event()

    async def connects(self, address: str, *, timeout: float) -> bool | None:
        self.asked += 1
        self._open += 1
        self.most = max(self.most, self._open)
        await asyncio.sleep(0)
        self._open -= 1
        self.rounds.set()
        return self.answers.get(address, True)

    async def asks_more(self, times: int) -> None:
        until = self.asked + times
        async with asyncio.timeout(10):
            while self.asked < until:
                self.rounds.clear()
                await self.rounds.wait()


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def connects(network: Network) -> AsyncIterator[OrphanConnects]:
    found = OrphanConnects(connector=network, problems=Problems(), every=0.001)
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_one_that_does_not_answer_goes_out_and_the_others_stay(
    connects: OrphanConnects, network: Network
) -> None:
    network.answers[A.address] = False
    connects.watch({A: Reach(), B: Reach()})
    assert await connects.reached.wait_for(lambda seen: seen == {A: OUT, B: Reach()}, timeout=10)
    network.answers[A.address] = True
    assert await connects.reached.wait_for(
        lambda seen: seen == {A: Reach(departures=1), B: Reach()}, timeout=10
    )


async def test_an_answer_that_says_nothing_counts_for_nothing(
    connects: OrphanConnects, network: Network
) -> None:
    network.answers |= {A.address: None, B.address: None}
    connects.watch({A: Reach(), B: OUT})
    await network.asks_more(4 * FALL)
    assert connects.reached.value == {A: Reach(), B: OUT}


async def test_without_orphans_nobody_is_asked(connects: OrphanConnects, network: Network) -> None:
    connects.watch({A: Reach()})
    await network.asks_more(2)
    connects.watch({})
    assert connects.reached.value == {}
    await asyncio.sleep(0.05)  # fifty times the pause between two rounds
    asked = network.asked
    await asyncio.sleep(0.05)
    assert network.asked == asked


async def test_one_that_is_orphaned_again_begins_anew(connects: OrphanConnects, network: Network) -> None:
    network.answers[A.address] = False
    connects.watch({A: Reach()})
    assert await connects.reached.wait_for(lambda seen: seen == {A: OUT}, timeout=10)
    connects.watch({})
    connects.watch({A: Reach()})
    assert connects.reached.value == {}


async def test_many_are_asked_some_at_a_time(connects: OrphanConnects, network: Network) -> None:
    connects.watch({Place("web", f"10.0.0.1:{port}"): Reach() for port in range(200)})
    await network.asks_more(200)
    assert network.most == AT_ONCE
