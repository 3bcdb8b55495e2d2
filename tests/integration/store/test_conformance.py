"""What ``ports.Store`` promises, held against both stores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.errors import (
    Compacted,
    LeaseLost,
    StoreConflict,
    StoreRefused,
    StoreTooLarge,
    StoreUnreachable,
)
from orbitcontrol.model.stored import (
    Absent,
    Changed,
    Changes,
    Delete,
    KeyValue,
    Put,
    Range,
    Unchanged,
)
from orbitcontrol.ports import Store

pytestmark = pytest.mark.integration

SOON = 30.0
WEB = Range.prefix("/web/")


async def soon(changes: AsyncIterator[Changes]) -> Changes:
    """The next changes, which are on their way."""
    async with asyncio.timeout(SOON):
        return await anext(changes)


async def put(store: Store, key: str, value: bytes = b"", *, lease: int = 0) -> int:
    return await store.commit([], [Put(key, value, lease)])


# --- reading -----------------------------------------------------------------------------------


async def test_a_key_that_was_never_written_is_none(store: Store) -> None:
    assert await store.get("/web/a") is None


async def test_a_key_knows_its_value_and_the_revision_that_wrote_it(store: Store, other: Store) -> None:
    await put(store, "/web/a", b"old")
    revision = await put(store, "/web/a", b"new")
    await put(store, "/web/b")
    assert await other.get("/web/a") == KeyValue(key="/web/a", value=b"new", mod_revision=revision)


async def test_a_range_holds_its_start_but_not_its_end_and_is_sorted(store: Store) -> None:
    for key in ("/web/c", "/web/a", "/web", "/web/b", "/web0", "/webb"):
        await put(store, key)
    reading = await store.read(Range("/web/a", "/web/c"), WEB)
    names = [[each.key for each in found] for found in reading.ranges]
    assert names == [["/web/a", "/web/b"], ["/web/a", "/web/b", "/web/c"]]


async def test_ranges_come_in_the_order_they_were_asked_for(store: Store) -> None:
    await put(store, "/a/1")
    await put(store, "/b/1")
    reading = await store.read(Range.prefix("/b/"), Range.prefix("/none/"), Range.prefix("/a/"))
    assert [[each.key for each in found] for found in reading.ranges] == [["/b/1"], [], ["/a/1"]]


async def test_a_reading_carries_the_revision_of_the_last_commit(store: Store) -> None:
    revision = await put(store, "/web/a")
    assert (await store.read(WEB)).revision == revision
    assert (await store.read()).revision == revision


async def test_several_ranges_are_read_as_they_were_together(store: Store, other: Store) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            value = str(count).encode()
            await other.commit([], [Put("/left/x", value), Put("/right/x", value)])

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(100):
            left, right = (await store.read(Range.prefix("/left/"), Range.prefix("/right/"))).ranges
            assert [each.value for each in left] == [each.value for each in right]
        stop.set()


async def test_more_ranges_than_a_transaction_takes_are_read_at_one_revision(store: Store) -> None:
    for number in range(5):
        await put(store, f"/many/{number * 60:03}")
    ranges = [Range.single(f"/many/{number:03}") for number in range(300)]
    reading = await store.read(*ranges)
    assert [index for index, found in enumerate(reading.ranges) if found] == [0, 60, 120, 180, 240]


async def test_a_range_larger_than_any_transaction_is_read_at_once(store: Store) -> None:
    for turn in range(5):
        await store.commit([], [Put(f"/web/{turn}/{number}", bytes(140_000)) for number in range(10)])
    (found,) = (await store.read(WEB)).ranges
    assert sum(len(each.value) for each in found) == 50 * 140_000


async def test_keys_and_values_may_be_any_text_and_any_bytes(store: Store, other: Store) -> None:
    keys = ["/web/grün", "/web/日本", "/web/\U0001f680", "/web/ blank", "/web/\x01", "/web/" + "x" * 400]
    everything = bytes(range(256))
    await store.commit([], [Put(key, everything) for key in keys])
    found = (await other.read(WEB)).ranges[0]
    assert {each.key for each in found} == set(keys)
    assert all(each.value == everything for each in found)
    assert [each.key for each in found] == sorted(keys, key=str.encode)


async def test_a_key_that_is_not_text_survives_the_way_through(store: Store, other: Store) -> None:
    key = b"/web/\xff\xfe".decode("utf-8", "surrogateescape")
    await put(store, key, b"x")
    assert [each.key for each in (await other.read(WEB)).ranges[0]] == [key]


async def test_an_empty_value_is_a_value(store: Store, other: Store) -> None:
    revision = await put(store, "/web/a", b"")
    assert await other.get("/web/a") == KeyValue(key="/web/a", value=b"", mod_revision=revision)


@pytest.mark.parametrize("wrong", [Range("b", "a"), Range("a", "a"), Range("", "a")])
async def test_a_range_that_cannot_hold_a_key_is_refused(store: Store, wrong: Range) -> None:
    with pytest.raises(StoreRefused):
        await store.read(wrong)


async def test_an_empty_key_is_refused(store: Store) -> None:
    with pytest.raises(StoreRefused):
        await store.get("")
    with pytest.raises(StoreRefused):
        await put(store, "")


# --- committing --------------------------------------------------------------------------------


async def test_each_commit_is_one_revision(store: Store) -> None:
    first = await store.commit([], [Put("/web/a", b"1"), Put("/web/b", b"1"), Delete(Range.prefix("/x/"))])
    second = await store.commit([], [Put("/web/a", b"2"), Delete(Range.single("/web/b"))])
    assert second == first + 1
    reading = await store.read(WEB)
    assert reading.revision == second
    assert reading.ranges == ((KeyValue(key="/web/a", value=b"2", mod_revision=second),),)


async def test_a_commit_that_changes_nothing_makes_no_revision(store: Store) -> None:
    revision = await put(store, "/web/a")
    assert await store.commit([Unchanged("/web/a", revision)], []) == revision
    assert await store.commit([], [Delete(Range.prefix("/none/"))]) == revision


async def test_unchanged_holds_for_the_revision_of_the_last_write_only(store: Store) -> None:
    old = await put(store, "/web/a", b"1")
    new = await store.commit([Unchanged("/web/a", old)], [Put("/web/a", b"2")])
    with pytest.raises(StoreConflict, match="/web/a"):
        await store.commit([Unchanged("/web/a", old)], [Put("/web/a", b"3")])
    found = await store.get("/web/a")
    assert found is not None
    assert (found.value, found.mod_revision) == (b"2", new)


async def test_unchanged_fails_for_a_key_that_is_gone_and_for_one_written_anew(store: Store) -> None:
    old = await put(store, "/web/a")
    await store.commit([], [Delete(Range.single("/web/a"))])
    with pytest.raises(StoreConflict):
        await store.commit([Unchanged("/web/a", old)], [Put("/web/b", b"")])
    await put(store, "/web/a")
    with pytest.raises(StoreConflict):
        await store.commit([Unchanged("/web/a", old)], [Put("/web/b", b"")])
    assert await store.get("/web/b") is None


async def test_absent_fails_when_any_key_of_the_range_exists(store: Store) -> None:
    await store.commit([Absent(WEB)], [Put("/other/x", b"")])
    await put(store, "/web/m")
    with pytest.raises(StoreConflict, match="/web/"):
        await store.commit([Absent(WEB)], [Put("/web/n", b"")])
    await store.commit(
        [Absent(Range("/web/a", "/web/m")), Absent(Range.single("/web/n"))], [Put("/web/n", b"")]
    )
    assert [each.key for each in (await store.read(WEB)).ranges[0]] == ["/web/m", "/web/n"]


async def test_a_conflict_writes_nothing_at_all(store: Store) -> None:
    revision = await put(store, "/web/a")
    with pytest.raises(StoreConflict):
        await store.commit(
            [Unchanged("/web/a", revision), Absent(Range.single("/web/a"))],
            [Put("/web/b", b""), Delete(Range.single("/web/a"))],
        )
    reading = await store.read(WEB)
    assert (reading.revision, [each.key for each in reading.ranges[0]]) == (revision, ["/web/a"])


async def test_of_two_clients_that_change_the_same_key_exactly_one_wins(store: Store, other: Store) -> None:
    revision = await put(store, "/web/count", b"0")

    async def try_to_win(client: Store, name: bytes) -> bytes | None:
        try:
            await client.commit([Unchanged("/web/count", revision)], [Put("/web/count", name)])
        except StoreConflict:
            return None
        return name

    outcomes = await asyncio.gather(*(try_to_win(c, n) for c, n in [(store, b"1"), (other, b"2")] * 5))
    winners = [name for name in outcomes if name is not None]
    found = await store.get("/web/count")
    assert found is not None
    assert winners == [found.value]


async def test_no_increment_is_lost_between_clients(store: Store, other: Store) -> None:
    await put(store, "/web/count", b"0")

    async def increment(client: Store) -> None:
        for _ in range(10):
            while True:
                now = await client.get("/web/count")
                assert now is not None
                following = str(int(now.value) + 1).encode()
                try:
                    await client.commit([Unchanged(now.key, now.mod_revision)], [Put(now.key, following)])
                except StoreConflict:
                    continue
                break

    await asyncio.gather(*(increment(client) for client in (store, other) * 2))
    found = await store.get("/web/count")
    assert found is not None
    assert found.value == b"40"


@pytest.mark.parametrize(
    "operations",
    [
        [Put("/web/a", b"1"), Put("/web/a", b"2")],
        [Put("/web/a", b"1"), Delete(Range.single("/web/a"))],
        [Delete(WEB), Put("/web/b", b"1")],
        [Delete(WEB), Delete(Range.single("/web/c"))],
    ],
)
async def test_touching_a_key_twice_is_refused(store: Store, operations: list[Put | Delete]) -> None:
    revision = await put(store, "/web/a")
    with pytest.raises(StoreRefused, match="twice"):
        await store.commit([], operations)
    assert (await store.read()).revision == revision


async def test_as_many_operations_as_the_limit_says_and_not_one_more(store: Store, patient: Store) -> None:
    many = [Put(f"/web/{number:06}", b"") for number in range(store.limits.operations)]
    revision = await patient.commit([], many)
    assert len((await store.read(WEB)).ranges[0]) == store.limits.operations
    with pytest.raises(StoreTooLarge, match=str(store.limits.operations + 1)):
        await store.commit([], [*many, Put("/more", b"")])
    assert (await store.read()).revision == revision


async def test_too_many_bytes_are_refused_before_anything_is_written(store: Store) -> None:
    revision = (await store.read()).revision
    with pytest.raises(StoreTooLarge, match="bytes"):
        await store.commit([], [Put("/web/a", bytes(store.limits.bytes))])
    assert (await store.read()).revision == revision


async def test_a_transaction_as_large_as_etcd_takes_is_taken(store: Store) -> None:
    share = 1_500_000 // 100 - 20
    await store.commit([], [Put(f"/web/{number:03}", bytes(share)) for number in range(100)])
    assert len((await store.read(WEB)).ranges[0]) == 100


# --- watching ----------------------------------------------------------------------------------


async def test_a_watch_sees_another_clients_changes_with_their_values(store: Store, other: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        revision = await put(other, "/web/a", b"1")
        now = KeyValue(key="/web/a", value=b"1", mod_revision=revision)
        assert await soon(changes) == Changes(revision, (Changed("/web/a", now),))
        revision = await other.commit([], [Delete(Range.single("/web/a"))])
        assert await soon(changes) == Changes(revision, (Changed("/web/a", None),))


async def test_a_watch_sees_its_own_clients_changes(store: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        revision = await put(store, "/web/a")
        assert (await soon(changes)).revision == revision


async def test_one_revision_comes_as_one_item_without_what_is_outside_the_range(store: Store) -> None:
    start = await store.commit([], [Put("/web/a", b""), Put("/other/a", b"")])
    async with store.watch(WEB, after=start) as changes:
        await put(store, "/other/b")
        revision = await store.commit(
            [],
            [Delete(Range.single("/web/a")), Put("/web/b", b"1"), Put("/web/c", b"2"), Put("/other/b", b"")],
        )
        item = await soon(changes)
    assert item.revision == revision
    assert {each.key: each.now and each.now.value for each in item.events} == {
        "/web/a": None,
        "/web/b": b"1",
        "/web/c": b"2",
    }


async def test_deleting_a_range_tells_every_key_of_it(store: Store) -> None:
    start = await store.commit([], [Put(f"/web/{name}", b"") for name in "abc"])
    async with store.watch(WEB, after=start) as changes:
        await store.commit([], [Delete(WEB)])
        item = await soon(changes)
    assert {(each.key, each.now) for each in item.events} == {(f"/web/{name}", None) for name in "abc"}


async def test_a_watch_from_a_past_revision_begins_with_the_next_one(store: Store) -> None:
    revisions = [await put(store, "/web/a", str(number).encode()) for number in range(5)]
    async with store.watch(WEB, after=revisions[1]) as changes:
        seen = [await soon(changes) for _ in range(3)]
    assert [each.revision for each in seen] == revisions[2:]
    assert [each.events[0].now and each.events[0].now.value for each in seen] == [b"2", b"3", b"4"]


async def test_what_is_committed_once_the_watch_is_entered_is_seen_whoever_commits(
    store: Store, other: Store
) -> None:
    for number in range(20):
        start = (await store.read()).revision
        async with store.watch(WEB, after=start) as changes:
            revision = await put(other, "/web/a", str(number).encode())
            assert (await soon(changes)).revision == revision


async def test_a_watch_is_gapless_and_in_order_under_concurrent_writers(store: Store, other: Store) -> None:
    start = (await store.read()).revision

    async def write(client: Store, name: str) -> list[int]:
        return [await put(client, f"/web/{name}", str(number).encode()) for number in range(50)]

    async with store.watch(WEB, after=start) as live, other.watch(WEB, after=start) as second:
        written = await asyncio.gather(
            *(
                write(client, name)
                for client, name in [(store, "a"), (other, "b"), (store, "c"), (other, "d")]
            )
        )
        expected = sorted(revision for each in written for revision in each)
        assert [(await soon(live)).revision for _ in expected] == expected
        assert [(await soon(second)).revision for _ in expected] == expected
    middle = expected[70]
    async with store.watch(WEB, after=middle) as late:
        assert [(await soon(late)).revision for _ in expected[71:]] == expected[71:]


async def test_large_commits_arrive_whole(store: Store) -> None:
    start = (await store.read()).revision
    revisions = [
        await store.commit([], [Put(f"/web/{number}", bytes([turn]) * 140_000) for number in range(10)])
        for turn in range(6)
    ]
    async with store.watch(WEB, after=start) as changes:
        for turn, revision in enumerate(revisions):
            item = await soon(changes)
            assert (item.revision, len(item.events)) == (revision, 10)
            assert all(each.now and each.now.value == bytes([turn]) * 140_000 for each in item.events)


async def test_a_consumer_that_takes_its_time_misses_nothing(store: Store, other: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        revisions = [await put(other, "/web/a", bytes(1000)) for _ in range(20)]
        assert (await soon(changes)).revision == revisions[0]
        revisions += [await put(other, "/web/a", bytes(1000)) for _ in range(1000)]
        assert [(await soon(changes)).revision for _ in revisions[1:]] == revisions[1:]


async def test_giving_up_waiting_loses_nothing(store: Store, other: Store) -> None:
    start = (await store.read()).revision
    seen: list[int] = []
    async with store.watch(WEB, after=start) as changes, asyncio.timeout(SOON):
        writing = asyncio.create_task(_write_slowly(other, count=20))
        while len(seen) < 20:
            try:
                async with asyncio.timeout(0.003):
                    seen.append((await anext(changes)).revision)
            except TimeoutError:
                continue
        assert seen == await writing


async def _write_slowly(store: Store, *, count: int) -> list[int]:
    revisions = []
    for _ in range(count):
        revisions.append(await put(store, "/web/a"))
        await asyncio.sleep(0.005)
    return revisions


async def test_a_quiet_watch_waits_until_something_happens(store: Store, other: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(changes)
        await put(other, "/other/a")
        revision = await put(other, "/web/a")
        assert (await soon(changes)).revision == revision


async def test_a_cancelled_watch_leaves_the_store_usable(store: Store) -> None:
    start = (await store.read()).revision
    entered = asyncio.Event()

    async def follow() -> None:
        async with store.watch(WEB, after=start) as changes:
            entered.set()
            await anext(changes)

    for _ in range(5):
        entered.clear()
        following = asyncio.create_task(follow())
        await entered.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    await put(store, "/web/a")
    async with store.watch(WEB, after=start) as changes:
        assert (await soon(changes)).events[0].key == "/web/a"


async def test_a_watch_above_the_stores_revision_is_told_to_list_again(store: Store) -> None:
    now = (await store.read()).revision
    with pytest.raises(Compacted, match=str(now)):
        async with store.watch(WEB, after=now + 100) as changes:
            await soon(changes)


async def test_closing_the_store_ends_its_watches(store: Store, other: Store) -> None:
    start = (await store.read()).revision
    async with other.watch(WEB, after=start) as changes:
        waiting = asyncio.create_task(soon(changes))
        await asyncio.sleep(0)
        await other.close()
        with pytest.raises(StoreUnreachable):
            await waiting


# --- leases ------------------------------------------------------------------------------------


async def test_a_lease_carries_the_keys_put_with_it(store: Store, other: Store) -> None:
    lease = await store.grant(30)
    assert lease != 0
    assert await store.grant(30) != lease
    await store.commit([], [Put("/web/a", b"", lease), Put("/web/b", b"", lease), Put("/web/c", b"")])
    assert await other.lease_keys(lease) == {"/web/a", "/web/b"}
    found = await other.get("/web/a")
    assert found is not None
    assert found.lease == lease
    await put(store, "/web/a")
    await store.commit([], [Delete(Range.single("/web/b"))])
    assert await other.lease_keys(lease) == frozenset()


async def test_a_watch_tells_the_lease_of_a_key(store: Store) -> None:
    lease = await store.grant(30)
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        await put(store, "/web/a", lease=lease)
        (event,) = (await soon(changes)).events
    assert event.now is not None
    assert event.now.lease == lease


async def test_when_a_lease_ends_all_its_keys_go_in_one_revision(store: Store, other: Store) -> None:
    lease = await store.grant(1)
    start = await store.commit([], [Put(f"/web/{name}", b"", lease) for name in "abc"] + [Put("/web/z", b"")])
    async with other.watch(WEB, after=start) as changes:
        item = await soon(changes)
    assert {(each.key, each.now) for each in item.events} == {(f"/web/{name}", None) for name in "abc"}
    reading = await store.read(WEB)
    assert [each.key for each in reading.ranges[0]] == ["/web/z"]
    assert reading.revision == item.revision == start + 1


async def test_a_later_watcher_sees_the_end_of_a_lease_in_one_revision(store: Store, other: Store) -> None:
    lease = await store.grant(1)
    start = await store.commit([], [Put(f"/web/{name}", b"", lease) for name in "abc"])
    async with asyncio.timeout(SOON):
        while (await other.read(WEB)).ranges[0]:  # noqa: ASYNC110 -- there is no event for a reader
            await asyncio.sleep(0.05)
    async with store.watch(WEB, after=start) as changes:
        item = await soon(changes)
    assert {(each.key, each.now) for each in item.events} == {(f"/web/{name}", None) for name in "abc"}


async def test_a_lease_kept_alive_outlives_its_first_end(store: Store, other: Store) -> None:
    lease = await store.grant(1)
    await put(store, "/web/a", lease=lease)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        left = await other.keep_alive(lease)
        assert 0 < left <= 1
        assert await store.get("/web/a") is not None
        await asyncio.sleep(0.2)


async def test_everything_asked_of_an_ended_lease_says_that_it_is_lost(store: Store, other: Store) -> None:
    lease = await store.grant(1)
    await put(store, "/web/a", lease=lease)
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        await soon(changes)
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)
    with pytest.raises(LeaseLost):
        await other.lease_keys(lease)
    with pytest.raises(LeaseLost):
        await other.commit([], [Put("/web/b", b"", lease), Put("/web/c", b"")])
    assert (await store.read(WEB)).ranges[0] == ()
    await store.revoke(lease)


async def test_revoking_deletes_the_keys_in_one_revision_and_may_be_repeated(
    store: Store, other: Store
) -> None:
    lease = await store.grant(30)
    start = await store.commit([], [Put("/web/a", b"", lease), Put("/web/b", b"", lease)])
    async with other.watch(WEB, after=start) as changes:
        await store.revoke(lease)
        item = await soon(changes)
    assert (item.revision, {each.key for each in item.events}) == (start + 1, {"/web/a", "/web/b"})
    await store.revoke(lease)
    await other.revoke(12345)
    assert (await store.read()).revision == start + 1


async def test_a_key_can_move_to_another_lease(store: Store) -> None:
    old, new = await store.grant(30), await store.grant(30)
    await put(store, "/web/a", lease=old)
    await put(store, "/web/a", lease=new)
    await store.revoke(old)
    assert await store.get("/web/a") is not None
    await store.revoke(new)
    assert await store.get("/web/a") is None


async def test_a_failed_comparison_is_a_conflict_even_with_a_dead_lease(store: Store) -> None:
    with pytest.raises(StoreConflict):
        await store.commit([Unchanged("/web/none", 1)], [Put("/web/a", b"", 12345)])


# --- the rest ----------------------------------------------------------------------------------


async def test_the_address_names_the_store(store: Store, url: str) -> None:
    assert store.address == url


async def test_a_store_may_be_closed_twice(other: Store) -> None:
    await other.get("/web/a")
    await other.close()
    await other.close()
