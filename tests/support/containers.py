"""One machine with a real engine: the containers loop, and its neighbours on the board played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board, Cell, T, Wake
from orbitcontrol.agent.containers import ContainersLoop
from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.runs import Run, Verdict
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.statedir import StateDirectory

ADDRESS = "127.0.0.1"
PORTS = PortRange(23400, 23449)
PATIENCE = 60.0


def web(name: str, image: str, **fields: Any) -> EffectiveService:
    """A service whose containers answer HTTP with their image's page on port 80."""
    return process(name, image, ["httpd", "-f", "-p", "80", "-h", "/www"], container_port=80, **fields)


def process(name: str, image: str, command: list[str], **fields: Any) -> EffectiveService:
    """A service whose containers run the command (as process 1, which ignores SIGTERM unless it asks)."""
    config = {"Image": image, "Cmd": command, "StopSignal": "SIGKILL"}
    container = Container(config=config, host_config=fields.pop("host_config", {}))
    service = Service(name=name, container=container, **fields)
    return EffectiveService(service=service, revision=image.rpartition(":")[2])


class _WatchedLoop(ContainersLoop):
    """A loop that says when it has taken a step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stepped = asyncio.Condition()

    def wake(self) -> None:
        self._wake.ring("test")

    async def _step(self, reasons: frozenset[str]) -> None:
        await super()._step(reasons)
        async with self.stepped:
            self.stepped.notify_all()


class Machine:
    """A containers loop at work, with a health loop that follows ``judge`` and an obedient store."""

    def __init__(self, host: str, directory: Path) -> None:
        self.board = Board()
        self.judge: Callable[[Run], bool] = lambda run: True
        self.publishes = True
        self.host = host
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []
        self._runtime: DockerRuntime | None = None

    async def start(self, *, withdrawal_timeout: float = 30.0, knows_published: bool = True) -> None:
        """Starts the loop as a daemon's start does: knowing nothing, or only what is published."""
        desired = self.board.desired.value
        self.board = Board()
        self.board.desired.set(desired)
        self.board.proven.set(frozenset() if knows_published else None)
        self._runtime = DockerRuntime(self.host)
        self._loop = _WatchedLoop(
            board=self.board,
            runtime=self._runtime,
            port_range=PORTS,
            files=StateDirectory(self._directory / "state"),
            replacement_pause=0.2,
            withdrawal_timeout=withdrawal_timeout,
        )
        self._tasks = [asyncio.create_task(self._loop.run()), asyncio.create_task(self._neighbours())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._runtime is not None:
            await self._runtime.close()

    def want(
        self,
        *services: EffectiveService,
        held: frozenset[str] = frozenset(),
        authoritative: frozenset[str] = frozenset(),
        holding: str = "",
    ) -> None:
        self.board.desired.set(
            Desired(
                epoch="e",
                generation=1,
                machine=MachineIdentity(address=ADDRESS),
                services={one.name: one for one in services},
                held=held,
                authoritative_names=authoritative,
                holding=holding,
            )
        )

    def record(self, cell: Cell[T]) -> list[T]:
        """Every value that the cell has from now on."""
        values = [cell.value]
        setter = cell.set

        def set_and_record(value: T) -> None:
            values.append(value)
            setter(value)

        cell.set = set_and_record  # type: ignore[method-assign]
        return values

    def recheck(self) -> None:
        """Asks ``judge`` anew."""
        self._wake.ring("test")

    async def settle(self) -> None:
        """Returns after two more whole steps of the loop: it then has begun all that it is going to do."""
        for _ in range(2):
            self._loop.wake()
            async with self._loop.stepped:
                async with asyncio.timeout(PATIENCE):
                    await self._loop.stepped.wait()

    async def until(self, cell: Cell[T], holds: Callable[[T], bool], what: str) -> T:
        """The cell's value once it holds."""
        assert await cell.wait_for(holds, timeout=PATIENCE), f"{what}: {cell.value}"
        return cell.value

    async def runs(self, count: int) -> tuple[Run, ...]:
        """The runs, once there are so many and each is published."""
        board = self.board

        def settled() -> bool:
            runs = board.runs.value or ()
            return len(runs) == count and board.published.value == {run.id for run in runs}

        while not settled():
            await self.until(board.runs, lambda runs: len(runs or ()) == count, f"{count} runs")
            await self.until(board.published, lambda _: settled(), f"{count} published runs")
        return board.runs.value or ()

    async def reported(self, service: str, state: str) -> str:
        """The reason with which an instance of the service is in the state, once one is."""

        def matching(reports: Any) -> list[str]:
            return [one.reason for one in reports if one.service == service and one.state == state]

        reports = await self.until(
            self.board.instances, lambda reports: bool(matching(reports)), f"{service} {state}"
        )
        return matching(reports)[0]

    async def problem(self, subject: str) -> str:
        """The reason of the problem with the subject, once there is one."""
        cell = self.board.problems.cell
        problems = await self.until(
            cell, lambda found: any(one.subject == subject for one in found), f"problem {subject}"
        )
        return next(one.reason for one in problems if one.subject == subject)

    async def until_logged(self, caplog: pytest.LogCaptureFixture, message: str, *, count: int) -> None:
        """Returns once the message was logged so often."""

        def times() -> int:
            return sum(record.getMessage() == message for record in caplog.records)

        await eventually(lambda: times() >= count, f"{message!r} logged {count} times")

    async def _neighbours(self) -> None:
        self._wake = Wake()
        for cell in (self.board.runs, self.board.retiring):
            cell.subscribe(self._wake)
        while True:
            runs = self.board.runs.value or ()
            verdicts = {run.id: Verdict(up=self.judge(run), judged=True) for run in runs}
            self.board.verdicts.set(verdicts)
            if self.publishes:
                serving = {run.id for run in runs if verdicts[run.id].up}
                self.board.published.set(frozenset(serving - self.board.retiring.value))
            await self._wake.wait()


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Returns once it holds; ``holds`` may block, and is asked in a thread."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(holds):  # noqa: ASYNC110 -- the world rings no bell
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE:g} s: {what}") from None


async def page(run: Run) -> str:
    """What the run answers on its endpoint."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(run.host, run.port)
                writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if answer:
                    return answer.decode().partition("\r\n\r\n")[2]
            await asyncio.sleep(0.05)
