"""What ``ports.Store`` promises when something happens to the store, held against both stores.

The second half follows a range with a ``Mirror``, as the daemon does: a store may end a watch for many
reasons, and the promise to whoever lists again each time is that the mirror never stays wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orbitcontrol.agent.board import History, Problems
from orbitcontrol.agent.mirror import Mirror, Mirrored
from orbitcontrol.errors import Compacted, LeaseLost, StoreAmbiguous, StoreUnreachable
from orbitcontrol.model.stored import Changes, Put, Range
from orbitcontrol.ports import Store
from support.stores import Faults

pytestmark = pytest.mark.integration

SOON = 30.0
IN_TIME = 6.0
"""Calls end within three seconds; the rest is for a busy machine."""
WEB = Range.prefix("/web/")


async def put(store: Store, key: str, value: bytes = b"") -> int:
    return await store.commit([], [Put(key, value)])


async def next_of(changes: AsyncIterator[Changes]) -> Changes:
    async with asyncio.timeout(SOON):
        return await anext(changes)


async def enter_watch(store: Store, *, after: int) -> None:
    async with store.watch(WEB, after=after) as changes:
        await next_of(changes)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


# --- calls -------------------------------------------------------------------------------------


async def test_everything_asked_of_a_store_that_is_away_fails_in_time_and_names_it(
    faults: Faults, faulty: Store
) -> None:
    revision, lease = await put(faulty, "/web/a", b"1"), await faulty.grant(30)
    await faults.go_away()
    with pytest.raises(StoreUnreachable):
        await faulty.read()
    began = time.monotonic()
    outcomes = await asyncio.gather(
        faulty.get("/web/a"),
        faulty.read(WEB),
        faulty.commit([], [Put("/web/a", b"2")]),
        faulty.grant(5),
        faulty.keep_alive(lease),
        faulty.lease_keys(lease),
        faulty.revoke(lease),
        enter_watch(faulty, after=revision),
        return_exceptions=True,
    )
    assert time.monotonic() - began < IN_TIME
    assert [type(each) for each in outcomes] == [StoreUnreachable] * len(outcomes)
    assert all(faults.url in str(each) for each in outcomes)


async def test_a_store_that_comes_back_is_used_again_and_has_lost_nothing(
    faults: Faults, faulty: Store
) -> None:
    lease = await faulty.grant(60)
    revision = await faulty.commit([], [Put("/web/a", b"1", lease)])
    await faults.go_away()
    with pytest.raises(StoreUnreachable):
        await faulty.read()  # also takes note that the connection is broken: a commit in it is ambiguous
    with pytest.raises(StoreUnreachable):
        await put(faulty, "/web/a", b"2")
    await faults.come_back()
    found = await faulty.get("/web/a")
    assert found is not None
    assert (found.value, found.mod_revision, found.lease) == (b"1", revision, lease)
    assert await faulty.keep_alive(lease) > 0
    assert await put(faulty, "/web/a", b"3") == revision + 1


async def test_a_commit_whose_answer_is_lost_is_called_ambiguous_and_a_reader_can_tell(
    faults: Faults, faulty: Store
) -> None:
    with pytest.raises(StoreAmbiguous, match="may have happened"):
        await faults.commit_unanswered([Put("/web/a", b"1")])
    found = await faulty.get("/web/a")
    assert found is not None
    assert found.value == b"1"


async def test_a_commit_whose_request_is_lost_is_called_neither_done_nor_refused(
    faults: Faults, faulty: Store
) -> None:
    revision = (await faulty.read()).revision
    with pytest.raises((StoreAmbiguous, StoreUnreachable)):
        await faults.commit_unheard([Put("/web/a", b"1")])
    assert await faulty.get("/web/a") is None
    assert await put(faulty, "/web/b") == revision + 1


async def test_a_lease_whose_time_passed_while_the_store_was_away_is_lost_in_the_end(
    faults: Faults, faulty: Store
) -> None:
    lease = await faulty.grant(1)
    await faulty.commit([], [Put("/web/a", b"", lease)])
    await faults.go_away()
    await asyncio.sleep(1.5)
    await faults.come_back()
    # etcd gives every lease its whole time again when it starts.
    async with asyncio.timeout(SOON):
        while await faulty.get("/web/a") is not None:  # noqa: ASYNC110 -- there is no event for a reader
            await asyncio.sleep(0.1)
    with pytest.raises(LeaseLost):
        await faulty.keep_alive(lease)
    with pytest.raises(LeaseLost):
        await faulty.commit([], [Put("/web/a", b"", lease)])


async def test_waits_that_are_given_up_leave_nothing_behind(faults: Faults, faulty: Store) -> None:
    revision = await put(faulty, "/web/a")
    before, watches = asyncio.all_tasks(), faults.watches()

    async def wait_for_change() -> None:
        async with faulty.watch(WEB, after=revision) as changes:
            await anext(changes)

    for _ in range(5):
        waits = [asyncio.create_task(wait_for_change()) for _ in range(20)]
        waits += [asyncio.create_task(enter_watch(faulty, after=revision)) for _ in range(20)]
        calls = [asyncio.create_task(faulty.read(WEB)) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in (*waits, *calls):
            task.cancel()
        await asyncio.gather(*waits, *calls, return_exceptions=True)
    async with asyncio.timeout(SOON):
        # gRPC's own tasks end a moment after the calls that they belong to.
        while faults.watches() != watches or asyncio.all_tasks() != before:  # noqa: ASYNC110 -- no event for us
            await asyncio.sleep(0.05)
    assert await put(faulty, "/web/a") == revision + 1


# --- watches -----------------------------------------------------------------------------------


async def test_a_watch_goes_on_after_the_store_was_away(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    start = await put(faulty, "/web/a")
    await faults.go_away()
    with pytest.raises(StoreUnreachable):
        await enter_watch(faulty, after=start)
    await faults.come_back()
    revisions = [await put(faulty_too, "/web/a", str(number).encode()) for number in range(3)]
    async with faulty.watch(WEB, after=start) as changes:
        assert [(await next_of(changes)).revision for _ in revisions] == revisions


async def test_a_watcher_that_was_away_during_a_compaction_is_told(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    start = await put(faulty, "/web/a")
    for _ in range(5):
        await put(faulty_too, "/web/a")
    await faults.compact()
    with pytest.raises(Compacted, match="list again"):
        await enter_watch(faulty, after=start)


async def test_a_slow_consumer_costs_little_memory_and_is_told_when_it_missed_something(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    value = bytes(300_000)
    start = (await faulty.read()).revision
    seen = []
    async with faulty.watch(WEB, after=start) as changes:
        revisions = [await put(faulty_too, "/web/a", value)]
        seen.append((await next_of(changes)).revision)
        before = resident()
        revisions += [await put(faulty_too, "/web/a", value) for _ in range(400)]
        assert resident() - before < 40_000_000
        await faults.compact()
        told = False
        while not told:
            try:
                seen.append((await next_of(changes)).revision)
            except Compacted:
                told = True
    assert seen == revisions[: len(seen)]


async def test_a_consumer_that_has_much_to_catch_up_with_holds_little_of_it_at_once(
    faulty: Store, faulty_too: Store
) -> None:
    start = (await faulty.read()).revision
    revisions = [await put(faulty_too, "/web/a", bytes(300_000)) for _ in range(200)]
    before = resident()
    async with faulty.watch(WEB, after=start) as changes:
        for revision in revisions:
            assert (await next_of(changes)).revision == revision
            assert resident() - before < 40_000_000


async def test_a_watch_from_before_the_store_was_wiped_is_told(faults: Faults, faulty: Store) -> None:
    for _ in range(5):
        revision = await put(faulty, "/web/a")
    await faults.wipe()
    with pytest.raises(Compacted, match="list again"):
        await enter_watch(faulty, after=revision)
    assert await faulty.get("/web/a") is None


# --- a mirror of a range -------------------------------------------------------------------------


@asynccontextmanager
async def mirrored(store: Store) -> AsyncIterator[Mirror]:
    """A running mirror of ``/web/``, listed once."""
    mirror = Mirror("web", store=store, range=WEB, problems=Problems(), history=History())
    running = asyncio.create_task(mirror.run())
    try:
        await shows(mirror, lambda value: value is not None)
        yield mirror
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def shows(mirror: Mirror, holds: Callable[[Mirrored | None], bool]) -> None:
    assert await mirror.cell.wait_for(holds, timeout=SOON), mirror.cell.value


def content(value: Mirrored | None) -> dict[str, bytes]:
    assert value is not None
    return {key: entry.value for key, entry in value.entries.items()}


async def test_a_mirror_keeps_what_it_knew_while_the_store_is_away_and_then_shows_what_is(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    await put(faulty, "/web/a", b"1")
    async with mirrored(faulty) as mirror:
        await faults.go_away()
        with pytest.raises(StoreUnreachable):
            await faulty_too.read()
        assert content(mirror.cell.value) == {"/web/a": b"1"}
        await faults.come_back()
        await put(faulty_too, "/web/b", b"2")
        await shows(mirror, lambda value: content(value) == {"/web/a": b"1", "/web/b": b"2"})


async def test_a_mirror_is_right_again_after_a_compaction_that_it_missed(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    await faulty.commit([], [Put("/web/a", b"1"), Put("/web/b", b"1")])
    async with mirrored(faulty) as mirror:
        await faults.go_away()
        await faults.come_back()
        await put(faulty_too, "/web/a", b"2")
        await faults.compact()
        await put(faulty_too, "/web/c", b"3")
        await shows(mirror, lambda value: content(value) == {"/web/a": b"2", "/web/b": b"1", "/web/c": b"3"})


async def test_a_mirror_shows_that_the_store_was_wiped_and_what_is_written_then(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    for number in range(20):
        await put(faulty, f"/web/{number}")
    async with mirrored(faulty) as mirror:
        await faults.wipe()
        await shows(mirror, lambda value: content(value) == {})
        await put(faulty_too, "/web/new", b"1")
        await shows(mirror, lambda value: content(value) == {"/web/new": b"1"})


async def test_a_mirror_shows_a_backup_that_was_put_back_and_what_is_written_then(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    await put(faulty, "/web/a", b"old")
    await faults.back_up()
    for number in range(20):
        newest = await put(faulty, f"/web/{number}")
    async with mirrored(faulty) as mirror:
        await faults.restore()
        await shows(mirror, lambda value: content(value) == {"/web/a": b"old"})
        revision = await put(faulty_too, "/web/b", b"1")
        assert revision < newest
        await shows(mirror, lambda value: content(value) == {"/web/a": b"old", "/web/b": b"1"})


async def test_a_mirror_is_right_when_a_backup_has_overtaken_what_it_had_seen(
    faults: Faults, faulty: Store, faulty_too: Store
) -> None:
    await put(faulty, "/web/a", b"old")
    await faults.back_up()
    newest = await put(faulty, "/web/a", b"new")
    async with mirrored(faulty) as mirror:
        await faults.restore()
        while await put(faulty_too, "/other") <= newest + 5:
            pass
        await shows(mirror, lambda value: content(value) == {"/web/a": b"old"})
