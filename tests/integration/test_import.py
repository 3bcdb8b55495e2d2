"""Import, verify and export against real stores: SQLite, and etcd with its limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import (
    OrbitError,
    StoreAmbiguous,
    StoreConflict,
    TreeError,
    UndecodableValue,
)
from orbitcontrol.model.state import Deployment, MachineRecord, Source
from orbitcontrol.model.stored import Compare, KeyValue, Operation, Put, Range
from orbitcontrol.ops.exporting import export
from orbitcontrol.ops.importing import ImportResult, PlannedImport, Stamp, apply, plan
from orbitcontrol.ops.verifying import verify
from orbitcontrol.ports import Store
from orbitcontrol.tree.load import load
from support.trees import LEGACY_TREE, TAGS, sound_tree, write_tree

pytestmark = pytest.mark.integration

KEYS = Keys("/orbit-import-test")
EVERYTHING = Range.prefix(KEYS.base + "/")


def stamp(import_id: str = "id-1", *, epoch: str = "epoch-1", user: str = "alice") -> Stamp:
    return Stamp(
        now="2026-01-02T03:04:05Z", user=user, epoch=epoch, import_id=import_id, source=Source(digest="d")
    )


async def import_tree(store: Store, root: Path, import_id: str = "id-1", **options: Any) -> ImportResult:
    planned = await plan(store, KEYS, load(root).entries)
    return await apply(store, KEYS, planned, stamp(import_id, **options))


async def everything(store: Store) -> dict[str, KeyValue]:
    reading = await store.read(EVERYTHING)
    return {item.key.removeprefix(KEYS.base + "/"): item for item in reading.ranges[0]}


async def test_the_first_import_writes_the_tree_and_its_meta_at_one_revision(store: Store) -> None:
    entries = load(LEGACY_TREE).entries
    result = await import_tree(store, LEGACY_TREE)
    stored = await everything(store)
    assert result.written
    assert {key: item.value for key, item in stored.items() if key != "config/meta"} == {
        f"config/{key}": value for key, value in entries.items()
    }
    assert len({item.mod_revision for item in stored.values()}) == 1
    meta = json.loads(stored["config/meta"].value)
    assert meta == {
        "FormatVersion": 1,
        "Epoch": "epoch-1",
        "Generation": 1,
        "State": "complete",
        "Import": "id-1",
        "ImportedAt": "2026-01-02T03:04:05Z",
        "ImportedBy": "alice",
        "Source": {"Commit": None, "Dirty": False, "Digest": "d"},
        "Continues": {},
    }


async def test_importing_the_same_tree_again_writes_nothing(store: Store) -> None:
    await import_tree(store, LEGACY_TREE)
    before = await everything(store)
    planned = await plan(store, KEYS, load(LEGACY_TREE).entries)
    assert planned.plan.is_empty
    result = await apply(store, KEYS, planned, stamp("id-2"))
    assert not result.written
    assert result.meta.generation == 1
    assert await everything(store) == before


async def test_only_what_changed_is_written_and_what_is_gone_is_removed(store: Store, tmp_path: Path) -> None:
    certificate = f"{TAGS}/lb/certs/a.pem"
    page = f"{TAGS}/lb/haproxy_files/a"
    extra = {"services/b.json": {"Name": "b", "Checks": []}, f"{TAGS}/old/services/web.json": {}}
    await import_tree(store, sound_tree(tmp_path / "1", **{certificate: "x", page: "x", **extra}))
    before = await everything(store)
    changed = sound_tree(tmp_path / "2", **{page: "y", f"{TAGS}/new/services/web.json": {}})
    result = await import_tree(store, changed, "id-2", epoch="epoch-2", user="bob")
    after = await everything(store)
    assert result.meta.generation == 2
    assert result.meta.epoch == "epoch-1"
    assert before.keys() - after.keys() == {
        "config/services/b",
        "config/tags/old/services/web",
        "config/tags/lb/certs/a.pem",
    }
    newer = {key for key, item in after.items() if item.mod_revision > before["config/meta"].mod_revision}
    assert newer == {"config/meta", "config/tags/lb/haproxy_files/a", "config/tags/new/services/web"}


async def test_a_tree_with_nothing_in_it_is_an_import_too(store: Store, tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    result = await import_tree(store, tmp_path)
    assert result.written
    assert (await everything(store)).keys() == {"config/meta"}


async def test_revisions_and_machines_are_never_touched(store: Store, tmp_path: Path) -> None:
    deployment = encode(Deployment(revision="R2", serial=3, deployment_time="t", user="u"))
    mine = {KEYS.revision("web"): deployment, KEYS.machine("10.0.0.1"): encode(MachineRecord(tags=("app",)))}
    await store.commit([], [Put(key, value) for key, value in mine.items()])
    await import_tree(store, sound_tree(tmp_path / "1"))
    await import_tree(store, write_tree(tmp_path / "2", {"services/.gitkeep": ""}), "id-2")
    stored = await everything(store)
    assert {KEYS.base + "/" + key: item.value for key, item in stored.items() if key != "config/meta"} == mine


async def test_the_plan_names_the_machines_and_containers_that_it_touches(
    store: Store, tmp_path: Path
) -> None:
    records = {"10.0.0.1": encode(MachineRecord(tags=("app",))), "10.0.0.2": b"not a record"}
    await store.commit([], [Put(KEYS.machine(address), value) for address, value in records.items()])
    planned = await plan(store, KEYS, load(sound_tree(tmp_path)).entries)
    assert [machine.address for machine in planned.impact.machines] == ["10.0.0.1"]
    assert planned.impact.containers == 1


class TestTwoAtOnce:
    async def test_the_second_of_two_imports_is_refused_whole_and_told_who_was_first(
        self, store: Store, tmp_path: Path
    ) -> None:
        mine = await plan(store, KEYS, load(sound_tree(tmp_path)).entries)
        await import_tree(store, LEGACY_TREE, user="bob")
        before = await everything(store)
        with pytest.raises(
            StoreConflict, match=r"bob imported generation 1 .* nothing was written.* `orbitctl plan`"
        ):
            await apply(store, KEYS, mine, stamp("id-2"))
        assert await everything(store) == before

    async def test_the_same_holds_of_later_imports(self, store: Store, tmp_path: Path) -> None:
        await import_tree(store, LEGACY_TREE)
        mine = await plan(store, KEYS, load(sound_tree(tmp_path / "1")).entries)
        await import_tree(store, write_tree(tmp_path / "2", {"services/.gitkeep": ""}), "id-2", user="bob")
        with pytest.raises(StoreConflict, match="bob imported generation 2"):
            await apply(store, KEYS, mine, stamp("id-3"))

    async def test_of_many_imports_at_once_one_wins_and_nothing_mixes(
        self, store: Store, tmp_path: Path
    ) -> None:
        planned: list[PlannedImport] = []
        for number in range(8):
            names = {f"services/s{number}{n}.json": {"Name": f"s{number}{n}"} for n in range(5)}
            planned.append(await plan(store, KEYS, load(write_tree(tmp_path / str(number), names)).entries))
        results = await asyncio.gather(
            *(apply(store, KEYS, each, stamp(f"id-{n}")) for n, each in enumerate(planned)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, ImportResult) for result in results) == 1
        assert sum(isinstance(result, StoreConflict) for result in results) == 7
        stored = (await everything(store)).keys() - {"config/meta"}
        assert len(stored) == 5
        assert len({key[: len("config/services/s0")] for key in stored}) == 1


class _LosesAnswers:
    """A store whose connection breaks in the first commits: before they arrive, or after they were done."""

    def __init__(self, store: Store, *, times: int, done: bool) -> None:
        self._store = store
        self._times = times
        self._done = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        self._times -= 1
        if self._times >= 0:
            if self._done:
                await self._store.commit(compares, operations)
                self._done = False
            raise StoreAmbiguous("the connection was lost")
        return await self._store.commit(compares, operations)


class TestLostAnswer:
    @pytest.mark.parametrize("done", [True, False])
    @pytest.mark.parametrize("times", [1, 2])
    async def test_an_import_whose_answer_was_lost_is_found_or_done_once(
        self, store: Store, tmp_path: Path, *, done: bool, times: int
    ) -> None:
        entries = load(sound_tree(tmp_path)).entries
        planned = await plan(store, KEYS, entries)
        shaky: Any = _LosesAnswers(store, times=times, done=done)
        result = await apply(shaky, KEYS, planned, stamp())
        assert result.written
        assert json.loads((await everything(store))["config/meta"].value)["Generation"] == 1
        assert await verify(store, KEYS, entries) == ()

    async def test_an_import_that_stays_unknown_says_so(self, store: Store, tmp_path: Path) -> None:
        planned = await plan(store, KEYS, load(sound_tree(tmp_path)).entries)
        shaky: Any = _LosesAnswers(store, times=99, done=False)
        with pytest.raises(StoreAmbiguous, match="may have happened or not"):
            await apply(shaky, KEYS, planned, stamp())
        assert await everything(store) == {}


class TestRefusals:
    @pytest.mark.parametrize("kind", ["operations", "bytes"])
    async def test_an_import_beyond_one_transaction_is_not_refused(
        self, store: Store, tmp_path: Path, kind: str
    ) -> None:
        many = {f"services/s{n}.json": {"Name": f"s{n}"} for n in range(128)}
        large = {f"{TAGS}/t/haproxy_files/{n}": "x" * 800_000 for n in range(2)}
        entries = load(write_tree(tmp_path, many if kind == "operations" else large)).entries
        await apply(store, KEYS, await plan(store, KEYS, entries), stamp())
        assert await verify(store, KEYS, entries) == ()
        assert (await everything(store)).keys() == {"config/meta", *(f"config/{key}" for key in entries)}

    async def test_the_largest_import_that_fits_is_written(self, store: Store, tmp_path: Path) -> None:
        files = {f"services/s{n}.json": {"Name": f"s{n}"} for n in range(127)}
        assert (await import_tree(store, write_tree(tmp_path, files))).written
        assert len(await everything(store)) == 128

    async def test_a_meta_that_nobody_can_read_stops_the_import(self, store: Store, tmp_path: Path) -> None:
        await store.commit([], [Put(KEYS.meta, b"{}")])
        with pytest.raises(UndecodableValue, match="config/meta"):
            await import_tree(store, sound_tree(tmp_path))
        assert (await everything(store)).keys() == {"config/meta"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"FormatVersion": 2}, "has FormatVersion 2, this orbitctl knows 1"),
            ({"State": "applying"}, "header: is missing: the log of the import that is being applied"),
        ],
    )
    async def test_a_layout_or_a_state_that_this_version_cannot_handle_stops_the_import(
        self, store: Store, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        await import_tree(store, LEGACY_TREE)
        meta = json.loads((await everything(store))["config/meta"].value)
        await store.commit([], [Put(KEYS.meta, json.dumps({**meta, **change}).encode())])
        with pytest.raises(OrbitError, match=message):
            await import_tree(store, sound_tree(tmp_path))


class TestVerify:
    async def test_a_store_with_exactly_this_tree_has_no_differences(self, store: Store) -> None:
        await import_tree(store, LEGACY_TREE)
        assert await verify(store, KEYS, load(LEGACY_TREE).entries) == ()

    async def test_every_difference_is_named(self, store: Store, tmp_path: Path) -> None:
        await import_tree(store, sound_tree(tmp_path / "1", **{"services/b.json": {"Name": "b"}}))
        other = load(sound_tree(tmp_path / "2", **{"services/c.json": {"Name": "c"}})).entries
        await store.commit([], [Put(KEYS.service_config("web"), b'{"Name": "web", "EndpointPort": 81}')])
        found = await verify(store, KEYS, other)
        assert "services/b: in the store, not in the tree" in found
        assert "services/c: in the tree, not in the store" in found
        assert "services/web: EndpointPort: 81 → 8080" in found

    async def test_an_empty_store_is_told(self, store: Store, tmp_path: Path) -> None:
        (first, *_) = await verify(store, KEYS, load(sound_tree(tmp_path)).entries)
        assert first == "meta: the store has no configuration; run `orbitctl import`"

    async def test_the_same_configuration_in_other_formatting_is_no_difference(
        self, store: Store, tmp_path: Path
    ) -> None:
        await import_tree(store, sound_tree(tmp_path))
        value = json.loads((await everything(store))["config/services/web"].value)
        await store.commit([], [Put(KEYS.service_config("web"), json.dumps(value, indent=4).encode())])
        assert await verify(store, KEYS, load(tmp_path).entries) == ()


class TestExport:
    async def test_importing_an_export_plans_nothing(self, store: Store, tmp_path: Path) -> None:
        await import_tree(store, LEGACY_TREE)
        assert await export(store, KEYS, tmp_path / "new") == 9
        tree = load(tmp_path / "new")
        assert tree.problems == ()
        assert (await plan(store, KEYS, tree.entries)).plan.is_empty

    async def test_a_store_without_configuration_is_told(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(OrbitError, match="the store has no configuration; run `orbitctl import` first"):
            await export(store, KEYS, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    async def test_a_directory_with_something_in_it_is_left_alone(self, store: Store, tmp_path: Path) -> None:
        await import_tree(store, LEGACY_TREE)
        target = write_tree(tmp_path / "target", {"x": "x"})
        with pytest.raises(TreeError, match="is not empty"):
            await export(store, KEYS, target)
        assert [child.name for child in target.iterdir()] == ["x"]

    async def test_a_name_that_would_leave_the_directory_writes_nothing(
        self, store: Store, tmp_path: Path
    ) -> None:
        await import_tree(store, LEGACY_TREE)
        await store.commit([], [Put(f"{KEYS.base}/config/tags/testtag/certs/..", b'{"Content":"x"}')])
        with pytest.raises(TreeError, match="no file of a tree can stand for this key"):
            await export(store, KEYS, tmp_path / "new")
        assert not (tmp_path / "new").exists()
