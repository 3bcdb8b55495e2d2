"""What can be done to containers, one at a time.

Nothing here asks whether it may: to start what is missing needs nobody's leave (``agent.containers``), and
what serves is stopped by the rollouts loop alone, after everybody has confirmed (``agent.rollout_deployer``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from orbitcontrol.agent.containers_ports import PortPicker
from orbitcontrol.agent.containers_words import LINES, SIZE
from orbitcontrol.codec.logtext import one_line
from orbitcontrol.errors import DockerError, OrbitError, PortTaken
from orbitcontrol.log import Log
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer, container_spec
from orbitcontrol.ports import ContainerRuntime

_PORT_ATTEMPTS = 10

_log = Log(__name__)


class ContainerActions:
    """Starts and stops containers of one engine. ``ended`` is told of each that was stopped, at once."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        ports: PortPicker,
        *,
        ended: Callable[[ObservedContainer], None],
    ) -> None:
        self._runtime = runtime
        self._ports = ports
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

    async def stop(
        self,
        own: OwnContainer,
        *,
        grace: float,
        keep_as: str | None = None,
        allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        """Stops it and removes it, or keeps it under another name, which it gets first. Raises OrbitError.

        ``allowed`` has the last word, the moment before the engine is told.
        """
        container = own.container
        if keep_as is not None and container.name != keep_as:
            await self._runtime.rename(container.id, keep_as)
        if own.alive:
            if not allowed():
                raise OrbitError(f"{container.name}: too late to be stopped without asking again")
            await self._runtime.stop(container.id, grace=grace)
            self._ended(container)  # at once: Docker's event may be late
        if keep_as is None:
            await self._runtime.remove(container.id)

    async def revive(self, own: OwnContainer, *, name: str, ended: tuple[ObservedContainer, ...]) -> None:
        """Starts a container that was kept, under its old name. Raises DockerError."""
        for container in ended:
            await self._runtime.remove(container.id)
        await self.rename(own, name)
        await self._runtime.start(own.container.id)

    async def rename(self, own: OwnContainer, name: str) -> None:
        """Gives it another name. Raises DockerError."""
        if own.container.name != name:
            await self._runtime.rename(own.container.id, name)

    async def remove(self, own: OwnContainer) -> None:
        """Removes one that does not run. Raises DockerError."""
        await self._runtime.remove(own.container.id)

    async def last_words(self, container_id: str) -> str:
        """The end of its log, on one line; "" where there is none to be had."""
        try:
            return one_line(await self._runtime.log_tail(container_id, lines=LINES, size=SIZE))
        except OrbitError:
            return ""

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
