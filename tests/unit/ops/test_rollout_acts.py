from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from orbitcontrol.codec.values import encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.rollouts import Aim, LoadBalancer, MachineDrain, Progress, Slot
from orbitcontrol.model.service import Update
from orbitcontrol.model.stored import Put
from orbitcontrol.ops import rollouts
from orbitcontrol.ops.draining import drain, undrain
from orbitcontrol.ops.forgetting import forget
from orbitcontrol.store.sqlite import SqliteStore
from support.fleet import (
    FIRST,
    GENERATION,
    GONE,
    KEYS,
    SECOND,
    act,
    becomes,
    ends,
    fill,
    history,
    rollout,
    set_to,
)
from support.imports import SmallStore

CANARY = Update(canary=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "store.db"))
    await fill(store)
    yield store
    await store.close()


async def test_a_rollout_is_paused_and_goes_on(store: SqliteStore) -> None:
    await set_to(store, "2")
    assert (await rollouts.pause(store, KEYS, act())).written
    paused = await rollout(store)
    assert (paused.state, paused.reason) == ("paused", "paused by u")
    assert not (await rollouts.pause(store, KEYS, act())).written
    outcome = await rollouts.resume(store, KEYS, act())
    running = await rollout(store)
    assert (running.state, running.reason, running.promoted) == ("running", "", False)
    assert (outcome.written, outcome.rollout) == (True, running)
    assert not (await rollouts.resume(store, KEYS, act())).written


async def test_a_canary_waits_to_be_promoted(store: SqliteStore) -> None:
    await set_to(store, "2")
    await becomes(store, policy=CANARY, state="paused", reason="10.0.0.1 is done")
    with pytest.raises(OrbitError, match="`orbitctl service web promote` goes on"):
        await rollouts.resume(store, KEYS, act())
    assert (await rollouts.promote(store, KEYS, act())).written
    promoted = await rollout(store)
    assert (promoted.state, promoted.reason, promoted.promoted) == ("running", "", True)
    assert not (await rollouts.promote(store, KEYS, act())).written

    await becomes(store, promoted=False)
    await rollouts.pause(store, KEYS, act())
    assert (await rollouts.resume(store, KEYS, act())).written, "people paused it before its canary was done"


