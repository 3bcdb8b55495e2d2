"""Both stores behind the same two fixtures: two clients of the same data, as two processes would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.model.stored import Delete, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer

EVERYTHING = Range("\0", "\U0010ffff")


@pytest.fixture(params=["sqlite", "etcd"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store.db"
    server: EtcdServer = request.getfixturevalue("etcd_server")
    return f"etcd://{server.endpoint}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = open_store(url)
    await store.commit([], [Delete(EVERYTHING)])
    yield store
    await store.close()


@pytest.fixture
async def other(url: str, store: Store) -> AsyncIterator[Store]:
    """Another client of ``store``'s data."""
    other = open_store(url)
    yield other
    await other.close()
