"""A machine with a real engine for each test, and the adapter to that engine alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from orbitcontrol.docker.runtime import DockerRuntime
from support.containers import Machine
from support.docker import Engine
from support.registry import Registry, started_registry


@pytest_asyncio.fixture
async def machine(engine: Engine, tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(engine.host, tmp_path)
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
def image(engine: Engine) -> str:
    return engine.image("orbit-test/web:1")


@pytest.fixture
def image2(engine: Engine) -> str:
    return engine.image("orbit-test/web:2")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with started_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest_asyncio.fixture
async def runtime(engine: Engine) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime(engine.host)
    yield runtime
    await runtime.close()
