"""How a container is started, and the one way in which a serving one is stopped.

A container may be stopped only when nobody is sent to it any more: its run is put on the board's
``retiring``, the endpoints loop withdraws it, and only when it is no longer among the published,
plus a pause for the load balancers to follow, the container is asked to end. When the withdrawal
does not happen (the store cannot be reached), the container goes on serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.containers_ports import PortPicker
from orbitcontrol.errors import DockerError, OrbitError, PortTaken
from orbitcontrol.log import Log
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.runs import RunId
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer, container_spec
from orbitcontrol.ports import ContainerRuntime

WITHDRAWAL_TIMEOUT = 30.0
"""Seconds that the endpoints loop has to withdraw a run before its stop is given up for now."""

_PORT_ATTEMPTS = 10

_log = Log(__name__)


class ContainerActions:
    """Starts and stops containers of one engine. ``ended`` is told of each that was stopped, at once."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        board: Board,
        ports: PortPicker,
        *,
        replacement_pause: float,
        withdrawal_timeout: float,
        ended: Callable[[ObservedContainer], None],
    ) -> None:
        self._runtime = runtime
        self._board = board
        self._ports = ports
        self._pause = replacement_pause
        self._withdrawal_timeout = withdrawal_timeout
        self._ended = ended

    async def start(self, wanted: WantedContainer, ended: tuple[ObservedContainer, ...]) -> None:
        """Removes what ended, then creates and starts what is wanted. Raises DockerError."""
        for container in ended:
            await self._runtime.remove(container.id)
        if wanted.port is not None:
            await self._create_and_start(wanted, wanted.port)
            return
        try:
            await self._start_on_picked_port(wanted)
        finally:
            self._ports.release(wanted.key)

    async def stop(self, own: OwnContainer, *, grace: float) -> None:
        """Withdraws, stops and removes. Raises OrbitError, and then the container is as it was before."""
        run = own.run_id
        try:
            if own.alive:
                await self._withdraw(run, serves=own.port != 0 and not self._is_down(run))
                await self._runtime.stop(own.container.id, grace=grace)
                self._ended(own.container)  # before it counts as retiring no more: the event may be late
            await self._runtime.remove(own.container.id)
        finally:
            self._board.retiring.set(self._board.retiring.value - {run})

    async def evict(self, stranger: ObservedContainer, *, grace: float) -> None:
        """Stops and removes a container that no endpoint stands for. Raises OrbitError."""
        if stranger.alive:
            await self._runtime.stop(stranger.id, grace=grace)
        await self._runtime.remove(stranger.id)

    async def _start_on_picked_port(self, wanted: WantedContainer) -> None:
        """Tries one port after the other: a stranger on the machine may hold some of the range."""
        for _ in range(_PORT_ATTEMPTS):
            port = self._ports.pick(wanted.key)
            try:
                await self._create_and_start(wanted, port)
            except PortTaken as error:
                _log.info("picked port is taken, trying another", container=wanted.name, reason=error)
            else:
                return
        raise PortTaken(
            f"{wanted.name}: {_PORT_ATTEMPTS} ports in a row were taken by something else on this machine: "
            "give the daemon a --port-range of its own"
        )

    async def _create_and_start(self, wanted: WantedContainer, port: int) -> None:
        container_id = await self._runtime.create(container_spec(wanted, port=port))
        try:
            await self._runtime.start(container_id)
        except DockerError:
            with suppress(DockerError):
                await self._runtime.remove(container_id)
            raise

    async def _withdraw(self, run: RunId, *, serves: bool) -> None:
        """Returns when nobody is sent to the run any more. Raises OrbitError when that does not happen."""
        board = self._board
        board.retiring.set(board.retiring.value | {run})
        await self._until_unpublished(run)
        if serves:
            await asyncio.sleep(self._pause)
            await self._until_unpublished(run)  # a publication may have been under way when it began

    def _is_down(self, run: RunId) -> bool:
        """True when the checks say that it does not serve, so that nobody can be sent to it."""
        verdict = self._board.verdicts.value.get(run)
        down = verdict is not None and verdict.judged and not verdict.up
        return down and run not in self._board.published.value

    async def _until_unpublished(self, run: RunId) -> None:
        timeout = self._withdrawal_timeout
        if not await self._board.published.wait_for(lambda published: run not in published, timeout=timeout):
            raise OrbitError(
                f"its endpoint was not withdrawn within {timeout:g} s, so it goes on serving: "
                "is the store reachable?"
            )
