from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.configuration import ConfigurationLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import Put
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, running, until

KEYS = Keys()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    yield store
    await store.close()


async def imported(store: SqliteStore, generation: int) -> None:
    meta = ConfigMeta(epoch="e", generation=generation, imported_at="t", imported_by="u")
    await store.commit([], [Put(KEYS.meta, encode(meta))])


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
    machine = MachineIdentity(address=ADDRESS)
    async with running(ConfigurationLoop(board=board, store=store, keys=KEYS, machine=machine, files=files)):
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
    machine = MachineIdentity(address=ADDRESS)
    async with running(ConfigurationLoop(board=board, store=store, keys=KEYS, machine=machine, files=files)):
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
