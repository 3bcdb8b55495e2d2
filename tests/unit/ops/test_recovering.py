"""``recover``: whose word counts for what the store goes on from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Alive, ConfigMeta, MachineRecord
from orbitcontrol.model.stored import Put
from orbitcontrol.ops.recovering import restore, survey
from orbitcontrol.store.sqlite import SqliteStore

KEYS = Keys()
HOLDS = "the store was filled anew"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    meta = ConfigMeta(epoch="new", generation=3, imported_at="t", imported_by="u", continues={"first": 2})
    await store.commit([], [Put(KEYS.meta, encode(meta))])
    yield store
    await store.close()


async def machine(
    store: SqliteStore, address: str, *, epoch: str, generation: int, holding: str = "", alive: bool = True
) -> None:
    record = MachineRecord(epoch=epoch, generation=generation, holding=holding)
    await store.commit([], [Put(KEYS.machine(address), encode(record))])
    if alive:
        await store.commit([], [Put(KEYS.alive(address), encode(Alive(session="s")), await store.grant(60))])


async def test_the_store_continues_what_those_who_hold_knew_up_to_the_highest_generation(
    store: SqliteStore,
) -> None:
    await machine(store, "10.0.0.1", epoch="old", generation=7, holding=HOLDS)
    await machine(store, "10.0.0.2", epoch="old", generation=9, holding=HOLDS)
    await machine(store, "10.0.0.3", epoch="other", generation=1, holding=HOLDS)
    recovery = await survey(store, KEYS)
    assert recovery.continues == {"first": 2, "old": 9, "other": 1}
    await restore(store, KEYS, recovery, user="u", time="t")
    assert (await survey(store, KEYS)).meta.continues == {"first": 2, "old": 9, "other": 1}


async def test_a_machine_that_does_not_hold_confirms_nothing_and_asks_for_nothing(store: SqliteStore) -> None:
    """It needs no word. What it knows, noted now, would confirm a backup of this very store some day."""
    await machine(store, "10.0.0.1", epoch="new", generation=3)
    await machine(store, "10.0.0.2", epoch="", generation=0)
    await machine(store, "10.0.0.3", epoch="", generation=0, holding=HOLDS)
    recovery = await survey(store, KEYS)
    assert recovery.continues == {"first": 2}
    assert not recovery.is_needed


async def test_a_machine_that_is_not_heard_confirms_nothing(store: SqliteStore) -> None:
    await machine(store, "10.0.0.1", epoch="old", generation=7, holding=HOLDS, alive=False)
    recovery = await survey(store, KEYS)
    assert (recovery.continues, recovery.absent) == ({"first": 2}, ("10.0.0.1",))
