"""What only a file shared by processes can do wrong: die half-written, lag behind, be something else."""

from __future__ import annotations

import asyncio
import filecmp
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import pytest

from orbitcontrol.errors import Compacted, LeaseLost, StoreAmbiguous, StoreRefused, StoreUnreachable
from orbitcontrol.model.stored import Absent, Changes, Delete, Put, Range
from orbitcontrol.store import sqlite_database
from orbitcontrol.store.sqlite import SqliteStore
from orbitcontrol.store.sqlite_database import SqliteDatabase
from support import scarcity

pytestmark = pytest.mark.integration

WEB = Range.prefix("/web/")

PRELUDE = """
import asyncio, sys, time
from orbitcontrol.errors import StoreConflict
from orbitcontrol.model.stored import Put, Unchanged
from orbitcontrol.store.sqlite import SqliteStore
path = sys.argv[1]
"""

WRITER = f"""{PRELUDE}
async def main():
    store = SqliteStore(path, call_timeout=30)
    number = 0
    while True:
        number += 1
        key = f"/web/{{sys.argv[2]}}/{{number:06}}"
        revision = await store.commit([], [Put(key, b"x" * 500), Put("/web/last", key.encode())])
        print(key, revision, flush=True)
asyncio.run(main())
"""

COUNTER = f"""{PRELUDE}
async def main():
    store = SqliteStore(path, call_timeout=30)
    for _ in range(50):
        while True:
            now = await store.get("/web/count")
            value = str(int(now.value) + 1).encode()
            try:
                await store.commit([Unchanged("/web/count", now.mod_revision)], [Put("/web/count", value)])
                break
            except StoreConflict:
                pass
    await store.close()
asyncio.run(main())
"""

