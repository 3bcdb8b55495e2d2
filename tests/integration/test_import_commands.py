"""What people are told when they meet an import that did not end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.codec.keys import Keys
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from orbitcontrol.tree.load import load
from support.imports import SmallStore, import_until_killed
from support.machine import Cluster

pytestmark = pytest.mark.integration


def tree(cluster: Cluster, name: str, *, instances: int) -> Path:
    files: dict[str, Any] = {
        f"services/s{n}.json": {"Name": f"s{n}", "Instances": instances, "Checks": [{"Type": "dummy"}]}
        for n in range(6)
    }
    return cluster.tree(files, name=name)


def with_store(cluster: Cluster, work: Callable[[Store], Awaitable[Any]]) -> None:
    async def session() -> None:
        store = open_store(cluster.store)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(session())


def interrupted(cluster: Cluster, directory: Path, *, decided: bool) -> None:
    """An import of the tree that died before or after it was decided."""

    async def die(store: Store) -> None:
        small = SmallStore(store)

        async def before(commits: int) -> None:
            found = await store.get(Keys(cluster.base).meta)
            applying = found is not None and b'"applying"' in found.value
            if small.lifetime is None and (applying if decided else commits == 2):
                small.lifetime = commits + decided

        small.before = before
        assert not await import_until_killed(small, Keys(cluster.base), load(directory).entries, "dead")

    with_store(cluster, die)


def test_people_see_the_end_of_a_decided_import_and_the_next_one_finishes_it(cluster: Cluster) -> None:
    old, new = tree(cluster, "old", instances=1), tree(cluster, "new", instances=2)
    cluster.orbitctl("import", str(old))
    interrupted(cluster, new, decided=True)

    verified = cluster.orbitctl("verify", str(new))
    assert "The store has exactly this tree." in verified.err
    assert "Generation 2, imported by alice" in verified.err
    assert "`orbitctl import` finishes it" in verified.err
    planned = cluster.orbitctl("plan", str(old), code=1)
    assert "~ services/s0: Instances: 2 → 1" in planned.out
    assert "is still being applied" in planned.err
    exported = cluster.orbitctl("export", str(cluster.directory / "exported"))
    assert "is still being applied" in exported.err
    assert load(cluster.directory / "exported").entries == load(new).entries
    assert any(item.key.startswith(f"{cluster.base}/config/import/") for item in cluster.stored("config/"))

    imported = cluster.orbitctl("import", str(new))
    assert "Finished generation 2 of alice." in imported.err
    assert "Imported as" not in imported.err
    assert not cluster.stored("config/import/")
    assert "applied" not in cluster.orbitctl("verify", str(new)).err


def test_the_next_import_drops_one_that_was_not_decided_and_does_its_own(cluster: Cluster) -> None:
    old, new = tree(cluster, "old", instances=1), tree(cluster, "new", instances=2)
    cluster.orbitctl("import", str(old))
    interrupted(cluster, new, decided=False)
    assert cluster.stored("config/import/")
    assert cluster.orbitctl("verify", str(old)).err.strip() == "The store has exactly this tree."

    imported = cluster.orbitctl("import", str(new))
    assert "Dropped what an interrupted import had left; it was never in force." in imported.err
    assert "Imported as generation 2." in imported.err
    assert not cluster.stored("config/import/")
