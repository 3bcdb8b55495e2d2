"""The machine's record as a proof that the store takes writes: only while there are orphans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board, Session
from orbitcontrol.agent.record import RecordLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreUnreachable
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import MachineRecord, ProxyWorkers
from orbitcontrol.ports import Store
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, Meddled, eventually, running, until

KEYS = Keys()
OFTEN = 0.05


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


@pytest.fixture
def board() -> Board:
    """A machine in a session, registered."""
    board = Board()
    board.session.set(Session(id="mine", lease=1, resumed=False))
    board.registered.set("mine")
    return board


def record(board: Board, store: Store | Meddled, *, proof_every: float) -> RecordLoop:
    machine = MachineIdentity(address=ADDRESS)
    return RecordLoop(
        board=board,
        store=store,
        keys=KEYS,
        machine=machine,
        check="",
        proof_every=proof_every,
    )


async def written(store: Store) -> int:
    """The store's revision in which the record was last written; 0 where there is none."""
    found = await store.get(KEYS.machine(ADDRESS))
    return found.mod_revision if found is not None else 0


async def test_with_orphans_it_is_written_again_and_again_and_each_write_lengthens_the_proof(
    store: SqliteStore, board: Board
) -> None:
    async with running(record(board, store, proof_every=OFTEN)):
        first = await until(board.writes, lambda writes: writes is not None)
        before = await written(store)
        board.orphaned.set(True)
        later = await until(
            board.writes,
            lambda writes: writes is not None and first is not None and writes.until > first.until,
        )
        assert first is not None
        assert later is not None
        assert later.since == first.since
        assert await written(store) > before
        await until(board.writes, lambda writes: writes is not None and writes.until > later.until)


async def test_without_orphans_it_is_written_once(store: SqliteStore, board: Board) -> None:
    async with running(record(board, store, proof_every=0)):
        await until(board.writes, lambda writes: writes is not None)
        before = await written(store)
        for name in ("desired", "runs"):  # wakes without a change of the record
            board.session.set(Session(id=name, lease=1, resumed=False))
        board.orphaned.set(True)

        async def again() -> bool:
            return await written(store) > before

        await eventually(again, what="the write that orphans ask for")
        assert await written(store) == before + 1


async def test_it_is_written_when_haproxys_old_workers_come_and_go(store: SqliteStore, board: Board) -> None:
    workers = ProxyWorkers(leaving=1, since="2026-01-31T12:00:00Z")

    async def stored() -> ProxyWorkers | None:
        found = await store.get(KEYS.machine(ADDRESS))
        return decode(found.value, MachineRecord, key=found.key).proxy_workers if found else None

    async with running(record(board, store, proof_every=60)):
        await until(board.writes, lambda writes: writes is not None)
        assert await stored() is None
        board.proxy_workers.set(workers)
        assert await eventually(stored, what="the old workers in the record") == workers


async def test_a_write_that_fails_ends_the_proof_and_the_next_one_begins_another(
    store: SqliteStore, board: Board
) -> None:
    failing = False

    async def commit(*arguments: Any) -> int:
        if failing:
            raise StoreUnreachable("the store does not answer")
        return await store.commit(*arguments)

    board.orphaned.set(True)
    async with running(record(board, Meddled(store, commit=commit), proof_every=OFTEN)):
        first = await until(board.writes, lambda writes: writes is not None)
        failing = True
        await until(board.writes, lambda writes: writes is None)
        failing = False
        second = await until(board.writes, lambda writes: writes is not None)
        assert first is not None
        assert second is not None
        assert second.since > first.until