CLOCK = f"""{PRELUDE}
async def main():
    store = SqliteStore(path)
    for line in sys.stdin:
        await store.commit([], [Put("/web/sent", str(time.monotonic_ns()).encode())])
    await store.close()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


@pytest.fixture
async def store(path: str) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    await store.close()


@contextmanager
def program(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that shares the file."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def soon(changes: AsyncIterator[Changes]) -> Changes:
    async with asyncio.timeout(10):
        return await anext(changes)


# --- several processes ---------------------------------------------------------------------------


async def test_processes_that_count_together_lose_nothing(store: SqliteStore, path: str) -> None:
    start = await store.commit([], [Put("/web/count", b"0")])
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", COUNTER, path) for _ in range(4)]
    async with store.watch(WEB, after=start) as changes:
        async with asyncio.timeout(60):
            items = [await anext(changes) for _ in range(200)]
    assert [each.revision for each in items] == list(range(start + 1, start + 201))
    assert [int(each.events[0].now.value) for each in items if each.events[0].now] == list(range(1, 201))
    assert [await process.wait() for process in processes] == [0] * 4


@pytest.mark.parametrize("turn", range(5))
async def test_a_killed_process_loses_nothing_that_was_acknowledged(
    store: SqliteStore, path: str, turn: int
) -> None:
    with program(WRITER, path, "a") as first, program(WRITER, path, "b") as second:
        assert first.stdout is not None
        assert second.stdout is not None
        lines = [first.stdout.readline(), second.stdout.readline()]
        await asyncio.sleep(0.1 + turn * 0.037)
        first.send_signal(signal.SIGKILL)
        second.send_signal(signal.SIGKILL)
        lines += first.stdout.readlines() + second.stdout.readlines()
    # A line may have been cut off with its process.
    spoken = [line.split() for line in lines if line.endswith("\n")]
    acknowledged = {key: int(revision) for key, revision in spoken}
    (found,) = (await store.read(WEB)).ranges
    kept = {each.key: each.mod_revision for each in found}
    last = kept.pop("/web/last")
    assert acknowledged.items() <= kept.items()
    # Each of the two may have died between its commit and its word of it, no more.
    assert len(kept) <= len(acknowledged) + 2
    assert last == max(kept.values())
    assert await store.commit([], [Put("/web/after", b"")]) == last + 1


async def test_a_watch_sees_another_process_within_a_tenth_of_a_second(
    store: SqliteStore, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (await store.read()).revision
    latencies = []
    with program(CLOCK, path) as process:
        assert process.stdin is not None
        async with store.watch(WEB, after=start) as changes:
            for _ in range(40):
                await asyncio.sleep(random.uniform(0, 0.05))  # not in step with the watcher's own clock
                process.stdin.write("now\n")
                process.stdin.flush()
                (event,) = (await soon(changes)).events
                assert event.now is not None
                latencies.append((time.monotonic_ns() - int(event.now.value)) / 1e6)
        process.stdin.close()
        process.wait(10)
    with capsys.disabled():
        print(  # noqa: T201 -- a figure to look at
            f"\nwatch across processes: median {statistics.median(latencies):.0f} ms, "
            f"worst of {len(latencies)} {max(latencies):.0f} ms"
        )
    assert statistics.median(latencies) < 100


async def test_a_busy_file_is_waited_for_and_then_named(path: str) -> None:
    store = SqliteStore(path, call_timeout=0.5)
    await store.commit([], [Put("/web/a", b"")])
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert await store.get("/web/a") is not None
        began = time.monotonic()
        with pytest.raises(StoreUnreachable, match=re.escape(path)):
            await store.commit([], [Put("/web/a", b"")])
        assert time.monotonic() - began < 3
        holder.execute("ROLLBACK")
    await store.commit([], [Put("/web/a", b"")])
    await store.close()


async def test_many_processes_may_create_the_file_at_once(path: str) -> None:
    stores = [SqliteStore(path, call_timeout=30) for _ in range(8)]
    revisions = await asyncio.gather(*(each.commit([], [Put("/web/a", b"")]) for each in stores))
    assert sorted(revisions) == list(range(2, 10))
    await asyncio.gather(*(each.close() for each in stores))


# --- the change log ------------------------------------------------------------------------------


async def test_the_change_log_is_bounded_and_a_watcher_behind_it_is_told(
    store: SqliteStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database, "KEPT_REVISIONS", 50)
    start = await store.commit([], [Put("/web/a", b"")])
    last = start
    for _ in range(200):
        last = await store.commit([], [Put("/web/a", b"")])
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM change").fetchone() == (50,)
    for after in (start, last - 51):
        with pytest.raises(Compacted, match=str(last - 50)):
            async with store.watch(WEB, after=after) as changes:
                await soon(changes)
    async with store.watch(WEB, after=last - 50) as changes:
        assert [(await soon(changes)).revision for _ in range(50)] == list(range(last - 49, last + 1))


async def test_the_change_log_is_bounded_in_bytes_too(
    store: SqliteStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database, "KEPT_BYTES", 100_000)
    start = (await store.read()).revision
    revisions = [await store.commit([], [Put("/web/a", bytes(9_994))]) for _ in range(30)]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*), sum(length(value)) FROM change").fetchone() == (10, 99_940)
    with pytest.raises(Compacted):
        async with store.watch(WEB, after=start) as changes:
            await soon(changes)
    async with store.watch(WEB, after=revisions[-11]) as changes:
        assert [(await soon(changes)).revision for _ in range(10)] == revisions[-10:]
        huge = await store.commit([], [Put("/web/a", bytes(1_000_000))])
        assert (await soon(changes)).revision == huge
    small = await store.commit([], [Delete(WEB)])
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT revision FROM change").fetchall() == [(small,)]
        assert file.execute("SELECT logged FROM state").fetchone() == (len("/web/a"),)


async def test_a_file_of_the_first_format_is_brought_up_to_date(path: str) -> None:
    store = SqliteStore(path)
    revision = await store.commit([], [Put("/web/a", b"1234")])
    await store.close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("ALTER TABLE state DROP COLUMN logged")
        file.execute("PRAGMA user_version = 1")
        file.commit()
    store = SqliteStore(path)
    assert (await store.read()).revision == revision
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT logged FROM state").fetchone() == (len("/web/a1234"),)
    await store.close()


async def test_a_watch_of_a_quiet_range_does_not_fall_behind(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database, "KEPT_REVISIONS", 50)
    start = (await store.read()).revision
    async with store.watch(Range.prefix("/quiet/"), after=start) as changes:
        waiting = asyncio.create_task(soon(changes))
        for _ in range(200):
            await store.commit([], [Put("/web/a", b"")])
        revision = await store.commit([], [Put("/quiet/a", b"")])
        assert (await waiting).revision == revision


# --- leases --------------------------------------------------------------------------------------


async def test_the_leases_of_another_boot_are_over(store: SqliteStore, path: str) -> None:
    before = SqliteDatabase(path, address="", boot="another boot")
    soon_enough = time.monotonic() + 10
    lease = before.grant(3600, deadline=soon_enough)
    start = before.commit([], [Put("/web/a", b"", lease), Put("/web/b", b"", lease)], deadline=soon_enough)
    before.close()
    async with store.watch(WEB, after=start) as changes:
        item = await soon(changes)
    assert (item.revision, [each.key for each in item.events]) == (start + 1, ["/web/a", "/web/b"])
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)


async def test_each_ended_lease_is_a_revision_of_its_own(store: SqliteStore) -> None:
    short, shorter = await store.grant(0.3), await store.grant(0.2)
    start = await store.commit([], [Put("/web/a", b"", short), Put("/web/b", b"", shorter)])
    async with store.watch(WEB, after=start) as changes:
        items = [await soon(changes), await soon(changes)]
    assert [(each.revision - start, each.events[0].key) for each in items] == [(1, "/web/b"), (2, "/web/a")]


async def test_a_lease_ends_on_time_for_a_reader_and_a_waiting_watcher(store: SqliteStore) -> None:
    lease = await store.grant(0.5)
    began = time.monotonic()
    start = await store.commit([], [Put("/web/a", b"", lease)])
    async with store.watch(WEB, after=start) as changes:
        await soon(changes)
        assert time.monotonic() - began >= 0.5
    assert await store.get("/web/a") is None


# --- what may stand at the path ------------------------------------------------------------------


async def test_file_and_directory_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "store.db"
    store = SqliteStore(str(path))
    await store.commit([], [Put("/web/a", b"")])
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in [path.parent, *path.parent.iterdir()]}
    assert modes == {"state": 0o700, "store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    await store.close()
    assert [each.name for each in path.parent.iterdir()] == ["store.db"]


async def _refusal(path: Path) -> str:
    """The words with which reading and writing the path are refused."""
    store = SqliteStore(str(path))
    for attempt in (store.read(WEB), store.commit([], [Put("/web/a", b"")]), store.grant(5)):
        with pytest.raises(StoreRefused) as refused:
            await attempt
    await store.close()
    assert str(path) in str(refused.value)
    return str(refused.value)


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing to do with it\n" * 100)
    assert "not a database" in await _refusal(path)
    assert path.read_text() == "nothing to do with it\n" * 100


async def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    assert "another program's database" in await _refusal(path)
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(str(path))
    await store.get("/web/a")
    await store.close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    assert "newer version" in await _refusal(path)


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "directory" in await _refusal(tmp_path)


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot create" in await _refusal(tmp_path / "file" / "store.db")


@pytest.fixture
def read_only(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that every user can reach (pytest's own cannot be) and nobody may write."""
    path = Path(tempfile.mkdtemp())
    for name in getattr(request, "param", []):
        with closing(sqlite3.connect(path / name)) as file:
            file.execute("PRAGMA journal_mode = WAL")
        (path / name).chmod(0o444)
    path.chmod(0o555)
    yield path
    shutil.rmtree(path)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions count for nothing while a test runs as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_directory_that_cannot_be_written_is_refused(read_only: Path) -> None:
    with ordinary_user():
        assert "Permission denied" in await _refusal(read_only / "store.db")
        assert "Permission denied" in await _refusal(read_only / "state" / "store.db")


