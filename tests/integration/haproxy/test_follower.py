"""The load balancer's view of a real store, and what it makes of keys that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.follower import EndpointFollower
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.planning.rotation import Place, Rotation, everywhere, rotate
from orbitcontrol.ports import Store
from support.haproxy import an_endpoint, eventually

pytestmark = pytest.mark.integration

A, B = "10.0.0.1:80", "10.0.0.1:81"


class View:
    """A follower of a store, and a machine that publishes there."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.board = Board()
        self.store = store
        self.keys = keys
        self.follower = EndpointFollower(
            store=store, keys=keys, problems=self.board.problems, history=self.board.history
        )

    async def publish(self, *addresses: str, lease: int = 0, session: str = "s1") -> None:
        value = encode(an_endpoint(session=session))
        puts = [Put(self.keys.endpoint("web", address), value, lease) for address in addresses]
        await self.store.commit([], puts)

    async def live(self, *, session: str, registered: bool, lease: int = 0) -> None:
        record = encode(Alive(session=session, registered=registered))
        await self.store.commit([], [Put(self.keys.alive("10.0.0.1"), record, lease)])

    async def sees(self, *addresses: str) -> None:
        async def holds() -> bool:
            return set(self.follower.endpoints.value.get("web", {"nothing": None})) == set(addresses)

        await eventually(holds, f"endpoints {addresses}")

    async def judge(self, known: dict[str, Endpoint]) -> Rotation:
        sight = await self.follower.read(frozenset({"web"}))
        return rotate(
            known={"web": known}, published=sight.endpoints, alive=sight.alive, confirmed=everywhere
        )


@pytest.fixture
async def view(store: Store) -> AsyncIterator[View]:
    view = View(store, Keys(base=f"/{secrets.token_hex(4)}"))
    task = asyncio.create_task(view.follower.run())
    yield view
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_service_appears_once_it_is_followed_and_listed(view: View) -> None:
    await view.publish(A)
    assert view.follower.endpoints.value == {}
    view.follower.follow(frozenset({"web"}))
    await view.sees(A)
    await view.publish(B)
    await view.sees(A, B)
    assert view.follower.alive.value == {}
    view.follower.follow(frozenset())
    assert await view.follower.endpoints.wait_for(lambda seen: seen == {}, timeout=10)
    assert view.follower.alive.value is None, "who balances nothing need not know who is alive"


async def test_a_service_without_endpoints_is_listed_as_empty(view: View) -> None:
    view.follower.follow(frozenset({"web"}))
    await view.sees()


async def test_a_value_that_cannot_be_read_is_there_without_a_value(view: View) -> None:
    view.follower.follow(frozenset({"web"}))
    await view.publish(A)
    await view.store.commit([], [Put(view.keys.endpoint("web", B), b'{"Id": 7}')])
    await view.store.commit([], [Put(view.keys.alive("10.0.0.1"), b"rubbish")])
    await view.sees(A, B)
    assert view.follower.endpoints.value["web"][B] is None
    assert await view.follower.alive.wait_for(lambda alive: alive == {}, timeout=10)


async def test_an_expired_lease_orphans_and_an_explicit_deletion_withdraws(view: View) -> None:
    lease = await view.store.grant(30)
    await view.publish(A, lease=lease)
    await view.live(session="s1", registered=True, lease=lease)
    view.follower.follow(frozenset({"web"}))
    await view.sees(A)
    known = {A: an_endpoint()}

    await view.store.revoke(lease)
    await view.sees()
    assert (await view.judge(known)).orphans == {Place("web", A)}

    await view.live(session="s2", registered=False)
    assert (await view.judge(known)).orphans == {Place("web", A)}
    await view.publish(A, session="s2")
    await view.live(session="s2", registered=True)
    assert (await view.judge(known)).routes["web"] == {A: an_endpoint(session="s2")}

    await view.store.commit([], [Delete(Range.single(view.keys.endpoint("web", A)))])
    assert (await view.judge(known)).withdrawn == {Place("web", A)}


async def test_a_reading_tells_when_everything_was_written_and_is_held_against_what_was_seen(
    view: View,
) -> None:
    await view.publish(A)
    await view.live(session="s1", registered=True)
    sight = await view.follower.read(frozenset({"web"}))
    assert sight.written == {Place("web", A): sight.revision - 1}
    assert sight.spoken == {"10.0.0.1": sight.revision}
    assert view.board.history.went_back.value < 0
    view.board.history.saw(sight.revision + 1)
    await view.follower.read(frozenset({"web"}))
    assert view.board.history.went_back.value > 0
