"""Imports that are larger than one transaction: killed anywhere, helped by others, they stay whole."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import (
    StoreAmbiguous,
    StoreConflict,
    StoreTooLarge,
    StoreUnreachable,
    UndecodableValue,
)
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ops.exporting import export
from orbitcontrol.ops.importing import apply, plan
from orbitcontrol.ops.stored_configuration import read_configuration
from orbitcontrol.ops.verifying import verify
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from orbitcontrol.tree.load import load
from support.etcd import EtcdServer
from support.imports import Entries, SmallStore, Witness, import_entries, import_until_killed, stamp
from support.trees import write_tree

pytestmark = pytest.mark.integration

KEYS = Keys("/orbit-large-import-test")
EVERYTHING = Range.prefix(KEYS.base + "/")


def services(numbers: range, *, instances: int = 1) -> Entries:
    padding = {"padding": "x" * 150}  # so that a log has several parts
    return {
        f"services/s{n}": json.dumps(
            {"Attributes": padding, "Instances": instances, "Name": f"s{n}"}
        ).encode()
        for n in numbers
    }


OLD = services(range(8))
NEW = {**services(range(3, 8)), **services(range(6, 12), instances=2)}
OTHER = services(range(20, 31), instances=3)


@pytest.fixture
async def filled(store: Store) -> Store:
    """A store that has ``OLD``."""
    await import_entries(store, KEYS, OLD, "old")
    return store


async def stored_keys(store: Store) -> set[str]:
    reading = await store.read(EVERYTHING)
    return {item.key.removeprefix(KEYS.base + "/config/") for item in reading.ranges[0]}


async def meta_of(store: Store) -> ConfigMeta:
    found = await store.get(KEYS.meta)
    assert found is not None
    return decode(found.value, ConfigMeta, key=KEYS.meta)


async def until_applying(store: Store) -> None:
    """Waits for the commit point of an import that is being carried out."""
    async with asyncio.timeout(20):
        while (await meta_of(store)).generation == 1:  # noqa: ASYNC110 -- a store is asked, not this process
            await asyncio.sleep(0)


async def assert_exactly(store: Store, entries: Entries, *, generation: int) -> None:
    """The store has these entries, complete, and nothing is left of any log."""
    assert await stored_keys(store) == {*entries, "meta"}
    assert await verify(store, KEYS, entries) == ()
    meta = await meta_of(store)
    assert (meta.state, meta.generation) == ("complete", generation)


async def commits_of_an_import(store: Store) -> int:
    """How many commits the import of ``NEW`` onto ``OLD`` takes."""
    counting = SmallStore(store)
    await import_entries(counting, KEYS, NEW, "count")
    return counting.commits


class TestWhole:
    async def test_a_large_import_is_put_in_place_and_leaves_no_log(self, filled: Store) -> None:
        small = SmallStore(filled)
        result = await import_entries(small, KEYS, NEW, "new", user="bob")
        assert result.written
        assert small.commits > 5
        await assert_exactly(filled, NEW, generation=2)
        meta = await meta_of(filled)
        assert meta == result.meta
        assert (meta.import_id, meta.imported_by) == ("new", "bob")

    async def test_the_first_import_may_be_large(self, store: Store) -> None:
        await import_entries(SmallStore(store), KEYS, NEW, "new")
        await assert_exactly(store, NEW, generation=1)

    async def test_importing_it_again_writes_nothing(self, filled: Store) -> None:
        small = SmallStore(filled)
        await import_entries(small, KEYS, NEW, "new")
        before = (await filled.read(EVERYTHING)).revision
        result = await import_entries(small, KEYS, NEW, "again")
        assert not result.written
        assert (await filled.read(EVERYTHING)).revision == before

    async def test_readers_see_the_old_configuration_and_then_the_new_one(self, filled: Store) -> None:
        witness = await Witness.arrive(filled, KEYS)
        await import_entries(SmallStore(filled), KEYS, NEW, "new")
        assert await witness.testimony() == [OLD, NEW]

    async def test_keys_that_no_text_can_name_are_removed(self, filled: Store) -> None:
        strange = f"{KEYS.config.start}services/\udcff x%20ü"
        await filled.commit([], [Put(strange, b"{}")])
        await import_entries(SmallStore(filled), KEYS, NEW, "new")
        await assert_exactly(filled, NEW, generation=2)

    async def test_an_entry_that_no_transaction_takes_is_named_before_anything_is_written(
        self, filled: Store
    ) -> None:
        before = await filled.read(EVERYTHING)
        huge = {**NEW, "services/huge": b'{"Name":"huge","Revision":"' + b"x" * 900 + b'"}'}
        with pytest.raises(StoreTooLarge, match=r"services/huge: is larger .* nothing was written"):
            await import_entries(SmallStore(filled), KEYS, huge, "new")
        assert (await filled.read(EVERYTHING)) == before

    async def test_a_thousand_services_fit_into_any_store(self, store: Store) -> None:
        many = services(range(1000))
        witness = await Witness.arrive(store, KEYS)
        await import_entries(store, KEYS, many, "new")
        await assert_exactly(store, many, generation=1)
        assert await witness.testimony() == [many]


class TestKilled:
    async def test_wherever_an_importer_was_killed_the_next_import_makes_it_whole(self, store: Store) -> None:
        await import_entries(store, KEYS, OLD, "old")
        for lifetime in range(await commits_of_an_import(store)):
            await store.commit([], [Delete(EVERYTHING)])
            await import_entries(store, KEYS, OLD, "old")
            witness = await Witness.arrive(store, KEYS)
            assert not await import_until_killed(SmallStore(store, lifetime=lifetime), KEYS, NEW, "dead")
            decided = (await meta_of(store)).state == "applying"
            assert (await read_configuration(store, KEYS)).entries == (NEW if decided else OLD), lifetime
            await import_entries(SmallStore(store), KEYS, NEW, "next")
            await assert_exactly(store, NEW, generation=2)
            assert await witness.testimony() == [OLD, NEW], lifetime

    async def test_the_next_import_may_be_of_another_tree(self, store: Store) -> None:
        await import_entries(store, KEYS, OLD, "old")
        for lifetime in range(await commits_of_an_import(store)):
            await store.commit([], [Delete(EVERYTHING)])
            await import_entries(store, KEYS, OLD, "old")
            witness = await Witness.arrive(store, KEYS)
            await import_until_killed(SmallStore(store, lifetime=lifetime), KEYS, NEW, "dead")
            decided = (await meta_of(store)).state == "applying"
            await import_entries(SmallStore(store), KEYS, OTHER, "next")
            await assert_exactly(store, OTHER, generation=3 if decided else 2)
            assert await witness.testimony() == ([OLD, NEW, OTHER] if decided else [OLD, OTHER]), lifetime

    async def test_the_next_import_may_be_killed_too(self, filled: Store) -> None:
        """One importer after the other dies, each two commits further; somebody gets through."""
        witness = await Witness.arrive(filled, KEYS)
        for lifetime in range(0, 200, 2):
            if await import_until_killed(SmallStore(filled, lifetime=lifetime), KEYS, NEW, f"id-{lifetime}"):
                break
        await assert_exactly(filled, NEW, generation=2)
        assert await witness.testimony() == [OLD, NEW]

    async def test_an_import_with_nothing_to_change_finishes_or_drops_as_well(self, store: Store) -> None:
        await import_entries(store, KEYS, OLD, "old")
        for lifetime in range(1, await commits_of_an_import(store)):
            await store.commit([], [Delete(EVERYTHING)])
            await import_entries(store, KEYS, OLD, "old")
            await import_until_killed(SmallStore(store, lifetime=lifetime), KEYS, NEW, "dead")
            decided = (await meta_of(store)).state == "applying"
            planned = await plan(store, KEYS, NEW if decided else OLD)
            assert planned.tidies
            result = await apply(SmallStore(store), KEYS, planned, stamp("next"))
            assert not result.written
            await assert_exactly(store, *((NEW,) if decided else (OLD,)), generation=2 if decided else 1)

    async def test_a_small_import_drops_what_a_dead_large_one_left(self, filled: Store) -> None:
        await import_until_killed(SmallStore(filled, lifetime=3), KEYS, NEW, "dead")
        assert any(key.startswith("import/dead/") for key in await stored_keys(filled))
        fewer = dict(list(OLD.items())[1:])
        await import_entries(filled, KEYS, fewer, "next")
        await assert_exactly(filled, fewer, generation=2)


@pytest.fixture
async def half_applied(filled: Store) -> Store:
    """An import of ``NEW`` onto ``OLD`` was decided and died in the middle of copying."""
    commits = 0
    while (await meta_of(filled)).state == "complete":
        commits += 1
        await import_until_killed(SmallStore(filled, lifetime=commits), KEYS, NEW, f"id-{commits}")
    await filled.commit([], [Put(f"{KEYS.config.start}services/s11", NEW["services/s11"])])
    return filled


class TestWhileOneIsApplied:
    async def test_plan_and_verify_tell_what_will_be(self, half_applied: Store) -> None:
        assert await verify(half_applied, KEYS, NEW) == ()
        assert (await plan(half_applied, KEYS, NEW)).plan.is_empty
        assert "services/s0" not in (await plan(half_applied, KEYS, NEW)).stored.entries

    async def test_export_writes_what_will_be(self, half_applied: Store, tmp_path: Path) -> None:
        assert await export(half_applied, KEYS, tmp_path / "tree") == len(NEW)
        assert {path.stem for path in (tmp_path / "tree/services").iterdir()} == {
            key.removeprefix("services/") for key in NEW
        }

    @pytest.mark.parametrize("which", ["header", "000001"])
    async def test_a_damaged_log_is_never_half_applied(self, half_applied: Store, which: str) -> None:
        log = f"{KEYS.import_logs.start}{(await meta_of(half_applied)).import_id}/"
        await half_applied.commit([], [Delete(Range.single(log + which))])
        before = await half_applied.read(EVERYTHING)
        with pytest.raises(UndecodableValue, match=f"{which}: is missing.* damaged from outside"):
            await import_entries(half_applied, KEYS, NEW, "next")
        assert await half_applied.read(EVERYTHING) == before

    async def test_a_change_of_meta_in_between_does_not_stop_it(self, half_applied: Store) -> None:
        """``orbitctl recover`` adds to config/meta; what it added stays."""
        found = await half_applied.get(KEYS.meta)
        assert found is not None
        more = json.loads(found.value) | {"Continues": {"another": 7}}

        async def interfere(commits: int) -> None:
            if commits == 1:
                await half_applied.commit([], [Put(KEYS.meta, json.dumps(more).encode())])

        await import_entries(SmallStore(half_applied, before=interfere), KEYS, NEW, "next")
        await assert_exactly(half_applied, NEW, generation=2)
        assert (await meta_of(half_applied)).continues == {"another": 7}

    async def test_a_store_that_is_wiped_in_between_is_told(self, half_applied: Store) -> None:
        async def wipe(commits: int) -> None:
            if commits == 1:
                await half_applied.commit([], [Delete(EVERYTHING)])

        with pytest.raises(StoreConflict, match=r"removed or put back .* import the whole tree again"):
            await import_entries(SmallStore(half_applied, before=wipe), KEYS, NEW, "next")
        assert await stored_keys(half_applied) == set()


class TestTwoAtOnce:
    async def test_an_importer_helped_by_a_second_one_at_any_moment_succeeds(self, store: Store) -> None:
        await import_entries(store, KEYS, OLD, "old")
        for moment in range(await commits_of_an_import(store)):
            await store.commit([], [Delete(EVERYTHING)])
            await import_entries(store, KEYS, OLD, "old")
            witness = await Witness.arrive(store, KEYS)
            seen: list[str] = []

            async def second(commits: int, moment: int = moment, seen: list[str] = seen) -> None:
                if commits == moment and not seen:
                    seen.append("nothing yet")
                    seen[0] = (await meta_of(store)).state
                    await import_entries(SmallStore(store), KEYS, OTHER, "second", user="bob")

            first = import_entries(SmallStore(store, before=second), KEYS, NEW, "first")
            (outcome,) = await asyncio.gather(first, return_exceptions=True)
            if seen == ["applying"]:
                assert not isinstance(outcome, BaseException), moment
                assert outcome.meta.generation == 2
                assert await witness.testimony() == [OLD, NEW, OTHER]
            else:
                assert isinstance(outcome, StoreConflict), moment
                assert "bob imported generation 2" in str(outcome)
                assert "nothing was written" in str(outcome)
                assert await witness.testimony() == [OLD, OTHER]
            await assert_exactly(store, OTHER, generation=3 if seen == ["applying"] else 2)

    async def test_an_importer_that_was_taken_for_dead_fails_and_says_so(self, filled: Store) -> None:
        async def second(commits: int) -> None:
            if commits == 2:
                await import_entries(filled, KEYS, OLD, "second")

        with pytest.raises(StoreConflict, match=r"took this one for dead .* nothing was written"):
            await import_entries(SmallStore(filled, before=second), KEYS, NEW, "first")
        await assert_exactly(filled, OLD, generation=1)

    async def test_a_log_that_was_committed_after_all_is_not_dropped(self, filled: Store) -> None:
        """Its importer is taken for dead, and commits before the drop arrives."""
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def pause(commits: int) -> None:
            if commits == 1:
                waiting.set()
                await go_on.wait()

        first = asyncio.create_task(import_entries(SmallStore(filled, before=pause), KEYS, NEW, "first"))
        await waiting.wait()
        seen = await plan(filled, KEYS, OLD)
        assert seen.stored.dead_logs
        go_on.set()
        await until_applying(filled)
        assert not (await apply(filled, KEYS, seen, stamp("second"))).written
        assert (await first).written
        await assert_exactly(filled, NEW, generation=2)

    async def test_of_many_large_imports_at_once_nothing_mixes(self, filled: Store, url: str) -> None:
        trees = [services(range(n * 10, n * 10 + 10), instances=n + 1) for n in range(4)]
        witness = await Witness.arrive(filled, KEYS)
        clients = [open_store(url) for _ in trees]
        outcomes = await asyncio.gather(
            *(
                import_entries(SmallStore(client), KEYS, tree, f"id-{n}")
                for n, (client, tree) in enumerate(zip(clients, trees, strict=True))
            ),
            return_exceptions=True,
        )
        for client in clients:
            await client.close()
        assert all(isinstance(each, StoreConflict) for each in outcomes if isinstance(each, BaseException))
        testimony = await witness.testimony()
        assert testimony[0] == OLD
        assert all(entries in trees for entries in testimony[1:])
        await assert_exactly(filled, testimony[-1], generation=len(testimony))


class TestLostAnswers:
    @pytest.mark.parametrize("done", [True, False])
    async def test_an_import_whose_answers_are_lost_is_done_once(self, filled: Store, *, done: bool) -> None:
        """Each transaction is answered only when it is sent for the second time."""
        witness = await Witness.arrive(filled, KEYS)
        shaky = _LosesEveryFirstAnswer(filled, done=done)
        result = await import_entries(shaky, KEYS, NEW, "new")
        assert result.written
        await assert_exactly(filled, NEW, generation=2)
        assert await witness.testimony() == [OLD, NEW]

    async def test_an_import_that_could_not_be_prepared_says_that_nothing_of_it_is_in_force(
        self, filled: Store
    ) -> None:
        async def silence(commits: int) -> None:
            if commits == 2:
                raise StoreAmbiguous("no answer")

        with pytest.raises(StoreUnreachable, match="nothing of it is in force"):
            await import_entries(SmallStore(filled, before=silence), KEYS, NEW, "new")
        assert await verify(filled, KEYS, OLD) == ()
        await import_entries(SmallStore(filled), KEYS, NEW, "next")
        await assert_exactly(filled, NEW, generation=2)

    async def test_an_import_that_was_decided_but_not_completed_says_so(self, filled: Store) -> None:
        async def silence(commits: int) -> None:
            if (await meta_of(filled)).state == "applying":
                raise StoreAmbiguous("no answer")

        with pytest.raises(StoreAmbiguous, match=r"(?s)no answer.*decided, but not complete.*finishes it"):
            await import_entries(SmallStore(filled, before=silence), KEYS, NEW, "new")
        await import_entries(filled, KEYS, NEW, "next")
        await assert_exactly(filled, NEW, generation=2)


class _LosesEveryFirstAnswer(SmallStore):
    """Each transaction is lost when it is first sent: before it arrives, or after it was done."""

    def __init__(self, store: Store, *, done: bool) -> None:
        super().__init__(store)
        self._done = done
        self._sent: list[Any] = []

    async def commit(self, compares: Any, operations: Any) -> int:
        if operations in self._sent:
            return await super().commit(compares, operations)
        self._sent.append(operations)
        if self._done:
            await super().commit(compares, operations)
        raise StoreAmbiguous("the connection was lost")


class TestRealProcess:
    """``orbitctl import`` as a process, killed as soon as a number of its writes is seen."""

    async def test_after_whichever_write_the_process_is_killed_the_next_one_makes_it_whole(
        self, own_etcd: EtcdServer, tmp_path: Path
    ) -> None:
        keys, url = Keys(), f"etcd://{own_etcd.endpoint}"
        trees = [write_tree(tmp_path / str(n), many_files(instances=n)) for n in (1, 2)]
        wanted = [load(tree).entries for tree in trees]
        async with opened(url) as store:
            assert await run_import(url, trees[0], store) == 0
            witness = await Witness.arrive(store, keys)
            found: list[str] = []
            for attempt in range(12):
                await run_import(url, trees[(attempt // 2 + 1) % 2], store, killed_after=1 + attempt % 8)
                stored = await read_configuration(store, keys)
                assert stored.entries in wanted
                found.append("dead log" if stored.dead_logs else "applying" if stored.redo else "complete")
            assert "applying" in found  # else nothing was interrupted, and nothing shown
            assert await run_import(url, trees[1], store) == 0
            assert await verify(store, keys, wanted[1]) == ()
            assert not (await store.read(keys.import_logs)).ranges[0]
            assert all(entries in wanted for entries in await witness.testimony())


def many_files(*, instances: int) -> dict[str, Any]:
    services = {f"services/s{n}.json": {"Name": f"s{n}", "Instances": instances} for n in range(1500)}
    return {**services, f"services/only-{instances}.json": {"Name": f"only-{instances}"}}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        await store.close()


async def run_import(url: str, tree: Path, store: Store, *, killed_after: int | None = None) -> int:
    """Runs the command and kills it once ``killed_after`` of its commits are seen; its exit code."""
    config = Keys().config
    before = (await store.read(config)).revision
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orbitcontrol", "--store", url, "import", str(tree), "--yes"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ended = asyncio.create_task(process.wait())
    if killed_after is not None:
        await asyncio.wait(
            {ended, watching := asyncio.create_task(_changes(store, before, killed_after))},
            return_when=asyncio.FIRST_COMPLETED,
        )
        watching.cancel()
        if not ended.done():
            process.kill()
    return await ended


async def _changes(store: Store, after: int, count: int) -> None:
    """Returns when the configuration has changed so often."""
    async with store.watch(Keys().config, after=after) as stream:
        async for _ in stream:
            count -= 1
            if not count:
                return
