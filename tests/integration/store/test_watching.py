"""Commands that wait for something in the store, while the store is away in between."""

from __future__ import annotations

import asyncio

import pytest

from orbitcontrol.errors import StoreError
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ops.watching import Seen, watch_until
from orbitcontrol.store.open import open_store
from support.stores import Faults

pytestmark = pytest.mark.integration

KEYS = Range.prefix("/a/")


async def test_what_changed_while_the_store_was_away_is_seen_when_it_is_back(faults: Faults) -> None:
    store = open_store(faults.url)
    await store.commit([], [Put("/a/goes", b""), Put("/a/stays", b"")])
    looks: asyncio.Queue[set[str]] = asyncio.Queue()
    away = asyncio.Event()

    def look(seen: Seen) -> bool:
        looks.put_nowait(set(seen[KEYS]))
        return "/a/end" in seen[KEYS]

    def trouble(_: StoreError) -> None:
        away.set()

    async def until(expected: set[str]) -> None:
        while await looks.get() != expected:
            pass

    async with asyncio.timeout(60):
        watching = asyncio.create_task(watch_until(store, KEYS, look=look, timeout=60, trouble=trouble))
        await until({"/a/goes", "/a/stays"})
        await store.commit([], [Put("/a/new", b"")])
        await until({"/a/goes", "/a/stays", "/a/new"})

        await faults.go_away()
        await away.wait()
        await faults.come_back()
        other = open_store(faults.url)
        await other.commit([], [Delete(Range.single("/a/goes"))])
        await faults.compact()
        await until({"/a/stays", "/a/new"})
        await other.commit([], [Put("/a/end", b"")])
        assert await watching
    await other.close()
    await store.close()


async def test_waiting_ends_when_its_time_is_over(faults: Faults) -> None:
    store = open_store(faults.url)
    assert not await watch_until(store, KEYS, look=lambda _: False, timeout=0.1)
    await store.close()
