from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from orbitcontrol.codec.deployments import parse_deployments
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.configuration import Configuration, EffectiveService, Tag
from orbitcontrol.model.rollouts import Aim, MachineDrain
from orbitcontrol.model.service import Binding, Container, Service
from orbitcontrol.model.state import Deployment, MachineRecord, Revisions
from orbitcontrol.model.stored import Put
from orbitcontrol.ops.cluster import Cluster
from orbitcontrol.ops.deploying import Change, images_at, set_revision
from orbitcontrol.planning.desired import effective_service
from orbitcontrol.store.sqlite import SqliteStore
from support.fleet import (
    FIRST,
    GENERATION,
    KEYS,
    NOW,
    SECOND,
    THIRD,
    WEB,
    becomes,
    fill,
    history,
    rollout,
    set_to,
)
from support.imports import SmallStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    await fill(store)
    yield store
    await store.close()


async def seen_by(store: SqliteStore, machine: str) -> EffectiveService:
    reading = await store.read(KEYS.deployments)
    return effective_service(WEB, [], parse_deployments(KEYS, reading.ranges[0], machine=machine))


@pytest.mark.parametrize("service_wide", [None, "2"])
async def test_the_serial_that_a_machine_sees_grows_when_its_own_revision_is_taken_back(
    store: SqliteStore, service_wide: str | None
) -> None:
    if service_wide:
        assert (await set_to(store, service_wide)).written
    others_before = await seen_by(store, SECOND)
    assert (await set_to(store, "3", FIRST)).written
    own = await seen_by(store, FIRST)
    assert own.revision == "3"

    assert (await set_to(store, None, FIRST)).written
    after = await seen_by(store, FIRST)
    assert after.revision == (service_wide or "1")
    assert after.serial > own.serial
    others_after = await seen_by(store, SECOND)
    assert (others_after.revision, others_after.revision_source) == (
        others_before.revision,
        others_before.revision_source,
    )
    assert not (await set_to(store, None, FIRST)).written


async def test_every_setting_has_a_serial_above_all_before(store: SqliteStore) -> None:
    serials = []
    for revision, machine in [("2", None), ("3", FIRST), ("4", None), ("5", FIRST), (None, None)]:
        assert (await set_to(store, revision, machine)).written
        serials.append((await seen_by(store, FIRST)).serial)
    assert serials == sorted(set(serials))


async def test_a_revision_comes_with_the_rollout_that_brings_it_about(store: SqliteStore) -> None:
    drain = Put(KEYS.drain(SECOND), encode(MachineDrain()))
    await store.commit([], [drain])
    outcome = await set_to(store, "2")
    first = await rollout(store)
    assert outcome.rollout == first
    assert outcome.participants == (FIRST, THIRD), "drained, gone and unbound ones have nothing to do"
    assert (first.cause, first.state, first.machines, first.slots) == ("revision", "running", UNSET, 1)
    assert first.target == Aim(revision="2", serial=1, generation=GENERATION)
    assert first.previous == Aim(generation=GENERATION)
    assert (first.policy, first.user, first.started) == (WEB.update, "u", NOW)

    await becomes(store, state="complete")
    await set_to(store, "3", FIRST)
    own = await rollout(store)
    assert (own.machines, own.target.own, own.target.revision) == ((FIRST,), True, "3")
    assert own.previous == Aim(revision="2", serial=1, generation=GENERATION)

    await becomes(store, state="complete")
    await set_to(store, None, FIRST)
    back = await rollout(store)
    assert (back.target.revision, back.target.own, back.target.serial) == ("2", False, 3)
    assert back.previous == Aim(revision="3", serial=2, generation=GENERATION, own=True)


async def test_a_rollout_that_is_superseded_leaves_its_scope_its_way_back_and_a_word_in_the_history(
    store: SqliteStore,
) -> None:
    await set_to(store, "2")
    first = await rollout(store)
    await set_to(store, "3", FIRST)
    second = await rollout(store)
    assert (second.machines, second.previous) == (UNSET, first.previous)
    [past] = await history(store)
    assert (past.id, past.outcome, past.target) == (first.id, "superseded", first.target)


