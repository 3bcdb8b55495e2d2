"""What only a real etcd can do wrong: be away, hang, come back, forget its past."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.errors import (
    Compacted,
    StoreAmbiguous,
    StoreRefused,
    StoreTooLarge,
    StoreUnreachable,
    UsageError,
)
from orbitcontrol.model.stored import Delete, Limits, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store import etcd_watch
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer, free_ports

pytestmark = pytest.mark.integration

WEB = Range.prefix("/web/")


@pytest.fixture
async def store(own_etcd: EtcdServer) -> AsyncIterator[Store]:
    store = open_store(f"etcd://{own_etcd.endpoint}")
    yield store
    await store.close()


async def settles_at(expected: int, server: EtcdServer) -> None:
    async with asyncio.timeout(10):
        while server.watchers() != expected:  # noqa: ASYNC110 -- another process has no event for us
            await asyncio.sleep(0.02)


# --- unreachable -------------------------------------------------------------------------------


async def test_an_address_where_nobody_listens_fails_in_time_and_is_named() -> None:
    port, other_port = free_ports(2)
    store = open_store(f"etcd://127.0.0.1:{port},127.0.0.1:{other_port}")
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=f"127.0.0.1:{port},127.0.0.1:{other_port}.*refused"):
        await store.get("/web/a")
    assert time.monotonic() - began < 5
    await store.close()


async def test_a_name_that_nobody_knows_fails_in_time_and_is_named() -> None:
    store = open_store("etcd://no-such-host.invalid:2379")
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=r"no-such-host\.invalid:2379"):
        await store.get("/web/a")
    assert time.monotonic() - began < 5
    await store.close()


async def test_an_address_that_accepts_and_says_nothing_fails_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        store = open_store(f"etcd://{endpoint}")

        async def watch() -> None:
            async with store.watch(WEB, after=1):
                pass

        began = time.monotonic()
        outcomes = await asyncio.gather(
            store.get("/web/a"),
            store.commit([], [Put("/web/a", b"")]),
            store.grant(5),
            store.keep_alive(1),
            watch(),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 5
        assert all(isinstance(each, StoreUnreachable) and endpoint in str(each) for each in outcomes)
        await store.close()


async def test_one_dead_address_among_several_is_no_obstacle(etcd_server: EtcdServer) -> None:
    (port,) = free_ports(1)
    store = open_store(f"etcd://127.0.0.1:{port},{etcd_server.endpoint}")
    for _ in range(10):
        await store.get("/web/a")
    await store.close()


async def test_a_cluster_can_be_given_by_name(etcd_server: EtcdServer) -> None:
    port = etcd_server.endpoint.rpartition(":")[2]
    for url in (f"etcd://localhost:{port}", f"http://localhost:{port},http://127.0.0.1:{port}"):
        store = open_store(url)
        assert (await store.read()).revision >= 1
        await store.close()


async def test_a_missing_certificate_file_is_named(tmp_path: object) -> None:
    store = open_store("etcd://127.0.0.1:2379", ca=f"{tmp_path}/ca.pem")
    with pytest.raises(UsageError, match=r"ca\.pem"):
        await store.get("/web/a")
    await store.close()


# --- a server that ends, hangs and comes back ----------------------------------------------------


async def test_after_a_restart_of_the_server_calls_work_again(own_etcd: EtcdServer, store: Store) -> None:
    revision = await store.commit([], [Put("/web/a", b"1")])
    own_etcd.kill()
    with pytest.raises(StoreUnreachable, match=own_etcd.endpoint):
        await store.get("/web/a")
    with pytest.raises(StoreUnreachable, match="cannot connect"):
        await store.commit([], [Put("/web/a", b"2")])
    own_etcd.start()
    found = await store.get("/web/a")
    assert found is not None
    assert (found.value, found.mod_revision) == (b"1", revision)


async def test_a_read_rides_out_a_short_restart(own_etcd: EtcdServer, store: Store) -> None:
    await store.commit([], [Put("/web/a", b"1")])
    own_etcd.stop()
    reading = asyncio.create_task(store.get("/web/a"))
    await asyncio.to_thread(own_etcd.start)
    found = await reading
    assert found is not None
    assert found.value == b"1"


async def test_a_watch_tells_promptly_that_its_server_ended(own_etcd: EtcdServer, store: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        own_etcd.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match=own_etcd.endpoint):
            await waiting
        assert time.monotonic() - began < 2
        with pytest.raises(StoreUnreachable):
            await anext(changes)
    own_etcd.start()
    revision = await store.commit([], [Put("/web/a", b"")])
    async with store.watch(WEB, after=start) as changes, asyncio.timeout(5):
        assert (await anext(changes)).revision == revision


async def test_a_commit_without_an_answer_is_called_ambiguous(own_etcd: EtcdServer, store: Store) -> None:
    await store.get("/web/a")
    own_etcd.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StoreAmbiguous, match=own_etcd.endpoint):
            await store.commit([], [Put("/web/a", b"1")])
        with pytest.raises(StoreUnreachable, match=own_etcd.endpoint):
            await store.get("/web/a")
        assert time.monotonic() - began < 9
    finally:
        own_etcd.thaw()
    async with asyncio.timeout(20):
        while True:
            try:
                await store.get("/web/a")
            except StoreUnreachable:
                continue
            break


async def test_a_watch_notices_a_server_that_hangs(own_etcd: EtcdServer, store: Store) -> None:
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        own_etcd.freeze()
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match=own_etcd.endpoint):
            await waiting
        assert time.monotonic() - began < 15
        own_etcd.thaw()


async def test_a_quiet_watch_stays_alive_through_many_probes(
    own_etcd: EtcdServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "_STAGES", (0.02, 10.0, 10.0))
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(changes)
            revision = await store.commit([], [Put("/web/a", b"")])
            async with asyncio.timeout(10):
                assert (await anext(changes)).revision == revision
        await settles_at(1, own_etcd)


async def test_probes_find_a_server_that_answers_pings_but_not_watches(
    own_etcd: EtcdServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "_STAGES", (0.05, 0.2, 0.1))
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        own_etcd.freeze()  # much shorter than the pings need
        try:
            with pytest.raises(StoreUnreachable, match="no sign of life"):
                await anext(changes)
        finally:
            own_etcd.thaw()


async def test_a_consumer_busy_for_longer_than_the_probes_wait_is_not_cut_off(
    own_etcd: EtcdServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "_STAGES", (0.05, 0.3, 0.3))
    start = (await store.read()).revision
    async with store.watch(WEB, after=start) as changes:
        revisions = [await store.commit([], [Put("/web/a", b"")])]
        assert (await anext(changes)).revision == revisions[0]
        for _ in range(3):
            time.sleep(1)  # noqa: ASYNC251 -- the consumer itself is what keeps the loop busy
            revisions.append(await store.commit([], [Put("/web/a", b"")]))
            assert (await anext(changes)).revision == revisions[-1]


# --- what stays on the server --------------------------------------------------------------------


async def test_no_watch_is_left_on_the_server(own_etcd: EtcdServer, store: Store) -> None:
    start = (await store.read()).revision
    before = own_etcd.watchers()
    for _ in range(200):
        async with store.watch(WEB, after=start):
            pass
    async with store.watch(WEB, after=start):
        await settles_at(before + 1, own_etcd)
    await settles_at(before, own_etcd)


# --- a past that is gone -------------------------------------------------------------------------


async def test_a_watch_from_before_a_compaction_is_told_so(own_etcd: EtcdServer, store: Store) -> None:
    revisions = [await store.commit([], [Put("/web/a", b"")]) for _ in range(5)]
    own_etcd.etcdctl("compact", str(revisions[3]))
    with pytest.raises(Compacted, match=str(revisions[3])):
        async with store.watch(WEB, after=revisions[0]) as changes:
            await anext(changes)
    async with store.watch(WEB, after=revisions[3]) as changes:
        assert (await anext(changes)).revision == revisions[4]


async def test_a_store_that_was_restored_is_told_by_the_watch(
    own_etcd: EtcdServer, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for _ in range(5):
        seen = await store.commit([], [Put("/web/a", b"")])
    own_etcd.stop()
    (own_etcd.directory / "data").rename(tmp_path_factory.mktemp("lost") / "data")
    own_etcd.start()
    with pytest.raises(Compacted, match=f"seen at {seen}"):
        async with store.watch(WEB, after=seen) as changes:
            await anext(changes)
    await store.get("/web/a")


# --- refusals ------------------------------------------------------------------------------------


async def test_a_full_store_refuses_and_says_what_to_do(own_etcd: EtcdServer, store: Store) -> None:
    own_etcd.stop()
    own_etcd.arguments = ("--quota-backend-bytes", str(16 * 1024 * 1024))
    own_etcd.start()

    async def fill() -> None:
        for number in range(40):
            await store.commit([], [Put(f"/web/{number}", bytes(1_000_000))])

    with pytest.raises(StoreRefused, match="alarm disarm"):
        await fill()
    await store.read(WEB)
    await store.commit([], [Delete(WEB)])


async def test_a_server_with_smaller_limits_says_too_large(
    own_etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_etcd.stop()
    own_etcd.arguments = ("--max-txn-ops", "10", "--max-request-bytes", "100000")
    own_etcd.start()
    store = open_store(f"etcd://{own_etcd.endpoint}")
    with pytest.raises(StoreTooLarge):
        await store.commit([], [Put(f"/web/{number}", b"") for number in range(11)])
    for size in (200_000, 1_400_000):
        with pytest.raises(StoreTooLarge):
            await store.commit([], [Put("/web/a", bytes(size))])
    assert store.limits == Limits(operations=128, bytes=1_500_000)
    assert (await store.read(WEB)).ranges == ((),)
    await store.close()
