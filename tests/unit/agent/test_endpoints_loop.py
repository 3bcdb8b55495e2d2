from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.agent.board import Board, Session
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import StateFiles, Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, DOWN, RUN, UP, WEB, desired, eventually, ids, running, until

KEYS = Keys()
KEY = KEYS.endpoint("web", f"{ADDRESS}:80")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


@pytest.fixture
def files(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def endpoints(board: Board, store: Store, files: StateFiles) -> EndpointsLoop:
    return EndpointsLoop(
        board=board,
        store=store,
        keys=KEYS,
        machine=MachineIdentity(address=ADDRESS),
        files=files,
        new_id=ids("endpoint"),
    )


async def serving(store: Store) -> Board:
    """A machine with a session, whose one service runs and is proven."""
    board = Board()
    board.desired.set(desired(WEB))
    board.runs.set((RUN,))
    board.verdicts.set({RUN.id: UP})
    board.session.set(Session(id="mine", lease=await store.grant(60), resumed=False))
    return board


async def test_a_failed_check_withdraws_the_endpoint(store: SqliteStore, files: StateDirectory) -> None:
    board = await serving(store)
    async with running(endpoints(board, store, files)):
        await until(board.published, bool)
        assert await store.get(KEY) is not None
        board.verdicts.set({RUN.id: DOWN})
        await until(board.published, lambda published: not published)
        assert await store.get(KEY) is None


async def test_a_withdrawal_after_a_lost_lease_leaves_another_sessions_endpoint(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = await serving(store)
    session = board.session.value
    assert session is not None
    async with running(endpoints(board, store, files)):
        await until(board.published, bool)
        await store.revoke(session.lease)
        theirs = encode(Endpoint(id="theirs", machine=ADDRESS, session="another"))
        await store.commit([], [Put(KEY, theirs, await store.grant(60))])
        board.verdicts.set({RUN.id: DOWN})
        await until(board.problems.cell, bool)
        found = await store.get(KEY)
        assert found is not None
        assert found.value == theirs


async def test_an_endpoint_that_a_restored_store_does_not_have_is_published_again(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = await serving(store)
    async with running(endpoints(board, store, files)):
        await until(board.published, bool)
        await store.commit([], [Delete(Range.single(KEY))])
        board.relisted.set(1)
        await eventually(lambda: store.get(KEY), what="the endpoint again")


async def test_what_is_only_presumed_to_be_up_is_not_published_anew(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = await serving(store)
    board.presumed.set(frozenset({RUN.id}))
    async with running(endpoints(board, store, files)):
        await until(board.publisher, bool)
        board.verdicts.set({RUN.id: UP, RunId("other"): UP})
        assert not await board.published.wait_for(bool, timeout=0.2)
        board.presumed.set(frozenset())
        await until(board.published, bool)


async def test_which_run_each_endpoint_stands_for_is_known_without_the_store(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = await serving(store)
    async with running(endpoints(board, store, files)):
        await until(board.published, bool)
        assert board.stands_for.value == {"endpoint1": RUN.id}
    after = Board()
    endpoints(after, store, files)
    assert after.stands_for.value == {"endpoint1": RUN.id}


class FullDisk:
    """A state directory that takes nothing while it is full."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self.full = True

    def load(self, name: str) -> bytes | None:
        return self._files.load(name)

    def save(self, name: str, content: bytes) -> None:
        if self.full:
            raise OrbitError(f"{name}: cannot be written: No space left on device")
        self._files.save(name, content)


async def test_a_full_disk_keeps_no_ended_container_published_and_is_told(
    store: SqliteStore, files: StateDirectory
) -> None:
    board = await serving(store)
    disk = FullDisk(files)
    disk.full = False
    after = structs.replace(RUN, id=RunId("web", 1, "another", "later"), port=81)
    async with running(endpoints(board, store, disk)):
        await until(board.published, bool)
        disk.full = True
        board.verdicts.set({RUN.id: UP, after.id: UP})
        board.runs.set((after,))
        await until(board.published, lambda published: published == {after.id})
        problems = await until(board.problems.cell, bool)
        assert "No space left" in problems[0].reason

        disk.full = False
        board.verdicts.set({after.id: UP})
        await until(board.problems.cell, lambda problems: not problems)
    found = await store.read(KEYS.services)
    assert [item.key for item in found.ranges[0]] == [KEYS.endpoint("web", f"{ADDRESS}:81")]
    again = Board()
    again.desired.set(board.desired.value)
    again.runs.set((after,))
    session = board.session.value
    assert session is not None
    again.session.set(structs.replace(session, resumed=True))
    async with running(endpoints(again, store, disk)):
        assert await until(again.proven, lambda proven: proven is not None) == frozenset({after.id})
