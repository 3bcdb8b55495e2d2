"""Some of the daemon's loops on one board; what the others would tell them is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Protocol, TypeVar

from orbitcontrol.agent.board import Cell
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.service import DummyCheck, Service
from orbitcontrol.ports import Store

T = TypeVar("T")

ADDRESS = "10.0.0.1"
PATIENCE = 60.0

WEB = EffectiveService(service=Service(name="web", endpoint_port=80, checks=(DummyCheck(),)))
RUN = Run(id=RunId("web"), effective=WEB, host=ADDRESS, port=80)
UP = Verdict(up=True, judged=True)
DOWN = Verdict(up=False, judged=True, reason="status 500")


class Loop(Protocol):
    async def run(self) -> None: ...


@asynccontextmanager
async def running(*loops: Loop) -> AsyncIterator[None]:
    """The loops at work until the end of the block."""
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(cell: Cell[T], holds: Callable[[T], bool]) -> T:
    """The cell's value once it holds."""
    assert await cell.wait_for(holds, timeout=PATIENCE), cell.value
    return cell.value


async def eventually(look: Callable[[], Awaitable[T]], *, what: str) -> T:
    """The first true thing that ``look`` returns."""
    async with asyncio.timeout(PATIENCE):
        while not (seen := await look()):  # noqa: ASYNC110 -- a store is asked, not this process
            await asyncio.sleep(0.01)
    assert seen, what
    return seen


def desired(*services: EffectiveService, held: frozenset[str] = frozenset()) -> Desired:
    return Desired(
        epoch="e",
        generation=1,
        machine=MachineIdentity(address=ADDRESS),
        services={one.name: one for one in services},
        held=held,
    )


def ids(prefix: str) -> Callable[[], str]:
    """``prefix1``, ``prefix2``, …"""
    numbers: Iterator[int] = count(1)
    return lambda: f"{prefix}{next(numbers)}"


class Meddled:
    """A store some of whose methods are replaced."""

    def __init__(self, store: Store, **methods: Any) -> None:
        self._store = store
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._store, name)
