from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.agent.board import Board, Session
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Put
from orbitcontrol.ports import StateFiles, Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, DOWN, RUN, UP, WEB, desired, ids, running, until

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
