import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.agent.membership import Membership
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreUnreachable
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Alive, ConfigMeta
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import StateFiles, Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, RUN, UP, WEB, Meddled, desired, eventually, ids, running, until

KEYS = Keys()
UNIQUE = ids("life")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


@pytest.fixture
def files(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def membership(
    board: Board,
    store: Store,
    files: StateFiles,
    *,
    ttl: float = 60.0,
    machine_id: str = "this one",
    new_id: Callable[[], str] | None = None,
) -> Membership:
    return Membership(
        board=board,
        store=store,
        keys=KEYS,
        address=ADDRESS,
        machine_id=machine_id,
        ttl=ttl,
        files=files,
        new_id=new_id or ids("session"),
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
        board.presumed.set(frozenset())  # as the health loop does
        goes_on.set()
        await until(board.registered, lambda session: session == "session2")
    assert await store.get(KEYS.endpoint("web", f"{ADDRESS}:80")) is not None


async def test_with_a_lost_lease_what_was_up_is_only_presumed_to_be(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = serving()
    board.proven.set(frozenset({RUN.id}))
    async with running(membership(board, store, files)):
        first = await until(board.session, lambda session: session is not None)
        assert first is not None
        assert board.presumed.value == frozenset()
        await store.revoke(first.lease)
        board.lease_doubt.ring("test")
        await until(board.session, lambda session: session is not None and session.id == "session2")
    assert board.presumed.value == {RUN.id}
    assert board.proven.value == frozenset()


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


async def import_into(store: Store, epoch: str) -> None:
    meta = ConfigMeta(epoch=epoch, generation=1, imported_at="t", imported_by="u")
    await store.commit([], [Put(KEYS.meta, encode(meta))])


@pytest.mark.parametrize(
    ("case", "first", "then", "machine_id", "resumed"),
    [
        ("everything is as it was", "e", "e", "this one", True),
        ("the store had no configuration before", "", "e", "this one", True),
        ("the store lost its configuration, which says nothing", "e", "", "this one", True),
        ("the store was filled anew", "e", "another", "this one", False),
        ("the disk was copied to another machine", "e", "e", "another", False),
    ],
)
async def test_a_session_is_resumed_by_the_same_machine_on_the_same_store_alone(  # noqa: PLR0917 -- a table
    store: SqliteStore,
    files: StateDirectory,
    case: str,
    first: str,
    then: str,
    machine_id: str,
    *,
    resumed: bool,
) -> None:
    if first:
        await import_into(store, first)
    before, after = Board(), Board()
    async with running(membership(before, store, files, ttl=2.0)):
        await until(before.session, lambda session: session is not None)
    await store.commit([], [Delete(Range.single(KEYS.meta))])
    if then:
        await import_into(store, then)
    async with running(membership(after, store, files, ttl=2.0, machine_id=machine_id)):
        session = await until(after.session, lambda session: session is not None)
    assert session is not None
    assert session.resumed is resumed, case


async def lives(store: SqliteStore, files: StateDirectory, *, machine_id: str = "this one") -> str:
    """A daemon's whole life in a new session, whose lease ends with it; the session."""
    board = Board()
    async with running(membership(board, store, files, machine_id=machine_id, new_id=UNIQUE)):
        session = await until(board.session, lambda session: session is not None)
    assert session is not None
    await store.revoke(session.lease)
    return session.id


async def put_back(store: SqliteStore, session: str) -> None:
    """The record as a restored backup has it: under a lease that lives."""
    await store.commit([], [Put(KEYS.alive(ADDRESS), encode(Alive(session=session)), await store.grant(600))])


async def test_an_earlier_session_of_this_machine_is_replaced_at_once(
    store: SqliteStore, files: StateDirectory
) -> None:
    earlier = await lives(store, files)
    board = Board()
    async with running(membership(board, store, files, ttl=600.0, new_id=UNIQUE)):
        session = await until(board.session, lambda session: session is not None)
        assert session is not None
        await store.revoke(session.lease)
        await put_back(store, earlier)
        board.lease_doubt.ring("test")
        await until(board.session, lambda now: now is not None and now.id != session.id)
    await put_back(store, earlier)
    again = Board()
    async with running(membership(again, store, files, ttl=600.0, new_id=UNIQUE)):
        await until(again.session, lambda session: session is not None)
    assert (await alive(store)).session not in {earlier, session.id}


@pytest.mark.parametrize(
    ("case", "before", "now"),
    [
        ("the state directory was copied to another machine", "this one", "another"),
        ("the machine has no id", "", ""),
        ("the machine had no id when it had that session", "", "this one"),
    ],
)
async def test_a_session_that_may_be_another_machines_keeps_the_address(
    store: SqliteStore, files: StateDirectory, case: str, before: str, now: str
) -> None:
    earlier = await lives(store, files, machine_id=before)
    await lives(store, files, machine_id=before)
    await put_back(store, earlier)
    board = Board()
    async with running(membership(board, store, files, machine_id=now)):
        told = await until(board.problems.cell, lambda told: any(earlier in one.reason for one in told))
        assert told
        assert board.session.value is None, case
    assert (await alive(store)).session == earlier


async def test_a_record_that_changes_while_it_is_replaced_stays(
    store: SqliteStore, files: StateDirectory
) -> None:
    earlier = await lives(store, files)
    await put_back(store, earlier)

    async def grant(ttl: float) -> int:
        await put_back(store, "theirs")
        return await store.grant(ttl)

    board = Board()
    async with running(membership(board, Meddled(store, grant=grant), files)):
        await until(board.problems.cell, lambda told: any("theirs" in one.reason for one in told))
    assert (await alive(store)).session == "theirs"


async def test_the_newest_sessions_alone_are_remembered(store: SqliteStore, files: StateDirectory) -> None:
    sessions = [await lives(store, files) for _ in range(17)]
    await put_back(store, sessions[1])
    known = await lives(store, files)
    assert known not in sessions
    await put_back(store, sessions[0])
    board = Board()
    async with running(membership(board, store, files)):
        await until(board.problems.cell, lambda told: any(sessions[0] in one.reason for one in told))
    assert (await alive(store)).session == sessions[0]


async def test_of_two_daemons_that_find_an_address_free_one_gets_it(
    store: SqliteStore, files: StateDirectory
) -> None:
    async def grant(ttl: float) -> int:
        lease = await store.grant(ttl)
        theirs = encode(Alive(session="theirs"))
        if await store.get(KEYS.alive(ADDRESS)) is None:
            await store.commit([], [Put(KEYS.alive(ADDRESS), theirs, await store.grant(60))])
        return lease

    board = Board()
    async with running(membership(board, Meddled(store, grant=grant), files)):
        await until(board.problems.cell, lambda told: any("theirs" in one.reason for one in told))
        assert board.session.value is None
    assert await alive(store) == Alive(session="theirs")


async def test_a_lease_is_renewed_at_a_third_of_its_time(store: SqliteStore, files: StateDirectory) -> None:
    pauses: list[float | None] = []

    class Slow(Wake):
        async def wait(self, timeout: float | None = None) -> frozenset[str]:
            pauses.append(timeout)
            return await super().wait(None)

    board = Board()
    board.lease_doubt = Slow()
    async with running(membership(board, store, files, ttl=60.0)):
        await until(board.session, lambda session: session is not None)

        async def paused() -> bool:
            return bool(pauses)

        await eventually(paused, what="the first pause")
    assert pauses == [pytest.approx(20, abs=1)]
