"""One machine with a real engine: the containers loop, and its neighbours on the board played by hand."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board, Cell, Session, Standing, T, Wake
from orbitcontrol.agent.containers import ContainersLoop
from orbitcontrol.agent.mirror import Mirror
from orbitcontrol.agent.rollouts import RolloutsLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.model.runs import Run, Verdict
from orbitcontrol.model.service import Container, Service, Update
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.planning.rollout_steps import Directive
from orbitcontrol.probes.connect import TcpConnector
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore

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
    fields.setdefault("update", Update(min_healthy_time=Duration(0)))
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
    """The loops of containers and rollouts at work, on a store of their own.

    Health follows ``judge``; endpoints are published as the directives say, as long as it ``publishes``.
    """

    def __init__(self, host: str, directory: Path) -> None:
        self.board = Board()
        self.judge: Callable[[Run], bool] = lambda run: True
        self.publishes = True
        self.host = host
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []
        self._runtime: DockerRuntime | None = None

    async def start(self, *, knows_published: bool = True) -> None:
        """Starts the loop as a daemon's start does: knowing nothing, or only what is published."""
        desired = self.board.desired.value
        self.board = Board()
        self.board.desired.set(desired)
        self._runtime = DockerRuntime(self.host)
        files = StateDirectory(self._directory / "state")
        self._loop = _WatchedLoop(
            board=self.board,
            runtime=self._runtime,
            port_range=PORTS,
            files=files,
        )
        self._store = SqliteStore(str(self._directory / "store.db"))
        rollouts = RolloutsLoop(
            board=self.board,
            store=self._store,
            keys=Keys(),
            hands=self._loop,
            connector=TcpConnector(),
            files=files,
            ttl=10.0,
            new_id=lambda: secrets.token_hex(4),
        )
        loops = (self._loop.run(), rollouts.run(), self._neighbours(), self._standing())
        self._tasks = [asyncio.create_task(one) for one in loops]
        if knows_published:
            self.tell_published()

    def tell_published(self) -> None:
        """Lets the loops know what is published, as the endpoints loop does when it has read the store."""
        self.board.proven.set(frozenset())
        self.board.session.set(Session(id="s", lease=1, resumed=False))
        self.board.publisher.set("s")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._runtime is not None:
            await self._runtime.close()
            await self._store.close()

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
        cells = self.board.rollouts
        self.board.runs.subscribe(self._wake)
        cells.directives.subscribe(self._wake)
        while True:
            runs = self.board.runs.value or ()
            verdicts = {run.id: Verdict(up=self.judge(run), judged=True) for run in runs}
            self.board.verdicts.set(verdicts)
            if self.publishes:
                directives = cells.directives.value
                told = {} if directives is None else directives.runs
                up = [run for run in runs if verdicts[run.id].up and told.get(run.id) != "hold"]
                cells.publications.set({run.id: _endpoint(run, told.get(run.id)) for run in up if run.port})
                self.board.published.set(frozenset(run.id for run in up))
                cells.directed.set(directives)
            await self._wake.wait()

    async def _standing(self) -> None:
        """Tells of the rollouts in the store, as the configuration loop does."""
        wake, keys = Wake(), Keys()
        mirror = Mirror(
            "deployments",
            store=self._store,
            range=keys.deployments,
            problems=self.board.problems,
            history=self.board.history,
        )
        mirror.cell.subscribe(wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(mirror.run())
            while True:
                await wake.wait()
                seen = mirror.cell.value
                assert seen is not None
                rollouts = {
                    keys.below(key)[1]: decode(item.value, Rollout, key=key)
                    for key, item in seen.entries.items()
                    if key.endswith("/rollout")
                }
                self.board.rollouts.standing.set(Standing(revision=seen.revision, rollouts=rollouts))


def _endpoint(run: Run, directive: Directive | None) -> Endpoint:
    return Endpoint(
        id=f"{run.id.container_id} {directive}",
        machine=ADDRESS,
        session="s",
        instance=run.id.instance,
        state="draining" if directive == "drain" else "up",
        ack=directive is not None,
    )


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
