"""A machine with a real engine for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from support.containers import Machine
from support.docker import Engine


@pytest_asyncio.fixture
async def machine(engine: Engine, tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(engine.host, tmp_path)
    await machine.start()
    yield machine
    await machine.stop()