@pytest.mark.parametrize("read_only", [["store.db"]], indirect=True)
async def test_a_file_that_cannot_be_written_is_refused(read_only: Path) -> None:
    with ordinary_user():
        assert "writable" in await _refusal(read_only / "store.db")


async def test_a_full_disk_is_refused_and_loses_nothing(store: SqliteStore) -> None:
    await store.commit([], [Put("/web/a", b"1")])
    connection = store._database._file._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(StoreRefused, match=r"full.*make room"):
        await store.commit([], [Put("/web/a", b"2"), Put("/web/b", bytes(1_000_000))])
    found = await store.get("/web/a")
    assert found is not None
    assert found.value == b"1"
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.commit([], [Put("/web/b", bytes(1_000_000))])


# --- what may happen to the file -----------------------------------------------------------------


def remove(path: str) -> None:
    """Removes the store's files."""
    for each in Path(path).parent.iterdir():
        each.unlink()


def sizes(path: str) -> dict[str, int]:
    """The store's files and how large they are."""
    return {each.name: each.stat().st_size for each in Path(path).parent.iterdir()}


async def test_a_file_that_is_removed_is_missed_and_not_made_again_by_who_used_it(
    store: SqliteStore, path: str
) -> None:
    for _ in range(5):
        start = await store.commit([], [Put("/web/a", b"")])
    async with store.watch(WEB, after=start) as changes:
        waiting = asyncio.create_task(soon(changes))
        await asyncio.sleep(0.1)
        remove(path)
        with pytest.raises(StoreUnreachable, match=r"removed.*put it back"):
            await waiting
    for attempt in (store.get("/web/a"), store.commit([], [Put("/web/a", b"")]), store.grant(5)):
        with pytest.raises(StoreUnreachable, match="removed"):
            await attempt
    assert sizes(path) == {}


