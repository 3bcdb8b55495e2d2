from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.configuration import APPLYING, NO_CONFIGURATION, ConfigurationLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError, StoreUnreachable
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import ConfigMeta, Deployment
from orbitcontrol.model.stored import Delete, Put, Range, Reading
from orbitcontrol.ports import Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, PATIENCE, Meddled, running, until

KEYS = Keys()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


async def imported(store: SqliteStore, generation: int) -> None:
    meta = ConfigMeta(epoch="e", generation=generation, imported_at="t", imported_by="u")
    await store.commit([], [Put(KEYS.meta, encode(meta))])


def loop_on(board: Board, store: Store, files: StateDirectory, *tags: str) -> ConfigurationLoop:
    machine = MachineIdentity(address=ADDRESS, tags=tags)
    return ConfigurationLoop(board=board, store=store, keys=KEYS, machine=machine, files=files)


class FullOnce(StateDirectory):
    """Refuses the first file."""

    refused = 0

    def save(self, name: str, content: bytes) -> None:
        if not self.refused:
            self.refused += 1
            raise OrbitError(f"{name}: cannot be written: No space left on device")
        super().save(name, content)


async def test_a_snapshot_that_the_disk_refused_is_saved_when_it_takes_it(
    store: SqliteStore, tmp_path: Path
) -> None:
    await imported(store, 7)
    board, files = Board(), FullOnce(tmp_path / "state")
    async with running(loop_on(board, store, files)):
        problems = await until(board.problems.cell, bool)
        assert "No space left" in problems[0].reason
        assert board.desired.value is not None
        await until(board.problems.cell, lambda problems: not problems)
    assert files.refused
    snapshot = files.load("snapshot.json")
    assert snapshot is not None
    assert b'"generation":7' in snapshot


async def test_a_machine_keeps_its_zone_while_the_global_properties_cannot_be_read(
    store: SqliteStore, tmp_path: Path
) -> None:
    zones = b'{"AvailabilityZones":{"eu-1a":["10.0.0.0/8"]}}'
    await store.commit([], [Put(KEYS.global_properties, zones)])
    await imported(store, 1)
    board, files = Board(), StateDirectory(tmp_path / "state")
    async with running(loop_on(board, store, files)):
        await until(board.desired, lambda desired: desired is not None)
        await store.commit([], [Put(KEYS.global_properties, zones[:20])])
        await imported(store, 2)
        after = await until(board.desired, lambda desired: desired is not None and desired.generation == 2)
        assert after is not None
        assert after.machine.zone == "eu-1a"
        [problem] = await until(board.problems.cell, bool)
        assert problem.subject == "global properties"


@pytest.mark.parametrize(("given", "zone"), [("", "eu-1a"), ("eu-9z", "eu-9z")])
async def test_the_zone_on_the_command_line_counts_before_that_of_the_address(
    store: SqliteStore, tmp_path: Path, given: str, zone: str
) -> None:
    zones = b'{"AvailabilityZones":{"eu-1a":["10.0.0.0/8"]}}'
    await store.commit([], [Put(KEYS.global_properties, zones)])
    await imported(store, 1)
    board, files = Board(), StateDirectory(tmp_path / "state")
    machine = MachineIdentity(address=ADDRESS, zone=given)
    async with running(ConfigurationLoop(board=board, store=store, keys=KEYS, machine=machine, files=files)):
        desired = await until(board.desired, lambda desired: desired is not None)
    assert desired is not None
    assert desired.machine.zone == zone


async def away(*_: Range) -> Reading:
    raise StoreUnreachable("nobody answers")


@pytest.mark.parametrize(("tags", "taken"), [(("app",), True), (("app", "more"), False)])
async def test_a_snapshot_of_other_tags_says_nothing_about_this_machine(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: tuple[str, ...], *, taken: bool
) -> None:
    files = StateDirectory(tmp_path / "state")
    await imported(store, 7)
    before = Board()
    async with running(loop_on(before, store, files, "app")):
        await until(before.desired, lambda desired: desired is not None)
    monkeypatch.setattr("orbitcontrol.agent.configuration._PATIENCE", 0)
    after = Board()
    async with running(loop_on(after, cast("Store", Meddled(store, read=away)), files, *tags)):
        known = await after.desired.wait_for(bool, timeout=PATIENCE if taken else 0.3)
    assert known is taken


async def test_a_new_stores_revisions_are_not_laid_over_the_old_ones_configuration(
    store: SqliteStore, tmp_path: Path
) -> None:
    """The store was lost, and a first import into the new one is being applied."""
    service = b'{"Name":"web","ContainerPort":80,"Container":{"Config":{"Image":"web:R1"}}}'
    await store.commit(
        [],
        [Put(KEYS.service_config("web"), service), Put(KEYS.tag_config("app").start + "services/web", b"{}")],
    )
    await imported(store, 1)
    board = Board()
    async with running(loop_on(board, store, StateDirectory(tmp_path / "state"), "app")):
        await until(board.desired, lambda desired: desired is not None)
        meta = ConfigMeta(epoch="new", generation=1, state="applying", imported_at="t", imported_by="u")
        revision = Deployment(revision="R9", serial=99, deployment_time="t", user="u")
        await store.commit([], [Put(KEYS.meta, encode(meta)), Put(KEYS.revision("web"), encode(revision))])
        await until(board.problems.cell, bool)
        assert board.problems.cell.value[0].reason == APPLYING
        desired = board.desired.value
        assert desired is not None
        assert desired.services["web"].revision == "R1"


@pytest.mark.parametrize(
    ("case", "stored", "words"),
    [
        ("empty", None, NO_CONFIGURATION),
        ("undecodable", b"{rubbish", "config/meta"),
        ("of another shape", b'{"Epoch": 7}', "config/meta"),
    ],
)
async def test_a_store_that_says_less_than_was_known_leaves_the_configuration_in_force(
    store: SqliteStore, tmp_path: Path, case: str, stored: bytes | None, words: str
) -> None:
    await imported(store, 7)
    board = Board()
    async with running(loop_on(board, store, StateDirectory(tmp_path / "state"))):
        before = await until(board.desired, lambda desired: desired is not None)
        key = Range.single(KEYS.meta)
        await store.commit([], [Delete(key) if stored is None else Put(KEYS.meta, stored)])
        told = await until(board.problems.cell, bool)
        assert words in told[0].reason, case
        assert board.desired.value is before
