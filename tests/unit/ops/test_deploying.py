from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.codec.deployments import parse_deployments
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.service import Container, Service
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.model.stored import Put
from orbitcontrol.ops.deploying import Change, set_revision
from orbitcontrol.planning.desired import effective_service
from orbitcontrol.store.sqlite import SqliteStore

KEYS = Keys()
WEB = Service(name="web", container=Container(config={"Image": "web:1"}))
MACHINE = "10.0.0.1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    record = Put(KEYS.machine(MACHINE), encode(MachineRecord()))
    await store.commit([], [Put(KEYS.service_config("web"), encode(WEB)), record])
    yield store
    await store.close()


async def set_to(store: SqliteStore, revision: str | None, machine: str | None = None) -> bool:
    change = Change(service="web", revision=revision, machine=machine, user="u", time="2026-01-01T00:00:00Z")
    return await set_revision(store, KEYS, change)


async def seen_by(store: SqliteStore, machine: str) -> EffectiveService:
    reading = await store.read(KEYS.deployments)
    return effective_service(WEB, [], parse_deployments(KEYS, reading.ranges[0], machine=machine))


@pytest.mark.parametrize("service_wide", [None, "2"])
async def test_the_serial_that_a_machine_sees_grows_when_its_own_revision_is_taken_back(
    store: SqliteStore, service_wide: str | None
) -> None:
    if service_wide:
        assert await set_to(store, service_wide)
    others_before = await seen_by(store, "10.0.0.2")
    assert await set_to(store, "3", MACHINE)
    own = await seen_by(store, MACHINE)
    assert own.revision == "3"

    assert await set_to(store, None, MACHINE)
    after = await seen_by(store, MACHINE)
    assert after.revision == (service_wide or "1")
    assert after.serial > own.serial
    others_after = await seen_by(store, "10.0.0.2")
    assert (others_after.revision, others_after.revision_source) == (
        others_before.revision,
        others_before.revision_source,
    )
    assert not await set_to(store, None, MACHINE)


async def test_every_setting_has_a_serial_above_all_before(store: SqliteStore) -> None:
    serials = []
    for revision, machine in [("2", None), ("3", MACHINE), ("4", None), ("5", MACHINE), (None, None)]:
        assert await set_to(store, revision, machine)
        serials.append((await seen_by(store, MACHINE)).serial)
    assert serials == sorted(set(serials))
