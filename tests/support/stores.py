"""A store of each kind, and what a test does to one from outside: takes it away, forgets its past.

One class for each store with the same methods, so that one suite holds both to the same promises.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol
from unittest import mock

import pytest

from orbitcontrol.model.stored import Delete, Operation, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store import sqlite_database
from orbitcontrol.store.open import open_store
from orbitcontrol.store.sqlite import SqliteStore
from support.etcd import EtcdServer
from support.tcpproxy import tcp_proxy

EVERYTHING = Range("\0", "\U0010ffff")


@pytest.fixture(params=["sqlite", "etcd"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store.db"
    server: EtcdServer = request.getfixturevalue("etcd_server")
    return f"etcd://{server.endpoint}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = open_store(url)
    await store.commit([], [Delete(EVERYTHING)])
    yield store
    await store.close()


class Faults(Protocol):
    """A store of a test's own, and what can happen to it. What takes time is to be awaited."""

    @property
    def url(self) -> str: ...

    async def go_away(self) -> None:
        """Nobody reaches the store any more."""

    async def come_back(self) -> None:
        """Ends ``go_away``."""

    async def compact(self) -> None:
        """The store forgets all changes but those after this moment."""

    async def wipe(self) -> None:
        """The store is back, without anything that it knew."""

    async def back_up(self) -> None:
        """Notes the store's content."""

    async def restore(self) -> None:
        """The store is back with what ``back_up`` noted."""

    async def commit_unanswered(self, operations: Sequence[Operation]) -> None:
        """A commit that is carried out, and whose answer gets lost with the connection."""

    async def commit_unheard(self, operations: Sequence[Operation]) -> None:
        """A commit whose request gets lost with the connection."""

    def watches(self) -> int:
        """How many watches the store keeps for its clients."""


class EtcdFaults:
    """See ``Faults``."""

    def __init__(self, server: EtcdServer, directory: Path) -> None:
        self._server = server
        self._backup = directory / "backup"

    @property
    def url(self) -> str:
        return f"etcd://{self._server.endpoint}"

    async def go_away(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def come_back(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def compact(self) -> None:
        store = open_store(self.url)
        revision = (await store.read()).revision
        await store.close()
        await asyncio.to_thread(self._server.etcdctl, "compact", str(revision))

    async def wipe(self) -> None:
        await asyncio.to_thread(self._server.wipe)
        await self.come_back()

    async def back_up(self) -> None:
        await asyncio.to_thread(self._server.save, self._backup)

    async def restore(self) -> None:
        await asyncio.to_thread(self._server.restore, self._backup)
        await self.come_back()

    async def commit_unanswered(self, operations: Sequence[Operation]) -> None:
        async with tcp_proxy(self._server.endpoint) as proxy:
            store, observer = open_store(f"etcd://{proxy.endpoint}"), open_store(self.url)
            try:
                before = (await store.read()).revision
                proxy.lose_answers = True
                committing = asyncio.create_task(store.commit([], operations))
                while (await observer.read()).revision == before:  # noqa: ASYNC110 -- no event for a reader
                    await asyncio.sleep(0.01)
                proxy.cut()
                await committing
            finally:
                await store.close()
                await observer.close()

    async def commit_unheard(self, operations: Sequence[Operation]) -> None:
        async with tcp_proxy(self._server.endpoint) as proxy:
            store = open_store(f"etcd://{proxy.endpoint}")
            try:
                await store.read()
                proxy.lose_requests = True
                committing = asyncio.create_task(store.commit([], operations))
                await proxy.lost.wait()
                proxy.cut()
                await committing
            finally:
                await store.close()

    def watches(self) -> int:
        return self._server.watchers()


class SqliteFaults:
    """See ``Faults``. A connection cannot break here; a disk that does not answer comes closest."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "store" / "store.db"
        self._elsewhere = directory / "elsewhere"
        self._backup = directory / "backup"

    @property
    def url(self) -> str:
        return f"sqlite://{self._path}"

    async def go_away(self) -> None:
        self._path.parent.rename(self._elsewhere)

    async def come_back(self) -> None:
        self._elsewhere.rename(self._path.parent)

    async def compact(self) -> None:
        store = open_store(self.url)
        with mock.patch.object(sqlite_database, "KEPT_REVISIONS", 1):
            await store.commit([], [Put("/compacted", b"")])
        await store.close()

    async def wipe(self) -> None:
        shutil.rmtree(self._path.parent)
        store = open_store(self.url)
        await store.read()
        await store.close()

    async def back_up(self) -> None:
        with closing(sqlite3.connect(self._path)) as live, closing(sqlite3.connect(self._backup)) as backup:
            live.backup(backup)

    async def restore(self) -> None:
        for name in ("store.db-wal", "store.db-shm"):
            (self._path.parent / name).unlink(missing_ok=True)
        self._backup.rename(self._path)

    async def commit_unanswered(self, operations: Sequence[Operation]) -> None:
        store = SqliteStore(str(self._path), call_timeout=0.5)
        commit = store._database.commit

        def hang_after(*arguments: object, deadline: float) -> int:
            revision = commit(*arguments, deadline=deadline)  # type: ignore[arg-type]
            time.sleep(2)
            return revision

        try:
            with mock.patch.object(store._database, "commit", hang_after):
                await store.commit([], operations)
        finally:
            await store.close()

    async def commit_unheard(self, operations: Sequence[Operation]) -> None:
        store = SqliteStore(str(self._path), call_timeout=0.5)
        try:
            await store.read(Range.single("/"))
            with closing(sqlite3.connect(self._path, isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                await store.commit([], operations)
        finally:
            await store.close()

    def watches(self) -> int:
        return 0  # the file knows nothing of who looks at it
