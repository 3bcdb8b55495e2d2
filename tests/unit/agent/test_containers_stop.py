import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.containers import ContainersLoop
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.containers import ContainerEvent, ObservedContainer
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.container_specs import container_spec, wanted_containers
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.statedir import StateDirectory
from support.loops import desired, running, until

CONTAINER = Container(config={"Image": "web:1"})
WEB = EffectiveService(service=Service(name="web", endpoint_port=80, container_port=80, container=CONTAINER))


class WithoutEvents:
    """An engine with one container, whose events come too late."""

    def __init__(self) -> None:
        [wanted] = wanted_containers(desired(WEB))
        labels = container_spec(wanted, port=80).body["Labels"]
        self.found = ObservedContainer(
            id="c1", name="web", image="web:1", state="running", started_at="t", labels=labels
        )
        self.removed = asyncio.Event()

    async def containers(self) -> tuple[ObservedContainer, ...]:
        return () if self.removed.is_set() else (self.found,)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[ContainerEvent]]:
        async def never() -> AsyncIterator[ContainerEvent]:
            await asyncio.Event().wait()
            yield ContainerEvent("die", "c1", "web")

        yield never()

    async def stop(self, container_id: str, *, grace: float) -> None: ...

    async def remove(self, container_id: str) -> None:
        self.removed.set()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def test_a_container_that_was_stopped_has_no_run_any_more_whatever_docker_tells(tmp_path: Path) -> None:
    board, engine = Board(), WithoutEvents()
    board.desired.set(desired(WEB))
    loop = ContainersLoop(
        board=board,
        runtime=engine,
        port_range=PortRange(20000, 20009),
        files=StateDirectory(tmp_path / "state"),
    )
    async with running(loop):
        await until(board.runs, bool)
        [own] = board.rollouts.own.value or ()
        await loop.actions.stop(own, grace=1)
        assert board.runs.value == ()
        assert engine.removed.is_set()


async def test_what_may_be_stopped_is_asked_the_moment_before(tmp_path: Path) -> None:
    """Giving a container another name can take long: by then the slot may be somebody else's."""
    engine = WithoutEvents()
    board = Board()
    board.desired.set(desired(WEB))
    loop = ContainersLoop(
        board=board,
        runtime=engine,
        port_range=PortRange(20000, 20009),
        files=StateDirectory(tmp_path / "state"),
    )
    async with running(loop):
        await until(board.runs, bool)
        [own] = board.rollouts.own.value or ()
        with pytest.raises(OrbitError, match="too late"):
            await loop.actions.stop(own, grace=1, allowed=lambda: False)
        assert len(board.runs.value or ()) == 1
        assert not engine.removed.is_set()
