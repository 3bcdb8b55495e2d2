"""Both stores behind the same fixtures: two clients of the same data, as two processes would be.

``store`` and ``other`` are for tests that leave the store itself alone; the store in memory, on which the
simulation runs, has to pass them as well. Tests that do something to a store ask for ``faults`` and open
their clients with ``faulty`` and ``faulty_too``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.model.stored import Delete
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from simulation.memory_store import open_memory
from support.etcd import EtcdServer
from support.stores import EVERYTHING, EtcdFaults, Faults, SqliteFaults


@pytest.fixture(params=["sqlite", "etcd", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd_server")
        return f"etcd://{server.endpoint}"
    return f"{request.param}://{tmp_path}/store.db"


def _opened(url: str) -> Store:
    return open_memory(url) if url.startswith("memory:") else open_store(url)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """An empty store."""
    store = _opened(url)
    await store.commit([], [Delete(EVERYTHING)])
    yield store
    await store.close()


@pytest.fixture
async def patient(url: str, store: Store) -> AsyncIterator[Store]:
    """Another client, for calls that a busy machine takes long for."""
    patient = open_memory(url) if url.startswith("memory:") else open_store(url, call_timeout=120)
    yield patient
    await patient.close()


@pytest.fixture
async def other(url: str, store: Store) -> AsyncIterator[Store]:
    """Another client of ``store``'s data."""
    other = _opened(url)
    yield other
    await other.close()


@pytest.fixture(params=["sqlite", "etcd"])
def faults(request: pytest.FixtureRequest, tmp_path: Path) -> Faults:
    """A store of the test's own, which exists already."""
    if request.param == "sqlite":
        return SqliteFaults(tmp_path)
    return EtcdFaults(request.getfixturevalue("own_etcd"), tmp_path)


@pytest.fixture
async def faulty(faults: Faults) -> AsyncIterator[Store]:
    """A client of the store that something will happen to."""
    store = open_store(faults.url)
    await store.read()
    yield store
    await store.close()


@pytest.fixture
async def faulty_too(faults: Faults, faulty: Store) -> AsyncIterator[Store]:
    """Another client of it."""
    other = open_store(faults.url)
    await other.read()
    yield other
    await other.close()