@pytest.mark.parametrize("machine", [None, FIRST])
async def test_a_revision_that_is_set_already_begins_anew_only_when_its_rollout_has_failed(
    store: SqliteStore, machine: str | None
) -> None:
    await set_to(store, "2", machine)
    running = await rollout(store)
    again = await set_to(store, "2", machine)
    assert (again.written, again.rollout) == (False, running), "the one that runs is to be followed"
    paused = await becomes(store, state="paused")
    assert (await set_to(store, "2", machine)).rollout == paused
    await becomes(store, state="complete")
    again = await set_to(store, "2", machine)
    assert (again.written, again.rollout) == (False, None)

    await becomes(store, state="failed")
    before = await seen_by(store, FIRST)
    again = await set_to(store, "2", machine)
    anew = await rollout(store)
    assert (again.written, again.rollout) == (True, anew)
    assert anew.id != running.id
    assert anew.previous == running.previous
    assert anew.target.serial == (await seen_by(store, FIRST)).serial > before.serial


async def test_what_fails_on_one_machine_is_no_matter_of_another(store: SqliteStore) -> None:
    await set_to(store, "2", SECOND)
    await becomes(store, state="complete")
    await set_to(store, "2", FIRST)
    await becomes(store, state="failed")
    outcome = await set_to(store, "2", SECOND)
    assert (outcome.written, outcome.rollout) == (False, None)


async def test_a_lost_answer_is_not_taken_for_somebody_elses_word(store: SqliteStore) -> None:
    change = Change(service="web", id="mine", revision="2", machine=None, user="u", time="")
    assert (await set_revision(store, KEYS, change)).written
    assert (await set_revision(store, KEYS, change)).written


async def test_a_service_without_a_container_has_no_revision(store: SqliteStore) -> None:
    await store.commit([], [Put(KEYS.service_config("web"), encode(Service(name="web", endpoint_port=80)))])
    with pytest.raises(OrbitError, match="it has no container"):
        await set_to(store, "2")


async def test_of_two_that_set_the_first_revision_at_once_the_second_supersedes_the_first(
    store: SqliteStore,
) -> None:
    async def before(commits: int) -> None:
        if commits == 0:
            await set_to(store, "2")

    racing: Any = SmallStore(store, limits=store.limits, before=before)
    outcome = await set_to(racing, "3")
    assert outcome.rollout == await rollout(store)
    assert outcome.rollout is not None
    assert (outcome.rollout.target.revision, outcome.rollout.target.serial) == ("3", 2)
    assert [past.target.revision for past in await history(store)] == ["2"]


async def test_a_revision_that_a_machine_got_meanwhile_is_not_overwritten_unseen(store: SqliteStore) -> None:
    restored = Deployment(revision="7", serial=7, deployment_time="", user="")

    async def before(commits: int) -> None:
        if commits == 0:
            await store.commit([], [Put(KEYS.machine_revision("web", FIRST), encode(restored))])

    racing: Any = SmallStore(store, limits=store.limits, before=before)
    outcome = await set_to(racing, "3", FIRST)
    assert outcome.rollout is not None
    assert outcome.rollout.target.serial == 8
    assert outcome.rollout.previous == Aim(revision="7", serial=7, generation=GENERATION, own=True)


async def rejecting(images: tuple[str, ...]) -> None:
    raise OrbitError(f"not there: {images}")


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
    assert (await set_to(store, "2")).written
    assert not (await set_to(store, "2", verify=rejecting)).written, "was set already"
    assert (await set_to(store, None, verify=rejecting)).written, "what the tree names is not new"


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
    change = Change(service="web", id="i", revision="2", machine=machine, user="u", time="")
    assert images_at(cluster, change, "2") == images
