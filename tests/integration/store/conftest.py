"""Both stores behind the same fixtures: two clients of the same data, as two processes would be.

``store``, of ``support.stores``, and ``other`` are for tests that leave the store itself alone. Those
that do something to it ask for ``faults`` and open their clients with ``faulty`` and ``faulty_too``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.stores import EtcdFaults, Faults, SqliteFaults


@pytest.fixture
async def other(url: str, store: Store) -> AsyncIterator[Store]:
    """Another client of ``store``'s data."""
    other = open_store(url)
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
