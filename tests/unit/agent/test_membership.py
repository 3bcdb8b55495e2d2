import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.agent.membership import Membership
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreUnreachable
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Alive
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import StateFiles, Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, RUN, UP, WEB, Meddled, desired, eventually, ids, running, until

KEYS = Keys()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


@pytest.fixture
def files(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def membership(board: Board, store: Store, files: StateFiles, *, ttl: float = 60.0) -> Membership:
    return Membership(
        board=board, store=store, keys=KEYS, address=ADDRESS, ttl=ttl, files=files, new_id=ids("session")
    )


async def alive(store: Store) -> Alive:
    record = await store.get(KEYS.alive(ADDRESS))
    assert record is not None
    return decode(record.value, Alive, key=record.key)


def serving() -> Board:
    """A machine whose one service runs and is proven."""
    board = Board()
    board.desired.set(desired(WEB))
    board.runs.set((RUN,))
    board.verdicts.set({RUN.id: UP})
    return board


async def test_a_machine_without_services_is_registered_when_it_was_looked_at(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = Board()
    board.desired.set(desired())
    async with running(membership(board, store, files)):
        session = await until(board.session, lambda session: session is not None)
        assert session is not None
        board.publisher.set(session.id)
        await asyncio.sleep(0)
        board.runs.set(())
        await until(board.registered, bool)
    assert (await alive(store)).registered


async def test_a_new_session_is_not_registered_by_what_was_published_under_the_old_lease(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = serving()
    goes_on = asyncio.Event()
    goes_on.set()

    async def lease_keys(lease: int) -> frozenset[str]:
        await goes_on.wait()
        return await store.lease_keys(lease)

    endpoints = EndpointsLoop(
        board=board,
        store=Meddled(store, lease_keys=lease_keys),
        keys=KEYS,
        machine=MachineIdentity(address=ADDRESS),
        files=files,
        new_id=ids("endpoint"),
    )
    async with running(membership(board, store, files), endpoints):
        await until(board.registered, lambda session: session == "session1")
        first = board.session.value
        assert first is not None
        goes_on.clear()
        await store.revoke(first.lease)
        board.lease_doubt.ring("test")
        await until(board.session, lambda session: session is not None and session.id == "session2")
        board.verdicts.set({RUN.id: UP, RunId("another"): UP})  # the registration looks again
        await asyncio.sleep(0.2)
        assert board.published.value == {RUN.id}
        assert await alive(store) == Alive(session="session2")
        goes_on.set()
        await until(board.registered, lambda session: session == "session2")
    assert await store.get(KEYS.endpoint("web", f"{ADDRESS}:80")) is not None


async def test_a_resumed_lease_is_renewed_in_its_own_time(store: SqliteStore, files: StateDirectory) -> None:
    board = Board()
    async with running(membership(board, store, files, ttl=1.0)):
        await until(board.session, lambda session: session is not None)
    renewed = 0
    enough = asyncio.Event()

    async def keep_alive(lease: int) -> float:
        nonlocal renewed
        renewed += 1
        if renewed == 5:
            enough.set()
        return await store.keep_alive(lease)

    again = Board()
    async with running(membership(again, Meddled(store, keep_alive=keep_alive), files, ttl=600.0)):
        session = await until(again.session, lambda session: session is not None)
        assert session is not None
        assert session.resumed
        async with asyncio.timeout(20):
            await enough.wait()
    assert (await alive(store)).session == session.id


async def test_a_doubt_outlives_a_store_that_does_not_answer(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = Board()
    answers = True

    async def keep_alive(lease: int) -> float:
        nonlocal answers
        if not answers:
            answers = True
            raise StoreUnreachable("no answer")
        return await store.keep_alive(lease)

    async with running(membership(board, Meddled(store, keep_alive=keep_alive), files)):
        await until(board.session, lambda session: session is not None)
        await store.commit([], [Delete(Range.single(KEYS.alive(ADDRESS)))])
        answers = False
        board.lease_doubt.ring("test")
        await until(board.session, lambda session: session is not None and session.id == "session2")
    assert (await alive(store)).session == "session2"


async def test_a_record_that_somebody_wrote_by_hand_keeps_no_daemon_out(
    store: SqliteStore, files: StateDirectory
) -> None:
    await store.commit([], [Put(KEYS.alive(ADDRESS), b"{garbage")])
    board = Board()
    async with running(membership(board, store, files, ttl=1.0)):
        await until(board.session, lambda session: session is not None)
    assert (await alive(store)).session == "session1"


async def test_a_restored_store_that_does_not_know_of_the_registration_is_told_again(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = serving()
    board.desired.set(desired())
    async with running(membership(board, store, files)):
        session = await until(board.session, lambda session: session is not None)
        assert session is not None
        board.publisher.set(session.id)
        await until(board.registered, bool)
        earlier = encode(Alive(session=session.id))
        await store.commit([], [Put(KEYS.alive(ADDRESS), earlier, session.lease)])
        board.relisted.set(1)

        async def registered() -> bool:
            return (await alive(store)).registered

        await eventually(registered, what="registered again")


async def test_a_restored_store_without_the_record_begins_another_session(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = Board()
    async with running(membership(board, store, files)):
        await until(board.session, lambda session: session is not None)
        await store.commit([], [Delete(Range.single(KEYS.alive(ADDRESS)))])
        board.relisted.set(1)
        await until(board.session, lambda session: session is not None and session.id == "session2")
    assert (await alive(store)).session == "session2"
