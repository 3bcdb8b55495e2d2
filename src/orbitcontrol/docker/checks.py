"""What checks ask of the Docker engine: ``ContainerChecks`` on aiodocker.

It has connections of its own. A hundred checks that wait for commands inside containers, or for an
engine that hangs, use up the connections of one client; the daemon's own calls must not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp

from orbitcontrol.errors import DockerError, DockerUnreachable
from orbitcontrol.model.containers import ContainerHealth

_CANNOT_CONNECT = 900  # aiodocker's own status for a failed connection

_PAUSE = 0.05

_Key = tuple[str, tuple[str, ...]]


class DockerChecks:
    """Checks by the engine at ``host``, a URL as ``DockerRuntime.host`` has it."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._client: aiodocker.Docker | None = None
        self._unfinished: dict[_Key, Any] = {}

    async def health(self, container_id: str) -> ContainerHealth:
        async with self._call("look at the container", container_id) as docker:
            details = await docker.containers.container(container_id).show()
        state = details["State"]
        health = state.get("Health") or {}
        log = health.get("Log") or [{}]
        return ContainerHealth(
            status=health.get("Status") or "none",
            started_at=state.get("StartedAt", ""),
            output=log[-1].get("Output", ""),
        )

    async def execute(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        take: Callable[[bytes], None],
    ) -> int:
        key = (container_id, tuple(command))
        variables = [f"{name}={value}" for name, value in environment.items()]
        async with self._call("run a command in the container", container_id) as docker:
            await self._see_off(key)
            instance = await docker.containers.container(container_id).exec(command, environment=variables)
            self._unfinished[key] = instance
            async with instance.start(detach=False) as stream:
                take(b"")
                while (message := await stream.read_out()) is not None:
                    take(message.data)
            # It may close what it writes to before it ends, and no event tells of its end.
            while (state := await instance.inspect())["Running"]:  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE)
        self._unfinished.pop(key, None)
        return int(state["ExitCode"])

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            await self._client.connector.close()
            self._client = None

    async def _see_off(self, key: _Key) -> None:
        """Makes sure that the command is not running still since it was given up."""
        before = self._unfinished.get(key)
        if before is None:
            return
        try:
            if (await before.inspect())["Running"]:
                raise DockerError("the command of the check before still runs in the container")
        except aiodocker.DockerError as error:
            if error.status != 404:
                raise
        del self._unfinished[key]

    @asynccontextmanager
    async def _call(self, what: str, container_id: str) -> AsyncIterator[aiodocker.Docker]:
        """The client, with failures translated."""
        if self._client is None:
            self._client = _connected_to(self._host)
        try:
            yield self._client
        except aiodocker.DockerError as error:
            if error.status == _CANNOT_CONNECT:
                raise self._unreachable("it does not answer") from error
            text = f"Docker could not {what} {container_id[:12]}: {error.message.strip()}"
            raise DockerError(text) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._unreachable(f"it broke the connection ({error})") from error

    def _unreachable(self, why: str) -> DockerUnreachable:
        if self._client is not None:
            self._client.api_version = "auto"  # what answers next may be another version
        return DockerUnreachable(f"Docker at {self._host} cannot be asked: {why}")


def _connected_to(host: str) -> aiodocker.Docker:
    """A client with as many connections as there are checks that wait; aiodocker's own have 100."""
    if host.startswith("unix://"):
        connector = aiohttp.UnixConnector(host.removeprefix("unix://"), limit=0)
        return aiodocker.Docker(url="unix://localhost", connector=connector)
    return aiodocker.Docker(url=host)
