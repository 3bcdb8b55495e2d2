import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.containers import ContainersLoop
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.containers import ContainerEvent, ObservedContainer
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.container_specs import container_spec, wanted_containers
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.statedir import StateDirectory
from support.loops import UP, desired, running, until

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


async def test_a_container_that_was_stopped_has_no_run_when_it_is_no_longer_retiring(tmp_path: Path) -> None:
    board, engine = Board(), WithoutEvents()
    run = RunId("web", 1, "c1", "t")
    board.desired.set(desired(WEB))
    board.proven.set(frozenset())
    board.verdicts.set({run: UP})
    runs_when_retired: list[object] = []
    setter = board.retiring.set

    def set_and_note(value: frozenset[RunId]) -> None:
        if not value:
            runs_when_retired.append(board.runs.value)
        setter(value)

    board.retiring.set = set_and_note  # type: ignore[method-assign]
    loop = ContainersLoop(
        board=board,
        runtime=engine,
        port_range=PortRange(20000, 20009),
        files=StateDirectory(tmp_path / "state"),
        replacement_pause=0.01,
    )
    async with running(loop):
        await until(board.runs, bool)
        board.desired.set(desired())
        async with asyncio.timeout(20):
            await engine.removed.wait()
        await until(board.retiring, lambda retiring: not retiring)
    assert runs_when_retired == [()]