@pytest.mark.parametrize(
    ("do", "changes", "told"),
    [
        ("pause", {"state": "complete"}, r"\(revision\) is complete; there is nothing to pause"),
        ("resume", {"state": "failed"}, "is failed; there is nothing to resume"),
        ("promote", {"state": "running"}, "is running; there is no canary to promote"),
        ("promote", {"state": "paused"}, "no canary: `orbitctl service web resume`"),
        ("promote", {"policy": CANARY}, "it pauses by itself when its first machines are done"),
        ("promote", {"policy": CANARY, "state": "complete", "promoted": True}, "no canary to promote"),
    ],
)
async def test_what_cannot_be_done_with_a_rollout_is_refused_with_what_can(
    store: SqliteStore, do: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(OrbitError, match="there has been no rollout yet"):
        await getattr(rollouts, do)(store, KEYS, act())
    await set_to(store, "2")
    before = await becomes(store, **changes)
    with pytest.raises(OrbitError, match=told):
        await getattr(rollouts, do)(store, KEYS, act())
    assert await rollout(store) == before


async def test_what_a_daemon_does_meanwhile_is_not_undone(store: SqliteStore) -> None:
    await set_to(store, "2")

    async def before(commits: int) -> None:
        if commits == 0:
            await becomes(store, state="complete")

    racing: Any = SmallStore(store, limits=store.limits, before=before)
    with pytest.raises(OrbitError, match="nothing to pause"):
        await rollouts.pause(racing, KEYS, act())
    assert (await rollout(store)).state == "complete"


async def test_a_relaunch_changes_nothing_but_the_containers(store: SqliteStore) -> None:
    await set_to(store, "2")
    unfinished = await rollout(store)
    outcome = await rollouts.relaunch(store, KEYS, act())
    found = await rollout(store)
    assert outcome.rollout == found
    assert (found.cause, found.machines, found.target) == ("relaunch", UNSET, unfinished.target)
    assert found.previous == unfinished.previous
    assert [past.outcome for past in await history(store)] == ["superseded"]


async def way_back(store: SqliteStore) -> tuple[str | None, str | None]:
    """Revision and machine that ``rollback`` would set."""
    change = await rollouts.way_back(store, KEYS, act())
    return change.revision, change.machine


async def test_rollback_goes_to_what_was_completed_before(store: SqliteStore) -> None:
    with pytest.raises(OrbitError, match="no other revision was ever completed"):
        await way_back(store)
    await set_to(store, "2")
    assert await way_back(store) == (None, None), "nothing but the tree's own was there before"
    await ends(store, "complete")
    assert await way_back(store) == (None, None)
    await set_to(store, "3")
    await ends(store, "failed")
    assert await way_back(store) == ("2", None)
    await set_to(store, "4")
    assert await way_back(store) == ("2", None), "what failed and what was not finished do not count"
    await ends(store, "complete")
    assert await way_back(store) == ("2", None)
    await rollouts.relaunch(store, KEYS, act())
    with pytest.raises(OrbitError, match="changes no revision"):
        await way_back(store)
    await ends(store, "complete")
    assert await way_back(store) == ("2", None), "a relaunch is no other revision"
    await set_to(store, "2")
    await ends(store, "complete")
    assert await way_back(store) == ("4", None), "there and back again"


async def test_rollback_of_one_machine_leaves_the_others(store: SqliteStore) -> None:
    await set_to(store, "2")
    await ends(store, "complete")
    await set_to(store, "3", FIRST)
    assert await way_back(store) == (None, FIRST)
    await ends(store, "complete")
    assert await way_back(store) == (None, FIRST)
    await set_to(store, "4", FIRST)
    assert await way_back(store) == ("3", FIRST)
    await set_to(store, "5", SECOND)
    with pytest.raises(OrbitError, match=f"it is for {FIRST} and {SECOND} alone"):
        await way_back(store)


async def test_a_configuration_is_taken_back_in_the_tree(store: SqliteStore) -> None:
    await set_to(store, "2")
    await becomes(store, cause="configuration", target=Aim(revision="2", serial=1, generation=GENERATION))
    assert await way_back(store) == (None, None), "the revision was not completed either"
    await becomes(store, previous=Aim(revision="2", serial=1, generation=GENERATION - 1))
    with pytest.raises(OrbitError, match="import the earlier tree"):
        await way_back(store)


async def test_a_drain_keeps_its_beginning_and_takes_another_deadline(store: SqliteStore) -> None:
    async def stored() -> bytes:
        item = await store.get(KEYS.drain(FIRST))
        return item.value if item else b""

    first = MachineDrain(user="alice", since="1")
    assert await drain(store, KEYS, FIRST, first)
    assert not await drain(store, KEYS, FIRST, MachineDrain(user="bob", since="2"))
    assert await drain(store, KEYS, FIRST, MachineDrain(user="bob", since="2", deadline="d"))
    assert await stored() == encode(MachineDrain(user="alice", since="1", deadline="d"))
    assert await undrain(store, KEYS, FIRST)
    assert not await undrain(store, KEYS, FIRST)
    assert await stored() == b""
    with pytest.raises(OrbitError, match="did you mean"):
        await drain(store, KEYS, "10.0.0.22", first)


async def leave_traces(store: SqliteStore, address: str, *, services: int) -> list[str]:
    """What a machine leaves in so many services; the keys, with those of another machine last."""
    kept = []
    for number in range(services):
        name = f"s{number}"
        puts = [
            Put(KEYS.progress(name, address), encode(Progress())),
            Put(KEYS.load_balancer(name, address), encode(LoadBalancer())),
            Put(KEYS.slot(name, 0), encode(Slot(machine=address, session="s", reason="r"))),
        ]
        others = [
            Put(KEYS.progress(name, FIRST), encode(Progress())),
            Put(KEYS.slot(name, 1), encode(Slot(machine=FIRST, session="s", reason="r"))),
        ]
        await store.commit([], [*puts, *others])
        kept += [put.key for put in others]
    return sorted(kept)


async def test_a_machine_is_forgotten_with_all_that_others_would_wait_for(store: SqliteStore) -> None:
    await set_to(store, "9", GONE)
    await drain(store, KEYS, GONE, MachineDrain())
    kept = await leave_traces(store, GONE, services=60)
    found = await forget(store, KEYS, GONE)
    services, drains, machine = (await store.read(KEYS.services, KEYS.drains, KEYS.machines)).ranges
    assert [item.key for item in services] == kept
    assert drains == ()
    assert KEYS.machine(GONE) not in {item.key for item in machine}
    assert len(found.removed) == 3 * 60 + 2
    assert found.removed[-1] == "its record"
    assert "its turn in s7" in found.removed
    assert found.own_revisions == ("web",)
    with pytest.raises(OrbitError, match="no daemon has registered"):
        await forget(store, KEYS, GONE)


async def test_a_machine_that_is_alive_is_not_forgotten_also_when_it_comes_back_in_between(
    store: SqliteStore,
) -> None:
    with pytest.raises(OrbitError, match="its daemon is alive"):
        await forget(store, KEYS, FIRST)
    await leave_traces(store, GONE, services=40)

    async def before(commits: int) -> None:
        if commits == 1:
            await store.commit([], [Put(KEYS.alive(GONE), b"{}")])

    racing: Any = SmallStore(store, limits=store.limits, before=before)
    with pytest.raises(OrbitError, match="its daemon is alive"):
        await forget(racing, KEYS, GONE)
    assert await store.get(KEYS.machine(GONE)) is not None
