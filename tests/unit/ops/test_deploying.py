from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.codec.deployments import parse_deployments
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.configuration import Configuration, EffectiveService, Tag
from orbitcontrol.model.service import Binding, Container, Service
from orbitcontrol.model.state import MachineRecord, Revisions
from orbitcontrol.model.stored import Put
from orbitcontrol.ops.cluster import Cluster
from orbitcontrol.ops.deploying import Change, Verify, images_at, set_revision
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


async def set_to(
    store: SqliteStore, revision: str | None, machine: str | None = None, *, verify: Verify | None = None
) -> bool:
    change = Change(service="web", revision=revision, machine=machine, user="u", time="2026-01-01T00:00:00Z")
    return await set_revision(store, KEYS, change, verify=verify)


async def rejecting(images: tuple[str, ...]) -> None:
    raise OrbitError(f"not there: {images}")


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


async def test_nothing_is_written_when_the_image_is_not_there(store: SqliteStore) -> None:
    before = await store.read(KEYS.deployments)
    with pytest.raises(OrbitError, match=r"not there: \('web:2',\)"):
        await set_to(store, "2", verify=rejecting)
    assert await store.read(KEYS.deployments) == before


async def test_what_is_wrong_with_the_command_itself_is_told_before_registries_are_asked(
    store: SqliteStore,
) -> None:
    with pytest.raises(OrbitError, match="no daemon has registered"):
        await set_to(store, "2", "10.0.0.9", verify=rejecting)
    assert await set_to(store, "2")
    assert not await set_to(store, "2", verify=rejecting), "was set already"
    assert await set_to(store, None, verify=rejecting), "what the tree names is not new"


NAMED, ALSO_NAMED = (Binding(container=Container(config={"Image": f"{name}:1"})) for name in ("own", "also"))


@pytest.mark.parametrize(
    ("case", "bindings", "machines", "machine", "images"),
    [
        ("nothing binds it", {}, {}, None, ("web:2",)),
        ("no machine yet", {"a": Binding(), "b": NAMED}, {}, None, ("own:2", "web:2")),
        ("tags that no machine has", {"a": Binding(), "b": NAMED}, {"m": ("a",)}, None, ("web:2",)),
        ("two machines", {"a": Binding(), "b": NAMED}, {"m": ("a",), "n": ("b",)}, None, ("own:2", "web:2")),
        ("one of them", {"a": Binding(), "b": NAMED}, {"m": ("a",), "n": ("b",)}, "n", ("own:2",)),
        ("order of tags", {"a": ALSO_NAMED, "b": NAMED}, {"m": ("b", "a", "c")}, None, ("also:2",)),
        ("another machine", {"a": NAMED}, {"m": ("c",)}, None, ("own:2",)),
    ],
)
def test_the_images_of_a_revision_are_those_that_machines_would_run(
    case: str,
    bindings: dict[str, Binding],
    machines: dict[str, tuple[str, ...]],
    machine: str | None,
    images: tuple[str, ...],
) -> None:
    tags = {name: Tag(name=name, services={"web": binding}) for name, binding in bindings.items()}
    cluster = Cluster(
        store="",
        meta=None,
        configuration=Configuration(services={"web": WEB}, tags=tags),
        revisions=Revisions(),
        endpoints=(),
        machines={address: MachineRecord(tags=carried) for address, carried in machines.items()},
        alive={},
        broken=(),
    )
    change = Change(service="web", revision="2", machine=machine, user="u", time="")
    assert images_at(cluster, change, "2") == images