async def test_a_new_file_in_the_place_of_a_removed_one_is_used_by_all(store: SqliteStore, path: str) -> None:
    for _ in range(5):
        await store.commit([], [Put("/web/a", b"")])
    remove(path)
    newcomer = SqliteStore(path)
    revision = await newcomer.commit([], [Put("/web/b", b"")])
    reading = await store.read(WEB)
    assert (reading.revision, [each.key for each in reading.ranges[0]]) == (revision, ["/web/b"])
    await newcomer.close()


async def test_a_watch_is_told_of_another_file_even_if_that_one_is_further_on(
    store: SqliteStore, path: str, tmp_path: Path
) -> None:
    start = await store.commit([], [Put("/web/a", b"1")])
    another = SqliteStore(str(tmp_path / "another.db"))
    while await another.commit([], [Put("/web/b", b"2")]) < start + 20:
        pass
    await another.close()
    async with store.watch(WEB, after=start) as changes:
        waiting = asyncio.create_task(soon(changes))
        await asyncio.sleep(0.1)
        for name in (f"{path}-wal", f"{path}-shm"):
            os.unlink(name)  # noqa: PTH108 -- nothing to wait for
        os.replace(tmp_path / "another.db", path)  # noqa: PTH105 -- nothing to wait for
        with pytest.raises(Compacted, match="replaced by another"):
            await waiting
    assert [entry.key for entry in (await store.read(WEB)).ranges[0]] == ["/web/b"]


