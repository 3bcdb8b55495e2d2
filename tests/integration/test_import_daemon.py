"""What daemons make of an import that is being applied: the old configuration, or nothing, never a mix."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.configuration import ConfigurationLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.configuration import Desired, MachineIdentity
from orbitcontrol.model.state import Deployment, Problem
from orbitcontrol.model.stored import Put
from orbitcontrol.ports import Store
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.open import open_store
from support.imports import Entries, SmallStore, import_entries, import_until_killed
from support.loops import running, until
from support.machine import Cluster, eventually

pytestmark = pytest.mark.integration

IMAGE = "registry.example.com/web:R1"


def entries(*names: str, instances: int = 1, port: int | None = None) -> Entries:
    """Services bound to the tag ``app``; with ``port`` they are processes, from that port on."""
    found = {}
    for number, name in enumerate(names):
        kind: dict[str, Any] = {"Container": {"Config": {"Image": IMAGE}}, "Instances": instances}
        if port is not None:
            kind = {"EndpointPort": port + number, "Checks": [{"Type": "dummy"}]}
        found[f"services/{name}"] = json.dumps({"Name": name, **kind}).encode()
        found[f"tags/app/services/{name}"] = b"{}"
    return found


NAMES = tuple(f"s{n}" for n in range(6))
OLD = entries(*NAMES)
NEW = entries(*NAMES[1:], "new", instances=2)


async def import_half(store: Store, keys: Keys, wanted: Entries) -> None:
    """The import is decided, and its importer dies after two more commits."""
    counting = SmallStore(store)
    decided = False

    async def note(commits: int) -> None:
        nonlocal decided
        found = await store.get(keys.meta)
        decided = found is not None and b'"applying"' in found.value
        if decided and counting.lifetime is None:
            counting.lifetime = commits + 2

    counting.before = note
    assert not await import_until_killed(counting, keys, wanted, "dead")
    assert decided


def services_of(desired: Desired | None) -> set[str]:
    return set(desired.services) if desired else set()


def revision_of(desired: Desired | None, service: str) -> str:
    return desired.services[service].revision if desired else ""


def is_told(problems: Iterable[Problem]) -> bool:
    return any("an import is being applied" in problem.reason for problem in problems)


class TestLoop:
    """The configuration loop on a store, with the machine's board."""

    KEYS = Keys()

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        opened = open_store(f"sqlite://{tmp_path}/store.db")
        yield opened
        await opened.close()

    def loop(self, board: Board, store: Store, directory: Path) -> ConfigurationLoop:
        machine = MachineIdentity(address="10.0.0.1", tags=("app",))
        return ConfigurationLoop(
            board=board, store=store, keys=self.KEYS, machine=machine, files=StateDirectory(directory)
        )

    async def test_the_configuration_in_force_stays_until_the_import_is_complete(
        self, store: Store, tmp_path: Path
    ) -> None:
        await import_entries(store, self.KEYS, OLD, "old")
        board = Board()
        async with running(self.loop(board, store, tmp_path / "state")):
            await until(board.desired, bool)
            before = board.desired.value
            await import_half(store, self.KEYS, NEW)
            await until(board.problems.cell, is_told)
            assert board.desired.value == before
            await import_entries(SmallStore(store), self.KEYS, NEW, "next")
            await until(board.desired, lambda desired: services_of(desired) == {*NAMES[1:], "new"})
            await until(board.problems.cell, lambda problems: not is_told(problems))

    async def test_a_new_revision_is_followed_meanwhile(self, store: Store, tmp_path: Path) -> None:
        await import_entries(store, self.KEYS, OLD, "old")
        board = Board()
        async with running(self.loop(board, store, tmp_path / "state")):
            await until(board.desired, bool)
            await import_half(store, self.KEYS, NEW)
            deployment = Deployment(revision="R2", serial=1, deployment_time="t", user="alice")
            await store.commit([], [Put(self.KEYS.revision("s1"), encode(deployment))])
            desired = await until(board.desired, lambda desired: revision_of(desired, "s1") == "R2")
            assert desired is not None
            assert services_of(desired) == set(NAMES)
            assert desired.services["s1"].service.instances == 1

    async def test_after_a_restart_the_remembered_configuration_is_in_force(
        self, store: Store, tmp_path: Path
    ) -> None:
        await import_entries(store, self.KEYS, OLD, "old")
        board = Board()
        async with running(self.loop(board, store, tmp_path / "state")):
            await until(board.desired, bool)
        await import_half(store, self.KEYS, NEW)
        restarted = Board()
        async with running(self.loop(restarted, store, tmp_path / "state")):
            await until(restarted.desired, bool)
            assert services_of(restarted.desired.value) == set(NAMES)
            await import_entries(SmallStore(store), self.KEYS, NEW, "next")
            await until(restarted.desired, lambda desired: services_of(desired) == {*NAMES[1:], "new"})


def test_a_daemon_started_in_the_middle_does_nothing_until_the_import_is_complete(
    cluster: Cluster,
) -> None:
    services = entries(*NAMES, port=20_000)

    async def interrupted() -> None:
        store = open_store(cluster.store)
        try:
            await import_half(store, Keys(cluster.base), services)
        finally:
            await store.close()

    asyncio.run(interrupted())
    machine = cluster.machine()
    machine.start(ready=False)

    def told() -> bool:
        problems = cluster.look("status")["Problems"]
        return any("an import is being applied" in each["Reason"] for each in problems)

    eventually(told, what="the reason in status")
    assert cluster.endpoints() == []
    cluster.orbitctl("import", str(_exported(cluster)), "--yes")
    eventually(lambda: len(cluster.endpoints()) == len(NAMES), what="every service published")
    eventually(lambda: not told(), what="the reason gone")


def _exported(cluster: Cluster) -> Path:
    cluster.orbitctl("export", str(cluster.directory / "exported"))
    return cluster.directory / "exported"
