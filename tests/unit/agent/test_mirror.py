import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orbitcontrol.agent.board import Cell, History, Problems, Wake
from orbitcontrol.agent.mirror import Mirror
from orbitcontrol.errors import StoreUnreachable, UsageError
from orbitcontrol.model.stored import Changes, Put, Range, Reading
from orbitcontrol.ports import Store
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import Meddled, running, until

KEY = "/orbit/config/meta"


def mirror(store: Store, relisted: Cell[int], history: History | None = None) -> Mirror:
    return Mirror(
        "meta",
        store=store,
        range=Range.single(KEY),
        problems=Problems(),
        history=history or History(),
        relisted=relisted,
    )


async def test_a_broken_watch_is_counted_when_it_has_begun_anew(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))
    relisted: Cell[int] = Cell("relisted", 0)
    breaks = 2

    @asynccontextmanager
    async def watch(range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
        nonlocal breaks
        async with store.watch(range, after=after) as stream:
            if breaks:
                breaks -= 1
                raise StoreUnreachable("the connection broke")
            yield stream

    followed = mirror(Meddled(store, watch=watch), relisted)
    async with running(followed):
        await until(followed.cell, lambda seen: seen is not None)
        assert relisted.value == 1
        revision = await store.commit([], [Put(KEY, b"1")])
        await until(followed.cell, lambda seen: seen is not None and seen.revision == revision)
        assert relisted.value == 1
    await store.close()


async def test_a_store_that_was_restored_from_a_backup_is_noticed(tmp_path: Path) -> None:
    file, backup = tmp_path / "store.db", tmp_path / "backup.db"
    store = SqliteStore(str(file))
    await store.commit([], [Put(KEY, b"old")])
    source, target = sqlite3.connect(file), sqlite3.connect(backup)
    source.backup(target)
    target.close()
    source.close()
    await store.commit([], [Put(KEY, b"new")])
    relisted: Cell[int] = Cell("relisted", 0)
    history = History()
    followed = mirror(store, relisted, history)
    shown: list[bool] = []

    class Witness(Wake):
        def ring(self, reason: str) -> None:
            shown.append(history.went_back.value > 0)

    followed.cell.subscribe(Witness())
    async with running(followed):
        await until(followed.cell, lambda seen: seen is not None and seen.entries[KEY].value == b"new")
        for name in ("store.db-wal", "store.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        backup.replace(file)
        await until(followed.cell, lambda seen: seen is not None and seen.entries[KEY].value == b"old")
        await until(relisted, bool)
        assert shown == [False, True], "noted before anybody could see what it says"
    await store.close()


def test_an_answer_that_was_overtaken_by_another_one_is_no_sign_of_an_older_store() -> None:
    history = History()
    history.saw(10)
    before = history.furthest
    history.saw(12)
    history.saw(11, before=before)
    assert history.went_back.value < 0
    history.saw(11, before=history.furthest)
    assert history.went_back.value > 0


async def test_a_certificate_that_is_gone_for_a_moment_ends_no_mirror(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))
    failures = iter([None, UsageError("ca.pem: cannot read it"), None])

    async def read(*ranges: Range) -> Reading:
        if failure := next(failures, None):
            raise failure
        return await store.read(*ranges)

    async def broken() -> AsyncIterator[Changes]:
        yield Changes(await store.commit([], [Put(KEY, b"1")]), ())
        raise StoreUnreachable("the connection broke")

    @asynccontextmanager
    async def watch(range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
        async with store.watch(range, after=after) as stream:
            yield broken() if after == 1 else stream

    relisted: Cell[int] = Cell("relisted", 0)
    followed = mirror(Meddled(store, read=read, watch=watch), relisted)
    async with running(followed):
        await until(followed.cell, lambda seen: seen is not None and KEY in seen.entries)
    await store.close()


async def test_settings_that_are_wrong_from_the_start_end_the_mirror(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))

    async def read(*ranges: Range) -> Reading:
        raise UsageError("ca.pem: cannot read it")

    with pytest.raises(UsageError, match=r"ca\.pem"):
        await mirror(Meddled(store, read=read), Cell("relisted", 0)).run()
    await store.close()


async def test_a_watch_that_is_silent_for_ever_is_made_up_for_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))

    async def silent() -> AsyncIterator[Changes]:
        await asyncio.Event().wait()
        yield Changes(0, ())

    @asynccontextmanager
    async def watch(range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
        yield silent()

    monkeypatch.setattr("orbitcontrol.agent.mirror.TICK", 0.05)
    followed = mirror(Meddled(store, watch=watch), Cell("relisted", 0))
    async with running(followed):
        await until(followed.cell, lambda seen: seen is not None)
        await store.commit([], [Put(KEY, b"1")])
        await until(followed.cell, lambda seen: seen is not None and KEY in seen.entries)
    await store.close()