async def test_a_backup_beside_the_log_of_the_old_file_is_refused_until_that_is_removed(
    store: SqliteStore, path: str, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    another = SqliteStore(str(backup))
    revision = await another.commit([], [Put("/web/b", b"2")])
    await another.close()
    before = shutil.copy(backup, tmp_path / "untouched")
    await store.commit([], [Put("/web/a", b"1")])
    shutil.move(backup, path)
    for attempt in (store.read(WEB), store.commit([], [Put("/web/a", b"")])):
        with pytest.raises(StoreRefused, match=f"remove {path}-wal"):
            await attempt
    assert filecmp.cmp(before, path, shallow=False)
    for name in (f"{path}-wal", f"{path}-shm"):
        os.unlink(name)  # noqa: PTH108 -- nothing to wait for
    reading = await store.read(WEB)
    assert (reading.revision, [entry.key for entry in reading.ranges[0]]) == (revision, ["/web/b"])


async def test_an_empty_file_in_the_place_of_the_store_is_left_to_who_put_it_there(
    store: SqliteStore, path: str
) -> None:
    await store.commit([], [Put("/web/a", b"")])
    remove(path)
    shutil.copy("/dev/null", path)
    with pytest.raises(StoreUnreachable, match="empty"):
        await store.commit([], [Put("/web/a", b"")])
    assert sizes(path) == {"store.db": 0}


async def test_a_commit_into_a_file_that_is_removed_in_it_is_not_called_done(path: str) -> None:
    database = SqliteDatabase(path, address=path)
    deadline = time.monotonic() + 30
    database.commit([], [Put("/web/a", b"1")], deadline=deadline)
    check = database._check

    def remove_the_file(*arguments: object) -> None:
        Path(path).unlink()
        check(*arguments)  # type: ignore[arg-type]

    absent = Absent(Range.single("/web/b"))
    with (
        mock.patch.object(database, "_check", remove_the_file),
        pytest.raises(StoreAmbiguous, match="may be lost"),
    ):
        database.commit([absent], [Put("/web/b", b"")], deadline=deadline)
    database.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte; only root can mount one."""
    path = Path(tempfile.mkdtemp())
    with scarcity.small_disk(path):
        yield path
    path.rmdir()


def remount(path: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True)


async def test_a_disk_that_is_full_refuses_writes_alone_until_there_is_room(small_disk: Path) -> None:
    store = SqliteStore(str(small_disk / "store.db"))
    lease = await store.grant(60)
    revision = await store.commit([], [Put("/web/a", b"1", lease)])
    async with store.watch(WEB, after=revision) as changes:
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2_000_000))
        with pytest.raises(StoreRefused, match=r"full.*make room"):
            await store.commit([], [Put("/web/a", bytes(100_000))])
        found = await store.get("/web/a")
        assert found is not None
        assert (found.value, found.mod_revision) == (b"1", revision)
        filler.unlink()
        assert await store.keep_alive(lease) > 0
        assert await store.commit([], [Put("/web/a", b"2")]) == revision + 1
        assert (await soon(changes)).revision == revision + 1
    await store.close()


async def test_on_a_full_disk_reads_and_watches_outlast_a_lease_that_cannot_be_ended(
    small_disk: Path,
) -> None:
    store = SqliteStore(str(small_disk / "store.db"))
    lease = await store.grant(0.5)
    revision = await store.commit([], [Put("/web/a", b"1", lease)])
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2_000_000))
    async with store.watch(WEB, after=revision) as changes:
        gone = asyncio.create_task(soon(changes))
        await asyncio.sleep(1)
        assert [entry.key for entry in (await store.read(WEB)).ranges[0]] == ["/web/a"]
        with pytest.raises(StoreRefused, match="make room"):
            await store.commit([], [Put("/web/b", bytes(100_000))])
        assert not gone.done()
        filler.unlink()
        assert [event.now for event in (await gone).events] == [None]
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)
    await store.close()


async def test_a_read_only_file_system_is_refused_and_used_again_when_it_is_not(small_disk: Path) -> None:
    path = str(small_disk / "store.db")
    store = SqliteStore(path)
    revision = await store.commit([], [Put("/web/a", b"1")])
    await store.close()
    remount(small_disk, "ro")
    store = SqliteStore(path)
    with pytest.raises(StoreRefused, match="writable"):
        await store.commit([], [Put("/web/a", b"2")])
    remount(small_disk, "rw")
    assert await store.commit([], [Put("/web/a", b"2")]) == revision + 1
    await store.close()
